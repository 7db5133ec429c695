"""The index of a report directory: its results and figures, with links to pages, models and tables."""

import json
import re
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pandas as pd
from markupsafe import Markup
from pygments import highlight
from pygments.formatters import HtmlFormatter
from pygments.lexers import YamlLexer

from collabopt import figures
from collabopt.config.metrics import get_metric
from collabopt.config.stages import STAGES, get_label
from collabopt.report import html, tables
from collabopt.report.directory import get_scheme, read_comparison, read_head, read_rows, read_run, select_seed
from collabopt.storage import atomic
from collabopt.storage.results import parse_preserved, to_numbers

ORDER = list(dict.fromkeys(stage.notebook for stage in STAGES.values()))
ORDER += ["sensitivity", "preservation", "published", "deployment_tree"]
"""The notebooks as the page lists them."""

_HEADINGS = {
    "results": "Results",
    "variants": "Variants",
    "published": "Published beside ours",
    "layers": "Layers",
    "notebooks": "Notebooks",
    "run": "Run",
    "files": "Files",
}
_OPTIONAL = "variants", "published", "layers"
_FAILED = re.compile(r"^failed:?\s*", re.IGNORECASE)
"""The beginning of a status, which the page says itself."""


def write(
    directory: Path, experiment_text: str, status: dict[str, str] | None = None, home: Path | None = None
) -> Path:
    """Write `index.html` of a report directory. The page says what is missing.

    Args:
        directory: The report directory.
        experiment_text: The experiment's YAML. Its first comment introduces the page.
        status: By name of a notebook, "ok" or why its page is not complete.
        home: The page of all reports.

    Returns:
        Path of the page.
    """
    run, frames = read_run(directory), {}
    for file, needed in (("results.csv", "stage"), ("layers.csv", "layer"), ("variants.csv", "format")):
        # The tables show the first of several seeds; comparison.csv covers all of them.
        frames[Path(file).stem] = select_seed(read_rows(directory / file, needed), run.get("seed"))
    parts = _make_parts(directory, **frames, scheme=get_scheme(run))
    title, lead = _find_title(directory, frames["results"], run), _read_lead(experiment_text)
    headings = {name: text for name, text in _HEADINGS.items() if parts.get(name) or name not in _OPTIONAL}
    text = html.render(
        "index.html.j2",
        title=title,
        description=next(filter(None, lead), f"Results, notebooks and models of the experiment {title}"),
        links=html.make_links(home, directory),
        contents=html.make_contents(headings),
        lead=lead,
        **parts,
        notebooks=_list_notebooks(directory, status or {}),
        groups=_group_parameters(run),
        experiment_text=_highlight(experiment_text),
        files=_list_files(directory),
    )
    atomic.write(directory / "index.html", text)
    return directory / "index.html"


def _make_parts(
    directory: Path, results: pd.DataFrame, layers: pd.DataFrame, variants: pd.DataFrame, scheme: str
) -> dict[str, Any]:
    """Tables and figures by name; None without data."""
    published = read_comparison(directory)
    points = f"Gzip size against INT8 accuracy of {len(results)} int8 models; the numbers are in the table above."
    count = layers["layer"].nunique() if len(layers) else 0
    heat = f"Heat maps of sparsity and unique weights of {count} layers at every stage; the numbers are in layers.csv."
    tree = figures.draw_tree, results, _describe_tree(results), "The deployment tree", "results.csv"
    scatter = figures.draw_sizes, results, points, "Size against accuracy", "results.csv"
    maps = figures.draw_layer_properties, layers, heat, "Sparsity and unique weights by layer", "layers.csv"
    return {
        "results": tables.results(results, directory, scheme) if len(results) else None,
        "variants": tables.variants(variants, directory, scheme) if len(variants) else None,
        "published": tables.compared(published) if len(published) else None,
        **{name: html.make_picture(*of) for name, of in (("tree", tree), ("scatter", scatter), ("layers", maps))},
    }


def _find_title(directory: Path, results: pd.DataFrame, run: dict[str, Any]) -> str:
    names = [*results.get("experiment", [])[:1], run.get("experiment"), directory.resolve().name]
    return next(name for name in names if isinstance(name, str) and name)


def _read_lead(experiment_text: str) -> list[str]:
    """The lines of the comment that an experiment file begins with."""
    comment = re.match(r"(?:#.*\n?)*", experiment_text).group()
    return [line.lstrip("#").strip() for line in comment.splitlines()]


def _describe_tree(results: pd.DataFrame) -> str:
    accuracy, size, texts = get_metric("accuracy_int8"), get_metric("gzip_bytes"), []
    for row in to_numbers(results, [accuracy.name, size.name]).to_dict("records") if len(results) else ():
        scheme = f" ({row['scheme']})" if row.get("scheme") else ""
        known = [(metric, word) for metric, word in ((accuracy, "INT8"), (size, "gzip")) if pd.notna(row[metric.name])]
        values = [f" {metric.format(row[metric.name])} {metric.unit} {word}" for metric, word in known]
        values += [" NOT preserved"] if parse_preserved(row.get("preserved")) is False else []
        texts.append(f"{get_label(row['stage'])}{scheme}{','.join(values)}")
    return f"Deployment tree. {'; '.join(texts)}."


def _list_notebooks(directory: Path, status: dict[str, str]) -> list[dict[str, str]]:
    """The heads of the notebooks' pages in order, and the failed notebooks without a page."""
    status = {Path(name).stem: text for name, text in status.items()}
    names = {path.stem for path in directory.glob("*.html")} - {"index"}
    names |= {name for name, text in status.items() if text != "ok"}
    place = {name: position for position, name in enumerate(ORDER)}
    pages = []
    for name in sorted(names, key=lambda name: (place.get(name, len(place)), name)):
        page = read_head(directory / f"{name}.html")
        if status.get(name, "ok") != "ok":
            page["failure"] = _FAILED.sub("", status[name]) or "no reason given"
        pages.append(page)
    return pages


def _highlight(text: str) -> Markup:
    """YAML in colours. It scrolls by keyboard, too."""
    code = highlight(text, YamlLexer(), HtmlFormatter()) if text else ""
    return Markup(code.replace("<pre>", '<pre tabindex="0">', 1))


def _group_parameters(run: dict[str, Any]) -> list[dict[str, Any]]:
    """run.json as titled lists: the values at its top under "General", every nested dict under its own key.

    The training sections of the stages are left to the experiment file, which is below the lists.
    """
    plain = {key: value for key, value in run.items() if not isinstance(value, dict)}
    groups = {"General": plain, **{key: value for key, value in run.items() if isinstance(value, dict)}}
    if "stages" in groups.get("experiment", {}):
        groups["experiment"] = {key: value for key, value in groups["experiment"].items() if key != "stages"}
    return [
        {"title": title.replace("_", " ").capitalize(), "entries": _flatten(group)}
        for title, group in groups.items()
        if group
    ]


def _flatten(group: dict[str, Any], above: str = "") -> list[tuple[str, str]]:
    rows = []
    for key, value in group.items():
        if isinstance(value, dict):
            rows += _flatten(value, f"{above}{key}.")
        elif value is not None:
            rows.append((f"{above}{key}", value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)))
    return rows


def _list_files(directory: Path) -> list[dict[str, str]]:
    first = ["results.csv", "layers.csv", "run.json"]
    others = sorted(path.name for ending in ("csv", "json", "md") for path in directory.glob(f"*.{ending}"))
    models = sorted(path.relative_to(directory).as_posix() for path in (directory / "models").rglob("*.tflite"))
    present = [name for name in dict.fromkeys([*first, *others, *models]) if (directory / name).is_file()]
    size = get_metric("tflite_bytes")
    sizes = {name: f"{size.format((directory / name).stat().st_size)} {size.unit}" for name in present}
    return [{"name": name, "href": quote(name), "size": sizes[name]} for name in present]
