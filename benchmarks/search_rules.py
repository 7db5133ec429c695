"""Trainings until a search over settings finds the smallest file: our rule beside Optuna's tree-structured Parzen
estimator (Bergstra et al. 2011), with the targets as constraints.

    python -m pip install optuna==5.0.0
    python benchmarks/search_rules.py      # all subjects: two hours on two cores

Both choose among the same files, stages at five sparsities and four numbers of clusters, and measure int8 files on the
validation split. A training counts once per search, and so do those it needs. Optuna's are measured as well, as ours
are. Searches share a store, so that a file is the same in each. Optuna's figures are means over five seeds.
"""

import os
import sys
import tempfile
from itertools import accumulate

os.environ["COLLABOPT_REPORTS"] = tempfile.mkdtemp()

import numpy as np
import table

from collabopt import start
from collabopt.config import loading
from collabopt.config.stages import get_lineage
from collabopt.deploy import candidates, settings_search, targets, variants

SUBJECTS = {
    "digits": {},
    "fashion_mnist": {"train_fraction": 0.1},
    "speech_commands-ds_cnn_l": {"train_fraction": 0.1},
}
GRID = {"sparsity": [0.5, 0.6, 0.7, 0.8, 0.9], "number_of_clusters": [4, 8, 16, 32]}
TARGET, BUDGET, SEEDS, MOST_TRIALS = 0.01, 24, 5, 300


def measure_subject(subject: str) -> list[dict]:
    """Rows of one experiment: trainings until a file within 2 % of the smallest, and size after 12 trainings."""
    grid = {f"search.{name}": values for name, values in GRID.items()}
    grid |= {"search.max_trainings": BUDGET, "max_accuracy_drop": TARGET}
    run = start(subject, settings=SUBJECTS[subject] | grid)
    curves = {"ours": [follow_ours(run)], "Optuna": [follow_optuna(run, seed) for seed in range(SEEDS)]}
    smallest = min(curve[-1] for group in curves.values() for curve in group)
    rows = []
    for name, group in curves.items():
        reached = [next((n for n, size in enumerate(one, 1) if size <= 1.02 * smallest), BUDGET + 1) for one in group]
        sizes = [one[min(12, len(one)) - 1] / smallest for one in group]
        where = f"{subject}, {name}"
        rows += [
            table.make_row("trainings until a file within 2 % of the smallest", where, np.mean(reached)),
            table.make_row("best file after 12 trainings ÷ the smallest", where, np.mean(sizes)),
        ]
    return rows


def follow_ours(run) -> list[float]:
    """Bytes of the best file after each training (n,), by our rule."""
    trials = settings_search.search_settings(run).trials
    return [*accumulate(np.where(trials["verdict"] == "meets all targets", trials["gzip_bytes"], np.inf), min)]


def follow_optuna(run, seed: int) -> list[float]:
    """Bytes of the best file after each training (n,), by Optuna with a seed."""
    import optuna

    sampler = optuna.samplers.TPESampler(seed=seed, constraints_func=lambda trial: trial.user_attrs["over"])
    study, places, sizes = optuna.create_study(sampler=sampler), list_places(run), {}
    float32 = variants.measure(run.without_test(), run.experiment.tree["baseline"], "float32").row
    base = float32[run.data.task.score.validation]
    for _ in range(MOST_TRIALS):
        trial = study.ask()
        stage = trial.suggest_categorical("stage", [*run.experiment.tree])
        chosen = {name: trial.suggest_categorical(name, GRID[name]) for name in list_applied(run, stage)}
        for candidate in places[stage, *chosen.values()]:
            variant = measure(run, candidate)
            misses = targets.find_misses(variant.row, run.experiment.targets, base)
            sizes.setdefault(candidate.key, np.inf if misses else variant.row["gzip_bytes"])
        trial.set_user_attr("over", [sum(misses.values())])
        study.tell(trial, variant.row["gzip_bytes"])
        if len(sizes) >= BUDGET:
            break
    return [*accumulate([*sizes.values()][:BUDGET], min)]


def list_places(run) -> dict[tuple, list]:
    """The trainings that each stage needs with each setting, in order, by stage and settings."""
    found = candidates.list_candidates(run)
    return {
        (one.stage.name, *(getattr(one.experiment, name) for name in list_applied(run, one.stage.name))): [
            found[key] for key in one.trainings
        ]
        for one in found.values()
    }


def list_applied(run, stage: str) -> list[str]:
    """The settings of the grid that decide a stage or its ancestors."""
    lineage = get_lineage(stage, run.experiment.tree)
    return [name for name in GRID if any(name in one.settings for one in lineage)]


def measure(run, candidate) -> variants.Variant:
    """The int8 file of a candidate, trained if the store does not hold it."""
    one = run.without_test()
    one.experiment = candidate.experiment
    return variants.measure(one, candidate.stage, "int8")


if __name__ == "__main__":
    rows = [row for subject in sys.argv[1:] or SUBJECTS for row in measure_subject(subject)]
    loading.REPORTS = loading.ROOT / "reports"
    table.record(rows)
