"""The tables of kernels: zeros, unique values and int8 values, and whether a stage preserves them."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from collabopt.analysis import audit
from collabopt.config.metrics import Metric, get_metric
from collabopt.config.scores import find_score
from collabopt.report.table import Cell, Table, format_head, make_metric_cells
from collabopt.storage.results import to_numbers
from collabopt.tflite.sizes import compute_entropy_bytes, compute_gzip_bytes

if TYPE_CHECKING:  # imports TensorFlow, which pages do without
    from collabopt.analysis.finished import Finished

PRESERVED = (
    "Preserved: every zero of the parent stage is still zero, and no kernel holds more values than it has clusters. "
    "Gained zeros are no failure."
)

_GAINED = get_metric("gained_zeros")
_SPARSITY, _UNIQUE = get_metric("sparsity"), get_metric("unique_weights")
MOST_FACTOR = 1.5
"""A learnt range that differs from the observed one by more is flagged."""
_FACTOR = Metric("range_factor", "learnt ÷ observed range, or the reverse", digits=2)
_RATIO = Metric("ratio", "gzip ÷ entropy", digits=3)
_KERNEL_COLUMNS = {
    "sparsity": (f"Sparsity ({_SPARSITY.unit})", _SPARSITY),
    "int8_sparsity": (f"INT8 sparsity ({_SPARSITY.unit})", _SPARSITY),
    "unique_tensor": ("Unique values per tensor", _UNIQUE),
    "unique_channel": ("Unique values per channel", _UNIQUE),
    "int8_unique_tensor": ("Unique int8 values per tensor", _UNIQUE),
    "int8_unique_channel": ("Unique int8 values per channel", _UNIQUE),
}
"""Head and format of the numeric columns of layers.csv."""


def layers(finished: Finished) -> Table:
    """Return the table of sparsity and unique values of a stage `finished`, in Keras and int8, one row per kernel."""
    rows = [
        {
            **{title: row[title.lower()] for title in ("Layer", "Kind", "Shape")},
            **{
                head.replace(" per ", ": Per "): Cell.from_number(row[column], metric)
                for column, (head, metric) in _KERNEL_COLUMNS.items()
            },
            "Quantizer": row["quantizer"],
            "Skipped because": Cell(row["skipped"], kind="wrap"),
            "Not preserved": Cell(row["defect"], kind="no wrap"),
        }
        for row in to_numbers(finished.layers, [*_KERNEL_COLUMNS]).to_dict("records")
    ]
    caption = f"Kernels of {finished.stage.title}"
    caption += f": not available: {finished.unavailable}" if finished.unavailable else ""
    return Table(caption, rows).drop_empty_columns()


def kernel_by_kernel(ours: Finished, theirs: Finished) -> Table:
    """Return the table of eligible kernels of one stage after TFMOT's scheme, `theirs`, and `ours`."""
    tables = {"TFMOT": theirs.layers, "ours": ours.layers}
    kernels = ours.eligible_layers()  # TFMOT's stage may not be available, and then has no rows
    sides = {
        side: to_numbers(table, [*_KERNEL_COLUMNS]).set_index("layer").reindex(kernels)
        for side, table in tables.items()
    }
    defects, rows = sides["TFMOT"]["defect"].fillna(theirs.unavailable or ""), []
    for layer in kernels:
        row = {"Layer": layer}
        for column in ("sparsity", "unique_tensor", "int8_unique_tensor"):
            head, metric = _KERNEL_COLUMNS[column]
            for side, frame in sides.items():
                row[f"{head}: {side}"] = Cell.from_number(frame.loc[layer, column], metric)
        rows.append(row | {"TFMOT did not preserve": Cell(defects[layer], kind="no wrap")})
    return Table(f"Kernels of {ours.stage.title} by TFMOT's scheme and by ours", rows)


def verdicts(finished: Sequence[Finished]) -> Table:
    """Return the table of `finished` stages that must keep zeros or clusters, and whether they do."""
    rows = []
    for one in finished:
        duties = ["every zero of its parent"] * one.stage.keeps_zeros + ["the number of clusters"] * one.stage.clusters
        failing = one.layers[one.layers["defect"] != ""]
        row = {
            "Stage": Cell.from_stage(one.stage.name),
            "Must keep": " and ".join(duties),
            "Preserved": Cell.from_preserved(one.result["preserved"]),
            format_head(_GAINED): Cell.from_number(one.result.get("gained_zeros"), _GAINED),
            "Failing kernels": Cell(", ".join(failing["layer"]) or "none", kind="wrap"),
            "First failure": Cell(next(iter(failing["defect"]), ""), kind="wrap"),
            "Not available": Cell.from_reason(one.unavailable),
        }
        rows += [row] if duties else []
    empty = "None of these stages has zeros or clusters to keep."
    return Table("Zeros and clusters" if rows else empty, rows, PRESERVED).drop_empty_columns()


def activations(finished: Sequence[Finished]) -> Table:
    """Return the table of how activation ranges of `finished` stages were set, and whether they fit the data.

    A factor above 1.5 is flagged: the learnt range is too wide or too narrow by as much.
    """
    rows, both = [], len({one.key["scheme"] for one in finished} - {""}) > 1
    for one in finished:
        if one.unavailable:
            continue
        factor = one.result["range_factor"]
        cell = Cell.from_number(factor, _FACTOR, "")
        row = {"Stage": Cell.from_stage(one.stage.name), **({"Scheme": one.key["scheme"]} if both else {})}
        row["Set by"] = str(one.result["calibration"] or "training").replace("_", "–")
        row[format_head(_FACTOR)] = dataclasses.replace(cell, kind="number no") if (factor or 0) > MOST_FACTOR else cell
        rows.append(row | {"Activation": one.result["range_activation"]})
    outliers = dict.fromkeys(one.result["outlier"] for one in finished if one.result.get("outlier"))
    note = (
        "Int8 files clip activations to these ranges. The factor is that of the activation whose range fits worst: too "
        "wide for all examples, or too narrow for 99 % of them. Ranges of PTQ are those of the examples."
    )
    return Table(
        "Ranges of activations", rows, " ".join([*(f"{text}." for text in outliers), note])
    ).drop_empty_columns()


def coding(finished: Sequence[Finished]) -> Table:
    """Return the table of int8 kernel bytes of `finished` stages: raw, after gzip and at their zero-order entropy."""
    rows = [
        {"Stage": Cell.from_stage(one.stage.name)}
        | _make_coding_cells(_select_eligible(one, one.int8_values()))
        | make_metric_cells({name: one.result.get(name) for name in ("entropy_bits", "lookup_bits")})
        for one in finished
        if not one.unavailable
    ]
    return Table("Size of the int8 kernels", rows)


def ranges(finished: Sequence[Finished]) -> Table:
    """Return the table of one int8 range per tensor beside one per channel, of `finished` stages with both."""
    rows = []
    for one in finished:
        metrics = (find_score(one.result).test_int8, "gzip_bytes")
        if pd.isna(one.result["gzip_bytes_channel_ranges"]):
            continue
        for title, suffix, values in (
            ("per channel", "_channel_ranges", one.int8_values_with_channel_ranges()),
            ("per tensor", "", one.int8_values()),
        ):
            kernels = _select_eligible(one, values)
            row = {"Stage": Cell.from_stage(one.stage.name), "Ranges": title}
            row |= make_metric_cells({name: one.result[name + suffix] for name in metrics}, "int8 file")
            most = Cell.from_number(max(map(audit.count_unique, kernels)), _UNIQUE)
            rows.append(row | {"int8 kernels: Most unique values": most} | _make_coding_cells(kernels, "int8 kernels"))
    return Table("One int8 range per channel or per tensor", rows, is_grouped=True)


def _select_eligible(finished: Finished, values: dict[str, np.ndarray]) -> list[np.ndarray]:
    return [values[name] for name in finished.eligible_layers() if name in values]


def _make_coding_cells(kernels: list[np.ndarray], group: str = "") -> dict[str, Cell]:
    entropy, gzipped = compute_entropy_bytes(kernels), compute_gzip_bytes(kernels)
    sizes = {"weight_bytes": sum(kernel.size for kernel in kernels), "entropy_bytes": entropy, "gzip_bytes": gzipped}
    return make_metric_cells(sizes, group) | {
        format_head(_RATIO, group): Cell.from_number(gzipped / entropy if entropy else None, _RATIO)
    }
