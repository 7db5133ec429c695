"""Which job needs which. `make report` runs this; so does plain `snakemake --cores 2`.

A report is a job a notebook. A sweep over a grid of parameters is a job a cell, and before these a job for each branch of
the deployment tree that several cells share.
"""

import json
import sys
from pathlib import Path

import pandas as pd
from snakemake.utils import Paramspace

from collabopt.batch import plan
from collabopt.config import loading, sweep

# A notebook, and those whose stages it goes on from: they would otherwise wait for each other's training.
NEEDS = {
    "baseline": [],
    "sensitivity": ["baseline"],
    "pqat": ["baseline"],
    "cqat": ["baseline"],
    "sparse_clustering": ["baseline"],
    "pcqat": ["sparse_clustering"],
    "preservation": ["sparse_clustering"],
    "published": ["pqat", "cqat", "pcqat"],
    "deployment_tree": ["pqat", "cqat", "pcqat"],
}


def given(text):
    """What `config` holds as JSON. Snakemake reads every value inside a structure as text."""
    values = json.loads(text) if isinstance(text, str) else text
    return {key: loading.parse_value(some, key) if isinstance(some, str) else some for key, some in values.items()}


def with_what_they_need(notebooks):
    """These notebooks and those that they go on from, in order."""
    wanted = {*notebooks, *(other for name in notebooks for other in with_what_they_need(NEEDS[name]))}
    return [name for name in NEEDS if name in wanted]


NAME = config.get("experiment", "digits")
OVERRIDES = given(config.get("overrides", {}))
CHOSEN = given(config.get("notebooks", {})).get("names", list(NEEDS))
GRID = {key: list(values) for key, values in given(config.get("grid", {})).items()}
PLAN = loading.load(NAME, **OVERRIDES)
if PLAN.has_targets:  # it trains what it comes to, and nothing else
    NEEDS["deployment_tree"] = []
RUN = with_what_they_need(CHOSEN)
PLACE = Path(config.get("place") or plan.find_workplace(loading.find_report_directory(NAME, **OVERRIDES)))
PAGES = Path(config.get("pages") or loading.find_report_directory(NAME, **OVERRIDES))
LIBRARY = sorted(str(path) for path in (loading.ROOT / "lib" / "collabopt").rglob("*") if path.suffix in (".py", ".j2", ".js", ".css", ".csv"))
SOURCES = [str(path) for path in loading.list_files(NAME)]
COMMAND = "{sys.executable:q} -m collabopt.batch.forks collabopt"


def space(grid):
    """The cells of a grid, as Snakemake's wildcards and file names have them."""
    return Paramspace(pd.DataFrame(sweep.list_cells(grid), dtype=str), filename_params="*", param_sep="=", filename_sep=",")


def done(folder, grid):
    """A mark for every cell of the grid."""
    return [PLACE / folder / f"{instance}.done" for instance in (space(grid).instance_patterns if grid else ["all"])]


def values(wildcards):
    """The parameters of a job as JSON."""
    return json.dumps(OVERRIDES | {key: loading.parse_value(text, key) for key, text in wildcards.items()})


def before(*branches):
    """A function that gives the marks of the shared ones of these branches, with the parameters of a job."""
    parts = {branch: part for branch, part in sweep.find_shared_branches(GRID).items() if branch in branches}

    def marks(wildcards):
        own = {branch: {key: [wildcards[key]] for key in part} for branch, part in parts.items()}
        return [mark for branch, part in own.items() for mark in done(branch, part)]

    return marks


wildcard_constraints:
    **{key: "[^,/]+" for key in GRID},


rule report:
    input:
        done("cells", GRID) if GRID else [PLACE / f"{notebook}.done" for notebook in CHOSEN],


# Executed notebooks and pages are no declared outputs: those of a failed notebook must stay.
rule notebook:
    input:
        notebook=str(plan.NOTEBOOKS / "{notebook}.ipynb"),
        plan=SOURCES,
        library=LIBRARY,
        before=lambda wildcards: [PLACE / f"{other}.done" for other in NEEDS[wildcards.notebook]],
    output:
        str(PLACE / "{notebook}.done"),
    wildcard_constraints:
        notebook="|".join(NEEDS),
    params:
        overrides=json.dumps(OVERRIDES),
        position=lambda wildcards: f"{RUN.index(wildcards.notebook) + 1}/{len(RUN)}",
    threads: PLAN.threads
    shell:
        COMMAND + " notebook {wildcards.notebook} --experiment {NAME:q}"
        " --overrides {params.overrides:q} --place {PLACE:q} --pages {PAGES:q} --position {params.position}"
        " --done {output:q}"


for branch, part in sweep.find_shared_branches(GRID).items():

    rule:
        name:
            branch
        input:
            plan=SOURCES,
            library=LIBRARY,
            before=before(*({sweep.list_branches()[0]} - {branch})),  # the root of the tree is trained once
        output:
            str(PLACE / branch / f"{space(part).wildcard_pattern if part else 'all'}.done"),
        params:
            overrides=values,
            branch=branch,
        threads: PLAN.threads
        shell:
            COMMAND + " branch {params.branch} --experiment {NAME:q} --overrides {params.overrides:q} --done {output:q}"


if GRID:

    rule cell:
        input:
            notebook=str(plan.NOTEBOOKS / "deployment_tree.ipynb"),
            plan=SOURCES,
            library=LIBRARY,
            before=before(*sweep.list_branches()),
        output:
            str(PLACE / "cells" / f"{space(GRID).wildcard_pattern}.done"),
        params:
            overrides=values,
        threads: PLAN.threads
        shell:
            COMMAND + " cell --experiment {NAME:q} --overrides {params.overrides:q} --pages {PAGES:q} --done {output:q}"
