"""The page of all reports: the best file of each experiment, all stages in one table, and published figures.

It is made anew from the tables that are there, without TensorFlow.
"""

import dataclasses
from pathlib import Path
from typing import Any

import pandas as pd

from collabopt.config import loading
from collabopt.config.metrics import METRICS, Metric, get_metric
from collabopt.config.stages import BASELINE, get_label
from collabopt.report import html, tables
from collabopt.report.directory import (
    TOLERANCE,
    Report,
    find_links,
    find_reports,
    find_trade_off,
    get_scheme,
    read_comparison,
    read_head,
)
from collabopt.report.summary import find_varied_settings, format_setting
from collabopt.report.table import (
    Cell,
    Column,
    Table,
    make_file_cell,
    make_metric_column,
    make_number_cell,
    make_preserved_cell,
    make_stage_cell,
)
from collabopt.storage import atomic, store

_ACCURACY, _SIZE, _SAVED, _DROP = map(get_metric, ("accuracy_int8", "gzip_bytes", "saved", "accuracy_drop"))
_METRICS = {"accuracy_int8": _ACCURACY, "lost": _DROP, "gzip_bytes": _SIZE, "saved": _SAVED}
_METRICS |= {name: METRICS[name] for name in ("sparsity", "unique_weights")}
"""The columns of the table of all stages, each with its metric."""

_NOTE = (
    "Mean ± standard deviation over seeds; accuracy is top-1 on the test split, of the full-integer .tflite file. Drop "
    f"and saved: against the baseline's int8 file in the same report. kB are 1,000 bytes. {tables.PRESERVED}"
)


def find_path(directory: Path) -> Path:
    """Return the path of the page of all reports.

    Args:
        directory: Directory of all reports.
    """
    return directory / "index.html"


def write(directory: Path) -> Path:
    """Write the page of all reports and sweeps. Batches that end at the same time wait for each other.

    Args:
        directory: Directory of all reports.

    Returns:
        Path of the page.
    """
    with store.lock(loading.DATA / "locks" / "front_page.lock"):
        reports = find_reports(directory)
        stages, published = _tabulate_stages(reports), _tabulate_published(reports)
        headings = {"experiments": "Experiments"}
        headings |= {"published": "Published beside ours"} if published else {}
        headings |= {"stages": "All stages"} if stages else {}
        text = html.render(
            "front.html.j2",
            title="Reports",
            description="Experiments in collaborative model optimization: what each stage costs, and what it saves",
            contents=html.make_contents(headings),
            experiments=_describe_experiments(reports),
            columns=[make_metric_column(metric).title for metric in (_ACCURACY, _SIZE)],
            tolerance=f"{100 * TOLERANCE:.1f}",
            published=published,
            stages=stages,
        )
        atomic.write(find_path(directory), text)
    return find_path(directory)


def _describe_experiments(reports: list[Report]) -> list[dict[str, Any]]:
    groups: dict[str, list[Report]] = {}
    for report in reports:
        groups.setdefault(report.place.parts[0], []).append(report)
    return [
        {
            "name": name,
            "id": f"experiment-{number}",
            "report": next((_describe(report) for report in group if not report.setting), None),
            "others": [_describe(report) for report in group if report.setting],
        }
        for number, (name, group) in enumerate(groups.items(), 1)
    ]


def _describe(report: Report) -> dict[str, Any]:
    rows = find_trade_off(report)
    head = read_head(report.directory / "index.html") if report.find_file("index.html") else {}
    return {
        "page": report.page,
        "setting": report.setting.replace("sweep,", "sweep ", 1),
        "description": head.get("description", ""),
        "subject": report.subject,
        "about": _describe_origin(report),
        "rows": [_describe_row(row) for row in rows],
        "best": _describe_trade_off(rows),
    }


def _describe_origin(report: Report) -> list[str]:
    """Seeds, date and commit, as far as they are known."""
    seeds = f"seed{'s' if len(report.seeds) > 1 else ''} {', '.join(report.seeds)}" if report.seeds else ""
    commit, _, changed = str(report.run.get("commit", "")).partition("+")
    made = f"commit {commit[:10]}{' with changes' if changed else ''}" if commit else ""
    return list(filter(None, (seeds, str(report.run.get("end", ""))[:10], made)))


def _describe_row(row: dict[str, Any]) -> dict[str, Any]:
    return {
        "stage": make_stage_cell(row["stage"]),
        "accuracy": _make_cell(row, "accuracy_int8", _ACCURACY),
        "size": _make_cell(row, "gzip_bytes", _SIZE),
        "share": f"{100 * (1 - row['saved']):.1f}",
        "saved": "" if row["stage"] == BASELINE else f"{_SAVED.format(row['saved'])} % saved",
    }


def _describe_trade_off(rows: list[dict[str, Any]]) -> str:
    """The trade-off in words: "PCQAT saves 58.1 % and loses 0.3 points"."""
    if len(rows) < 2:
        return "no results yet" if not rows else "no smaller file is as good"
    best, points = rows[1], 100 * rows[1]["lost"]
    saved = f"{get_label(best['stage'])} saves {_SAVED.format(best['saved'])} %"
    if pd.isna(points):  # test was not read
        return saved
    return f"{saved} and {'loses' if points >= 0 else 'gains'} {abs(points):.1f} points"


def _tabulate_stages(reports: list[Report]) -> Table | None:
    lines = [_make_line(report, row) for report in reports for row in report.table.to_dict("records")]
    columns = [*map(Column, ("Experiment", "Run", "Stage")), *map(make_metric_column, _METRICS.values())]
    columns += map(Column, ("Preserved", "File"))
    return Table("stages", "Every stage of every report", columns, lines, _NOTE) if lines else None


def _make_line(report: Report, row: dict[str, Any]) -> list[Cell]:
    scheme, own = "" if pd.isna(row["scheme"]) else row["scheme"], get_scheme(report.run)
    name = get_label(row["stage"]) + (f" by {scheme}" if scheme not in ("", own) else "")
    # Each cell of a sweep is a run with its own scheme.
    cell = Path(row.get("cell", "")) if report.is_sweep else Path()
    place = report.directory / cell, row["stage"], scheme, scheme if report.is_sweep else own
    page, model = (report.find_file(f"{cell}/{name}") for name in find_links(*place))
    varied = format_setting(row, find_varied_settings(report.table))
    return [
        Cell(report.place.parts[0], href=report.page),
        Cell(f"sweep: {varied}".removesuffix(": ") if report.is_sweep else report.setting),
        dataclasses.replace(make_stage_cell(row["stage"], page), text=name),
        *(_make_cell(row, column, metric) for column, metric in _METRICS.items()),
        make_preserved_cell(row["preserved"]),
        make_file_cell(model, name),
    ]


def _make_cell(row: dict[str, Any], column: str, metric: Metric) -> Cell:
    with_deviation = column in ("accuracy_int8", "gzip_bytes")
    return make_number_cell(row[column], metric, deviation=row[f"{column}_std"] if with_deviation else None)


def _tabulate_published(reports: list[Report]) -> Table | None:
    compared = [
        read_comparison(report.directory).assign(report=report.place.as_posix(), page=report.page) for report in reports
    ]
    rows = pd.concat(compared) if compared else pd.DataFrame()
    return tables.compared(rows) if "published" in rows else None
