"""Tables of a walk down the deployment tree, as readers see them: what each leaf costs, and why it was not taken."""

import math

import pandas as pd
from pandas.io.formats.style import Styler

from collabopt.config.stages import get_label, get_lineage
from collabopt.deploy import targets
from collabopt.deploy.search import Search
from collabopt.report.tables import percent

FORMATS = {
    "float32": "float32",
    "float16": "float16",
    "int16x8": "int16 × int8",
    "dynamic_range": "dynamic range",
    "int8": "int8",
}
"""How readers know the formats."""


LIMITS = {
    "max_accuracy_drop": "Accuracy drop (points)",
    "max_tflite_bytes": "File (bytes)",
    "max_gzip_bytes": "gzip (bytes)",
    "max_sram_kib": "SRAM (KiB)",
    "max_flash_kib": "Flash (KiB)",
    "max_npu_ms": "NPU time (ms)",
}


_CHOSEN, _MISSED = "font-weight: 700", "color: #b3261e; font-weight: 600"


def walk(walked: Search) -> Styler:
    """A row a leaf in the order that they were tried: its validation accuracy, what it takes of each target, and by how
    much it misses those that it does not meet."""
    asked, base, rows = targets.list_targets(walked.targets), targets.get_baseline_accuracy(walked.table), []
    for name, leaf in walked.table.iterrows():
        missed = walked.misses(name)
        level, accuracy = len(get_lineage(leaf["stage"])) - 1, percent(leaf["validation_accuracy"])
        row = {"Level": level, "Accuracy, validation": accuracy}
        for target, limit in asked.items():
            row[f"{LIMITS[target]}, at most {_number(limit, target)}"] = _against(
                targets.get_cost(leaf, target, base), missed.get(target), target
            )
        if asked:
            row["Verdict"] = _verdict(walked, name, missed)
        rows.append(row)
    frame = pd.DataFrame(rows, index=walked.table.index)
    styles = [[_style(name == walked.chosen, cell) for cell in row] for name, row in frame.T.items()]
    frame.index = _names(walked)
    styles = pd.DataFrame(styles, index=frame.index, columns=frame.columns)
    return frame.style.apply(lambda _: styles, axis=None)


def sizes(walked: Search) -> Styler:
    """A row a leaf: accuracy, file sizes raw and compressed, int8 weights against their zero-order entropy."""
    rows = [
        {
            "Accuracy, validation": percent(leaf["validation_accuracy"]),
            "Accuracy, test": percent(leaf["accuracy"]),
            "File (bytes)": _count(leaf["tflite_bytes"]),
            "ZIP (bytes)": _count(leaf["zip_bytes"]),
            "gzip (bytes)": _count(leaf["gzip_bytes"]),
            "zstd (bytes)": _count(leaf["zstd_bytes"]),
            "int8 weights (bytes)": _count(leaf["weight_bytes"]),
            "entropy (bytes)": _count(leaf["entropy_bytes"]),
            "zstd ÷ entropy": _decimal(leaf["zstd_bytes"] / leaf["entropy_bytes"], 2),
        }
        for _, leaf in walked.table.iterrows()
    ]
    return _dense(pd.DataFrame(rows, index=_names(walked)))


def inference(walked: Search) -> Styler:
    """A row a leaf: latency on this host, and what Vela says of the NPU; below, why it says nothing of some."""
    rows = [
        {
            "Here (ms, quartiles)": _quartiles(leaf),
            "Here, ÷ baseline float32": _decimal(leaf["latency_ratio"], 2),
            "NPU (cycles)": _count(leaf["npu_cycles"]) or "not applicable",
            "NPU (ms)": _decimal(leaf["npu_ms"], 3),
            "SRAM (KiB)": _decimal(leaf["npu_sram_kib"], 1),
            "Flash (KiB)": _decimal(leaf["npu_flash_kib"], 1),
            "Encoded weights (bytes)": _count(leaf["npu_weight_bytes"]),
            "Operators on the NPU": percent(leaf["npu_operators"], 0),
        }
        for _, leaf in walked.table.iterrows()
    ]
    frame = pd.DataFrame(rows, index=_names(walked))
    return _dense(frame).set_caption(f"NPU: {walked.run.experiment.accelerator}, estimated by Vela. {_notes(walked)}")


def _dense(frame: pd.DataFrame) -> Styler:
    return frame.style.set_table_attributes('class="dense"')


def _notes(walked: Search) -> str:
    """What Vela leaves out, each once with the formats that it is said of."""
    said: dict[str, dict[str, None]] = {}
    for _, leaf in walked.table.iterrows():
        if pd.notna(leaf["npu_note"]) and leaf["npu_note"]:
            said.setdefault(leaf["npu_note"], {})[FORMATS[leaf["format"]]] = None
    return " ".join(f"{', '.join(formats)}: {note}." for note, formats in said.items())


def _names(walked: Search) -> list[str]:
    return [f"{get_label(leaf['stage'])}, {FORMATS[leaf['format']]}" for _, leaf in walked.table.iterrows()]


def _against(found: float, beyond: float | None, target: str) -> str:
    if math.isinf(found):
        return "not known"
    return _number(found, target) + (f" ({_number(beyond, target)} too many)" if beyond else "")


def _verdict(walked: Search, name: str, missed: dict[str, float]) -> str:
    if name == walked.chosen:
        return "chosen"
    return ("nearest; misses " if name == walked.nearest else "misses ") + ", ".join(
        LIMITS[target].partition(" (")[0] for target in missed
    )


def _style(chosen: bool, cell: object) -> str:
    return _CHOSEN if chosen else _MISSED if " too many" in str(cell) else ""


def _number(value: float, target: str) -> str:
    if target == "max_accuracy_drop":
        return f"{100 * value:.2f}"
    return f"{value:,.0f}" if target.endswith("bytes") else f"{value:,.3g}"


def _quartiles(leaf: pd.Series) -> str:
    if pd.isna(leaf["latency_ms"]):
        return ""
    return f"{leaf['latency_ms']:.3f} ({leaf['latency_q1_ms']:.3f} to {leaf['latency_q3_ms']:.3f})"


def _count(value: float) -> str:
    return "" if pd.isna(value) else f"{int(value):,}"


def _decimal(value: float, digits: int) -> str:
    return "" if pd.isna(value) else f"{value:,.{digits}f}"
