"""Finished reports beside each other: settings, verdicts, stages, training curves and weight densities.

The command `compare` writes them as a page; the notebook `compare` shows the same tables and figures.
"""

import json
import math
import os
import re
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pandas as pd
from matplotlib.figure import Figure

from collabopt.config import loading
from collabopt.config.experiment import ExperimentError
from collabopt.config.metrics import get_metric
from collabopt.config.scores import find_score
from collabopt.deploy import recommendation
from collabopt.figures import overlays
from collabopt.report import html, verdict
from collabopt.report.directory import Report, get_scheme, read_run
from collabopt.report.table import Cell, Table, format_head
from collabopt.storage import results

_CURVES, _DENSITIES = "*-training.csv", "*-density.csv"


def compare(names: list[str]) -> int:
    """Write the page that compares the reports `names`, print where it is, and return the exit status, 0.

    Raises:
        ExperimentError: There are fewer than two reports, or one does not exist.
    """
    print(f"page: {write(names)}", file=sys.stdout)
    return 0


def find_reports(names: Sequence[str]) -> dict[str, Path]:
    """Return report directories by name; `names` are relative to that of all: "digits", "digits/sparsity=0.8".

    Raises:
        ExperimentError: There are fewer than two reports, one does not exist, or one is a sweep.
    """
    names = list(dict.fromkeys(name.removeprefix("reports/").strip("/") for name in names if name))
    if len(names) < 2:
        given = f"A={names[0]}: only one report" if names else "no report given"
        raise ExperimentError(f'compare: {given}; expected two or more: make compare A=digits B="digits/sparsity=0.8"')
    for name in names:
        if not (loading.REPORTS / name / "results.csv").is_file():
            known = sorted(path.parent.relative_to(loading.REPORTS).as_posix() for path in _list_results())
            raise ExperimentError(f"compare: {name}: no such report{loading.suggest(name, known)}")
        if Report(loading.REPORTS, Path(name)).is_sweep:
            raise ExperimentError(f"compare: {name}: a sweep, with many rows per stage; give a cell, {name}/<cell>")
    return {name: loading.REPORTS / name for name in names}


def find_others(run: Any, others: Sequence[str | dict[str, Any]] | None) -> dict[str, Path]:
    """Find the report of a run and those to compare it with.

    Args:
        run: The run.
        others: Names as in `find_reports`, or overrides of the run's experiment: {"sparsity": 0.8}. None takes all
            other settings of the experiment.

    Returns:
        The directories by name, that of the run first.

    Raises:
        ExperimentError: There is no other report, or one does not exist.
    """
    first = run.directory.relative_to(loading.REPORTS).as_posix()
    known = others
    if others is None:
        found = [path.parent.relative_to(loading.REPORTS) for path in _list_results()]
        own = Path(first).parts[0]
        places = (one for one in found if one.parts[0] == own and len(one.parts) < 3)
        known = sorted(place.as_posix() for place in places if not Report(loading.REPORTS, place).is_sweep)
    directories = [
        loading.find_report_directory(str(run.source), **other).relative_to(loading.REPORTS).as_posix()
        if isinstance(other, dict)
        else other
        for other in known
    ]
    if not {*directories} - {first}:
        raise ExperimentError(
            f"others={others}: no other report of {run.experiment.name}; make one, such as make report "
            f'EXPERIMENT={run.experiment.name} SET="sparsity=0.8"'
        )
    return find_reports([first, *directories])


def name_page(names: Sequence[str]) -> str:
    """Return the name of the page that compares the reports `names`, in `compare/` of the directory of all reports."""
    return re.sub(r"[^\w.,=+-]", "_", "+".join(names))[:150] + ".html"


def write(names: Sequence[str]) -> Path:
    """Write the page that compares the reports `names`, and return its path.

    Raises:
        ExperimentError: There are fewer than two reports, or one does not exist.
    """
    places = find_reports(names)
    page = loading.REPORTS / "compare" / name_page([*places])
    page.parent.mkdir(parents=True, exist_ok=True)
    title = f"{' and '.join(places)}: what differs?"
    pictures = {"curves": (draw_curves, "Training curves"), "densities": (draw_densities, "Weight densities")}
    values = {
        "title": title,
        "tables": {
            "settings": tabulate_settings(places),
            "verdicts": tabulate_verdicts(places, page.parent),
            "stages": tabulate_stages(places),
        },
    } | {name: html.make_picture(draw, places, caption, "") for name, (draw, caption) in pictures.items()}
    body = html.render("compare.html.j2", **values)
    contents = [(2, *heading) for heading in re.findall(r'<h2 id="(.+?)">(.+?)</h2>', body)]
    about = {"title": title, "description": title, "links": {"../index.html": "All reports"}, "wide": True}
    return html.write_page(page, body, contents, **about)


def tabulate_settings(places: dict[str, Path]) -> Table:
    """Return settings, data and versions that differ between `places` (directories by name), one row per key."""
    runs = {name: _flatten(read_run(place)) for name, place in places.items()}
    hidden = ("start", "end", "experiment.name", "experiment_sha256")
    keys = [key for key in dict.fromkeys(key for run in runs.values() for key in run) if key not in hidden]
    different = [key for key in keys if len({run.get(key, "null") for run in runs.values()}) > 1]
    lines = [
        {"Key": key.removeprefix("experiment.")}
        | {name: Cell(run.get(key, ""), kind="wrap") for name, run in runs.items()}
        for key in different
    ]
    return Table("Settings that differ" if lines else "All settings are the same.", lines)


def _flatten(values: Any, above: str = "") -> dict[str, Any]:
    if not isinstance(values, dict):
        return {above: json.dumps(values, ensure_ascii=False)}
    found = {}
    for key, value in values.items():
        found |= _flatten(value, f"{above}.{key}" if above else str(key))
    return found


def tabulate_verdicts(places: dict[str, Path], page: Path) -> Table:
    """Return the recommended file of each report of `places`, by name, with links from the directory `page`."""
    lines, size = [], get_metric("gzip_bytes")
    for name, place in places.items():
        found = recommendation.recommend(place)
        index = place / "index.html"
        cells = {"Report": Cell(name, href=Path(os.path.relpath(index, page)).as_posix() if index.is_file() else "")}
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


def tabulate_stages(places: dict[str, Path]) -> Table:
    """Return int8 files of `places`, directories by name, and their difference from the first's, a row per stage."""
    rows = {name: results.read(place / "results.csv") for name, place in places.items()}
    first = next(iter(rows))
    score, size = find_score(rows[first]), get_metric("gzip_bytes")
    metric, own = get_metric(score.test_int8), {}
    for name, table in rows.items():
        run = read_run(places[name])
        table = table[table["scheme"].isna() | (table["scheme"] == get_scheme(run))]
        is_first = table["seed"] == run.get("seed")  # that of the files
        table = results.select_first_setting(table[is_first] if is_first.any() else table, "stage")
        own[name] = {row["stage"]: row for row in table.to_dict("records")}
    lines = []
    for stage in dict.fromkeys(stage for report in own.values() for stage in report):
        line, base = {"Stage": Cell.from_stage(stage)}, own[first].get(stage, {})
        for name, report in own.items():
            row = report.get(stage, {})
            value, error = (row.get(key, math.nan) for key in (metric.name, f"{metric.name}_error"))
            line[f"{name}: {metric.heading[0].upper()}{metric.heading[1:]}"] = Cell.from_number(
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


def draw_curves(places: dict[str, Path], csv: Path | None = None) -> Figure | None:
    """Return the training curves of `places`, directories by name; None without a common one. `csv` is for the data."""
    return _draw(overlays.draw_curves, places, _CURVES, csv)


def draw_densities(places: dict[str, Path], csv: Path | None = None) -> Figure | None:
    """Return the densities of `places`, directories by name; None without a common one. `csv` is for the data."""
    return _draw(overlays.draw_densities, places, _DENSITIES, csv)


def _draw(draw: Callable, places: dict[str, Path], pattern: str, csv: Path | None) -> Figure | None:
    frames = {name: [pd.read_csv(path) for path in _list_figures(place, pattern)] for name, place in places.items()}
    if not all(frames.values()):
        return None
    return draw({name: pd.concat(found).drop_duplicates() for name, found in frames.items()}, csv)


def _list_figures(place: Path, pattern: str) -> list[Path]:
    return sorted(path for path in (place / "figures").glob(pattern) if not path.name.startswith("compare-"))


def _list_results() -> list[Path]:
    return [*loading.REPORTS.rglob("results.csv")]
