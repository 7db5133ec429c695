"""The tables of a run and of a report: stages, kernels, training times, the guides' tables, and published figures.

A notebook calls the functions that take finished stages. Pages call `results`, `sweep` and `variants`,
which take rows of CSV files.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd

from collabopt.analysis import comparison
from collabopt.config import published
from collabopt.config.metrics import Metric, get_metric
from collabopt.config.stages import STAGES, get_label
from collabopt.report.directory import find_links
from collabopt.report.kernel_tables import PRESERVED, coding, kernel_by_kernel, layers, ranges, verdicts
from collabopt.report.summary import SETTINGS, TIMES, find_varied_settings, list_metrics
from collabopt.report.table import (
    MISSING,
    Cell,
    Column,
    Table,
    make_file_cell,
    make_metric_column,
    make_number_cell,
    make_preserved_cell,
    make_stage_cell,
    make_text_cell,
)
from collabopt.report.variant_tables import inference, search, sizes, variants
from collabopt.storage.results import to_numbers

if TYPE_CHECKING:  # these import TensorFlow, which pages do without
    from collabopt.analysis.finished import Finished
    from collabopt.analysis.preflight import Finding
    from collabopt.run import Run

__all__ = ["coding", "compared", "findings", "guide", "inference", "kernel_by_kernel", "layers", "ranges", "results"]
__all__ += ["schemes", "search", "sizes", "stages", "sweep", "times", "variants", "verdicts"]

_RESULTS_NOTE = (
    "Accuracy is top-1, on the test split unless the head says validation. INT8 is the full-integer .tflite file. kB "
    f"are 1,000 bytes; gzip saves the given share of the file. {PRESERVED}"
)
_SWEEP_NOTE = (
    "Mean ± standard deviation over seeds. Accuracy is top-1 on the test split; INT8 is the full-integer .tflite file; "
    "kB are 1,000 bytes. On the Pareto front (●): no other file is at least as small and as accurate, and better in "
    "one of the two. The links lead to the first cell that has the stage."
)
_POINTS = get_metric("accuracy_drop")
_COMPARED_NOTE = (
    "A drop is the FP32 accuracy of each side's own baseline minus that of the stage, in points. Ours is the mean ± "
    "the standard deviation over seeds. 2 SE: two standard errors, paired by test example. A drop within half a point "
    "of the published one is reproduced. It is not decidable if chance alone exceeds the published drop."
)


def stages(finished: Sequence[Finished]) -> Table:
    """Tabulate accuracy, size, sparsity and preservation, one row per stage.

    Args:
        finished: Finished stages, also of several runs. The settings that differ become columns.
    """
    rows = _collect(finished)
    note = f"* with fake quantization. {_RESULTS_NOTE}"
    return _make_stage_table("stages", "Stages", rows, list_metrics(rows), note)


def schemes(ours: Sequence[Finished], theirs: Sequence[Finished]) -> Table:
    """Tabulate the stages by TFMOT's scheme and by ours, with their training times.

    Args:
        ours: Finished stages by our scheme.
        theirs: The same stages by TFMOT's.
    """
    rows = _collect([one for pair in zip(theirs, ours, strict=True) for one in pair])
    metrics = [*list_metrics(rows), *map(get_metric, TIMES)]
    return _make_stage_table(
        "schemes", "TFMOT's scheme and ours", rows, metrics, f"* with fake quantization. {PRESERVED}"
    )


def times(finished: Sequence[Finished]) -> Table:
    """Tabulate epochs, set-up and fit time, one row per stage.

    Args:
        finished: Finished stages.
    """
    rows = _collect(finished).drop(columns="preserved")
    return _make_stage_table("times", "Training time", rows, [*map(get_metric, TIMES)])


def results(rows: pd.DataFrame, directory: Path, own_scheme: str) -> Table:
    """Tabulate results.csv on a page, one row per stage and setting.

    Args:
        rows: Its rows as text.
        directory: The report directory, to whose pages and models the rows link.
        own_scheme: Scheme of the run.
    """

    def link(row: dict[str, Any]) -> tuple[str, str]:
        return find_links(directory, row["stage"], row.get("scheme", ""), own_scheme)

    return _make_stage_table("results", "Results of every stage", rows, list_metrics(rows), _RESULTS_NOTE, link)


def sweep(means: pd.DataFrame, directory: Path) -> Table:
    """Tabulate a sweep on a page, one row per stage and setting.

    Args:
        means: Rows of `average_over_seeds`.
        directory: Directory of the sweep, to whose cells the rows link.
    """

    def link(row: dict[str, Any]) -> tuple[str, ...]:
        scheme = "" if pd.isna(row["scheme"]) else row["scheme"]
        names = find_links(directory / row["cell"], row["stage"], scheme, scheme)
        return tuple(f"{row['cell']}/{name}" if name else "" for name in names)

    return _make_stage_table("results", "Results of every cell", means, list_metrics(means), _SWEEP_NOTE, link)


def findings(found: Sequence[Finding]) -> Table:
    """Tabulate the pre-flight check, one row per finding.

    Args:
        found: Findings of `Run.preflight`.
    """
    if not found:
        return Table("findings", "The pre-flight check found no problem in any layer.", [], [])
    lines = [[Cell(one.layer), Cell(one.reason, kind="wrap"), Cell(one.remedy, kind="wrap")] for one in found]
    return Table("findings", "Findings of the pre-flight check", [*map(Column, ("Layer", "Finding", "Remedy"))], lines)


def guide(run: Run, name: str) -> Table:
    """Tabulate a stage as TFMOT's guide to it does, with the published figures of the same model and data.

    Args:
        run: The run.
        name: Name of a stage with a guide.
    """
    columns, known = STAGES[name].guide, published.read_table(run.experiment, name)
    ours = {stage: run.stage(stage).result for stage in columns}
    lines = []
    for figure in ("accuracy", "accuracy_int8"):
        theirs = {stage: published.find_value(known, stage, figure) for stage in columns}
        for source, values in (("published", theirs), ("ours", {stage: ours[stage][figure] for stage in columns})):
            cells = [make_number_cell(value, get_metric(figure), "") for value in values.values()]
            lines.append([Cell(comparison.NAMES[figure], kind="wrap"), Cell(source), *cells])
    for figure in ("zip_bytes", "gzip_bytes"):
        head = Cell(_format_compression_title(get_metric(figure)), kind="wrap")
        if figure == "zip_bytes":
            lines.append([head, Cell("published"), *(_make_published_size_cell(known, stage) for stage in columns)])
        cells = [make_compression_cell(one["tflite_bytes"], one[figure], get_metric(figure)) for one in ours.values()]
        lines.append([head, Cell("ours"), *cells])
    lines = [[*line[:2], *(dataclasses.replace(cell, kind="number wrap") for cell in line[2:])] for line in lines]
    lines = [line for line in lines if any(cell.text for cell in line[2:])]  # nothing published: no empty row
    heads = [Column("Figure"), Column("Source"), *(Column(STAGES[stage].title, True) for stage in columns)]
    caption = f"{STAGES[name].title} table: {run.experiment.name}, seed {run.experiment.seed}"
    return Table("guide", caption, heads, lines, is_grouped=True)


def compared(rows: pd.DataFrame, *figures: str) -> Table:
    """Tabulate published figures beside ours, one row per figure.

    Args:
        rows: Rows of `comparison.compare`. On a page of several reports, `report` and `page` name the report of a row.
        *figures: The figures; none selects those that get a verdict.
    """
    shown = rows[rows["published"].notna() & rows["figure"].isin(figures or comparison.TOLERANCES)]
    lines = []
    for _, row in shown.fillna({"incomparable": ""}).iterrows():
        verdict = comparison.judge_figure(row) if row["figure"] in comparison.TOLERANCES else ""
        text = comparison.format_verdict({**row, "verdict": verdict}) if verdict else ""
        lines.append(
            [
                *([Cell(row["report"], href=row["page"])] if "report" in row else []),
                Cell(get_label(row["table"])),
                Cell(comparison.format_setting(row), mark=make_stage_cell(row["stage"]).mark),
                Cell(comparison.NAMES[row["figure"]]),
                make_number_cell(row["published"], _POINTS),
                make_number_cell(row["ours"], _POINTS, deviation=row["deviation"]),
                make_number_cell(2 * row["error"], _POINTS),
                Cell(text, kind="no" if verdict == "worse" else "wrap"),
            ]
        )
    if not lines:
        return Table("published", "Nothing is published for this model and data set.", [], [])
    columns = [*map(Column, ("Report", "Table", "Stage", "Figure"))]
    columns += [*(Column(title, True) for title in ("Published", "Ours", "2 SE")), Column("Verdict")]
    columns = columns[len(columns) - len(lines[0]) :]  # without "Report" in a table of one
    return Table("published", "Published figures beside ours", columns, lines, _COMPARED_NOTE)


def make_compression_cell(raw: float | None, compressed: float | None, metric: Metric) -> Cell:
    """Return sizes before and after compression, with the share saved: "528.1 → 434.9 (17.7 %)".

    Args:
        raw: Bytes of the file; None or NaN if not known.
        compressed: Bytes after compression; None or NaN if not known.
        metric: Metric of the compressed size.
    """
    texts = [get_metric("tflite_bytes").format(raw), metric.format(compressed)]
    is_known = all(texts)
    saved = f" ({get_metric('saved').format(1 - compressed / raw)} %)" if is_known else ""
    return Cell(" → ".join(filter(None, texts)) + saved, compressed if texts[1] else MISSING, kind="number")


def _collect(finished: Sequence[Finished]) -> pd.DataFrame:
    return pd.DataFrame([one.key | one.result for one in finished], dtype=object)


def _make_stage_table(
    name: str,
    caption: str,
    rows: pd.DataFrame,
    metrics: list[Metric],
    note: str = "",
    link: Callable[[dict[str, Any]], tuple[str, ...]] | None = None,
) -> Table:
    """One row per stage, with the metrics that any of them has. `link` returns page and model of a row, on a page."""
    rows = to_numbers(rows, [metric.name for metric in metrics])
    # Validation is left out if test was read. The raw size is in the column of gzip.
    has_test = "accuracy" in rows and rows["accuracy"].notna().all()
    hidden = ("tflite_bytes", "validation") if has_test else ("tflite_bytes",)
    metrics = [one for one in metrics if rows[one.name].notna().any() and not one.name.startswith(hidden)]
    settings = ["parent", "scheme"] if link and "seeds" not in rows else []
    settings = [column for column in dict.fromkeys([*settings, *find_varied_settings(rows), "seeds"]) if column in rows]
    lines = []
    for row in rows.to_dict("records"):
        page, model = link(row) if link else ("", "")
        stage = make_stage_cell(row["stage"], page)
        cells = [make_text_cell(get_label(row[column])) for column in settings]
        cells += [_make_metric_cell(row, metric, with_star=link is None) for metric in metrics]
        front = Cell("●" if row.get("front") else "")
        lines.append(
            [stage, *cells, make_preserved_cell(row.get("preserved")), front, make_file_cell(model, stage.text)]
        )
    columns = [Column("Stage"), *(Column(SETTINGS.get(column, column).capitalize()) for column in settings)]
    columns += [_make_size_column(one) if "seeds" not in rows else make_metric_column(one) for one in metrics]
    columns += map(Column, ("Preserved", "Pareto front", "File"))
    return Table(name, caption, columns, lines, note).drop_empty_columns()


def _make_metric_cell(row: dict[str, Any], metric: Metric, with_star: bool) -> Cell:
    if metric.name == "gzip_bytes" and "seeds" not in row:
        return make_compression_cell(row.get("tflite_bytes"), row["gzip_bytes"], metric)
    cell = make_number_cell(row[metric.name], metric, "", row.get(f"{metric.name}_std"))
    is_fake = with_star and metric.name in ("accuracy", "validation_accuracy") and STAGES[row["stage"]].quantizes
    return Cell(f"{cell.text} *", cell.key, kind=cell.kind) if is_fake else cell


def _make_size_column(metric: Metric) -> Column:
    if metric.name == "gzip_bytes":
        return Column(_format_compression_title(metric), True)
    return make_metric_column(metric)


def _format_compression_title(metric: Metric) -> str:
    return f"INT8 file → {metric.title} ({metric.unit}, saved)"


def _make_published_size_cell(known: pd.DataFrame, stage: str) -> Cell:
    megabytes = published.find_value(known, stage, "compressed_megabytes")
    if megabytes is not None:
        return Cell(f"{megabytes:g} MB compressed", kind="number")
    raw, compressed = (published.find_value(known, stage, name) for name in ("tflite_bytes", "compressed_bytes"))
    return make_compression_cell(raw, compressed, get_metric("zip_bytes"))
