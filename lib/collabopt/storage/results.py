"""The tables of a report directory: results.csv, layers.csv and run.json.

Notebooks of one batch write at the same time: each row has a key, each file is replaced as a whole, and a lock orders
the writers.
"""

import json
import os
import platform
import subprocess
from collections.abc import Collection, Mapping
from importlib import metadata
from pathlib import Path
from typing import Any

import pandas as pd
from pydantic_core import to_jsonable_python

from collabopt.config import loading, per_layer
from collabopt.config.experiment import Experiment, ExperimentError
from collabopt.config.scores import Score, find_score
from collabopt.config.stages import OPTIONAL_STAGES, Stage, get_lineage, list_stages
from collabopt.runtime import progress
from collabopt.storage import atomic, timeline

KEY = [
    *("experiment", "stage", "scheme", "seed"),
    *("number_of_clusters", "cluster_per_channel", "target_sparsity", "train_fraction", "options"),
]
"""Key columns of results.csv. Empty where a setting does not apply to the stage."""

OPTIONAL_KEY = [name for stage in OPTIONAL_STAGES.values() for name in stage.settings]
"""Further key columns, where the experiment has the stage to which they belong."""

_AUC = ["validation_auc", "validation_auc_int8", "auc", "auc_int8"]
"""Columns of results.csv where anomalies are labelled."""

BALANCED = [
    *("validation_balanced_accuracy", "validation_balanced_accuracy_int8"),
    *("balanced_accuracy", "balanced_accuracy_int8"),
]
"""Columns of results.csv where each example has a class."""

LAYERS = [
    *KEY,
    *("layer", "kind", "shape", "weights"),
    *("sparsity", "unique_tensor", "unique_channel"),
    *("int8_sparsity", "int8_unique_tensor", "int8_unique_channel"),
    *("quantizer", "skipped", "defect"),
]
"""Columns of layers.csv, one row per kernel."""

FROZEN = "frozen (trainable=False)"
"""Reason in `skipped` of layers.csv for a layer that the user does not train."""

STARTED = "COLLABOPT_STARTED"
"""Environment variable in which a batch passes its start time to its notebooks."""


def make_key(experiment: Experiment, stage: Stage) -> dict[str, Any]:
    """Return the key columns of a stage's rows. A setting that does not apply to the stage is None."""
    tree = experiment.tree
    lineage = get_lineage(stage.name, tree)
    return {
        "experiment": experiment.name,
        "stage": stage.name,
        "scheme": experiment.scheme if stage.has_schemes else "",
        "seed": experiment.seed,
        "number_of_clusters": per_layer.get_value(experiment.number_of_clusters) if stage.clusters else None,
        "cluster_per_channel": experiment.cluster_per_channel if stage.clusters else None,
        "target_sparsity": per_layer.get_value(experiment.sparsity) if stage.prunes or stage.keeps_zeros else None,
        "train_fraction": experiment.train_fraction,
        "options": describe_options(experiment, stage),
    } | {
        name: getattr(experiment, name) if one in lineage else None
        for one in tree.values()
        if one.is_optional
        for name in one.settings
    }


def describe_options(experiment: Experiment, stage: Stage) -> str:
    """Return the settings of a stage that no other key column holds: "2:4, sparsity conv_1 0"; empty for defaults."""
    distill = experiment.training(stage.name).distill
    parts = list_options(experiment, stage)
    parts += [f"distilled at {distill.temperature:g} by {distill.weight:g}"] if distill and distill.weight else []
    return ", ".join(parts)


def list_options(experiment: Experiment, stage: Stage) -> list[str]:
    """Return the settings of `describe_options` that decide what a stage is, and not how it is trained."""
    parts = []
    if stage.prunes or stage.keeps_zeros:
        parts += [experiment.sparsity_pattern] if experiment.sparsity_pattern != "unstructured" else []
        parts += [f"sparsity {layer} {value:g}" for layer, value in per_layer.list_layers(experiment.sparsity).items()]
    if stage.clusters:
        parts += ["symmetric"] * experiment.symmetric
        parts += [
            f"clusters {name} {one}" for name, one in per_layer.list_layers(experiment.number_of_clusters).items()
        ]
    if stage.quantizes and experiment.has_int4_weights:
        parts += [f"{per_layer.get_value(experiment.weight_bits)}-bit weights"]
        parts += [f"{one}-bit {layer}" for layer, one in per_layer.list_layers(experiment.weight_bits).items()]
    return parts


def list_score_columns(score: Score) -> list[str]:
    """Return the columns of results.csv that hold a score, of the Keras model and of its int8 file."""
    return [score.validation, score.validation_int8, score.test, score.test_int8]


def list_columns(score: Score) -> list[str]:
    """Return the columns of results.csv, one row per stage, setting and seed; those of the `score` carry its name."""
    return [
        *KEY,
        *("parent", *list_score_columns(score), *(f"{column}_error" for column in list_score_columns(score))),
        *("tflite_bytes", "gzip_bytes", "zip_bytes"),
        *("sparsity", "unique_weights", "entropy_bits", "lookup_bits", "gained_zeros", "rounded_to_zero", "preserved"),
        *((*BALANCED, "predicted_classes") if score.name == "accuracy" else ()),
        *("calibration", "range_factor", "range_activation"),
        *(f"{score.test_int8}_channel_ranges", "gzip_bytes_channel_ranges"),
        *("gap_mean_steps", "gap_largest_steps", "gap_same_class", "int8_faults"),
        *("setup_seconds", "fit_seconds", "epochs", "unavailable"),
    ]


def record(
    directory: Path, result: dict[str, Any], layers: pd.DataFrame, about: dict[str, Any], times: tuple[str, str]
) -> None:
    """Write the rows of a finished stage, and run.json, to a report directory.

    Rows of the same stage, scheme and seed are replaced. A report starts again if its experiment, data, model or task
    have changed.

    Args:
        directory: The report directory.
        result: The columns of results.csv, the key columns among them.
        layers: The columns of layers.csv without the key columns, one row per kernel.
        about: The content of run.json.
        times: When the stage began, and whether it was "trained" or comes from the "store", for timeline.csv.

    Raises:
        ExperimentError: The data, the model or the task changed during a run.
    """
    own = {name: result[name] for name in ("stage", "scheme", "seed")}
    timeline.record(directory, *times, os.environ.get("COLLABOPT_NOTEBOOK", ""), **own)
    with timeline.lock(directory):
        before = _read_before(directory, about)
        if result["seed"] != about["seed"] and "data" in before:  # the page describes the data of its own seed
            about = about | {"data": before["data"]}
        columns = list_columns(find_score(result)) + [column for column in _AUC if column in result]
        shape = [column for column in OPTIONAL_KEY if column in result]
        _merge(directory / "results.csv", pd.DataFrame([result])[columns + shape])
        if len(layers):  # a stage that is not available has none
            _merge(directory / "layers.csv", layers.assign(**{one: result[one] for one in KEY + shape})[LAYERS + shape])
        atomic.write(directory / "run.json", json.dumps(about, indent=1, ensure_ascii=False) + "\n")


def keep_stages(directory: Path, names: Collection[str]) -> None:
    """Drop the rows of all stages but `names` from results.csv and layers.csv of a report directory."""
    with timeline.lock(directory):
        for path in (directory / "results.csv", directory / "layers.csv"):
            if path.is_file():  # a network without kernels has no layers.csv
                rows = read(path)
                atomic.write(path, rows[rows["stage"].isin(names)].to_csv(index=False))


def read(path: Path) -> pd.DataFrame:
    """Return results.csv or layers.csv. Counts that may be missing are nullable integers."""
    counts = {"number_of_clusters": "Int64", "gzip_bytes_channel_ranges": "Int64"}
    texts = {"experiment": str, "cluster_per_channel": object, "preserved": object}
    # An experiment may be called "1e3" or "null".
    return pd.read_csv(path, dtype=counts | texts, keep_default_na=False, na_values=[""])


def parse_preserved(value: object) -> bool | None:
    """Return a `preserved` cell, text or `value`: whether zeros and clusters of the parent are kept; None if empty."""
    return {"true": True, "1": True, "1.0": True, "false": False, "0": False, "0.0": False}.get(str(value).lower())


ONE_CLASS = "one class for every example"
"""What a file predicts that `is_constant`."""


def is_constant(row: Mapping[str, Any]) -> bool:
    """Return whether a `row` is of a file that predicts one class for all validation examples, which have several."""
    return str(row.get("predicted_classes")) in ("1", "1.0")


def to_numbers(rows: pd.DataFrame, columns: list[str]) -> pd.DataFrame:
    """Return `rows` with `columns` as floats, NaN where a cell is empty or a column is missing."""
    return rows.assign(**{column: pd.to_numeric(rows.get(column, float("nan")), errors="coerce") for column in columns})


def select_first_setting(rows: pd.DataFrame, *key: str) -> pd.DataFrame:
    """Return one of the `rows` per `key` columns: the first setting and seed, with our scheme before TFMOT's."""
    stock = rows["scheme"].eq("tfmot") if "scheme" in rows else False
    rows = rows.assign(_at=range(len(rows)), _stock=stock)
    kept = rows.sort_values("_stock", kind="stable").drop_duplicates([*key])
    return kept.sort_values("_at").drop(columns=["_at", "_stock"])


def read_run(directory: Path) -> dict[str, Any]:
    """Return run.json of a report `directory`; empty if it cannot be read."""
    try:
        content = json.loads((directory / "run.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {"run": content}


def describe_run(
    experiment: Experiment,
    settings: dict[str, Any],
    source: Path,
    data: dict[str, Any],
    digests: dict[str, str],
    began: str,
) -> dict[str, Any]:
    """Return the content of run.json: parameters, overrides, data, versions, commit, start and end.

    Args:
        experiment: The experiment as the run was started with.
        settings: What it overrides in the experiment's file, by name of the parameter.
        source: The experiment's file.
        data: Name, fingerprint, counts and scarce classes of the data set.
        digests: What decides the model ("model_digest"), and the user's own task ("task_digest").
        began: When the run began, ISO 8601. `STARTED` in the environment overrides it.
    """
    from collabopt.runtime import tensorflow  # slow to import, and only needed here

    packages = ("numpy", "ai-edge-litert", "ethos-u-vela", "pandas", "scikit-learn", "papermill")
    versions = tensorflow.read_versions() | {package: metadata.version(package) for package in packages}
    return {
        "experiment": experiment.model_dump(mode="json"),
        "settings": to_jsonable_python(settings),
        "experiment_sha256": loading.compute_digest(str(source)),
        "seed": experiment.seed,
        "data": data,
        **digests,
        "versions": {"python": platform.python_version(), **versions, "platform": platform.platform()},
        "commit": read_commit(),
        "device": tensorflow.name_device(),
        "op_determinism": tensorflow.is_deterministic(),
        "start": os.environ.get(STARTED, began),
        "end": progress.now(),
    }


def read_commit() -> str:
    """Return git's commit, with `+changes` if library, notebooks or lock file differ from it, or `unknown`.

    New experiment files are no change: run.json holds what they say.
    """
    commands = "git rev-parse HEAD", "git status --porcelain -- lib notebooks requirements.lock"
    options = {"cwd": loading.ROOT, "capture_output": True, "text": True, "check": True}
    try:
        commit, changes = (subprocess.run(command.split(), **options).stdout.strip() for command in commands)
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
    is_changed = any(not line.startswith("?? notebooks/experiments/") for line in changes.splitlines())
    return commit + ("+changes" if is_changed else "")


def _read_before(directory: Path, about: dict[str, Any]) -> dict[str, Any]:
    """Return run.json as it was. If experiment, data, model or task have changed since, drop all that the report has.

    Raises:
        ExperimentError: The data, the model or the task changed during a run.
    """
    before = read_run(directory)
    known = _identify(before)
    changed = [part for part, value in _identify(about).items() if value and known.get(part, value) != value]
    if changed and "experiment" not in changed and before.get("start") == about.get("start"):
        remedy = "Leave it as it is during a run, and start the run again"
        if changed == ["data"]:
            remedy += "; a dataset.function has to return the same arrays each time: seed its random numbers"
        raise ExperimentError(f"{' and '.join(changed)}: changed since this run began. {remedy}")
    if not changed:
        return before
    notebooks = [path.stem for path in (loading.ROOT / "notebooks").glob("*.ipynb")]
    pages = [f"{name}{suffix}" for name in ("index", *notebooks) for suffix in (".html", ".ipynb", ".png")]
    folders = "models/*", "deployed/*", "figures/*"
    tables = "results.csv", "layers.csv", "variants.csv", "comparison.csv", "changed_*.csv", "run.json"
    for path in (path for name in (*pages, *folders, *tables) for path in directory.glob(name) if path.is_file()):
        path.unlink(missing_ok=True)
    return {}


def _identify(about: dict[str, Any]) -> dict[str, Any]:
    """What makes results comparable, as far as run.json, `about`, says."""
    data = {"data": about["data"]["fingerprint"]} if "fingerprint" in about.get("data", {}) else {}
    digests = {part: about[f"{part}_digest"] for part in ("model", "task") if f"{part}_digest" in about}
    return {"experiment": _drop_empty(about["experiment"]), **data, **digests} if "experiment" in about else {}


def _drop_empty(values: Any) -> Any:
    """A section without keys that hold None, such as those that an older version did not have."""
    if not isinstance(values, dict):
        return values
    return {key: _drop_empty(value) for key, value in values.items() if value is not None}


def _merge(path: Path, rows: pd.DataFrame) -> None:
    """Replace the rows of one stage, scheme and seed in a file, and sort by stage, scheme and seed."""
    if path.is_file():
        old = read(path)
        key = ["stage", "scheme", "seed"]
        same = (old[key].astype(object).fillna("") == rows.iloc[0][key]).all(axis=1)
        rows = pd.concat([old[~same].astype(object), rows.astype(object)])
        order = {name: position for position, name in enumerate(list_stages())}
        rows["order"] = rows["stage"].map(order)
        rows = rows.sort_values(["order", *key[1:]], kind="stable").drop(columns="order")
    atomic.write(path, rows.to_csv(index=False))
