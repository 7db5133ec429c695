"""The tables on the pages of reports: stages, deployable files, and published figures beside ours."""

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import pandas as pd

from collabopt.analysis import comparison
from collabopt.config.stages import STAGES, get_label
from collabopt.figures import style
from collabopt.report.table import (
    MISSING,
    Cell,
    Column,
    Table,
    file_cell,
    format_count,
    format_kilobytes,
    format_percent,
    number_cell,
    preserved_cell,
    stage_cell,
)

SETTINGS = ["seed", "number_of_clusters", "cluster_per_channel", "target_sparsity", "train_fraction"]


MEASURES = [
    ("validation_accuracy", "validation accuracy (%)", format_percent),
    ("validation_accuracy_int8", "INT8 validation accuracy (%)", format_percent),
    ("accuracy", "accuracy (%)", format_percent),
    ("accuracy_int8", "INT8 accuracy (%)", format_percent),
    ("gzip_bytes", "raw → gzip (kB, saved)", format_kilobytes),
    ("zip_bytes", "ZIP (kB)", format_kilobytes),
    ("sparsity", "sparsity (%)", lambda fraction: format_percent(fraction, 1)),
    ("unique_weights", "unique weights", format_count),
]


RESULTS_NOTE = (
    "Accuracy is top-1, on the test split where nothing else is said; INT8 is the full-integer .tflite file. Sizes in "
    "kB of 1,000 bytes; what gzip saves in per cent of the raw file. Preserved: what the parent stage won, zeros or "
    "clusters, is all still there."
)


class Cost(NamedTuple):
    """A column of leaves.csv: what stands above it, its title, how it is written, what is said where it is empty."""

    group: str
    column: str
    title: str
    written: Callable[[float], str]
    missing: str


COSTS = [
    Cost("accuracy (%)", "validation_accuracy", "validation", format_percent, "not read"),
    Cost("accuracy (%)", "accuracy", "test", format_percent, "not read"),
    Cost("file (kB)", "tflite_bytes", "raw", format_kilobytes, "not known"),
    Cost("file (kB)", "zip_bytes", "ZIP", format_kilobytes, "not known"),
    Cost("file (kB)", "gzip_bytes", "gzip", format_kilobytes, "not known"),
    Cost("file (kB)", "zstd_bytes", "zstd", format_kilobytes, "not known"),
    Cost("weights (kB)", "weight_bytes", "int8", format_kilobytes, "not int8"),
    Cost("weights (kB)", "entropy_bytes", "entropy", format_kilobytes, "not int8"),
    Cost("latency on this host", "latency_ms", "ms (quartiles)", "{:.3g}".format, "not timed"),
    Cost("latency on this host", "latency_ratio", "÷ float32", "{:.2f}".format, "not timed"),
    Cost("NPU", "npu_cycles", "cycles", format_count, "not compiled"),
    Cost("NPU", "npu_ms", "ms", "{:.3g}".format, "–"),
    Cost("NPU", "npu_sram_kib", "SRAM (KiB)", format_count, "–"),
    Cost("NPU", "npu_flash_kib", "flash (KiB)", format_count, "–"),
    Cost("NPU", "npu_weight_bytes", "weights (kB)", format_kilobytes, "–"),
    Cost("NPU", "npu_operators", "on it (%)", lambda share: format_percent(share, 0), "–"),
]
"""The cells that say nothing of an NPU stand beside the first one, which says why."""


LEAVES_NOTE = (
    "A leaf is a stage in a format, a file to deploy. Choices go by validation accuracy; test is read for the chosen "
    "leaf alone. Entropy is the least that a coder of single weights can take. NPU figures are Vela's estimates, the "
    "weights as it encodes them; kB are 1,000 bytes, KiB 1,024."
)


COMPARED_NOTE = (
    "Drops are each side's own FP32 baseline minus the stage, in points; ours is the mean ± the standard deviation "
    "over seeds. 2 SE: two standard errors, paired by test example. A drop within half a point of the published one is "
    "reproduced; it is not decidable where chance alone exceeds the published drop."
)


def find_page(directory: Path, stage: str, scheme: str, own: str) -> str:
    """The page in a report directory that shows a stage; nothing where there is none. own: the run's own scheme."""
    asked = "preservation" if scheme not in ("", own) else STAGES[stage].notebook if stage in STAGES else ""
    found = [name for name in (asked, "deployment_tree") if name and (directory / f"{name}.html").is_file()]
    return f"{found[0]}.html" if found else ""


def find_model(directory: Path, stage: str, scheme: str, own: str) -> str:
    """The int8 file of a stage in a report directory; nothing where there is none."""
    name = stage if scheme in ("", own) else f"{stage}-{scheme}"
    return find_file(directory, f"models/{name}.tflite")


def find_file(directory: Path, name: str) -> str:
    """The name of a file below a directory; nothing where there is no such file."""
    return name if name and (directory / name).is_file() else ""


def results(rows: pd.DataFrame, directory: Path, own: str) -> Table:
    """A row a stage and setting of results.csv, read as text; columns that are absent or wholly empty are left out."""
    rows = style.to_numbers(rows, ["tflite_bytes", *(column for column, _, _ in MEASURES)])
    measured = [measure for measure in MEASURES if rows[measure[0]].notna().any()]
    if rows["accuracy"].notna().any():  # where test was not read, validation stands for it
        measured = [measure for measure in measured if not measure[0].startswith("validation")]
    told = [column for column in ("parent", "scheme") if column in rows and (rows[column] != "").any()]
    told += [column for column in SETTINGS if column in rows and len({*rows[column]} - {""}) > 1]
    lines = []
    for row in rows.to_dict("records"):
        at = directory, row["stage"], row.get("scheme", ""), own
        line = [stage_cell(row["stage"], find_page(*at)), *(Cell(get_label(row[column])) for column in told)]
        line += [
            _size(row) if column == "gzip_bytes" else number_cell(row[column], written)
            for column, _, written in measured
        ]
        lines.append([*line, preserved_cell(row.get("preserved")), file_cell(find_model(*at), line[0].text)])
    columns = [Column("stage"), *(Column(column.replace("_", " ")) for column in told)]
    columns += [Column(title, number=True) for _, title, _ in measured]
    columns, lines = _without_empty([*columns, Column("preserved"), Column("file")], lines)
    return Table("results", "Results of every stage", columns, lines, RESULTS_NOTE)


def _size(row: dict) -> Cell:
    """A row's size from raw to gzip: "528.1 → 434.9 (17.7 %)", what was saved; what is not known is left out."""
    raw, packed = row["tflite_bytes"], row["gzip_bytes"]
    share = f" ({format_percent(1 - packed / raw, 1)} %)" if packed / raw > 0 else ""
    text = " → ".join(format_kilobytes(size) for size in (raw, packed) if pd.notna(size)) + share
    return Cell(text, MISSING if pd.isna(packed) else packed, kind="number")


def _without_empty(columns: list[Column], lines: list[list[Cell]]) -> tuple[list[Column], list[list[Cell]]]:
    """Without the columns in which no row says anything."""
    said = [any(line[position].text for line in lines) for position in range(len(columns))]
    kept = [[cell for cell, here in zip(line, said, strict=True) if here] for line in lines]
    return [column for column, here in zip(columns, said, strict=True) if here], kept


def leaves(rows: pd.DataFrame, directory: Path, own: str) -> Table:
    """A row a leaf of leaves.csv, read as text, stages together; what no leaf has is left out and told."""
    rows = style.to_numbers(rows, [*(cost.column for cost in COSTS), "latency_q1_ms", "latency_q3_ms"])
    known = [cost for cost in COSTS if rows[cost.column].notna().any()]
    processors = {*rows.get("accelerator", [])} - {""}
    npu = f"{min(processors)}, by Vela" if len(processors) == 1 else "NPU, by Vela"
    told = [column for column in ("scheme", "seed", "accelerator") if len({*rows.get(column, [])} - {""}) > 1]
    lines = []
    for row in rows.to_dict("records"):
        stage = stage_cell(row["stage"], find_page(directory, row["stage"], row.get("scheme", ""), own))
        words = [row.get(column, "") for column in ("format", *told)]
        file = file_cell(find_file(directory, row.get("tflite", "")), f"{stage.text} {words[0]}")
        lines.append([stage, *map(Cell, words), *(_cost(row, cost) for cost in known), file])
    columns = [Column("stage"), *map(Column, ("format", *told))]
    columns += [Column(cost.title, True, npu if cost.group == "NPU" else cost.group) for cost in known]
    columns, lines = _without_empty([*columns, Column("file")], lines)
    absent = [f"{cost.group}: {cost.title}" for cost in COSTS if cost not in known]
    note = LEAVES_NOTE + (f" Not measured in this run: {'; '.join(absent)}." if absent else "")
    return Table("leaves", "Every leaf: accuracy and cost", columns, lines, note, grouped=True)


def _cost(row: dict, cost: Cost) -> Cell:
    cell = number_cell(row[cost.column], cost.written, cost.missing)
    if cost.column == "npu_cycles" and row.get("npu_note"):
        known = "" if pd.isna(row["npu_cycles"]) else f"{cell.text}, "
        return dataclasses.replace(cell, text=f"{known}{row['npu_note']}", kind=f"{cell.kind} wrap")
    quartiles = [row["latency_q1_ms"], row["latency_q3_ms"]]
    if cost.column != "latency_ms" or pd.isna([row["latency_ms"], *quartiles]).any():
        return cell
    return dataclasses.replace(cell, text=f"{cell.text} ({'–'.join(map(cost.written, quartiles))})")


def compared(rows: pd.DataFrame, of: list[Cell] | None = None) -> Table:
    """A row a judged figure (`comparison.verdicts`) that was published. of: every row's report, where it matters."""
    lines = []
    for position, (_, row) in enumerate(rows.iterrows()):
        verdict = Cell(comparison.format_verdict(row), kind="no" if row["verdict"] == "worse" else "wrap")
        ours = comparison.format_with_deviation(row).replace("-", "−")
        line = [
            Cell(row["table"].replace("_", " ")),
            Cell(comparison.format_setting(row), mark=stage_cell(row["stage"]).mark),
            Cell(comparison.NAMES[row["figure"]]),
            number_cell(row["published"], format_percent),
            Cell(ours, row["ours"] if ours else MISSING, kind="number"),
            number_cell(2 * row["error"], format_percent),
            verdict,
        ]
        lines.append([*([of[position]] if of else []), *line])
    columns = [*([Column("report")] if of else []), *map(Column, ("table", "stage", "figure"))]
    columns += [*(Column(title, number=True) for title in ("published", "ours", "2 SE")), Column("verdict")]
    return Table("published", "Published figures beside ours", columns, lines, COMPARED_NOTE)
