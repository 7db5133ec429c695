"""Which notebook needs which. `make report` runs this; so does plain `snakemake --cores 2`."""

import json
import sys
from pathlib import Path

from collabopt import batch, experiment

# A notebook, and those whose stages it goes on from: they would otherwise wait for each other's training.
NEEDS = {
    "baseline": [],
    "pqat": ["baseline"],
    "cqat": ["baseline"],
    "sparse_clustering": ["baseline"],
    "pcqat": ["sparse_clustering"],
    "preservation": ["sparse_clustering"],
    "deployment_tree": ["pqat", "cqat", "pcqat"],
}
NAME = config.get("experiment", "digits")
OVERRIDES = config.get("overrides", {})
OVERRIDES = json.loads(OVERRIDES) if isinstance(OVERRIDES, str) else OVERRIDES
# Snakemake reads every value inside a structure as text.
OVERRIDES = {key: experiment.value(text, key) if isinstance(text, str) else text for key, text in OVERRIDES.items()}
PLAN = experiment.load(NAME, **OVERRIDES)
PLACE = Path(config.get("place") or batch.workplace(NAME, OVERRIDES))
PAGES = Path(config.get("pages") or experiment.report_directory(NAME, **OVERRIDES))
LIBRARY = sorted(str(path) for path in (experiment.ROOT / "lib" / "collabopt").rglob("*") if path.suffix in (".py", ".j2", ".css", ".csv"))


rule report:
    input:
        [PLACE / f"{notebook}.done" for notebook in NEEDS],


# Executed notebooks and pages are no declared outputs: those of a failed notebook must stay.
rule notebook:
    input:
        notebook=str(batch.NOTEBOOKS / "{notebook}.ipynb"),
        plan=[str(path) for path in experiment.sources(NAME)],
        library=LIBRARY,
        before=lambda wildcards: [PLACE / f"{other}.done" for other in NEEDS[wildcards.notebook]],
    output:
        str(PLACE / "{notebook}.done"),
    params:
        overrides=json.dumps(OVERRIDES),
        position=lambda wildcards: f"{list(NEEDS).index(wildcards.notebook) + 1}/{len(NEEDS)}",
    threads: PLAN.threads
    shell:
        "{sys.executable:q} -m collabopt.batch notebook {wildcards.notebook} --experiment {NAME:q}"
        " --overrides {params.overrides:q} --place {PLACE:q} --pages {PAGES:q} --position {params.position}"
