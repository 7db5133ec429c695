"""The tables of variants: the search for the file to deploy, sizes, and inference on this host and on an NPU."""

from __future__ import annotations

import dataclasses
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd

from collabopt.config.formats import get_format_label
from collabopt.config.metrics import METRICS, Metric, get_metric, get_targets
from collabopt.config.scores import Score, find_score
from collabopt.config.stages import BASELINE, get_level
from collabopt.deploy import targets
from collabopt.report.directory import find_file, find_links, get_scheme, read_run
from collabopt.report.summary import SETTINGS, find_varied_settings, is_unbalanced
from collabopt.report.table import Cell, Table, format_head, make_metric_cells
from collabopt.storage.results import BALANCED, to_numbers

if TYPE_CHECKING:  # imports TensorFlow, which pages do without
    from collabopt.deploy.search import Search
    from collabopt.deploy.settings_search import SettingsSearch

_SIZE_GROUPS = "file", "weights"
_RATIO = Metric("entropy_ratio", "zstd ÷ entropy", digits=2, missing="not int8")
_SHAPE = Metric("parameters", "parameters"), Metric("multiplications", "multiplications")
_SHAPE_METRICS = "tflite_bytes", "gzip_bytes", "latency_ms", "npu_cycles"
_VELA = "ethos-u-vela"
_QUARTILES = "latency_q1_ms", "latency_q3_ms"
_ON_NPU = "npu_cycles", "npu_ms"
"""The metrics with the mark of the footnote on why a file does not run on the NPU as a whole."""
_DROP = "Validation drop"
_NOTE = (
    "A variant is a stage in a format, that is a file to deploy. Choices use validation; with targets, test is "
    "read for the chosen variant only. Entropy is the least that a coder of single weights can reach. NPU figures are "
    "Vela's estimates, with the weights as it encodes them. kB are 1,000 bytes, KiB 1,024. ± is two standard errors, "
    "paired by example for a drop; ≈: within noise of the float32 baseline."
)


def search(found: Search) -> Table:
    """Return the variants that a search `found`, in its order, with their values for each target and the verdict."""
    score = find_score(found.table)
    limits, base = targets.list_targets(found.targets), targets.get_baseline_score(found.table)
    rows, tree = [], found.run.experiment.tree
    for label, variant in found.table.iterrows():
        missed = found.find_misses(label)
        row = {
            "Stage": Cell.from_stage(variant["stage"]),
            "Format": get_format_label(variant["format"]),
            "Level": Cell(str(get_level(variant["stage"], tree)), kind="number"),
            **make_metric_cells({score.validation: variant[score.validation]}),
        }
        for target, limit in limits.items():
            metric = get_targets()[target]
            cell = Cell.from_number(targets.get_cost(variant, target, base), metric, "not known")
            title = f"{format_head(metric)} ≤ {metric.format(limit)}"
            row[title] = dataclasses.replace(cell, kind="number no") if target in missed else cell
        row["Warning"] = Cell.from_warnings(variant)
        if limits:
            verdict = ("nearest: " if label == found.nearest else "") + found.verdicts.loc[label, "verdict"]
            row["Verdict"] = Cell("chosen", kind="chosen") if label == found.chosen else Cell(verdict, kind="wrap")
        rows.append(row | {"Not available": ""})
    for variant in found.unavailable.to_dict("records"):
        known = {"Stage": Cell.from_stage(variant["stage"]), "Format": get_format_label(variant["format"])}
        rows.append(dict.fromkeys(rows[0], "") | known | {"Not available": Cell.from_reason(variant["unavailable"])})
    return Table("The search, level by level", rows, is_grouped=True).drop_empty_columns()


def trials(found: SettingsSearch) -> Table:
    """Return the files that a search over settings `found`, in the order of training, with their predictions."""
    score, size, rows = found.run.data.task.score, get_metric("gzip_bytes"), []
    drop, smallest = get_metric(score.drop), found.trials.index[found.trials["best"]].max()
    for row in found.trials.itertuples():
        verdict = "smallest that meets all targets" if row.Index == smallest else row.verdict
        row_cells = {
            "Training": Cell(str(row.trainings), kind="number"),
            "Stage": Cell.from_stage(row.stage),
            "Settings": row.setting,
            f"Predicted drop ({drop.unit})".replace(" ()", ""): Cell.from_number(row.predicted_drop, drop, "–"),
            f"Validation drop ({drop.unit})".replace(" ()", ""): Cell.from_number(
                row.drop, drop, "–", None if pd.isna(row.noise) else row.noise
            ),
            f"Predicted gzip ({size.unit})": Cell.from_number(row.predicted_bytes, size, "–"),
            f"Gzip ({size.unit})": Cell.from_number(row.gzip_bytes, size, "–"),
            "Verdict": Cell(verdict, kind="chosen" if row.Index == smallest else "wrap"),
        }
        rows.append(row_cells)
    note = "Int8 files on validation. ± is two standard errors, paired by example with the float32 baseline."
    return Table("The search over settings, in the order of training", rows, note)


def shape(rows: pd.DataFrame) -> Table:
    """Return `rows` of `shape.measure` as a table, one row per stage and format."""
    metrics = [METRICS[name] for name in (find_score(rows).test, *_SHAPE_METRICS)]
    return _make_variant_table("The shape of the network", rows, [*_SHAPE, *metrics])


def sizes(found: Search) -> Table:
    """Return score, file sizes, and int8 weights with zero-order entropy of the variants that a search `found`."""
    rows = found.table.assign(**{_RATIO.name: found.table["zstd_bytes"] / found.table["entropy_bytes"]})
    metrics = [metric for metric in METRICS.values() if metric.group in (find_score(rows).title, *_SIZE_GROUPS)]
    metrics = [metric for metric in metrics if metric.name in rows]
    return _make_variant_table("Size of each variant", rows, [*metrics, _RATIO])


def inference(found: Search) -> Table:
    """Return latency on this host and Vela's estimates for the NPU of the variants that a search `found`."""
    metrics = [metric for metric in METRICS.values() if metric.group not in _SIZE_GROUPS and metric.name in found.table]
    return _make_variant_table("Inference of each variant", found.table, metrics)


def variants(rows: pd.DataFrame, directory: Path) -> Table:
    """Return `rows` of variants.csv, as text, as a table with links into the report `directory`."""
    metrics = [metric for name, metric in METRICS.items() if metric.description or name in rows]
    return _make_variant_table("Accuracy and cost of every variant", rows, metrics, directory)


def _make_variant_table(
    caption: str, rows: pd.DataFrame, metrics: list[Metric], directory: Path | None = None
) -> Table:
    """The metrics that any row has, one row per variant; on a page with a note, and links into the directory."""
    precision = ("validation_examples", "validation_drop_error", *(f"{metric.name}_error" for metric in metrics))
    numbers = [name for name in precision if name in rows]
    rows = to_numbers(rows, [*(metric.name for metric in metrics), *_QUARTILES, *numbers])
    metrics = [metric for metric in metrics if metric.name not in BALANCED or is_unbalanced(rows)]
    absent = [metric.title for metric in metrics if rows[metric.name].isna().all()]
    note = f"{_NOTE} Not measured in this run: {', '.join(absent)}." if absent else _NOTE
    has_notes = "npu_note" in rows and rows["npu_note"].fillna("").ne("").any()
    metrics = [one for one in metrics if rows[one.name].notna().any() or (one.name in _ON_NPU and has_notes)]
    processors = {*rows.get("accelerator", pd.Series()).dropna()} - {""}
    versions = read_run(directory).get("versions", {}) if directory else {_VELA: metadata.version(_VELA)}
    npu = f"{min(processors) if len(processors) == 1 else 'NPU'}, by Vela {versions.get(_VELA, '')}".rstrip()
    settings, lines = find_varied_settings(rows), []
    scheme = get_scheme(read_run(directory)) if directory else ""
    score, notes = find_score(rows), _number_notes(rows)
    base = targets.get_baseline_score(rows) if score.validation in rows and _has_baseline(rows) else float("nan")
    for row in rows.to_dict("records"):
        page, _ = find_links(directory, row, scheme) if directory else ("", "")
        file = find_file(directory, row.get("tflite", "")) if directory else ""
        cells = {
            "Stage": Cell.from_stage(row["stage"], page),
            "Format": get_format_label(row["format"]),
            **{SETTINGS[column].capitalize(): row[column] for column in settings},
            **_make_metric_cells(row, metrics, npu, score, base, notes),
            "Warning": Cell.from_warnings(row),
            "Not available": Cell.from_reason(row.get("unavailable")),
            "File": Cell.from_file(file, targets.format_variant(row)),
        }
        lines.append(cells)
    has_marks = any(metric.name in _ON_NPU for metric in metrics)
    footnotes = [f"{mark} {text}" for text, mark in notes.items()] if has_marks else []
    table = Table(caption, lines, note if directory else "", is_grouped=True, footnotes=footnotes).drop_empty_columns()
    return dataclasses.replace(table, presets=_list_presets(table.columns, score) if directory else {})


def _has_baseline(rows: pd.DataFrame) -> bool:
    return ((rows["stage"] == BASELINE) & (rows["format"] == "float32")).sum() == 1


def _number_notes(rows: pd.DataFrame) -> dict[str, str]:
    """The mark of each reason why a file does not run on the NPU as a whole."""
    found = [note for note in rows.get("npu_note", pd.Series(dtype=object)).dropna().unique() if note]
    return {note: f"[{number}]" for number, note in enumerate(found, 1)}


def _list_presets(columns: list[str], score: Score) -> dict[str, list[str]]:
    """The columns of each preset. Names, warnings and files are in all."""
    titles = {column: column.rpartition(": ")[2].partition(" (")[0].lower() for column in columns}
    always = {"stage", "format", "warning", "not available", "file", f"validation {score.title}".lower(), _DROP.lower()}
    npu = {METRICS[name].title.lower() for name in METRICS if name.startswith("npu_")}
    chosen = {"small": {score.title.lower(), "gzip", "latency", "npu time"}, "NPU": npu}
    is_file = {column: column == "File" or titles[column] != "file" for column in columns}
    return {
        name: [column for column in columns if titles[column] in {*always, *more} and is_file[column]]
        for name, more in chosen.items()
    }


def _make_metric_cells(
    row: dict[str, Any], metrics: list[Metric], npu: str, score: Score, base: float, notes: dict[str, str]
) -> dict[str, Cell]:
    """The figures of a variant. Its drop on validation follows the score on validation."""
    cells = {}
    for metric in metrics:
        cells[_format_head(metric, npu)] = _make_metric_cell(row, metric, notes)
        if metric.name == score.validation and not pd.isna(base):
            head = f"{score.title}: {_DROP}" + (f" ({score.drop_unit})" if score.drop_unit else "")
            cells[head[0].upper() + head[1:]] = _make_drop_cell(row, score, base)
    return cells


def _make_drop_cell(row: dict[str, Any], score: Score, base: float) -> Cell:
    """How much worse a variant is on validation than the float32 baseline, and whether chance explains it."""
    drop, noise = score.compute_drop(base, row[score.validation]), targets.find_drop_noise(row, score)
    cell = Cell.from_number(drop, get_metric(score.drop), deviation=noise / 2 if pd.isna(noise) else noise)
    if pd.isna(drop) or pd.isna(noise) or abs(drop) > noise:
        return cell
    return dataclasses.replace(cell, text=f"{cell.text} ≈", title="within noise of the float32 baseline")


def _format_head(metric: Metric, npu: str) -> str:
    head = format_head(metric, npu if metric.name.startswith("npu_") else metric.group)
    return head.replace(")", ", quartiles)") if metric.name == "latency_ms" else head


def _make_metric_cell(row: dict[str, Any], metric: Metric, notes: dict[str, str]) -> Cell:
    error = row.get(f"{metric.name}_error")
    error = None if pd.isna(error) else 2 * float(error)
    cell = Cell.from_number(row[metric.name], metric, metric.missing or "not known", error)
    if metric.name in _ON_NPU and row.get("npu_note") in notes:
        known = "not on NPU" if pd.isna(row[metric.name]) else cell.text
        return dataclasses.replace(cell, text=f"{known} {notes[row['npu_note']]}", title=row["npu_note"])
    quartiles = [row[column] for column in _QUARTILES]
    if metric.name == "latency_ms" and cell.key != "" and not pd.isna(quartiles).any():
        return dataclasses.replace(cell, text=f"{cell.text} ({'–'.join(map(metric.format, quartiles))})")
    return cell
