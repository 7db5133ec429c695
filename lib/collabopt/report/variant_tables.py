"""The tables of variants: the search for the file to deploy, sizes, and inference on this host and on an NPU."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd

from collabopt.config.formats import get_format_label
from collabopt.config.metrics import METRICS, Metric, get_metric, get_targets
from collabopt.config.stages import get_lineage
from collabopt.deploy import targets
from collabopt.report.directory import find_file, find_links
from collabopt.report.summary import SETTINGS, find_varied_settings
from collabopt.report.table import (
    Cell,
    Column,
    Table,
    make_file_cell,
    make_metric_column,
    make_number_cell,
    make_stage_cell,
    make_text_cell,
)
from collabopt.storage.results import to_numbers

if TYPE_CHECKING:  # imports TensorFlow, which pages do without
    from collabopt.deploy.search import Search

_SIZE_GROUPS = "accuracy", "file", "weights"
_QUARTILES = "latency_q1_ms", "latency_q3_ms"
_NOTE = (
    "A variant is a stage in a format, that is a file to deploy. Choices use validation accuracy; test is read for the "
    "chosen variant only. Entropy is the least that a coder of single weights can reach. NPU figures are Vela's "
    "estimates, with the weights as it encodes them. kB are 1,000 bytes, KiB 1,024."
)


def search(found: Search) -> Table:
    """Tabulate the variants in the order of the search, with their values for each target and the verdict.

    Args:
        found: A finished search.
    """
    limits, base = targets.list_targets(found.targets), targets.get_baseline_accuracy(found.table)
    metrics = {target: get_targets()[target] for target in limits}
    accuracy, lines = get_metric("validation_accuracy"), []
    for label, row in found.table.iterrows():
        missed = found.find_misses(label)
        line = [make_stage_cell(row["stage"]), Cell(get_format_label(row["format"]))]
        line += [Cell(str(len(get_lineage(row["stage"])) - 1), kind="number")]
        line += [make_number_cell(row["validation_accuracy"], accuracy)]
        for target, metric in metrics.items():
            cell = make_number_cell(targets.get_cost(row, target, base), metric, "not known")
            line.append(dataclasses.replace(cell, kind="number no") if target in missed else cell)
        if limits:
            verdict = ("nearest: " if label == found.nearest else "") + found.verdicts.loc[label, "verdict"]
            line.append(Cell("chosen", kind="chosen") if label == found.chosen else Cell(verdict, kind="wrap"))
        lines.append(line)
    columns = [Column("Stage"), Column("Format"), Column("Level", True), make_metric_column(accuracy)]
    for target, metric in metrics.items():
        columns.append(Column(f"{make_metric_column(metric).title} ≤ {metric.format(limits[target])}", True))
    columns += [Column("Verdict")] if limits else []
    return Table("search", "The search, level by level", columns, lines, is_grouped=True)


def sizes(found: Search) -> Table:
    """Tabulate accuracy, file sizes, and int8 weights with their zero-order entropy, one row per variant.

    Args:
        found: A finished search.
    """
    metrics = [metric for metric in METRICS.values() if metric.group in _SIZE_GROUPS and metric.name in found.table]
    table = _make_variant_table("sizes", "Size of each variant", found.table, metrics)
    ratios = found.table["zstd_bytes"] / found.table["entropy_bytes"]
    cells = [Cell() if pd.isna(ratio) else Cell(f"{ratio:.2f}", ratio, kind="number") for ratio in ratios]
    rows = [[*row, cell] for row, cell in zip(table.rows, cells, strict=True)]
    return dataclasses.replace(table, columns=[*table.columns, Column("zstd ÷ entropy", True)], rows=rows)


def inference(found: Search) -> Table:
    """Tabulate latency on this host and Vela's estimates for the NPU, one row per variant.

    Args:
        found: A finished search.
    """
    metrics = [metric for metric in METRICS.values() if metric.group not in _SIZE_GROUPS and metric.name in found.table]
    return _make_variant_table("inference", "Inference of each variant", found.table, metrics)


def variants(rows: pd.DataFrame, directory: Path, own_scheme: str) -> Table:
    """Tabulate variants.csv on a page, one row per variant.

    Args:
        rows: Its rows as text.
        directory: The report directory, to whose pages and files the rows link.
        own_scheme: Scheme of the run.
    """
    metrics = [metric for name, metric in METRICS.items() if metric.description or name in rows]
    rows = to_numbers(rows, [metric.name for metric in metrics])
    absent = [metric.title for metric in metrics if rows[metric.name].isna().all()]
    note = _NOTE + (f" Not measured in this run: {', '.join(absent)}." if absent else "")
    return _make_variant_table(
        "variants", "Accuracy and cost of every variant", rows, metrics, note, directory, own_scheme
    )


def _make_variant_table(
    name: str,
    caption: str,
    rows: pd.DataFrame,
    metrics: list[Metric],
    note: str = "",
    directory: Path | None = None,
    own_scheme: str = "",
) -> Table:
    """The metrics that any row has, one row per variant; with links to pages and files of a directory on a page."""
    rows = to_numbers(rows, [*(metric.name for metric in metrics), *_QUARTILES])
    has_notes = "npu_note" in rows and rows["npu_note"].fillna("").ne("").any()
    metrics = [one for one in metrics if rows[one.name].notna().any() or (one.name == "npu_cycles" and has_notes)]
    settings = find_varied_settings(rows)
    lines = []
    for row in rows.to_dict("records"):
        page = find_links(directory, row["stage"], row.get("scheme", ""), own_scheme)[0] if directory else ""
        stage, form = make_stage_cell(row["stage"], page), get_format_label(row["format"])
        cells = [Cell(form), *(make_text_cell(row[column]) for column in settings)]
        cells += [_make_metric_cell(row, metric) for metric in metrics]
        file = find_file(directory, row.get("tflite", "")) if directory else ""
        lines.append([stage, *cells, make_file_cell(file, f"{stage.text} {form}")])
    processors = {*rows.get("accelerator", pd.Series()).dropna()} - {""}
    npu = f"{min(processors) if len(processors) == 1 else 'NPU'}, by Vela"
    columns = [*map(Column, ("Stage", "Format", *(SETTINGS[column].capitalize() for column in settings)))]
    columns += [make_metric_column(one, npu if one.name.startswith("npu_") else one.group) for one in metrics]
    columns = [_add_quartiles(column) if "latency (ms)" in column.title.lower() else column for column in columns]
    return Table(name, caption, [*columns, Column("File")], lines, note, is_grouped=True).drop_empty_columns()


def _add_quartiles(column: Column) -> Column:
    return dataclasses.replace(column, title=column.title.replace(")", ", quartiles)"))


def _make_metric_cell(row: dict[str, Any], metric: Metric) -> Cell:
    cell = make_number_cell(row[metric.name], metric, metric.missing or "not known")
    if metric.name == "npu_cycles" and pd.notna(row.get("npu_note")) and row["npu_note"]:
        known = "" if pd.isna(row["npu_cycles"]) else f"{cell.text}, "
        return dataclasses.replace(cell, text=f"{known}{row['npu_note']}", kind=f"{cell.kind} wrap")
    quartiles = [row[column] for column in _QUARTILES]
    if metric.name == "latency_ms" and cell.key != "" and not pd.isna(quartiles).any():
        return dataclasses.replace(cell, text=f"{cell.text} ({'–'.join(map(metric.format, quartiles))})")
    return cell
