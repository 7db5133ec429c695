"""The tables of kernels: zeros, unique values and int8 values, and whether a stage preserves them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from collabopt.analysis import audit
from collabopt.config.metrics import get_metric
from collabopt.report.table import (
    Cell,
    Column,
    Table,
    make_metric_column,
    make_number_cell,
    make_preserved_cell,
    make_stage_cell,
)
from collabopt.storage.results import to_numbers
from collabopt.tflite.sizes import compute_entropy_bytes, compute_gzip_bytes

if TYPE_CHECKING:  # imports TensorFlow, which pages do without
    from collabopt.analysis.finished import Finished

PRESERVED = "Preserved: every zero and cluster of the parent stage is still present."

_SPARSITY, _UNIQUE = get_metric("sparsity"), get_metric("unique_weights")
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
    """Tabulate sparsity and unique values in Keras and in the int8 file, one row per kernel.

    Args:
        finished: A finished stage.
    """
    rows = to_numbers(finished.layers, [*_KERNEL_COLUMNS])
    lines = [
        [
            *(Cell(row[column]) for column in ("layer", "kind", "shape")),
            *(make_number_cell(row[column], metric) for column, (_, metric) in _KERNEL_COLUMNS.items()),
            *(Cell(row["quantizer"]), Cell(row["skipped"], kind="wrap"), Cell(row["defect"], kind="no wrap")),
        ]
        for row in rows.to_dict("records")
    ]
    columns = [*map(Column, ("Layer", "Kind", "Shape")), *(Column(head, True) for head, _ in _KERNEL_COLUMNS.values())]
    columns += map(Column, ("Quantizer", "Skipped because", "Not preserved"))
    return Table("layers", f"Kernels of {finished.stage.title}", columns, lines).drop_empty_columns()


def kernel_by_kernel(ours: Finished, theirs: Finished) -> Table:
    """Tabulate each eligible kernel after TFMOT's scheme and after ours.

    Args:
        ours: A stage by our scheme.
        theirs: The same stage by TFMOT's.
    """
    shown = "sparsity", "unique_tensor", "int8_unique_tensor"
    sides = {"TFMOT": theirs.layers.set_index("layer"), "ours": ours.layers.set_index("layer")}
    lines = []
    for layer in ours.eligible_layers():
        pairs = [(frame.loc[layer, column], _KERNEL_COLUMNS[column][1]) for column in shown for frame in sides.values()]
        defect = Cell(sides["TFMOT"].loc[layer, "defect"], kind="no wrap")
        lines.append([Cell(layer), *(make_number_cell(*pair) for pair in pairs), defect])
    columns = [Column(side, True, _KERNEL_COLUMNS[column][0]) for column in shown for side in sides]
    columns = [Column("Layer"), *columns, Column("TFMOT did not preserve")]
    return Table("kernels", f"Kernels of {ours.stage.title} by TFMOT's scheme and by ours", columns, lines)


def verdicts(finished: Sequence[Finished]) -> Table:
    """Tabulate the stages that must keep zeros or clusters, and whether they do.

    Args:
        finished: Finished stages. Those with nothing to keep are left out.
    """
    lines = []
    for one in finished:
        duties = ["every zero of its parent"] * one.stage.keeps_zeros + ["the clusters"] * one.stage.clusters
        failing = one.layers[one.layers["defect"] != ""]
        names, first = ", ".join(failing["layer"]) or "none", next(iter(failing["defect"]), "")
        cells = Cell(names, kind="wrap"), Cell(first, kind="wrap")
        if duties:
            stage, preserved = make_stage_cell(one.stage.name), make_preserved_cell(one.result["preserved"])
            lines.append([stage, Cell(" and ".join(duties)), preserved, *cells])
    if not lines:
        return Table("verdicts", "None of these stages has zeros or clusters to keep.", [], [])
    columns = [*map(Column, ("Stage", "Must keep", "Preserved", "Failing kernels", "First failure"))]
    return Table("verdicts", "Zeros and clusters", columns, lines, PRESERVED)


def coding(finished: Sequence[Finished]) -> Table:
    """Tabulate the bytes of the int8 kernels raw, after gzip and at their zero-order entropy, one row per stage.

    Args:
        finished: Finished stages.
    """
    lines = []
    for one in finished:
        values = one.int8_values()
        coded = _make_coding_cells([values[name] for name in one.eligible_layers()])
        lines.append([make_stage_cell(one.stage.name), *coded])
    return Table("coding", "Size of the int8 kernels", [Column("Stage"), *_make_coding_columns()], lines)


def ranges(finished: Sequence[Finished]) -> Table:
    """Compare one int8 range per tensor with one per channel.

    Args:
        finished: Finished stages. Those without a range per tensor are left out.
    """
    accuracy, size, lines = get_metric("accuracy_int8"), get_metric("gzip_bytes"), []
    for one in finished:
        result = one.result
        if pd.isna(result["gzip_bytes_channel_ranges"]):
            continue
        for title, suffix, values in (
            ("per channel", "_channel_ranges", one.int8_values_with_channel_ranges()),
            ("per tensor", "", one.int8_values()),
        ):
            kernels = [values[name] for name in one.eligible_layers()]
            lines.append(
                [
                    *(make_stage_cell(one.stage.name), Cell(title)),
                    make_number_cell(result[f"accuracy_int8{suffix}"], accuracy),
                    make_number_cell(result[f"gzip_bytes{suffix}"], size),
                    make_number_cell(max(map(audit.count_unique, kernels)), _UNIQUE),
                    *_make_coding_cells(kernels),
                ]
            )
    columns = [Column("Stage"), Column("Ranges"), make_metric_column(accuracy, "int8 file")]
    columns += [make_metric_column(size, "int8 file"), Column("Most unique values", True, "int8 kernels")]
    columns += _make_coding_columns("int8 kernels")
    return Table("ranges", "One int8 range per channel or per tensor", columns, lines, is_grouped=True)


def _make_coding_columns(group: str = "") -> list[Column]:
    names = "weight_bytes", "entropy_bytes", "gzip_bytes"
    columns = [make_metric_column(get_metric(name), group) for name in names]
    return [*columns, Column("gzip ÷ entropy", True, group)]


def _make_coding_cells(kernels: list[np.ndarray]) -> list[Cell]:
    entropy, gzipped = compute_entropy_bytes(kernels), compute_gzip_bytes(kernels)
    sizes = {"weight_bytes": sum(kernel.size for kernel in kernels), "entropy_bytes": entropy, "gzip_bytes": gzipped}
    cells = [make_number_cell(value, get_metric(name)) for name, value in sizes.items()]
    return [*cells, Cell(f"{gzipped / entropy:.3f}", gzipped / entropy, kind="number")]
