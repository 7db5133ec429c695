"""The tables of a run and of a report: stages, kernels, training times, the guides' tables, and published figures.

A notebook calls the functions that take finished stages. Pages call `results` and `variants`, which take rows of CSV
files.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd

from collabopt.analysis import judgement
from collabopt.config import published
from collabopt.config.metrics import Metric, get_metric
from collabopt.config.scores import find_score
from collabopt.config.stages import STAGES, get_label, list_stages
from collabopt.report.change_tables import changed_layers, classes, flips
from collabopt.report.directory import find_links, get_scheme, read_run
from collabopt.report.kernel_tables import PRESERVED, activations, coding, kernel_by_kernel, layers, ranges, verdicts
from collabopt.report.quantization_tables import quantization, tensors
from collabopt.report.summary import SETTINGS, TIMES, find_varied_settings, list_metrics
from collabopt.report.table import MISSING, Cell, Table, format_head
from collabopt.report.variant_tables import inference, search, shape, sizes, trials, variants
from collabopt.storage.results import to_numbers

if TYPE_CHECKING:  # these import TensorFlow, which pages do without
    from collabopt.analysis.finished import Finished
    from collabopt.analysis.preflight import Finding
    from collabopt.run import Run

__all__ = ["activations", "changed_layers", "classes", "coding", "compared", "findings", "flips", "guide", "imported"]
__all__ += ["inference", "kernel_by_kernel", "layers", "quantization", "ranges", "results", "schemes", "search"]
__all__ += ["shape", "sizes", "stages", "tensors", "times", "trials", "variants", "verdicts"]

_RESULTS_NOTE = (
    "Scores are on the test split unless the head says validation; ± is two standard errors over its examples. INT8 is "
    f"the full-integer .tflite file. kB are 1,000 bytes; gzip saves the given share of the file. {PRESERVED}"
)
_FIRST_SEED = " Rows are of the first seed; means over all seeds are below if they are trained."
_ONE_SEED = " Each stage was trained once, with one seed: the spread between trainings is not known."
_MEANS_NOTE = "Mean ± standard deviation over seeds, on the test split. INT8 is the full-integer .tflite file."
_SWEEP_NOTE = (
    "Mean ± standard deviation over seeds, or ± two standard errors of one seed, on the test split. INT8 is the "
    "full-integer .tflite file; kB are 1,000 bytes. On the Pareto front (●): no other file is at least as small and as "
    "good on validation, and better in one of the two. The links lead to the first cell that has the stage."
)
_FAKE_NOTE = "* with fake quantization."
_SMALL = "gzip_bytes", "sparsity", "unique_weights"
"""Metrics besides the score of the int8 file in the preset of few columns."""
_POINTS = get_metric("accuracy_drop")
_COMPARED_NOTE = (
    "A drop is the FP32 accuracy of each side's own baseline minus that of the stage, in points. Ours is the mean ± "
    "the standard deviation over seeds. 2 SE: two standard errors, paired by test example. A drop within half a point "
    "of the published one is reproduced. It is not decidable if chance alone explains it, or a larger difference."
)


def stages(finished: Sequence[Finished]) -> Table:
    """Return score, size, sparsity and preservation of `finished` stages. Settings that differ are columns."""
    rows = _collect(finished)
    return _make_stage_table("Stages", rows, list_metrics(rows), f"{_FAKE_NOTE} {_RESULTS_NOTE}")


def schemes(ours: Sequence[Finished], theirs: Sequence[Finished]) -> Table:
    """Return the table of stages by TFMOT's scheme, `theirs`, and `ours`, with training times, two rows per stage."""
    rows = _collect([one for pair in zip(theirs, ours, strict=True) for one in pair])
    metrics = [*list_metrics(rows), *map(get_metric, TIMES)]
    return _make_stage_table("TFMOT's scheme and ours", rows, metrics, f"{_FAKE_NOTE} {PRESERVED}")


def times(finished: Sequence[Finished]) -> Table:
    """Return the table of epochs, set-up and fit time of `finished` stages."""
    rows = _collect(finished).drop(columns="preserved")
    return _make_stage_table("Training time", rows, [*map(get_metric, TIMES)])


def results(rows: pd.DataFrame, directory: Path) -> Table:
    """Return `rows` of results.csv (text) or `average_over_seeds` as a table with links into `directory`."""
    title, note = "Results of every stage", _RESULTS_NOTE
    if "seeds" in rows:
        title, note = ("Results of every cell", _SWEEP_NOTE) if "cell" in rows else ("Means over seeds", _MEANS_NOTE)
    if "seed" in rows and len({*rows["seed"]}) == 1:
        experiment = read_run(directory).get("experiment")
        note += _FIRST_SEED if isinstance(experiment, dict) and experiment.get("repeat_seeds") else _ONE_SEED
    return _make_stage_table(title, rows, list_metrics(rows), note, directory)


def findings(found: Sequence[Finding]) -> Table:
    """Return the table of findings `found` by `Run.preflight`."""
    rows = [
        {"Layer": one.layer, "Finding": Cell(one.reason, kind="wrap"), "Remedy": Cell(one.remedy, kind="wrap")}
        for one in found
    ]
    empty = "The pre-flight check found no problem in any layer."
    return Table("Findings of the pre-flight check" if rows else empty, rows)


def imported(run: Run) -> Table | None:
    """Return the table of what the import of a user's model changed, one row per rewrite; None for a built-in model."""
    found = run.imported()
    if found is None:
        return None
    rows = [{"Rewrite": Cell(line, kind="wrap")} for line in found.rewrites]
    proof = (
        f"The outputs agree with those of the original model: the largest difference is {found.largest_difference:.1g} "
        "of the largest output."
    )
    return Table("What import changed", rows, proof) if rows else Table(f"Import changed nothing. {proof}", [])


def guide(run: Run, name: str) -> Table:
    """Return stage `name` as TFMOT's guide tabulates it, with published figures, one row per figure and source."""
    columns, known = STAGES[name].guide, published.read_table(run.experiment, name)
    known = known.replace({"metric": {"compressed_bytes": "zip_bytes"}})
    theirs = {stage: {one: published.find_value(known, stage, one) for one in known["metric"]} for stage in columns}
    ours = {stage: run.stage(stage).result for stage in columns}
    rows = []
    for figure in ("accuracy", "accuracy_int8", "zip_bytes", "gzip_bytes"):
        metric = get_metric(figure)
        title = judgement.NAMES.get(figure) or _format_compression_title(metric)
        for source, values in (("published", theirs), ("ours", ours)):
            cells = {STAGES[stage].title: _make_guide_cell(values[stage], metric) for stage in columns}
            if any(cell.text for cell in cells.values()):
                rows.append({"Figure": Cell(title, kind="wrap"), "Source": source, **cells})
    caption = f"{STAGES[name].title} table: {run.experiment.name}, seed {run.experiment.seed}"
    return Table(caption, rows, is_grouped=True)


def compared(rows: pd.DataFrame, *figures: str) -> Table:
    """Return `rows` of `comparison.compare` as a table of `figures`, or of those that get a verdict.

    On a page of several reports, `report` and `page` name the report of a row.
    """
    shown = rows[rows["published"].notna() & rows["figure"].isin(figures or judgement.TOLERANCES)]
    lines = []
    for _, row in shown.fillna({"incomparable": ""}).iterrows():
        verdict = judgement.judge_figure(row) if row["figure"] in judgement.TOLERANCES else ""
        text = judgement.format_verdict({**row, "verdict": verdict}) if verdict else ""
        metric = get_metric("tflite_bytes") if row["figure"] == "int8_bytes" else _POINTS
        cells = {
            **({"Report": Cell(row["report"], href=row["page"], kind="wrap")} if "report" in row else {}),
            "Table": get_label(row["table"]),
            "Stage": Cell(judgement.format_setting(row), mark=Cell.from_stage(row["stage"]).mark),
            "Figure": judgement.NAMES[row["figure"]],
            "Published": Cell.from_number(row["published"], metric),
            "Ours": Cell.from_number(row["ours"], metric, deviation=row["deviation"]),
            "2 SE": Cell.from_number(2 * row["error"], _POINTS),
            "Verdict": Cell(text, kind="no" if verdict == "worse" else "wrap"),
        }
        lines.append(cells)
    caption = "Published figures beside ours" if lines else "Nothing is published for this model and data set."
    return Table(caption, lines, _COMPARED_NOTE)


def make_compression_cell(raw: float | None, compressed: float | None, metric: Metric) -> Cell:
    """Return bytes `raw` and `compressed` with the share saved: "528.1 → 434.9 (17.7 %)"; empty if unknown."""
    texts = [get_metric("tflite_bytes").format(raw), metric.format(compressed)]
    saved = f" ({get_metric('saved').format(1 - compressed / raw)} %)" if all(texts) else ""
    return Cell(" → ".join(filter(None, texts)) + saved, compressed if texts[1] else MISSING, kind="number")


def _collect(finished: Sequence[Finished]) -> pd.DataFrame:
    return pd.DataFrame([one.key | one.result for one in finished], dtype=object)


def _make_stage_table(
    caption: str, rows: pd.DataFrame, metrics: list[Metric], note: str = "", directory: Path | None = None
) -> Table:
    """The metrics that any row has, one row per stage; on a page with links to pages and models of a directory."""
    names = [metric.name for metric in metrics]
    rows = to_numbers(rows, [*names, *(column for column in rows if column.endswith("_error"))])
    # Validation is left out if test was read. The raw size is in the column of gzip.
    score = find_score(rows)
    reasons = rows.get("unavailable", pd.Series("", rows.index)).astype(object).fillna("")
    has_test = score.test in rows and rows.loc[reasons == "", score.test].notna().all() and rows[score.test].any()
    hidden = ("tflite_bytes", "validation") if has_test else ("tflite_bytes",)
    metrics = [one for one in metrics if rows[one.name].notna().any() and not one.name.startswith(hidden)]
    settings = ["parent", "scheme"] if directory and "seeds" not in rows else []
    settings = [column for column in dict.fromkeys([*settings, *find_varied_settings(rows), "seeds"]) if column in rows]
    scheme, lines = get_scheme(read_run(directory)) if directory else "", []
    for row in rows.to_dict("records"):
        page, model = find_links(directory, row, scheme) if directory else ("", "")
        stage = Cell.from_stage(row["stage"], page)
        cells = {
            "Stage": stage,
            **{SETTINGS.get(column, column).capitalize(): get_label(row[column]) for column in settings},
            **dict(_make_metric_cell(row, metric, with_star=directory is None) for metric in metrics),
            "Preserved": Cell.from_preserved(row.get("preserved")),
            "Warning": Cell.from_warnings(row),
            "Not available": Cell.from_reason(row.get("unavailable")),
            "Pareto front": "●" if row.get("front") else "",
            "File": Cell.from_file(model, stage.text),
        }
        lines.append(cells)
    table = Table(caption, lines, note).drop_empty_columns()
    few = *_SMALL, score.test_int8, score.validation_int8
    same = [column for column in settings if column != "seeds" and len({*rows[column].dropna()} - {""}) == 1]
    more = {"Parent", *(SETTINGS.get(column, column).capitalize() for column in same)}
    more |= {format_head(metric) for metric in metrics if metric.name not in few}
    presets = {"small": [column for column in table.columns if column not in more]} if directory else {}
    return dataclasses.replace(table, presets=presets)


def _make_metric_cell(row: dict[str, Any], metric: Metric, with_star: bool) -> tuple[str, Cell]:
    if metric.name == "gzip_bytes" and "seeds" not in row:
        cell = make_compression_cell(row.get("tflite_bytes"), row["gzip_bytes"], metric)
        return _format_compression_title(metric), cell
    error, deviation = (row.get(f"{metric.name}_{name}", float("nan")) for name in ("error", "std"))
    spread = 2 * error if pd.isna(deviation) else deviation
    cell = Cell.from_number(row[metric.name], metric, "", spread)
    is_score = metric.name in (find_score(row).test, find_score(row).validation)
    if with_star and is_score and list_stages()[row["stage"]].quantizes and cell.kind == "number":
        cell = dataclasses.replace(cell, text=f"{cell.text} *")
    return format_head(metric), cell


def _format_compression_title(metric: Metric) -> str:
    return f"INT8 file → {metric.title} ({metric.unit}, saved)"


def _make_guide_cell(values: dict[str, Any], metric: Metric) -> Cell:
    """A figure of a stage, from its result or from its published values."""
    if values.get("unavailable"):
        cell = Cell("not available")
    elif metric.name in ("accuracy", "accuracy_int8"):
        error = values.get(f"{metric.name}_error") or float("nan")
        cell = Cell.from_number(values.get(metric.name), metric, "", 2 * error)
    elif metric.name in values:
        cell = make_compression_cell(values.get("tflite_bytes"), values[metric.name], metric)
    else:
        megabytes = values.get("compressed_megabytes") if metric.name == "zip_bytes" else None
        cell = Cell("" if megabytes is None else f"{megabytes:g} MB compressed")
    return dataclasses.replace(cell, kind="number wrap")
