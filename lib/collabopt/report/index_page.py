"""The index of a report directory: what was run, its results and figures, and links to all that the run left."""

import base64
import io
import json
import os
import re
from collections.abc import Callable
from pathlib import Path
from urllib.parse import quote

import pandas as pd
from markupsafe import Markup
from matplotlib.figure import Figure
from pygments import highlight
from pygments.formatters import HtmlFormatter
from pygments.lexers import YamlLexer

from collabopt import figures
from collabopt.config.stages import get_label
from collabopt.figures import style
from collabopt.report import html, report_tables
from collabopt.report.directory import get_scheme, read_comparison, read_head, read_rows, read_run, select_seed
from collabopt.report.table import Table
from collabopt.storage import atomic

ORDER = [
    "baseline",
    "sensitivity",
    "pqat",
    "sparse_clustering",
    "cqat",
    "pcqat",
    "preservation",
    "published",
    "deployment_tree",
]


HEADINGS = {
    "results": "Results",
    "leaves": "Leaves",
    "published": "Published beside ours",
    "layers": "Layers",
    "notebooks": "Notebooks",
    "run": "Run",
    "files": "Files",
}


OPTIONAL = "leaves", "published", "layers"


FAILED = re.compile(r"^failed:?\s*", re.IGNORECASE)  # the page says that itself


def write(
    directory: Path, experiment_text: str, status: dict[str, str] | None = None, home: Path | None = None
) -> Path:
    """Write `index.html` of a report directory and return its path; what the directory lacks, the page says.

    `experiment_text` is the experiment's YAML: its first comment introduces the page. `status` tells of notebooks
    by name "ok" or why there is no whole page, beside what their own pages tell. `home`: the page of all reports.
    """
    run = read_run(directory)
    # Of several seeds the pages show the first; `comparison.csv` has what all of them say.
    results, layers, leaves = (
        select_seed(read_rows(directory / file, needed), run.get("seed"))
        for file, needed in (("results.csv", "stage"), ("layers.csv", "layer"), ("leaves.csv", "format"))
    )
    title, lead = _title(directory, results, run), _lead(experiment_text)
    parts = _tables(directory, results, leaves, get_scheme(run)) | _pictures(results, layers)
    headings = {name: text for name, text in HEADINGS.items() if parts.get(name) or name not in OPTIONAL}
    text = html.render(
        "index.html.j2",
        title=title,
        description=next(filter(None, lead), f"Results, notebooks and models of the experiment {title}"),
        links=make_links(home, directory),
        contents=html.make_contents(headings),
        lead=lead,
        **parts,
        notebooks=_notebooks(directory, status or {}),
        groups=_groups(run),
        experiment_text=_highlighted(experiment_text),
        files=_files(directory),
    )
    atomic.write(directory / "index.html", text)
    return directory / "index.html"


def make_links(home: Path | None, directory: Path) -> dict[str, str]:
    """What stands at the top of a page in `directory`: the way to the page of all reports."""
    return {} if home is None else {quote(Path(os.path.relpath(home, directory)).as_posix()): "All reports"}


def _tables(directory: Path, results: pd.DataFrame, leaves: pd.DataFrame, own: str) -> dict[str, Table | None]:
    judged = read_comparison(directory)
    return {
        "results": report_tables.results(results, directory, own) if len(results) else None,
        "leaves": report_tables.leaves(leaves, directory, own) if len(leaves) else None,
        "published": report_tables.compared(judged) if len(judged) else None,
    }


def _pictures(results: pd.DataFrame, layers: pd.DataFrame) -> dict[str, dict | None]:
    tree = figures.draw_tree, results, _tree_alt(results), "The deployment tree", "results.csv"
    scatter = figures.draw_sizes, results, _scatter_alt(results), "Size against accuracy", "results.csv"
    heat = (
        figures.draw_layer_properties,
        layers,
        _layers_alt(layers),
        "Sparsity and unique weights by layer",
        "layers.csv",
    )
    return {"tree": make_picture(*tree), "scatter": make_picture(*scatter), "layers": make_picture(*heat)}


def _title(directory: Path, results: pd.DataFrame, run: dict) -> str:
    named = [*results.get("experiment", [])[:1], run.get("experiment"), directory.resolve().name]
    return next(name for name in named if isinstance(name, str) and name)


def _lead(experiment_text: str) -> list[str]:
    """The lines of the comment an experiment file begins with, up to the first line that is not one."""
    comment = re.match(r"(?:#.*\n?)*", experiment_text).group()
    return [line.lstrip("#").strip() for line in comment.splitlines()]


def make_picture(
    draw: Callable[[pd.DataFrame], Figure], rows: pd.DataFrame, alt: str, caption: str, csv: str
) -> dict | None:
    """What `table.html.j2` needs to show a figure of `rows`; None where there are none. csv: the file they are in."""
    if not len(rows):
        return None
    figure, file = draw(rows), io.BytesIO()
    figure.savefig(file, format="png", metadata={"Software": None})
    width, height = (round(96 * inches) for inches in figure.get_size_inches())
    png = base64.b64encode(html.shrink_png(file.getvalue())).decode()
    return {"png": png, "alt": alt, "caption": caption, "csv": csv, "width": width, "height": height}


def _tree_alt(results: pd.DataFrame) -> str:
    if not len(results):
        return ""
    said = []
    for row in style.to_numbers(results, ["accuracy_int8", "gzip_bytes"]).to_dict("records"):
        lost = ", NOT preserved" if style.parse_preserved(row.get("preserved")) is False else ""
        scheme = f" ({row['scheme']})" if row.get("scheme") else ""
        accuracy = f" {100 * row['accuracy_int8']:.1f} % INT8," if pd.notna(row["accuracy_int8"]) else ""
        size = f" {row['gzip_bytes'] / 1000:.0f} kB gzip" if pd.notna(row["gzip_bytes"]) else ""
        said.append(f"{get_label(row['stage'])}{scheme}{accuracy}{size}{lost}")
    return f"Deployment tree. {'; '.join(said)}."


def _scatter_alt(results: pd.DataFrame) -> str:
    return f"Gzip size against INT8 accuracy of {len(results)} int8 models; the numbers are in the table above."


def _layers_alt(layers: pd.DataFrame) -> str:
    count = layers["layer"].nunique() if len(layers) else 0
    return f"Heat maps of sparsity and unique weights of {count} layers at every stage; the numbers are in layers.csv."


def _notebooks(directory: Path, status: dict[str, str]) -> list[dict]:
    """The notebook pages there are, in the order of the workbook, and the failed notebooks that left no page."""
    told = {Path(name).stem: text for name, text in status.items()}
    names = {path.stem for path in directory.glob("*.html")} - {"index"}
    names |= {name for name, text in told.items() if text != "ok"}
    place = {name: position for position, name in enumerate(ORDER)}
    pages = []
    for name in sorted(names, key=lambda name: (place.get(name, len(place)), name)):
        page = read_head(directory / f"{name}.html")
        if told.get(name, "ok") != "ok":
            page["failure"] = FAILED.sub("", told[name]) or "no reason given"
        pages.append(page)
    return pages


def _highlighted(text: str) -> Markup:
    """YAML in colours; it scrolls by keyboard, too."""
    code = highlight(text, YamlLexer(), HtmlFormatter()) if text else ""
    return Markup(code.replace("<pre>", '<pre tabindex="0">', 1))


def _groups(run: dict) -> list[dict]:
    """run.json as titled lists: the values at its top under "General", every nested dict under its own key.

    The hyper-parameters of the stages are left to the experiment file, which stands below the lists.
    """
    plain = {key: value for key, value in run.items() if not isinstance(value, dict)}
    groups = {"General": plain, **{key: value for key, value in run.items() if isinstance(value, dict)}}
    if "stages" in groups.get("experiment", {}):
        groups["experiment"] = {key: value for key, value in groups["experiment"].items() if key != "stages"}
    return [
        {"title": title.replace("_", " ").capitalize(), "entries": _flat(group)}
        for title, group in groups.items()
        if group
    ]


def _flat(group: dict, above: str = "") -> list[tuple[str, str]]:
    rows = []
    for key, value in group.items():
        if isinstance(value, dict):
            rows += _flat(value, f"{above}{key}.")
        elif value is not None:
            rows.append((f"{above}{key}", value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)))
    return rows


def _files(directory: Path) -> list[dict]:
    first = ["results.csv", "layers.csv", "run.json"]
    others = sorted(path.name for ending in ("csv", "json", "md") for path in directory.glob(f"*.{ending}"))
    models = sorted(path.relative_to(directory).as_posix() for path in (directory / "models").rglob("*.tflite"))
    present = [name for name in dict.fromkeys([*first, *others, *models]) if (directory / name).is_file()]
    sizes = {name: (directory / name).stat().st_size for name in present}
    return [{"name": name, "href": quote(name), "size": f"{sizes[name] / 1000:,.1f} kB"} for name in present]
