"""The page of all reports: what each experiment wins, all stages in one table, and published figures beside ours.

    front_page.write(experiment.REPORTS)  # reports/index.html

It is made anew from the tables that are there; nothing here imports TensorFlow.
"""

import dataclasses
from pathlib import Path

import pandas as pd

from collabopt.config import loading
from collabopt.config.stages import get_label
from collabopt.report import html, report_tables, sweep_page
from collabopt.report.directory import (
    TOLERANCE,
    Report,
    find_reports,
    find_trade_off,
    get_scheme,
    read_comparison,
    read_head,
)
from collabopt.report.table import (
    Cell,
    Column,
    Table,
    file_cell,
    format_count,
    format_percent,
    number_cell,
    preserved_cell,
    stage_cell,
)
from collabopt.storage import atomic, store

NOTE = (
    "Mean ± standard deviation over seeds; accuracy is top-1 on the test split, of the full-integer .tflite file. Lost "
    "and saved: against the baseline's int8 file of the same report, accuracy in points, gzipped bytes in per cent. "
    "Sizes in kB of 1,000 bytes. Preserved: what the parent stage won, zeros or clusters, is all still there."
)


def find_path(directory: Path) -> Path:
    """Where the page of all reports below a directory is, or will be."""
    return directory / "index.html"


def write(directory: Path) -> Path:
    """Write the page of all reports and sweeps below a directory and return its path.

    One that was removed is no longer on it. Of several batches at once, each waits until it alone reads and writes.
    """
    with store.lock(loading.DATA / "locks" / "front_page.lock"):
        found = find_reports(directory)
        stages, published = _stages(found), _published(found)
        headings = {"experiments": "Experiments"}
        headings |= {"published": "Published beside ours"} if published else {}
        headings |= {"stages": "All stages"} if stages else {}
        text = html.render(
            "front.html.j2",
            title="Reports",
            description="Experiments in collaborative model optimization: what each stage costs, and what it saves",
            contents=html.make_contents(headings),
            experiments=_experiments(found),
            tolerance=f"{100 * TOLERANCE:.1f}",
            published=published,
            stages=stages,
        )
        atomic.write(find_path(directory), text)
    return find_path(directory)


def _experiments(found: list[Report]) -> list[dict]:
    """What the page says of every experiment: its report, and its runs with other parameters."""
    groups: dict[str, list[Report]] = {}
    for report in found:
        groups.setdefault(report.place.parts[0], []).append(report)
    return [
        {
            "name": name,
            "id": f"experiment-{number}",
            "report": next((_told(report) for report in group if not report.setting), None),
            "others": [_told(report) for report in group if report.setting],
        }
        for number, (name, group) in enumerate(groups.items(), 1)
    ]


def _told(report: Report) -> dict:
    """What the page says of one report."""
    rows = find_trade_off(report)
    head = read_head(report.directory / "index.html") if report.href("index.html") else {}
    return {
        "page": report.page,
        "setting": report.setting.replace("sweep,", "sweep ", 1),
        "description": head.get("description", ""),
        "subject": report.subject,
        "about": _about(report),
        "rows": [_trade_off_row(row) for row in rows],
        "best": _in_a_line(rows),
    }


def _about(report: Report) -> list[str]:
    """Seeds, date, and commit of a report, as far as they are known."""
    seeds = f"seed{'s' if len(report.seeds) > 1 else ''} {', '.join(report.seeds)}" if report.seeds else ""
    commit, _, changed = str(report.run.get("commit", "")).partition("+")
    made = f"commit {commit[:10]}{' with changes' if changed else ''}" if commit else ""
    return list(filter(None, (seeds, str(report.run.get("end", ""))[:10], made)))


def _trade_off_row(row: dict) -> dict:
    return {
        "stage": stage_cell(row["stage"]),
        "accuracy": sweep_page.deviation_cell(row, "accuracy_int8", 100),
        "size": sweep_page.deviation_cell(row, "gzip_bytes", 1e-3, 1),
        "share": format_percent(1 - row["saved"], 1),
        "saved": "" if row["stage"] == "baseline" else f"{format_percent(row['saved'], 1)} % saved",
    }


def _in_a_line(rows: list[dict]) -> str:
    """The trade-off in words: "PCQAT saves 58.1 % and loses 0.3 points"."""
    if len(rows) < 2:
        return "no results yet" if not rows else "nothing is smaller and as good"
    best, points = rows[1], 100 * rows[1]["lost"]
    saved = f"{get_label(best['stage'])} saves {format_percent(best['saved'], 1)} %"
    if pd.isna(points):  # test was not read
        return saved
    return f"{saved} and {'loses' if points >= 0 else 'gains'} {abs(points):.1f} points"


def _stages(found: list[Report]) -> Table | None:
    """A row a stage and setting of every report."""
    lines = [_line(report, row) for report in found for row in report.table.to_dict("records")]
    numbers = "INT8 accuracy (%)", "lost (points)", "gzip (kB)", "saved (%)", "sparsity (%)", "unique weights"
    columns = [Column("experiment"), *map(Column, ("run", "stage"))]
    columns += [*(Column(title, number=True) for title in numbers), Column("preserved"), Column("file")]
    return Table("stages", "Every stage of every report", columns, lines, NOTE) if lines else None


def _line(report: Report, row: dict) -> list[Cell]:
    scheme = "" if pd.isna(row["scheme"]) else row["scheme"]
    own = get_scheme(report.run)
    name = get_label(row["stage"]) + (f" by {scheme}" if scheme not in ("", own) else "")
    # Each cell of a sweep is a run of its own.
    cell = Path(row.get("cell", "")) if report.is_sweep else Path()
    at = report.directory / cell, row["stage"], scheme, scheme if report.is_sweep else own
    page, model = (report.href(f"{cell}/{find(*at)}") for find in (report_tables.find_page, report_tables.find_model))
    varied = sweep_page.format_setting(row, sweep_page.find_varied_settings(report.table))
    return [
        Cell(report.place.parts[0], href=report.page),
        Cell(f"sweep: {varied}".removesuffix(": ") if report.is_sweep else report.setting),
        dataclasses.replace(stage_cell(row["stage"], page), text=name),
        *_trade_off_cells(row),
        number_cell(row["sparsity"], lambda share: format_percent(share, 1)),
        number_cell(row["unique_weights"], format_count),
        preserved_cell(row["preserved"]),
        file_cell(model, name),
    ]


def _trade_off_cells(row: dict) -> list[Cell]:
    return [
        sweep_page.deviation_cell(row, "accuracy_int8", 100),
        number_cell(row["lost"], format_percent),
        sweep_page.deviation_cell(row, "gzip_bytes", 1e-3, 1),
        number_cell(row["saved"], lambda share: format_percent(share, 1)),
    ]


def _published(found: list[Report]) -> Table | None:
    """The figures of every report that were published, beside ours."""
    judged = [(report, read_comparison(report.directory)) for report in found]
    of = [Cell(report.place.as_posix(), href=report.page) for report, rows in judged for _ in range(len(rows))]
    return report_tables.compared(pd.concat([rows for _, rows in judged]), of) if of else None
