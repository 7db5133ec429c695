"""The tables of what int8 costs: layer by layer, and tensor by tensor of two files."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pandas as pd

from collabopt.config.metrics import Metric
from collabopt.report.table import Cell, Table

if TYPE_CHECKING:  # these import TensorFlow, which pages do without
    from collabopt.analysis.file_comparison import FileComparison
    from collabopt.analysis.quantization_sensitivity import Diagnosis

_DECIBELS, _TIMES = Metric("decibels", "SNR", digits=1), Metric("times", "ratio", digits=0)


def quantization(diagnosis: Diagnosis) -> Table:
    """Return the table of what int8 costs in a `diagnosis`, one row per input and layer."""
    score, group = diagnosis.score, f"Drop ({diagnosis.score.drop_unit or diagnosis.score.title})"
    drop = Metric("drop", "drop", digits=score.digits)
    metrics = {
        "kernel_snr_db": ("Kernel: SNR (dB)", _DECIBELS),
        "kernel_peak": ("Kernel: Largest ÷ median weight", _TIMES),
        "snr_db": ("Output: SNR (dB)", _DECIBELS),
        "low": ("Output: From", None),
        "high": ("Output: To", None),
        "usual": ("Output: Usually below", None),
        "only_int8_drop": (f"{group}: Only this in int8", drop),
        "only_float_drop": (f"{group}: Only this in float32", drop),
    }
    rows = []
    for row in diagnosis.table.to_dict("records"):
        is_proposed = {*row["layers"].split(", ")} <= {*diagnosis.proposed}
        rows.append({"Layer": Cell(row["layer"], kind="no" if is_proposed else "")})
        for column, (head, metric) in metrics.items():
            value = row[column]
            plain = Cell("" if pd.isna(value) else f"{value:.4g}".replace("-", "−"), value, kind="number")
            rows[-1][head] = Cell.from_number(value, metric, "") if metric else plain
    note = (
        "SNR: signal-to-noise ratio, of the kernel after rounding, and of the output with all layers in int8. Usually: "
        "99 % of the magnitudes in half of the channels. Drops are against all layers in float32. Red: proposed to "
        "stay in float32."
    )
    return Table("What int8 costs per layer", rows, note)


def tensors(compared: FileComparison) -> Table:
    """Return the table of `compared` tensors of two files, one row per operator of the second."""
    rows = [
        {
            "Tensor": Cell(row.tensor, kind="wrap"),
            "Operator": row.operator,
            "SNR (dB)": Cell.from_number(row.snr_db, _DECIBELS),
        }
        for row in compared.tensors.itertuples()
    ]
    return Table("Tensors of both files" if rows else "The files have no tensor in common", rows)
