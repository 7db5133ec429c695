"""A page that compares finished reports: settings, verdicts, stages, training curves and weight densities."""

import json
import math
import re
import sys
from pathlib import Path
from typing import Any

import pandas as pd

from collabopt.config import loading
from collabopt.config.experiment import ExperimentError
from collabopt.config.metrics import get_metric
from collabopt.config.scores import find_score
from collabopt.deploy import recommendation
from collabopt.figures import overlays
from collabopt.report import html, verdict
from collabopt.report.directory import find_file, read_run
from collabopt.report.table import Cell, Table, format_head
from collabopt.storage import results

_CURVES, _DENSITIES = "*-training.csv", "*-density.csv"


def compare(names: list[str]) -> int:
    """Write the page that compares reports, and print where it is.

    Args:
        names: Directories of reports, relative to that of all reports: "digits", "digits/sparsity=0.8".

    Returns:
        The exit status, 0.

    Raises:
        ExperimentError: There are fewer than two reports, or one does not exist.
    """
    print(f"page: {write(names)}", file=sys.stdout)
    return 0


def write(names: list[str]) -> Path:
    """Write the page that compares reports.

    Args:
        names: As in `compare`.

    Returns:
        Path of the page, in `compare/` of the directory of all reports.

    Raises:
        ExperimentError: There are fewer than two reports, or one does not exist.
    """
    names = list(dict.fromkeys(name.removeprefix("reports/").strip("/") for name in names))
    if len(names) < 2:
        raise ExperimentError('compare: expected two reports or more: make compare A=digits B="digits/sparsity=0.8"')
    places = {name: loading.REPORTS / name for name in names}
    for name, place in places.items():
        if not (place / "results.csv").is_file():
            known = [
                path.parent.relative_to(loading.REPORTS).as_posix() for path in loading.REPORTS.rglob("results.csv")
            ]
            raise ExperimentError(f"compare: {name}: no such report{loading.suggest(name, sorted(known))}")
    page = loading.REPORTS / "compare" / (re.sub(r"[^\w.,=+-]", "_", "+".join(names))[:150] + ".html")
    page.parent.mkdir(parents=True, exist_ok=True)
    title, first = f"{' and '.join(names)}: what differs?", next(iter(places))
    rows = {name: results.read(place / "results.csv") for name, place in places.items()}
    values = {
        "title": title,
        "tables": {
            "settings": _tabulate_settings(places),
            "verdicts": _tabulate_verdicts(places),
            "stages": _tabulate_stages(rows, first),
        },
        "curves": _draw(overlays.draw_curves, places, _CURVES, "Training curves"),
        "densities": _draw(overlays.draw_densities, places, _DENSITIES, "Weight densities"),
    }
    body = html.render("compare.html.j2", **values)
    contents = [(2, *heading) for heading in re.findall(r'<h2 id="(.+?)">(.+?)</h2>', body)]
    about = {"title": title, "description": title, "links": {"../index.html": "All reports"}, "wide": True}
    return html.write_page(page, body, contents, **about)


def _tabulate_settings(places: dict[str, Path]) -> Table:
    """One row per key of the experiments, data and versions that is not the same in all reports."""
    runs = {name: _flatten(read_run(place)) for name, place in places.items()}
    hidden = ("start", "end", "experiment.name")
    keys = [key for key in dict.fromkeys(key for run in runs.values() for key in run) if key not in hidden]
    different = [key for key in keys if len({str(run.get(key)) for run in runs.values()}) > 1]
    lines = [{"Key": key, **{name: str(run.get(key, "")) for name, run in runs.items()}} for key in different]
    return Table("Settings that differ" if lines else "All settings are the same.", lines)


def _flatten(values: Any, above: str = "") -> dict[str, Any]:
    if not isinstance(values, dict):
        return {above: json.dumps(values, ensure_ascii=False)}
    found = {}
    for key, value in values.items():
        found |= _flatten(value, f"{above}.{key}" if above else str(key))
    return found


def _tabulate_verdicts(places: dict[str, Path]) -> Table:
    """One row per report: its recommended file."""
    lines, size = [], get_metric("gzip_bytes")
    for name, place in places.items():
        found = recommendation.recommend(place)
        index = find_file(loading.REPORTS, f"{name}/index.html")
        cells = {"Report": Cell(name, href=f"../{index}" if index else "")}
        if found:
            drop, noise = found.get_drop(found.variant)
            cells |= {
                "File to deploy": found.name + (f", which misses {found.describe_misses()}" if found.misses else ""),
                format_head(size): Cell.from_number(found.variant[size.name], size),
                "Validation drop": Cell(found.score.format_spread(drop, noise, is_drop=True), drop, kind="number"),
                "Against the baseline": Cell(verdict.describe_drop(found, found.variant), kind="wrap"),
            }
        lines.append({"Report": "", "File to deploy": "no search", **cells})
    columns = list(dict.fromkeys(key for line in lines for key in line))
    return Table("Recommended files", [{key: line.get(key, "") for key in columns} for line in lines])


def _tabulate_stages(rows: dict[str, pd.DataFrame], first: str) -> Table:
    """One row per stage: the score and size of its int8 file in each report, and how they differ from the first."""
    score, size = find_score(rows[first]), get_metric("gzip_bytes")
    metric, own = get_metric(score.test_int8), {}
    for name, table in rows.items():
        table = results.select_first_setting(table[table.get("scheme", "") != "tfmot"], "stage")
        own[name] = {row["stage"]: row for row in table.to_dict("records")}
    lines = []
    for stage in dict.fromkeys(stage for report in own.values() for stage in report):
        line, base = {"Stage": Cell.from_stage(stage)}, own[first].get(stage, {})
        for name, report in own.items():
            row = report.get(stage, {})
            value, error = (row.get(key, math.nan) for key in (metric.name, f"{metric.name}_error"))
            line[f"{name}: {metric.title[0].upper()}{metric.title[1:]} ({metric.unit})"] = Cell.from_number(
                value, metric, "–", 2 * error
            )
            line[f"{name}: {size.heading}"] = Cell.from_number(row.get(size.name, math.nan), size, "–")
            if name != first:
                noise = 2 * math.hypot(error, base.get(f"{metric.name}_error", math.nan))
                drop = score.compute_drop(base.get(metric.name, math.nan), value)
                within = " ≈" if abs(drop) <= noise else ""
                text = score.format_spread(0.0 - drop, noise, is_drop=True) + within if math.isfinite(drop) else "–"
                line[f"{name}: Gain"] = Cell(text, -drop if math.isfinite(drop) else "", kind="number")
                ratio = row.get(size.name, math.nan) / base.get(size.name, math.nan)
                line[f"{name}: Size ÷ first"] = Cell(f"{ratio:.3f}" if math.isfinite(ratio) else "–", kind="number")
        lines.append(line)
    note = (
        f"Scores of the int8 files on test, ± two standard errors. Gain: against {first}, with the errors of both "
        "added as if independent; ≈: within that noise. Size ÷ first: gzip sizes."
    )
    return Table("Stages", lines, note)


def _draw(draw: Any, places: dict[str, Path], pattern: str, caption: str) -> dict[str, Any] | None:
    """A figure of the data that all reports have beside their pages; None if they share none."""
    found = {}
    for name, place in places.items():
        frames = [pd.read_csv(path) for path in sorted((place / "figures").glob(pattern))]
        if not frames:
            return None
        found[name] = pd.concat(frames).drop_duplicates()
    column = "stage" if pattern == _CURVES else "label"
    if not set.intersection(*({*rows[column]} for rows in found.values())):
        return None
    figure_rows = pd.concat(found, names=["report"]).reset_index("report")
    return html.make_picture(lambda _: draw(found), figure_rows, caption, "")
