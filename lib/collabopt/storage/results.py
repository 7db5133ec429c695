"""The files a run leaves beside its pages: results.csv, layers.csv, run.json and models/<stage>.tflite.

Notebooks of one batch write at the same time: each row has a key, files are replaced whole, and a lock orders them.
"""

import hashlib
import json
import os
import platform
import subprocess
from importlib import metadata
from pathlib import Path
from typing import Any

import pandas as pd

from collabopt.config import loading
from collabopt.config.experiment import Experiment
from collabopt.config.stages import STAGES, Stage
from collabopt.runtime import progress
from collabopt.storage import atomic, store

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


def make_key(experiment: Experiment, stage: Stage) -> dict[str, Any]:
    """Return the key columns of a stage's rows. A setting that does not apply to the stage is None.

    Args:
        experiment: The experiment, with its seed and settings.
        stage: The stage.
    """
    return {
        "experiment": experiment.name,
        "stage": stage.name,
        "scheme": experiment.scheme if stage.has_schemes else "",
        "seed": experiment.seed,
        "number_of_clusters": experiment.number_of_clusters if stage.clusters else None,
        "cluster_per_channel": experiment.cluster_per_channel if stage.clusters else None,
        "target_sparsity": experiment.sparsity if stage.prunes or stage.keeps_zeros else None,
        "train_fraction": experiment.train_fraction,
    }


def record(directory: Path, result: dict[str, Any], layers: pd.DataFrame, about: dict[str, Any]) -> None:
    """Write the rows of a finished stage, and run.json, to a report directory.

    Rows of the same stage, scheme and seed are replaced. Tables of an experiment that has changed since are started
    again.

    Args:
        directory: The report directory.
        result: The columns of results.csv, the key columns among them.
        layers: The columns of layers.csv without the key columns, one row per kernel.
        about: The content of run.json.
    """
    lock = hashlib.sha256(str(directory).encode()).hexdigest()[:16]
    with store.lock(loading.DATA / "locks" / f"{lock}.lock"):
        _drop_tables_of_another_experiment(directory, about["experiment"])
        _merge(directory / "results.csv", pd.DataFrame([result])[RESULTS])
        _merge(directory / "layers.csv", layers.assign(**{column: result[column] for column in KEY})[LAYERS])
        atomic.write(directory / "run.json", json.dumps(about, indent=1, ensure_ascii=False) + "\n")


def read(path: Path) -> pd.DataFrame:
    """results.csv or layers.csv; counts that may be missing as nullable integers."""
    counts = {"number_of_clusters": "Int64", "gzip_bytes_channel_ranges": "Int64"}
    return pd.read_csv(path, dtype=counts | {"cluster_per_channel": object, "preserved": object})


def describe_run(experiment: Experiment, source: Path, data: dict[str, Any], began: str) -> dict[str, Any]:
    """Return the content of run.json: parameters, data, versions, commit, start and end.

    Args:
        experiment: The experiment as the run was started with.
        source: The experiment's file.
        data: Name, fingerprint and counts of the data set.
        began: When the run began. A batch overrides it by an environment variable.
    """
    from collabopt.runtime import tensorflow  # readers of tables do not wait for its import

    return {
        "experiment": experiment.model_dump(mode="json"),
        "experiment_sha256": loading.compute_digest(str(source)),
        "seed": experiment.seed,
        "data": data,
        "versions": read_versions(),
        "commit": read_commit(),
        "op_determinism": tensorflow.is_deterministic(),
        "start": os.environ.get(STARTED, began),
        "end": progress.now(),
    }


def read_versions() -> dict[str, str]:
    """Versions of all that computes."""
    from collabopt.runtime import tensorflow

    packages = ("numpy", "ai-edge-litert", "pandas", "scikit-learn", "papermill")
    return {
        "python": platform.python_version(),
        **tensorflow.read_versions(),
        **{package: metadata.version(package) for package in packages},
        "platform": platform.platform(),
    }


def read_commit() -> str:
    """The commit of the code, with `+changes` where library, notebooks or lock file differ from it; else `unknown`."""

    def git(*words: str) -> str:
        done = subprocess.run(["git", *words], cwd=loading.ROOT, capture_output=True, text=True, check=True)
        return done.stdout.strip()

    try:
        changes = git("status", "--porcelain", "--", "lib", "notebooks", "requirements.lock")
        return git("rev-parse", "HEAD") + ("+changes" if changes else "")
    except (OSError, subprocess.CalledProcessError):
        return "unknown"


def _drop_tables_of_another_experiment(directory: Path, experiment: dict[str, Any]) -> None:
    try:
        before = json.loads((directory / "run.json").read_text())["experiment"]
    except (OSError, ValueError, KeyError):
        return
    if before != experiment:
        for name in ("results.csv", "layers.csv", "run.json"):
            (directory / name).unlink(missing_ok=True)


def _merge(path: Path, rows: pd.DataFrame) -> None:
    """Put `rows`, of one stage, scheme and seed, in place of those there were; stages stay in the tree's order."""
    if path.is_file():
        old = read(path)
        same = (
            old[["stage", "scheme", "seed"]].astype(object).fillna("") == rows.iloc[0][["stage", "scheme", "seed"]]
        ).all(axis=1)
        rows = pd.concat([old[~same].astype(object), rows.astype(object)])
        order = {name: position for position, name in enumerate(STAGES)}
        rows = rows.assign(order=rows["stage"].map(order)).sort_values(["order", "scheme", "seed"], kind="stable")
        rows = rows.drop(columns="order")
    atomic.write(path, rows.to_csv(index=False))
