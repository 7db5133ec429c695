"""The figures that are compared with published ones, and the verdict on each."""

import math

import pandas as pd

from collabopt.config.stages import get_label

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
