"""The index of a report directory: its results and figures, with links to pages, models and tables."""

import json
import re
from pathlib import Path
from typing import Any

import pandas as pd
from markupsafe import Markup
from pygments import highlight
from pygments.formatters import HtmlFormatter
from pygments.lexers import YamlLexer

from collabopt.config import loading, published
from collabopt.config.experiment import ExperimentError
from collabopt.config.metrics import get_metric
from collabopt.config.stages import STAGES, list_notebooks, sort_notebooks
from collabopt.deploy.recommendation import find_scarce_classes
from collabopt.figures import draw_confusion, draw_layer_properties, draw_sizes, draw_timeline, draw_tree
from collabopt.figures.timeline import select_batch
from collabopt.report import change_tables, html, navigation, provenance, summary, tables
from collabopt.report.directory import read_comparison, read_head, read_rows, read_run
from collabopt.report.glossary import GLOSSARY
from collabopt.report.table import Table
from collabopt.report.verdict import make_verdict
from collabopt.storage import results as stored
from collabopt.storage import timeline


def write(
    directory: Path, experiment_text: str, status: dict[str, str] | None = None, home: Path | None = None
) -> Path:
    """Write `index.html` of a report `directory`, and return its path. The page says what is missing.

    `experiment_text` is YAML, whose first comment introduces the page. `status` is, by notebook, "ok" or why its page
    is not complete. `home` is the page of all reports.
    """
    run = read_run(directory)
    seed = run.get("seed")  # the tables show the first of several seeds; comparison.csv covers all of them
    results = read_rows(directory / "results.csv", "stage", seed)
    layers = read_rows(directory / "layers.csv", "layer", seed)
    variants = read_rows(directory / "variants.csv", "format", seed)
    names = [*results.get("experiment", [])[:1], run.get("experiment"), directory.resolve().name]
    title = next(name for name in names if isinstance(name, str) and name)
    comment, compared = re.match(r"(?:#.*\n?)*", experiment_text).group(), read_comparison(directory)
    lead = [line.lstrip("#").strip() for line in comment.splitlines()]
    setting, confusion = provenance.describe_setting(directory), change_tables.read_rows(directory, "confusion")
    times = select_batch(timeline.read(directory), run.get("start"))
    page = html.write_index(
        directory,
        "index.html.j2",
        f"{title}: {setting}" if setting else title,
        next(filter(None, lead), f"Results, notebooks and models of the experiment {title}"),
        home,
        lead=lead,
        verdict=make_verdict(directory, title),
        provenance=provenance.describe(directory),
        glossary=GLOSSARY,
        results=tables.results(results, directory) if len(results) else None,
        means=_tabulate_means(directory) if len(results) else None,
        tree=html.make_picture(draw_tree, results, "The deployment tree", "results.csv"),
        scatter=html.make_picture(draw_sizes, results, "Size against quality", "results.csv"),
        variants=tables.variants(variants, directory) if len(variants) else None,
        published=tables.compared(compared) if len(compared) else None,
        changes=change_tables.read(directory),
        scarce=find_scarce_classes(run),
        confusion=html.make_picture(draw_confusion, confusion, "Confusions on validation", "changed_confusion.csv"),
        layers=html.make_picture(draw_layer_properties, layers, "Sparsity and unique weights by layer", "layers.csv"),
        notebooks=_list_notebooks(directory, status or {}),
        timeline=html.make_picture(draw_timeline, times, "What ran when", "timeline.csv"),
        command=provenance.format_command(directory, title),
        more=_list_missing(directory, run),
        groups=_group_parameters(run),
        experiment_text=_highlight(experiment_text),
        files=_list_files(directory),
        place=navigation.describe(directory / "index.html"),
    )
    navigation.refresh(directory)
    return page


def _list_notebooks(directory: Path, status: dict[str, str]) -> list[dict[str, str]]:
    """The heads of the notebooks' pages in order, and the failed notebooks without a page."""
    status = {Path(name).stem: text for name, text in status.items()}
    names = {path.stem for path in directory.glob("*.html")} - {"index"}
    names |= {name for name, text in status.items() if text != "ok"}
    pages = []
    for name in sort_notebooks(names):
        page = read_head(directory / f"{name}.html")
        if status.get(name, "ok") != "ok":
            page["failure"] = re.sub(r"(?i)^failed:?\s*", "", status[name]) or "no reason given"
        pages.append(page)
    return pages


def _tabulate_means(directory: Path) -> Table | None:
    """The table of means over seeds; None if there is only one."""
    rows = stored.read(directory / "results.csv")
    if rows.get("seed", pd.Series()).nunique() < 2:
        return None
    means = summary.average_over_seeds(rows)
    return tables.results(means[means["seeds"] > 1].drop(columns="front"), directory)


def _list_missing(directory: Path, run: dict[str, Any]) -> list[str]:
    """The notebooks without a page that have something to show, as far as an experiment of that name is found."""
    try:
        names = published.list_notebooks(loading.load(run["experiment"]["name"], **run["settings"]))
    except (KeyError, TypeError, ExperimentError):
        names = list_notebooks(STAGES)
    return [name for name in names if not (directory / f"{name}.html").is_file()]


def _highlight(text: str) -> Markup:
    """YAML in colours. It scrolls by keyboard, too."""
    code = highlight(text, YamlLexer(), HtmlFormatter()) if text else ""
    return Markup(code.replace("<pre>", '<pre tabindex="0">', 1))


def _group_parameters(run: dict[str, Any]) -> dict[str, list[tuple[str, str]]]:
    """run.json as titled lists: the values at its top under "General", every nested dict under its own key.

    The training sections of the stages are left to the experiment file, which is below the lists.
    """
    plain = {key: value for key, value in run.items() if not isinstance(value, dict)}
    groups = {"General": plain, **{key: value for key, value in run.items() if isinstance(value, dict)}}
    if "stages" in groups.get("experiment", {}):
        groups["experiment"] = {key: value for key, value in groups["experiment"].items() if key != "stages"}
    return {title.replace("_", " ").capitalize(): _flatten(group) for title, group in groups.items() if group}


def _flatten(group: dict[str, Any], above: str = "") -> list[tuple[str, str]]:
    rows = []
    for key, value in group.items():
        if isinstance(value, dict):
            rows += _flatten(value, f"{above}{key}.")
        elif value is not None:
            rows.append((f"{above}{key}", value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)))
    return rows


def _list_files(directory: Path) -> dict[str, str]:
    """The size of each file that the page links."""
    paths = [directory / name for name in ("results.csv", "layers.csv", "run.json")]
    paths += sorted(path for ending in ("csv", "json", "md") for path in directory.glob(f"*.{ending}"))
    paths += sorted((directory / "models").rglob("*.tflite"))
    size = get_metric("tflite_bytes")
    return {
        path.relative_to(directory).as_posix(): f"{size.format(path.stat().st_size)} {size.unit}"
        for path in paths
        if path.is_file()
    }
