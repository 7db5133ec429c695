"""Published figures beside ours: how much accuracy a stage costs and how many bytes it saves, with what chance does.

    python -m collabopt verify --experiment speech_commands-ds_cnn_l

`make verify` calls this. Baselines differ in data and training, so what is compared is each side's drop against its own
baseline's FP32 accuracy. Ours is the mean over seeds; its standard error is paired by test example.
"""

import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from collabopt.config import loading, published
from collabopt.config.experiment import Experiment
from collabopt.config.stages import STAGES, get_label
from collabopt.storage import atomic

COLUMNS = [
    "table",
    "stage",
    "clusters",
    "cluster_per_channel",
    "figure",
    "published",
    "ours",
    "deviation",
    "error",
    "seeds",
    "train_fraction",
    "incomparable",
    "source",
]
"""comparison.csv: a figure of a stage. `deviation` is the standard deviation over seeds, `error` the standard error."""


DROPS = {"drop": "accuracy", "drop_int8": "accuracy_int8"}


JUDGED = {"drop": 0.005, "drop_int8": 0.005, "zip_saved": 0.03}
"""The figures that are held against the published ones, and by how much they may differ."""


NAMES = {
    "accuracy": "Accuracy, FP32 or fake-INT8 (%)",
    "accuracy_int8": "Accuracy, INT8 (%)",
    "drop": "Drop, FP32 or fake-INT8 (points)",
    "drop_int8": "Drop, INT8 (points)",
    "zip_saved": "Saved by ZIP (%)",
    "gzip_saved": "Saved by gzip (%)",
}


VERDICTS = ("reproduced", "better", "worse", "not decidable", "not comparable")


WORSE, UNDECIDED = 1, 2


def compare_figures(runs: Sequence) -> pd.DataFrame:
    """Every published figure of the runs' model and data set with ours (`COLUMNS`); one run a seed.

    Accuracies, drops and what is saved are fractions. A published cell that is not known is empty.
    """
    plan, rows = runs[0].experiment, []
    known = published.read_of_model(plan)
    for (table, source), cells in known.groupby(["table", "source"], sort=False):
        for _, setting in cells[["stage", "clusters", "cluster_per_channel", "sparsity"]].drop_duplicates().iterrows():
            theirs = _published(cells, setting)
            why = _incomparable(plan, setting)
            ours = {} if why else _ours(runs, setting["stage"])
            for figure in NAMES:
                if setting["stage"] == "baseline" and figure == "drop":
                    continue
                of_baseline = "" if figure not in DROPS or figure in theirs else _without_baseline(theirs, figure)
                mean, deviation, error = ours.get(figure, (None, None, None))
                rows.append(
                    {
                        "table": table,
                        "stage": setting["stage"],
                        "clusters": setting["clusters"],
                        "cluster_per_channel": setting["cluster_per_channel"],
                        "figure": figure,
                        "published": theirs.get(figure),
                        "ours": mean,
                        "deviation": deviation,
                        "error": error,
                        "seeds": len(runs),
                        "train_fraction": plan.train_fraction,
                        "incomparable": why or of_baseline,
                        "source": source,
                    }
                )
    frame = pd.DataFrame(rows, columns=COLUMNS)
    return frame[frame["published"].notna() | frame["figure"].isin(JUDGED)].reset_index(drop=True)


def compare(run) -> pd.DataFrame:
    """`figures` of the run over all its seeds, every stage trained, written to comparison.csv of its report."""
    runs = run.with_every_seed()
    for one in runs:
        one.stages(*STAGES)
    rows = compare_figures(runs)
    atomic.write(run.directory / "comparison.csv", rows.to_csv(index=False))
    return rows


def _published(cells: pd.DataFrame, setting: pd.Series) -> dict[str, float]:
    """The published figures of a stage in a setting, drops and what is saved among them."""
    same = cells[
        (cells["stage"] == setting["stage"])
        & (cells["clusters"].astype(object).fillna("") == _or_empty(setting["clusters"]))
        & (cells["cluster_per_channel"].astype(object).fillna("") == _or_empty(setting["cluster_per_channel"]))
    ]
    found = dict(zip(same["metric"], same["value"], strict=True))
    baseline = cells[(cells["stage"] == "baseline") & (cells["metric"] == "accuracy")]["value"]
    for drop, accuracy in DROPS.items():
        if len(baseline) and accuracy in found:
            found[drop] = float(baseline.iloc[0]) - found[accuracy]
    if {"tflite_bytes", "compressed_bytes"} <= set(found):
        found["zip_saved"] = 1 - found["compressed_bytes"] / found["tflite_bytes"]
    return found


def _ours(runs: Sequence, stage: str) -> dict[str, tuple[float, float | None, float | None]]:
    """(mean, standard deviation, standard error) of each figure over the runs."""
    finished = [(run.stage("baseline"), run.stage(stage)) for run in runs]
    rows = pd.DataFrame([one.result for _, one in finished])
    rows["zip_saved"] = 1 - rows["zip_bytes"] / rows["tflite_bytes"]
    rows["gzip_saved"] = 1 - rows["gzip_bytes"] / rows["tflite_bytes"]
    found = {figure: (rows[figure].mean(), _deviation(rows[figure]), None) for figure in NAMES if figure in rows}
    for drop, split in (("drop", "test"), ("drop_int8", "test_int8")):
        # A row a seed, a column a test example: right by the baseline and wrong by the stage is 1.
        lost = np.array([base.is_correct()["test"].astype(float) - one.is_correct()[split] for base, one in finished])
        found[drop] = (lost.mean(), _deviation(lost.mean(axis=1)), compute_standard_error(lost))
    return found


def compute_standard_error(lost: np.ndarray) -> float:
    """Of the mean of `lost` (seeds, examples): seeds are averaged for each example, and examples are the sample."""
    of_example = lost.mean(axis=0)
    return float(of_example.std(ddof=1) / len(of_example) ** 0.5)


def _deviation(values: Sequence[float]) -> float | None:
    return float(np.std(values, ddof=1)) if len(values) > 1 else None


def _incomparable(plan: Experiment, setting: pd.Series) -> str:
    """Why the experiment is not what was published, or nothing."""
    if pd.notna(setting["sparsity"]) and setting["sparsity"] != plan.sparsity:
        return f"published at sparsity {setting['sparsity']:.0%}"
    if pd.notna(setting["clusters"]) and setting["clusters"] != plan.number_of_clusters:
        return f"published with {setting['clusters']} clusters"
    per_channel = _or_empty(setting["cluster_per_channel"])
    clusters = STAGES[setting["stage"]].clusters
    if clusters and bool(per_channel) != plan.cluster_per_channel:
        return "published per channel" if per_channel else "published per tensor"
    return ""


def _without_baseline(theirs: dict[str, float], drop: str) -> str:
    return "no baseline was published with it" if DROPS[drop] in theirs else "not published"


def _or_empty(value: object) -> object:
    return "" if pd.isna(value) else value


def judge_figure(row: pd.Series) -> str:
    """One of `VERDICTS` for a figure of `JUDGED`."""
    if row["incomparable"] or pd.isna(row["published"]) or pd.isna(row["ours"]):
        return "not comparable"
    tolerance = JUDGED[row["figure"]]
    saved = row["figure"] == "zip_saved"
    worse = row["published"] - row["ours"] if saved else row["ours"] - row["published"]
    noise = 0.0 if saved else 2 * row["error"]
    if worse - noise > tolerance:
        return "worse"
    if worse + noise < -tolerance:
        return "better"
    if not saved and noise > row["published"]:
        return "not decidable"
    return "reproduced" if abs(worse) <= tolerance else "worse" if worse > 0 else "better"


def judge(rows: pd.DataFrame) -> pd.DataFrame:
    """The figures that are judged, each with its `verdict`."""
    judged = rows[rows["figure"].isin(JUDGED)].copy()
    judged["incomparable"] = judged["incomparable"].fillna("")
    return judged.assign(verdict=[judge_figure(row) for _, row in judged.iterrows()])


def format_markdown(judged: pd.DataFrame) -> str:
    """The verdicts as a Markdown table: points and per cent, ours ± the standard deviation over seeds."""
    lines = ["| table | stage | figure | published | ours | 2 SE | verdict |", "| --- " * 7 + "|"]
    for _, row in judged.iterrows():
        if row["verdict"] == "not comparable" and pd.isna(row["published"]):
            continue
        error = format_points(2 * row["error"])
        theirs, ours = format_points(row["published"]), format_with_deviation(row)
        cells = (row["table"], format_setting(row), NAMES[row["figure"]], theirs, ours, error, format_verdict(row))
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def format_points(fraction: float) -> str:
    """A fraction in per cent or points, to two digits; empty where it is not known."""
    return "" if pd.isna(fraction) else f"{100 * fraction:.2f}"


def format_with_deviation(row: pd.Series) -> str:
    """Our figure ± its standard deviation over seeds."""
    return format_points(row["ours"]) + (f" ± {format_points(row['deviation'])}" if pd.notna(row["deviation"]) else "")


def format_verdict(row: pd.Series) -> str:
    """The verdict, and why a figure cannot be compared."""
    return row["verdict"] + (f": {row['incomparable']}" if row["incomparable"] else "")


def format_setting(row: pd.Series | dict) -> str:
    """The stage with the setting that it was published in."""
    clusters = "" if pd.isna(row["clusters"]) else f", {int(row['clusters'])} clusters"
    where = "" if pd.isna(row["cluster_per_channel"]) else f" a {'channel' if row['cluster_per_channel'] else 'tensor'}"
    return get_label(row["stage"]) + clusters + where


def compute_exit_status(judged: pd.DataFrame) -> int:
    """Exit status: 1 where something is worse, 2 where nothing could be decided, else 0."""
    found = set(judged["verdict"])
    return WORSE if "worse" in found else 0 if found & {"reproduced", "better"} else UNDECIDED


def read(directory: Path) -> pd.DataFrame:
    """The comparison that a run left in a report directory. Raises FileNotFoundError where there is none."""
    path = directory / "comparison.csv"
    if not path.is_file():
        raise FileNotFoundError(f"{path}: not there; `make report EXPERIMENT={directory.name}` makes it")
    return pd.read_csv(path, dtype={"incomparable": object}).fillna({"incomparable": ""})


def verify(name: str) -> int:
    """Print the verdicts on a finished report.

    Args:
        name: The experiment.

    Returns:
        The exit status (`compute_exit_status`).
    """
    try:
        judged = judge(read(loading.find_report_directory(name)))
    except FileNotFoundError as error:
        print(error, file=sys.stderr)
        return UNDECIDED
    if judged.empty:
        print(f"{name}: nothing is published of this model and data set", file=sys.stderr)
        return UNDECIDED
    print(format_markdown(judged))
    counts = judged["verdict"].value_counts()
    print("\n" + ", ".join(f"{counts.get(verdict, 0)} {verdict}" for verdict in VERDICTS))
    return compute_exit_status(judged)
