"""Means over the seeds of a report or sweep, its settings that differ, and the comparison with its baseline."""

from typing import Any

import pandas as pd

from collabopt.config.metrics import METRICS, Metric
from collabopt.config.scores import find_score
from collabopt.config.stages import BASELINE, list_stages
from collabopt.figures.pareto import find_front
from collabopt.storage import results

_UNBALANCED = 0.01

TIMES = "epochs", "setup_seconds", "fit_seconds"
"""The metrics of a stage's training."""

SETTINGS = {
    "experiment": "experiment",
    "seed": "seed",
    "target_sparsity": "sparsity",
    "number_of_clusters": "clusters",
    "cluster_per_channel": "per channel",
    **{column: column.replace("_", " ") for column in results.OPTIONAL_KEY},
    "scheme": "scheme",
    "train_fraction": "train fraction",
    "options": "settings",
    "setting": "setting",
}
"""Titles of the columns of results.csv that tell rows of the same stage apart."""


def list_metrics(rows: pd.DataFrame) -> list[Metric]:
    """Return the metrics that tables of stages show; balanced accuracy where it differs by a point in `rows`."""
    hidden = (*TIMES, "rounded_to_zero", *(() if is_unbalanced(rows) else results.BALANCED))
    return [metric for name, metric in METRICS.items() if name in rows and name not in hidden]


def is_unbalanced(rows: pd.DataFrame) -> bool:
    """Return whether accuracy and balanced accuracy differ by a point or more in any of the `rows`."""
    pairs = {"accuracy": "balanced_accuracy", "validation_accuracy": "validation_balanced_accuracy"}
    columns = [(one, other) for one, other in pairs.items() if {one, other} <= {*rows}]
    numbers = results.to_numbers(rows, [name for pair in columns for name in pair])
    return any(((numbers[one] - numbers[other]).abs() >= _UNBALANCED).any() for one, other in columns)


def find_varied_settings(rows: pd.DataFrame) -> list[str]:
    """Return the settings that have more than one value in `rows` of results.csv or sweep.csv."""
    # Without options a stage has the defaults, so one text is enough to differ.
    most = {column: 0 if column == "options" else 1 for column in SETTINGS if column in rows}
    return [column for column in most if len({*rows[column].dropna()} - {""}) > most[column]]


def format_setting(row: dict[str, Any], settings: list[str]) -> str:
    """Return `settings` of a `row`: "sparsity 0.5, clusters 8"; empty ones are left out."""
    return ", ".join(
        f"{SETTINGS[column]} {row[column]}" for column in settings if not pd.isna(row[column]) and row[column] != ""
    )


def average_over_seeds(rows: pd.DataFrame) -> pd.DataFrame:
    """Average the metrics of a report or sweep.

    Args:
        rows: Rows of results.csv, with the column `cell` in a sweep.

    Returns:
        One row per stage and setting: `<metric>` is the mean over seeds, NaN if one of them has no value,
        `<metric>_std` the standard deviation, `seeds` their number, `preserved` whether every seed preserves, `cell`
        the first cell of a sweep with the stage, `front` whether the row is on the Pareto front of gzip size and INT8
        score on validation.
    """
    known = (*results.KEY, *results.OPTIONAL_KEY, "setting")
    key = [column for column in known if column != "seed" and column in rows]
    rows = rows.drop_duplicates([*key, "seed"])
    groups = rows.groupby(key, dropna=False, sort=False)
    table = groups.size().rename("seeds").to_frame()
    for metric in list_metrics(rows):
        # Without a value of one seed, the mean of the others would be that of a smaller number of seeds.
        mean = groups[metric.name].mean(skipna=False)
        table[metric.name], table[f"{metric.name}_std"] = mean, groups[metric.name].std().where(mean.notna())
        if f"{metric.name}_error" in rows:
            error = pd.to_numeric(rows[f"{metric.name}_error"], errors="coerce")
            table[f"{metric.name}_error"] = error.groupby([rows[one] for one in key], dropna=False, sort=False).mean()
    table["preserved"] = groups["preserved"].agg(_is_every_seed_preserved)
    if "predicted_classes" in rows:
        table["predicted_classes"] = groups["predicted_classes"].agg(lambda counts: pd.to_numeric(counts).min())
    if "unavailable" in rows:
        table["unavailable"] = groups["unavailable"].first()
    if "cell" in rows:
        table["cell"] = groups["cell"].first()
    table = table.reset_index()
    score = find_score(table)
    scores = table.get(score.validation_int8, pd.Series(float("nan"), table.index))
    table["front"] = find_front(table["gzip_bytes"], scores, score)
    return sort_by_stage(table)


def compare_with_baseline(table: pd.DataFrame) -> pd.DataFrame:
    """Compare each row of `average_over_seeds`' `table` with its baseline.

    It has the same share of training data and, in a sweep, the same setting.

    Returns:
        The rows with `lost` (drop of the INT8 score on test against the baseline's int8 file), `validation_lost` (drop
        of the INT8 score on validation against the float32 baseline, as files are chosen) and `saved` (fraction of the
        gzipped bytes); NaN without a baseline.
    """
    key = [name for name in ("train_fraction", "setting") if name in table]
    baselines = table[table["stage"] == BASELINE].drop_duplicates(key)
    score = find_score(table)
    columns = [score.test_int8, score.validation, "gzip_bytes"]
    base = table[key].merge(baselines[[*key, *columns]], how="left", on=key)
    return table.assign(
        lost=score.compute_drop(base[score.test_int8], table[score.test_int8]),
        validation_lost=score.compute_drop(base[score.validation], table[score.validation_int8]),
        saved=1 - table["gzip_bytes"] / base["gzip_bytes"],
    )


def sort_by_stage(rows: pd.DataFrame) -> pd.DataFrame:
    """Return `rows`, which have the column `stage`, in the order of the tree."""
    order = {stage: position for position, stage in enumerate(list_stages())}
    return rows.sort_values("stage", key=lambda stages: stages.map(order), kind="stable", ignore_index=True)


def _is_every_seed_preserved(values: pd.Series) -> bool | None:
    preserved = {results.parse_preserved(value) for value in values} - {None}
    return all(preserved) if preserved else None
