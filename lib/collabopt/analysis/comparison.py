"""Published results beside ours: the accuracy that a stage costs and the bytes that it saves, with a verdict each.

Baselines differ in data and training, so each side's drop is taken against the FP32 accuracy of its own baseline. Ours
is the mean over seeds, and its standard error is paired by test example. `report.verification` prints the verdicts.
"""

import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from collabopt.config import published
from collabopt.config.experiment import Experiment, ExperimentError
from collabopt.config.stages import BASELINE, STAGES, get_label
from collabopt.storage import atomic, results

NAMES = {
    "accuracy": "Accuracy, FP32 or fake-INT8 (%)",
    "accuracy_int8": "Accuracy, INT8 (%)",
    "drop": "Drop, FP32 or fake-INT8 (points)",
    "drop_int8": "Drop, INT8 (points)",
    "zip_saved": "Saved by ZIP (%)",
    "gzip_saved": "Saved by gzip (%)",
    "size_ratio": "INT8 file after ZIP ÷ the baseline's (%)",
    "float_size_ratio": "FP32 file after gzip ÷ the baseline's (%)",
    "quantized_ratio": "INT8 file ÷ FP32 file (%)",
    "int8_bytes": "INT8 file (kB)",
}
"""The compared figures, as readers see them."""

DROPS = {"drop": "accuracy", "drop_int8": "accuracy_int8"}
"""The accuracy that a drop is computed from."""

SIZES = ("size_ratio", "float_size_ratio", "quantized_ratio", "int8_bytes")
"""The sizes of `compare_sizes`. Ratios are to the baseline's file, or to its float32 file."""

TOLERANCES = {"drop": 0.005, "drop_int8": 0.005, "zip_saved": 0.03} | dict.fromkeys(SIZES, 0.03)
"""The figures that get a verdict, and by how much they may differ from the published ones; bytes as a fraction."""

UNDECIDABLE, INCOMPARABLE = "not decidable", "not comparable"
VERDICTS = ("reproduced", "better", "worse", UNDECIDABLE, INCOMPARABLE)

_SETTING = ["stage", "clusters", "cluster_per_channel", "sparsity_pattern"]

COLUMNS = ["table", *_SETTING, "figure", "published", "ours", "deviation", "error", "examples", "seeds"]
COLUMNS += ["train_fraction", "subset", "incomparable", "source"]
"""comparison.csv. `deviation` is the standard deviation over seeds, `error` the standard error of the mean over test
`examples`. `subset` says which part of the published classes is ours, if not all of them."""


def compare_figures(runs: Sequence) -> pd.DataFrame:
    """Compare every figure published for a model and data set with `runs` of one experiment, one per seed.

    Returns:
        One row per published setting and figure (`COLUMNS`), as fractions. `published` is empty if a figure has a
        verdict but was not published; `ours` is empty if the settings differ.
    """
    experiment, rows = runs[0].experiment, []
    known = published.read_of_model(experiment)
    subset = _describe_subset(runs[0])
    keys = ["table", "source", *_SETTING, "sparsity"]
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


def compare_sizes(rows: pd.DataFrame, directory: Path) -> pd.DataFrame:
    """Compare published sizes of files with those in results.csv and variants.csv of a report `directory`.

    Args:
        rows: Rows of `compare_figures`, from which each published setting and its difference from ours are taken.
        directory: The directory.

    Returns:
        One row per published setting and size (`COLUMNS`): bytes, or fractions of the baseline's file.
    """
    known = published.read_of_name(published.name_model(results.read_run(directory)["experiment"]))
    values = {key: dict(zip(one["metric"], one["value"], strict=True)) for key, one in _group_settings(known)}
    bases = {(table, source): one for (table, source, stage, *_), one in values.items() if stage == BASELINE}
    ours, found = _measure_sizes(directory), []
    for key, shared in _group_settings(rows[rows["figure"] == "zip_saved"]):
        table, source, stage, *_ = key
        base = bases.get((table, source), {}) if stage != BASELINE else {}
        setting = shared.iloc[0].to_dict() | dict.fromkeys(("ours", "deviation", "error", "examples"), np.nan)
        for figure, size in _derive_sizes(values.get(key, {}), base).items():
            part = setting["subset"]  # a head of fewer classes
            reason = setting["incomparable"] or (f"the network has {part}" if part else "")
            measured = {} if reason else ours.get((stage, figure), {})
            found.append(setting | {"figure": figure, "published": size, "incomparable": reason} | measured)
    return pd.DataFrame(found, columns=COLUMNS).astype({"published": float, "ours": float})


def _group_settings(rows: pd.DataFrame) -> list[tuple[tuple, pd.DataFrame]]:
    """The `rows` of each table, source and setting, by a key that is equal in other tables, too: NaN is "" in it."""
    keys = rows[["table", "source", *_SETTING]].astype(object).fillna("")
    return list(rows.groupby([keys[name] for name in keys], sort=False))


def _derive_sizes(values: dict[str, float], base: dict[str, float]) -> dict[str, float]:
    """The published sizes of a setting by figure, of which the ratios are to the published baseline, `base`.

    Where the raw file was published, too, `zip_saved` compares the compressed one.
    """
    sizes = {"int8_bytes": values["tflite_bytes"]} if "tflite_bytes" in values else {}
    if {"tflite_int8_megabytes", "tflite_fp32_megabytes"} <= set(values):
        sizes["quantized_ratio"] = values["tflite_int8_megabytes"] / values["tflite_fp32_megabytes"]
    for metric, figure in {
        "compressed_megabytes": "size_ratio",
        "compressed_fp32_megabytes": "float_size_ratio",
    }.items():
        if metric in values and metric in base:
            sizes[figure] = values[metric] / base[metric]
    return sizes


def _measure_sizes(directory: Path) -> dict[tuple[str, str], dict[str, float]]:
    """Mean (`ours`) and standard deviation over seeds, by stage and figure; float32 files are those of one seed."""
    rows = _select_ours(results.read(directory / "results.csv"))
    base, found = rows[rows["stage"] == BASELINE].set_index("seed")["zip_bytes"], {}
    for stage, ones in rows.set_index("seed").groupby("stage"):
        measured = {"size_ratio": ones["zip_bytes"] / base, "int8_bytes": ones["tflite_bytes"]}
        found |= {(stage, figure): {"ours": one.mean(), "deviation": one.std()} for figure, one in measured.items()}
    if (directory / "variants.csv").is_file():
        files = _select_ours(pd.read_csv(directory / "variants.csv")).drop_duplicates(["format", "stage"])
        files = files.set_index(["format", "stage"])
        gzipped, raw = files["gzip_bytes"].to_dict(), files["tflite_bytes"].to_dict()
        whole = "float32", BASELINE
        for stage in {stage for name, stage in gzipped if name == "float32" and whole in gzipped}:
            found[stage, "float_size_ratio"] = {"ours": gzipped["float32", stage] / gzipped[whole]}
        if {whole, ("int8", BASELINE)} <= raw.keys():
            found[BASELINE, "quantized_ratio"] = {"ours": raw["int8", BASELINE] / raw[whole]}
    return found


def _select_ours(rows: pd.DataFrame) -> pd.DataFrame:
    """The `rows` with a file, without those of TFMOT's own scheme."""
    schemes = rows["scheme"].fillna("")
    return rows[rows["zip_bytes"].notna() & schemes.isin(["", Experiment.model_fields["scheme"].default])]


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


def judge_figure(row: pd.Series) -> str:
    """Return the one of `VERDICTS` on a `row` of `compare_figures`, by tolerance and, for drops, 2 standard errors."""
    if row["incomparable"] or pd.isna(row["published"]) or pd.isna(row["ours"]):
        return INCOMPARABLE
    tolerance = TOLERANCES[row["figure"]]
    is_drop = row["figure"] in DROPS
    excess = row["ours"] - row["published"]  # above 0 is worse
    if row["figure"] == "zip_saved":
        excess = -excess
    if row["figure"] == "int8_bytes":
        excess /= row["published"]
    noise = 2 * row["error"] if is_drop else 0.0
    if excess - noise > tolerance:
        return "worse"
    if excess + noise < -tolerance:
        return "better"
    if is_drop and noise > row["published"]:
        return UNDECIDABLE
    if abs(excess) <= tolerance:
        return "reproduced"
    return UNDECIDABLE if abs(excess) <= noise else "worse" if excess > 0 else "better"


def judge(rows: pd.DataFrame) -> pd.DataFrame:
    """Return the `rows` of `compare_figures` whose figure has a tolerance, with a column `verdict`."""
    judged = rows[rows["figure"].isin(TOLERANCES)].copy()
    judged["incomparable"] = judged["incomparable"].fillna("")
    return judged.assign(verdict=[judge_figure(row) for _, row in judged.iterrows()])


def format_value(value: float, figure: str) -> str:
    """Return the `value` of a `figure` with its digits: bytes in kB, fractions in per cent or points; NaN is empty."""
    if pd.isna(value):
        return ""
    return f"{value / 1000:.1f}" if figure == "int8_bytes" else f"{100 * value:.2f}"


def format_verdict(row: pd.Series | dict) -> str:
    """Return the verdict of a `row` of `judge` and its part of the classes, why the figure is not comparable, or what
    would decide it.
    """
    verdict, examples = row["verdict"], row.get("examples")
    if row["incomparable"]:
        return f"{verdict}: {row['incomparable']}"
    if verdict == INCOMPARABLE:
        return f"{verdict}: not measured"
    if verdict == UNDECIDABLE and row["published"] > 0 and pd.notna(examples):
        # The error falls with the root of the number of examples.
        noise = 2 * row["error"]
        bound = row["published"] if noise > row["published"] else abs(row["ours"] - row["published"])
        needed = math.ceil(examples * (noise / bound) ** 2)
        verdict = f"{verdict}: {needed:,} test examples would decide it, instead of {int(examples):,}"
    return ", ".join(filter(None, (verdict, row.get("subset"))))


def format_setting(row: pd.Series | dict) -> str:
    """Return the stage with the setting that a `row` of `compare_figures` was published in."""
    clusters = "" if pd.isna(row["clusters"]) else f", {int(row['clusters'])} clusters"
    granularity = {True: " per channel", False: " per tensor"}.get(row["cluster_per_channel"], "")
    pattern = row.get("sparsity_pattern")
    return get_label(row["stage"]) + (f", {pattern}" if pd.notna(pattern) else "") + clusters + granularity


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
