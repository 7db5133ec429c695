"""What changed from the baseline to the chosen file: accuracy per class, examples that flipped, and layers.

All functions take tables of `deploy.changes`, or the same read from CSV files as text.
"""

import dataclasses
import math
from pathlib import Path

import pandas as pd

from collabopt.config.metrics import Metric, get_metric
from collabopt.report.table import Cell, Table
from collabopt.storage.results import to_numbers

_COUNT, _DECIBELS = Metric("count", "count"), Metric("snr_db", "SNR", digits=1, missing="")
_KB = dataclasses.replace(get_metric("tflite_bytes"), missing="")
_MOST = 20
"""Classes that are shown."""
_LAYERS_NOTE = (
    "Kernel and biases of each layer. MACs: multiplications per example. gzip: the layer alone, compressed. SNR: "
    "signal-to-noise ratio of the layer's output in this file against the float32 baseline, on a few validation "
    "examples; it falls with training, too. A layer of the baseline that this file has not, or has in parts, is listed "
    "at the end. kB are 1,000 bytes."
)


def read(directory: Path) -> dict[str, Table]:
    """Return the tables `classes`, `flips` and `layers` that a search left in `directory` and that have rows."""
    made = {"classes": classes, "flips": flips, "layers": changed_layers}
    tables = {name: make(read_rows(directory, name)) for name, make in made.items()}
    return {name: table for name, table in tables.items() if table.rows}


def read_rows(directory: Path, name: str) -> pd.DataFrame:
    """Return the table `name` of `deploy.changes` in `directory` as text; no rows if it cannot be read."""
    try:
        return pd.read_csv(directory / f"changed_{name}.csv", dtype=str, keep_default_na=False)
    except (OSError, ValueError):
        return pd.DataFrame()


def classes(rows: pd.DataFrame) -> Table:
    """Return `Changes.classes` as a table, one row per class; `rows` are none if the task has no class per example."""
    if rows.empty:
        return Table("The task has no class per example, so there is no accuracy per class.", [])
    rows = to_numbers(rows, ["examples", "before", "after", "newly_wrong", "newly_right"])
    metric, found, total = get_metric("accuracy"), [], len(rows)
    changed = (rows["newly_wrong"] + rows["newly_right"]).sort_values(ascending=False, kind="stable")
    for row in rows.loc[sorted(changed.index[:_MOST])].to_dict("records"):
        found.append(
            {
                "Class": row["class"],
                "Examples": Cell.from_number(row["examples"], _COUNT),
                "Baseline float32 (%)": Cell.from_number(row["before"], metric),
                f"{row['file']} (%)": Cell.from_number(row["after"], metric),
                "Newly wrong": _make_count(row["newly_wrong"]),
                "Newly right": _make_count(row["newly_right"]),
            }
        )
    more = f": the {_MOST} of {total} classes that changed most" if total > _MOST else ""
    return Table(f"Accuracy by class of validation{more}", found)


def flips(rows: pd.DataFrame) -> Table:
    """Return `Changes.flips`, `rows`, as a table: place in the split, picture, file or values, class, predictions."""
    if rows.empty:
        return Table("No prediction of an example flipped.", [])
    found = []
    for row in rows.to_dict("records"):
        name, verdict = f"{row['example']}", row["verdict"]
        found.append(
            {
                "Example": Cell(name, float(name), kind="number"),
                "Picture": Cell(f"Example {name}: {row['class']}", picture=row["picture"]) if row["picture"] else "",
                "File": Cell(row["file"], kind="wrap"),
                "Values": Cell(row["features"], kind="wrap"),
                "Class": str(row["class"]),
                "Baseline float32 says": str(row["before"]),
                "Chosen file says": str(row["after"]),
                "Verdict": Cell(verdict, kind="no") if verdict == "newly wrong" else verdict,
            }
        )
    total = int(rows["count"].iloc[0])
    more = f" The first {len(rows)} of {total} are shown." if total > len(rows) else ""
    return Table(f"Examples of validation whose prediction flipped.{more}", found).drop_empty_columns()


def changed_layers(rows: pd.DataFrame) -> Table:
    """Return `Changes.layers`, `rows`, as a table beside the float32 baseline's, with their sum."""
    if rows.empty:
        return Table("The chosen file is for another runtime, so its layers are not compared.", [])
    numbers = ["parameters", "multiplications", "bytes", "gzip_bytes", "baseline_bytes", "snr_db"]
    rows, found, name = to_numbers(rows, numbers), [], rows["chosen"].iloc[0]
    sums = {column: rows[column].sum(min_count=1) for column in numbers[:-1]} | {"snr_db": math.nan}
    sums["multiplications"] = rows["multiplications"].sum(skipna=False)  # known if every layer's are
    for row in [*rows.to_dict("records"), {"layer": "all", "operator": "", "shape": "", **sums}]:
        found.append(
            {
                "Layer": row["layer"],
                "Parameters": Cell.from_number(row["parameters"], _COUNT),
                "MACs": Cell.from_number(row["multiplications"], _COUNT, "not known"),
                "Baseline float32: kB": Cell.from_number(row["baseline_bytes"], _KB),
                f"{name}: kB": Cell.from_number(row["bytes"], _KB),
                f"{name}: gzip (kB)": Cell.from_number(row["gzip_bytes"], _KB),
                f"{name}: SNR (dB)": Cell.from_number(row["snr_db"], _DECIBELS),
                f"{name}: Kernel": row["shape"],
                f"{name}: Operator": row["operator"],
            }
        )
    return Table("Layers of the chosen file", found, _LAYERS_NOTE).drop_empty_columns()


def _make_count(count: float) -> Cell:
    return Cell(f"{count:.0f}" if count else "", int(count), kind="number")
