"""Which job waits for which. `make report` runs this; so does plain `snakemake --cores 2`.

A report has one job per notebook, and one per further seed, whose stages `published` takes from the store. A sweep over a
grid of parameters has one job per cell, and before these one job for each branch of the deployment tree that several
cells share.
"""

import json
import sys
from pathlib import Path
from urllib.parse import unquote

import pandas as pd
from snakemake.utils import Paramspace

from collabopt.batch import plan
from collabopt.config import loading, stages, sweep

BATCH = json.loads(unquote(config.get("batch", "{}")))  # what `batch/scheduler.py` passes
NAME = BATCH.get("experiment", "digits")
OVERRIDES = BATCH.get("overrides", {})
EXPERIMENT = loading.load(NAME, **OVERRIDES)
NEEDS = stages.get_notebooks(EXPERIMENT.tree)


def add_needed(notebooks):
    """These notebooks and those that they wait for, in order."""
    wanted = {*notebooks, *(other for name in notebooks for other in add_needed(NEEDS[name]))}
    return [name for name in NEEDS if name in wanted]


CHOSEN = BATCH.get("notebooks", stages.list_core_notebooks(EXPERIMENT.tree))
GRID = BATCH.get("grid", {})
if EXPERIMENT.has_targets:  # the search trains what it needs, and nothing else
    NEEDS[plan.SEARCH_NOTEBOOK] = []
RUN = add_needed(CHOSEN)
PAGES = Path(BATCH.get("pages") or loading.find_report_directory(NAME, **OVERRIDES))
PLACE = Path(BATCH.get("place") or plan.find_workplace(PAGES))
SOURCES = plan.list_sources(NAME)
FILES = [path for path in loading.list_paths(EXPERIMENT) if Path(path).is_file()]
SEEDS = [PLACE / "repeat" / f"seed={seed}.done" for seed in EXPERIMENT.repeat_seeds]
CHECK = str(PLACE / "checked")  # not ancient: Snakemake would then run the check alone, and no notebook
FIRST = list(NEEDS)[:1]
EARLY = FIRST + [name for name in NEEDS[plan.SEARCH_NOTEBOOK] if NEEDS[name] == FIRST]  # before the last trainings
# A search trains and measures only what it needs. Without it, variants need room for two jobs side by side.
HAS_ROOM = BATCH.get("cores", 0) >= 2 * EXPERIMENT.threads and not EXPERIMENT.has_targets
VARIANTS = [PLACE / "variants.done"] if HAS_ROOM else []
COMMAND = "{sys.executable:q} -m collabopt.batch.forks collabopt"


def make_space(grid):
    """The cells of a grid as wildcards and file names of Snakemake."""
    cells = pd.DataFrame(sweep.list_cells(grid), dtype=str).rename(columns=sweep.encode)
    return Paramspace(cells, filename_params="*", param_sep="=", filename_sep=",")


def list_marks(folder, grid):
    """One mark per cell of the grid."""
    instances = make_space(grid).instance_patterns if grid else ["all"]
    return [PLACE / folder / f"{instance}.done" for instance in instances]


def dump(wildcards):
    """The parameters of a job as JSON."""
    return json.dumps(OVERRIDES | {sweep.decode(key): loading.parse_value(text, key) for key, text in wildcards.items()})


def wait_for(*branches):
    """A function that lists the marks of the shared ones of these branches, with those parameters that a job has."""
    parts = {branch: part for branch, part in sweep.find_shared_branches(GRID).items() if branch in branches}

    def list_branch_marks(wildcards):
        job = {sweep.decode(key): [value] for key, value in wildcards.items()}
        own = {branch: {key: job.get(key, part[key]) for key in part} for branch, part in parts.items()}
        return [mark for branch, part in own.items() for mark in list_marks(branch, part)]

    return list_branch_marks


wildcard_constraints:
    **{sweep.encode(key): "[^,/]+" for key in GRID},


rule report:
    input:
        list_marks("cells", GRID) if GRID else [PLACE / f"{notebook}.done" for notebook in CHOSEN],


# It runs while notebooks wait, but a new check does not make them out of date.
rule check:
    input:
        sources=SOURCES,
        files=FILES,
    output:
        CHECK,
    params:
        overrides=json.dumps(OVERRIDES),
        inputs=lambda _: loading.describe_inputs(loading.read_input_times(EXPERIMENT)),  # folders and modules, too: a new digest runs it again
    shell:
        COMMAND + " check --experiment {NAME:q} --overrides {params.overrides:q} --done {output:q}"


# Executed notebooks and pages are no declared outputs: those of a failed notebook must stay.
rule notebook:
    input:
        notebook=str(plan.NOTEBOOKS / "{notebook}.ipynb"),
        sources=SOURCES,
        check=CHECK,
        before=lambda wildcards: [PLACE / f"{other}.done" for other in NEEDS[wildcards.notebook]],
        seeds=lambda wildcards: SEEDS if wildcards.notebook == "published" else [],
        variants=lambda wildcards: VARIANTS if wildcards.notebook == plan.SEARCH_NOTEBOOK else [],
    output:
        str(PLACE / "{notebook}.done"),
    wildcard_constraints:
        notebook="|".join(NEEDS),
    params:
        overrides=json.dumps(OVERRIDES),
        position=lambda wildcards: f"{RUN.index(wildcards.notebook) + 1}/{len(RUN)}",
    threads: EXPERIMENT.threads
    shell:
        COMMAND + " notebook {wildcards.notebook} --experiment {NAME:q}"
        " --overrides {params.overrides:q} --place {PLACE:q} --pages {PAGES:q} --position {params.position}"
        " --done {output:q}"


# It fills the store for the deployment tree while the last stages train. If it fails, the tree does its work.
rule variants:
    input:
        sources=SOURCES,
        check=CHECK,
        before=[PLACE / f"{name}.done" for name in EARLY],
    output:
        str(PLACE / "variants.done"),
    params:
        overrides=json.dumps(OVERRIDES),
        stages=" ".join(one.name for one in EXPERIMENT.tree.values() if one.is_optional or one.notebook in EARLY),
    priority: -1
    threads: EXPERIMENT.threads
    shell:
        COMMAND + " variants {params.stages} --experiment {NAME:q} --overrides {params.overrides:q} --done {output:q}"
        " || touch {output:q}"


rule repeat:
    input:
        sources=SOURCES,
        check=CHECK,
    output:
        str(PLACE / "repeat" / "seed={seed}.done"),
    params:
        overrides=lambda wildcards: json.dumps(OVERRIDES | {"seed": int(wildcards.seed)}),
        branches=" ".join(sweep.list_branches()),
    priority: -2
    threads: EXPERIMENT.threads
    shell:
        COMMAND + " branch {params.branches} --experiment {NAME:q} --overrides {params.overrides:q} --done {output:q}"


for branch, part in sweep.find_shared_branches(GRID).items():

    rule:
        name:
            branch
        input:
            sources=SOURCES,
            check=CHECK,
            before=wait_for(*({sweep.list_branches()[0]} - {branch})),  # the baseline is trained once
        output:
            str(PLACE / branch / f"{make_space(part).wildcard_pattern if part else 'all'}.done"),
        params:
            overrides=dump,
            branch=branch,
        threads: EXPERIMENT.threads
        shell:
            COMMAND + " branch {params.branch} --experiment {NAME:q} --overrides {params.overrides:q} --done {output:q}"


if GRID:

    rule cell:
        input:
            notebook=str(plan.NOTEBOOKS / f"{plan.SEARCH_NOTEBOOK}.ipynb"),
            sources=SOURCES,
            check=CHECK,
            before=wait_for(*sweep.list_branches()),
        output:
            str(PLACE / "cells" / f"{make_space(GRID).wildcard_pattern}.done"),
        params:
            overrides=dump,
        threads: EXPERIMENT.threads
        shell:
            COMMAND + " cell --experiment {NAME:q} --overrides {params.overrides:q} --pages {PAGES:q} --done {output:q}"
