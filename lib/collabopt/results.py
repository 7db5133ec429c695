"""The files a run leaves beside its pages: results.csv, layers.csv, run.json and models/<stage>.tflite.

Notebooks of one batch write at the same time: each row has a key, files are replaced whole, and a lock orders them.
"""

from __future__ import annotations

import hashlib
import json
import os
import platform
import subprocess
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING

import pandas as pd

from collabopt import experiment, progress, store
from collabopt.stages import TREE

if TYPE_CHECKING:
    from collabopt.runs import Finished, Run

KEY = [
    "experiment",
    "stage",
    "scheme",
    "seed",
    "number_of_clusters",
    "cluster_per_channel",
    "target_sparsity",
    "train_fraction",
]
RESULTS = [
    *KEY,
    "parent",
    "validation_accuracy",
    "validation_accuracy_int8",
    "accuracy",
    "accuracy_int8",
    "tflite_bytes",
    "gzip_bytes",
    "zip_bytes",
    "sparsity",
    "unique_weights",
    "rounded_to_zero",
    "preserved",
    "accuracy_int8_channel_ranges",
    "gzip_bytes_channel_ranges",
    "setup_seconds",
    "fit_seconds",
    "epochs",
]
LAYERS = [
    *KEY,
    "layer",
    "kind",
    "shape",
    "weights",
    "sparsity",
    "unique_tensor",
    "unique_channel",
    "int8_sparsity",
    "int8_unique_tensor",
    "int8_unique_channel",
    "quantizer",
    "skipped",
    "defect",
]
STARTED = "COLLABOPT_STARTED"
"""Environment variable by which a batch tells its notebooks when it began."""


def key(run: Run, finished: Finished) -> dict:
    """The columns that tell a row of results.csv from every other; empty where a knob says nothing of the stage."""
    plan, stage = run.experiment, finished.stage
    return {
        "experiment": plan.name,
        "stage": stage.name,
        "scheme": plan.scheme if stage.has_schemes else "",
        "seed": plan.seed,
        "number_of_clusters": plan.number_of_clusters if stage.clusters else None,
        "cluster_per_channel": plan.cluster_per_channel if stage.clusters else None,
        "target_sparsity": plan.sparsity if stage.prunes or stage.keeps_zeros else None,
        "train_fraction": plan.train_fraction,
    }


def record(run: Run, finished: Finished) -> None:
    """Write a finished stage's rows and its .tflite file to the run's report directory."""
    row = key(run, finished)
    with store.locked(
        experiment.DATA / "locks" / f"{hashlib.sha256(str(run.directory).encode()).hexdigest()[:16]}.lock"
    ):
        _drop_rows_of_another_setting(run)
        result = pd.DataFrame([row | {"parent": finished.stage.parent} | finished.result])
        _merge(run.directory / "results.csv", result[RESULTS])
        _merge(run.directory / "layers.csv", finished.layers.assign(**row)[LAYERS])
        by_other = run.experiment.scheme != run.given.scheme and finished.stage.has_schemes
        name = f"{finished.stage.name}-{run.experiment.scheme}" if by_other else finished.stage.name
        if run.experiment.seed == run.given.seed:
            store.write(run.directory / "models" / f"{name}.tflite", finished.tflite.read_bytes())
        store.write(run.directory / "run.json", json.dumps(about(run), indent=1, ensure_ascii=False) + "\n")


def read(path: Path) -> pd.DataFrame:
    """results.csv or layers.csv; counts that may be missing as nullable integers."""
    counts = {"number_of_clusters": "Int64", "gzip_bytes_channel_ranges": "Int64"}
    return pd.read_csv(path, dtype=counts | {"cluster_per_channel": object, "preserved": object})


def about(run: Run) -> dict:
    """What run.json says: parameters, data, versions, commit, start and end."""
    from collabopt import backend  # imports TensorFlow, which those who only read tables need not wait for

    return {
        "experiment": run.given.model_dump(mode="json"),
        "experiment_sha256": experiment.digest(str(run.source)),
        "seed": run.given.seed,
        "data": {
            "name": run.data.name,
            "fingerprint": run.data.fingerprint,
            **{split: len(getattr(run.data, split)) for split in ("train", "validation", "test")},
        },
        "versions": versions(),
        "commit": commit(),
        "op_determinism": backend.deterministic(),
        "start": os.environ.get(STARTED, run.began),
        "end": progress.now(),
    }


def versions() -> dict[str, str]:
    """Versions of all that computes."""
    from collabopt import backend

    packages = ("numpy", "ai-edge-litert", "pandas", "scikit-learn", "papermill")
    return {
        "python": platform.python_version(),
        **backend.versions(),
        **{package: metadata.version(package) for package in packages},
        "platform": platform.platform(),
    }


def commit() -> str:
    """The commit of the code, with `+changes` where library, notebooks or lock file differ from it; else `unknown`."""

    def git(*words: str) -> str:
        done = subprocess.run(["git", *words], cwd=experiment.ROOT, capture_output=True, text=True, check=True)
        return done.stdout.strip()

    try:
        changes = git("status", "--porcelain", "--", "lib", "notebooks", "requirements.lock")
        return git("rev-parse", "HEAD") + ("+changes" if changes else "")
    except (OSError, subprocess.CalledProcessError):
        return "unknown"


def _drop_rows_of_another_setting(run: Run) -> None:
    """An experiment that was changed since starts its tables anew."""
    try:
        before = json.loads((run.directory / "run.json").read_text())["experiment"]
    except (OSError, ValueError, KeyError):
        return
    if before != run.given.model_dump(mode="json"):
        for name in ("results.csv", "layers.csv", "run.json"):
            (run.directory / name).unlink(missing_ok=True)


def _merge(path: Path, rows: pd.DataFrame) -> None:
    """Put `rows`, of one stage, scheme and seed, in place of those there were; stages stay in the tree's order."""
    if path.is_file():
        old = read(path)
        same = (
            old[["stage", "scheme", "seed"]].astype(object).fillna("") == rows.iloc[0][["stage", "scheme", "seed"]]
        ).all(axis=1)
        rows = pd.concat([old[~same].astype(object), rows.astype(object)])
        order = {name: position for position, name in enumerate(TREE)}
        rows = rows.assign(order=rows["stage"].map(order)).sort_values(["order", "scheme", "seed"], kind="stable")
        rows = rows.drop(columns="order")
    store.write(path, rows.to_csv(index=False))
