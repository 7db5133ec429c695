"""The page of all reports: the best file of each experiment, all stages in one table, and published figures.

It is made anew from the tables that are there, without TensorFlow.
"""

import json
import math
from pathlib import Path
from typing import Any

import pandas as pd

from collabopt.config import loading
from collabopt.config.metrics import Metric, get_metric
from collabopt.config.scores import ACCURACY, Score
from collabopt.config.stages import BASELINE, get_label
from collabopt.report import html, tables, verification
from collabopt.report.directory import Report, find_links, find_reports, read_comparison, read_head
from collabopt.report.report_comparison import name_page
from collabopt.report.summary import find_varied_settings, format_setting
from collabopt.report.table import Cell, Table, format_head
from collabopt.storage import store

_SIZE, _SAVED = map(get_metric, ("gzip_bytes", "saved"))

_NOTE = (
    "Mean ± standard deviation over seeds, or ± two standard errors over examples where there is one seed; scores are "
    "those of the full-integer .tflite file on the test split. Drop "
    f"and saved: against the baseline's int8 file in the same report. kB are 1,000 bytes. {tables.PRESERVED}"
)


def write(directory: Path) -> Path:
    """Write the page of all reports and sweeps in `directory`, and return it. Batches that end together take turns."""
    with store.lock(loading.DATA / "locks" / "front_page.lock"):
        reports = find_reports(directory)
        judged = _judge(reports)
        heads = _list_heads(reports)
        rows = [_make_row(report, row, heads) for report in reports for row in report.table.to_dict("records")]
        experiments: dict[str, list[dict[str, Any]]] = {}
        for report in reports:
            experiments.setdefault(report.place.parts[0], []).append(_describe(report))
        return html.write_index(
            directory,
            "front.html.j2",
            "Reports",
            "Experiments in collaborative model optimization: what each stage costs, and what it saves",
            experiments=experiments,
            columns={"score": _get_score_head(reports), "size": format_head(_SIZE)},
            published=tables.compared(judged) if len(judged) else None,
            verdicts=verification.count_verdicts(judged) if len(judged) else "",
            compared=_list_compared(reports),
            stages=Table("Every stage of every report", rows, _NOTE),
        )


def _list_compared(reports: list[Report]) -> list[dict[str, Any]]:
    """What the script needs to compare two reports: their stages, and the pages that compare them already."""
    listed = [report for report in reports if not report.is_sweep and len(report.table)]
    names = [report.place.as_posix() for report in listed]
    made = {path.name for path in (listed[0].root / "compare").glob("*.html")} if listed else set()
    found = []
    for name, report in zip(names, listed, strict=True):
        score, stages = report.score, {}
        is_own = report.table["scheme"].isna() | (report.table["scheme"] == report.scheme)
        for row in report.table[is_own].to_dict("records"):
            error = row.get(f"{score.test_int8}_error", math.nan)
            figures = row[score.test_int8] / score.scale, 2 * error / score.scale, row["gzip_bytes"] / 1000
            known = [round(one, 4) if math.isfinite(one) else None for one in figures]
            stages.setdefault(get_label(row["stage"]), known)
        pages = {other: name_page([name, other]) for other in names if name_page([name, other]) in made}
        about = {
            "title": format_head(get_metric(score.test_int8)),
            "lower": score.lower_is_better,
            "digits": score.digits,
        }
        found.append({"name": name, "data": json.dumps(about | {"stages": stages, "pages": pages}, ensure_ascii=False)})
    return found


def _describe(report: Report) -> dict[str, Any]:
    rows = report.find_trade_off()
    return {
        "page": report.page,
        "setting": report.setting.replace("sweep,", "sweep ", 1),
        "description": read_head(report.directory / "index.html").get("description", ""),
        "subject": report.subject,
        "about": describe_origin(report),
        "rows": [_describe_row(row, report.score) for row in rows],
        "best": describe_trade_off(report),
    }


def describe_origin(report: Report) -> list[str]:
    """Return seeds, date and commit of a `report`, as far as they are known."""
    names = [str(seed).removesuffix(".0") for seed in sorted(set(report.rows["seed"].dropna()))]
    seeds = f"seed{'s' * (len(names) > 1)} {', '.join(names)}" if names else ""
    commit, _, changed = str(report.run.get("commit", "")).partition("+")
    made = f"commit {commit[:10]}{' with changes' if changed else ''}" if commit else ""
    return list(filter(None, (seeds, str(report.run.get("end", ""))[:10], made)))


def _describe_row(row: dict[str, Any], score: Score) -> dict[str, Any]:
    return {
        "stage": Cell.from_stage(row["stage"]),
        "validation": _make_cell(row, score.validation_int8, get_metric(score.validation_int8)),
        "test": _make_cell(row, score.test_int8, get_metric(score.test_int8)),
        "size": _make_cell(row, "gzip_bytes", _SIZE),
        "share": f"{100 * (1 - row['saved']):.1f}",
        "saved": "" if row["stage"] == BASELINE else f"{_SAVED.format(row['saved'])} % saved",
    }


def describe_trade_off(report: Report) -> str:
    """Return what `report.find_trade_off` finds, in words: "PCQAT saves 58.1 % and loses 0.3 points on test"."""
    rows, score = report.find_trade_off(), report.score
    if len(rows) < 2:
        return report.explain_trade_off() if rows else "no results yet"
    best, lost = rows[1], rows[1]["lost"] / score.scale
    saved = f"{get_label(best['stage'])} saves {_SAVED.format(best['saved'])} %"
    if pd.isna(lost):  # test was not read
        return saved
    amount = f"{abs(lost):.{score.digits - 1}f} {score.drop_unit or score.title}"
    return f"{saved} and {'loses' if lost >= 0 else 'gains'} {amount} on test"


def _list_heads(reports: list[Report]) -> list[str]:
    """The heads of the figures of all reports. Scores, whose metrics may differ, and their drops come first."""
    heads = [[format_head(metric) for metric in _list_metrics(report).values()] for report in reports]
    return list(dict.fromkeys(head for part in (slice(2), slice(2, None)) for one in heads for head in one[part]))


def _make_row(report: Report, row: dict[str, Any], heads: list[str]) -> dict[str, Cell | str]:
    is_other = not pd.isna(row["scheme"]) and row["scheme"] != report.scheme
    name = get_label(row["stage"]) + (f" by {row['scheme']}" if is_other else "")
    page, model = map(report.find_file, find_links(report.directory, row, report.scheme))
    varied = format_setting(row, find_varied_settings(report.table))
    figures = {format_head(metric): _make_cell(row, column, metric) for column, metric in _list_metrics(report).items()}
    return {
        "Experiment": Cell(report.place.parts[0], href=report.page, kind="wrap"),
        "Run": Cell(f"sweep: {varied}".removesuffix(": ") if report.is_sweep else report.setting, kind="wrap"),
        "Stage": Cell.from_stage(row["stage"], page, name),
        **{head: figures.get(head, "") for head in heads},
        "Preserved": Cell.from_preserved(row["preserved"]),
        "File": Cell.from_file(model, name),
    }


def _make_cell(row: dict[str, Any], column: str, metric: Metric) -> Cell:
    with_deviation = column == metric.name and f"{column}_std" in row and column not in ("sparsity", "unique_weights")
    deviation = row[f"{column}_std"] if with_deviation else None
    if with_deviation and pd.isna(deviation):  # one seed
        deviation = 2 * row.get(f"{column}_error", float("nan"))
    return Cell.from_number(row[column], metric, deviation=deviation)


def _list_metrics(report: Report) -> dict[str, Metric]:
    """The columns of the table of all stages, each with its metric."""
    score = report.score
    columns = {score.test_int8: get_metric(score.test_int8), "lost": get_metric(score.drop)}
    columns |= {"gzip_bytes": _SIZE, "saved": _SAVED}
    return columns | {name: get_metric(name) for name in ("sparsity", "unique_weights")}


def _get_score_head(reports: list[Report]) -> str:
    """The head of the column of scores: the metric, if all reports share one."""
    scores = {report.score for report in reports} or {ACCURACY}
    return format_head(get_metric(scores.pop().test_int8)) if len(scores) == 1 else "INT8 score"


def _judge(reports: list[Report]) -> pd.DataFrame:
    """The published figures beside ours, each once, with the page of its report."""
    own = {one.place.as_posix(): one for one in reports if len(one.place.parts) == 1}
    judged = verification.judge_reports({name: read_comparison(one.directory) for name, one in own.items()})
    pages = {name: one.page for name, one in own.items()}
    return judged if judged.empty else judged.assign(page=judged["report"].map(pages))
