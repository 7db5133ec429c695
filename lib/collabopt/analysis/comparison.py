"""Published results beside ours: the accuracy that a stage costs and the bytes that it saves.

Baselines differ in data and training, so each side's drop is taken against the FP32 accuracy of its own baseline. Ours
is the mean over seeds, and its standard error is paired by test example.
"""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from collabopt.analysis.judgement import DROPS, NAMES, SIZES, TOLERANCES
from collabopt.analysis.published_sizes import COLUMNS, SETTING, compare_sizes
from collabopt.config import published
from collabopt.config.experiment import Experiment, ExperimentError
from collabopt.config.stages import BASELINE, STAGES, get_lineage
from collabopt.storage import atomic, results


def compare_figures(runs: Sequence) -> pd.DataFrame:
    """Compare every figure published for a model and data set with `runs` of one experiment, one per seed.

    Returns:
        One row per published setting and figure (`COLUMNS`), as fractions. `published` is empty if a figure has a
        verdict but was not published; `ours` is empty if the settings differ.
    """
    experiment, rows = runs[0].experiment, []
    known = published.read_of_model(experiment)
    subset = _describe_subset(runs[0])
    keys = ["table", "source", *SETTING, "sparsity"]
    for key, cells in known.groupby(keys, sort=False, dropna=False):
        setting = dict(zip(keys, key, strict=True))
        is_baseline = (known["stage"] == BASELINE) & (known["metric"] == "accuracy")
        baseline = known[is_baseline & (known["table"] == setting["table"]) & (known["source"] == setting["source"])]
        theirs = _derive_figures(dict(zip(cells["metric"], cells["value"], strict=True)), baseline["value"])
        difference = _find_difference(experiment, setting)
        ours = {} if difference else _measure_figures(runs, setting["stage"])
        shared = setting | {"seeds": len(runs), "train_fraction": experiment.train_fraction, "subset": subset}
        for figure in NAMES:
            row = {"figure": figure, "published": theirs.get(figure), **ours.get(figure, {})}
            rows.append(shared | row | {"incomparable": difference or _explain_missing(theirs, figure)})
    frame = pd.DataFrame(rows, columns=COLUMNS)
    is_trivial = (frame["stage"] == BASELINE) & (frame["figure"] == "drop")  # a baseline's drop against itself
    is_shown = frame["published"].notna() | frame["figure"].isin(TOLERANCES)
    return frame[is_shown & ~is_trivial].reset_index(drop=True)


def compare(run) -> pd.DataFrame:
    """Return `compare_figures` and `compare_sizes` over all seeds of `run`. Trains what is missing, and writes
    comparison.csv.

    Raises:
        ExperimentError: There is nothing to compare (`published.require_figures`).
    """
    published.require_figures(run.experiment)
    runs = run.with_every_seed()
    for one in runs:
        one.stages(*one.experiment.tree)
    rows = compare_figures(runs)
    rows = pd.concat([rows, compare_sizes(rows, run.directory)], ignore_index=True)
    atomic.write(run.directory / "comparison.csv", rows.to_csv(index=False))
    return rows


def _derive_figures(values: dict[str, float], baseline: pd.Series) -> dict[str, float]:
    """The published values of a setting, with drops against the published FP32 baseline and the share saved by ZIP."""
    figures = dict(values)
    for drop, accuracy in DROPS.items():
        if len(baseline) and accuracy in values:
            figures[drop] = float(baseline.iloc[0]) - values[accuracy]
    if {"tflite_bytes", "compressed_bytes"} <= set(values):
        figures["zip_saved"] = 1 - values["compressed_bytes"] / values["tflite_bytes"]
    return figures


def _describe_subset(run) -> str:
    """Which part of the published classes the data of `run` have, or nothing if all."""
    theirs = published.CLASSES.get(run.experiment.dataset.name)
    return f"{len(run.data.classes):,} of {theirs:,} classes" if theirs and len(run.data.classes) < theirs else ""


def _measure_figures(runs: Sequence, stage: str) -> dict[str, dict[str, float | None]]:
    """Mean (`ours`), standard deviation and, of drops, standard error over the runs, by figure."""
    finished = [(run.stage(BASELINE), run.stage(stage)) for run in runs]
    if any(one.unavailable for _, one in finished):
        return {}
    results = pd.DataFrame([one.result for _, one in finished])
    for archive in ("zip", "gzip"):
        results[f"{archive}_saved"] = 1 - results[f"{archive}_bytes"] / results["tflite_bytes"]
    figures = {
        name: {"ours": results[name].mean(), "deviation": results[name].std()} for name in NAMES if name in results
    }
    for drop, split in (("drop", "test"), ("drop_int8", "test_int8")):
        # (seeds, examples): 1 where the baseline is correct and the stage is not, -1 where only the stage is.
        lost = np.array([base.scores()["test"] - one.scores()[split] for base, one in finished])
        deviation = pd.Series(lost.mean(axis=1)).std()
        figures[drop] = {"ours": lost.mean(), "deviation": deviation, "error": compute_standard_error(lost)}
        figures[drop]["examples"] = lost.shape[1]
    return figures


def compute_standard_error(lost: np.ndarray) -> float:
    """Return the standard error of the mean of `lost`, paired by example.

    Args:
        lost: Loss of correctness per seed and example (seeds, examples). Seeds are averaged first: examples are the
            sample, and seeds that agree tell nothing new.
    """
    per_example = lost.mean(axis=0)
    return float(per_example.std(ddof=1) / len(per_example) ** 0.5)


def _find_difference(experiment: Experiment, setting: dict) -> str:
    """How the experiment differs from the published setting, or nothing."""
    if reshaped := [one.label for one in get_lineage(setting["stage"], experiment.tree) if one.reshapes]:
        return f"published without the stage {reshaped[0]}"
    if pd.notna(setting["sparsity"]) and setting["sparsity"] != experiment.sparsity:
        return f"published at sparsity {setting['sparsity']:.0%}"
    if pd.notna(setting["clusters"]) and setting["clusters"] != experiment.number_of_clusters:
        return f"published with {setting['clusters']} clusters"
    per_channel = pd.notna(setting["cluster_per_channel"]) and bool(setting["cluster_per_channel"])
    if STAGES[setting["stage"]].clusters and per_channel != experiment.cluster_per_channel:
        return "published per channel" if per_channel else "published per tensor"
    stage, pattern = STAGES[setting["stage"]], setting["sparsity_pattern"]
    pattern = pattern if pd.notna(pattern) else "unstructured"
    if (stage.prunes or stage.keeps_zeros) and pattern != experiment.sparsity_pattern:
        return f"published with {pattern} zeros"
    options = results.list_options(experiment.model_copy(update={"sparsity_pattern": "unstructured"}), stage)
    return f"published without {', '.join(options)}" if options else ""


def _explain_missing(theirs: dict[str, float], figure: str) -> str:
    """Why a drop cannot be compared although the settings agree, or nothing."""
    if figure not in DROPS or figure in theirs:
        return ""
    return "no baseline was published with it" if DROPS[figure] in theirs else "not published"


def read(directory: Path) -> pd.DataFrame:
    """Return the comparison in the report `directory`, with the rows of `compare_figures` and `compare_sizes`.

    Sizes are compared again if results.csv and run.json are there, because float32 files may have been measured since.

    Raises:
        FileNotFoundError: The report has no comparison.csv.
        ExperimentError: One of its tables lacks columns, or is no table.
    """
    path, remedy = directory / "comparison.csv", f"`make report EXPERIMENT={directory.name} NOTEBOOKS=published`"
    if not path.is_file():
        raise FileNotFoundError(f"{path}: not there; {remedy} makes it")
    try:
        rows = pd.read_csv(path, dtype={"incomparable": object, "published": float, "ours": float})
        if missing := sorted({"stage", "figure", "published", "ours"} - set(rows)):
            raise KeyError(missing[0])
        rows = rows.reindex(columns=COLUMNS)  # those that older versions did not write are empty
        rows = rows.astype({"subset": object}).fillna({"incomparable": "", "subset": ""})
        if not (directory / "results.csv").is_file() or "experiment" not in results.read_run(directory):
            return rows
        rows = rows[~rows["figure"].isin(SIZES)]
        return pd.concat([rows, compare_sizes(rows, directory)], ignore_index=True)
    except (KeyError, TypeError, ValueError) as error:
        reason = f"no {error}" if isinstance(error, KeyError) else error
        raise ExperimentError(f"{directory}: its tables cannot be compared ({reason}); {remedy} writes them") from error
