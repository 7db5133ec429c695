"""The index of a report directory: what was run, its results and figures, and links to all that the run left."""

import base64
import io
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import quote

import bs4
import pandas as pd
from markupsafe import Markup
from matplotlib.figure import Figure
from pygments import highlight
from pygments.formatters import HtmlFormatter
from pygments.lexers import YamlLexer

from collabopt import palette, pictures, plots, shell, store

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
SETTINGS = ["seed", "number_of_clusters", "cluster_per_channel", "target_sparsity", "train_fraction"]
FAILED = re.compile(r"^failed:?\s*", re.IGNORECASE)  # the page says that itself


def index(directory: Path, experiment_text: str, status: dict[str, str] | None = None) -> Path:
    """Write `index.html` of a report directory and return its path; what the directory lacks, the page says.

    `experiment_text` is the experiment's YAML: its first comment introduces the page. `status` tells of notebooks
    by name "ok" or why there is no whole page, beside what their own pages tell.
    """
    run = _run(directory / "run.json")
    # Of several seeds the pages show the first; `comparison.csv` has what all of them say.
    results, layers = (
        _of_seed(_read(directory / file, needed), run.get("seed"))
        for file, needed in (("results.csv", "stage"), ("layers.csv", "layer"))
    )
    title = _title(directory, results, run)
    text = shell.render(
        "index.html.j2",
        title=title,
        description=f"Results, notebooks and models of the experiment {title}",
        lead=_lead(experiment_text),
        table=_table(results) if len(results) else None,
        tree=picture(plots.tree, results, _tree_alt(results), "The deployment tree"),
        scatter=picture(plots.size_against_accuracy, results, _scatter_alt(results), "Size against accuracy"),
        layers=picture(plots.layer_properties, layers, _layers_alt(layers), "Sparsity and unique weights by layer"),
        notebooks=_notebooks(directory, status or {}),
        groups=_groups(run),
        experiment_text=Markup(highlight(experiment_text, YamlLexer(), HtmlFormatter())) if experiment_text else "",
        files=_files(directory),
        contents=[{"level": 2, "id": heading.lower(), "text": heading} for heading in _headings(layers)],
    )
    store.write(directory / "index.html", text)
    return directory / "index.html"


def _read(path: Path, needed: str) -> pd.DataFrame:
    """The rows of a CSV file as text, `stage`s in the order of the tree; empty where it lacks the `needed` column."""
    try:
        rows = pd.read_csv(path, dtype=str, keep_default_na=False)
    except (FileNotFoundError, pd.errors.EmptyDataError):
        return pd.DataFrame()
    if not {"stage", needed} <= set(rows):
        return pd.DataFrame()
    order = {stage: position for position, stage in enumerate(palette.NAMES)}
    return rows.sort_values("stage", key=lambda stages: stages.map(order), kind="stable", ignore_index=True)


def _of_seed(rows: pd.DataFrame, seed: object) -> pd.DataFrame:
    """The rows of one seed, where a column tells of seeds and the run of its own."""
    if seed is None or "seed" not in rows or str(seed) not in set(rows["seed"]):
        return rows
    return rows[rows["seed"] == str(seed)].reset_index(drop=True)


def _run(path: Path) -> dict[str, Any]:
    try:
        run = json.loads(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, ValueError):
        return {}
    return run if isinstance(run, dict) else {"run": run}


def _title(directory: Path, results: pd.DataFrame, run: dict) -> str:
    named = [*results.get("experiment", [])[:1], run.get("experiment"), directory.resolve().name]
    return next(name for name in named if isinstance(name, str) and name)


def _lead(experiment_text: str) -> list[str]:
    """The lines of the comment an experiment file begins with, up to the first line that is not one."""
    comment = re.match(r"(?:#.*\n?)*", experiment_text).group()
    return [line.lstrip("#").strip() for line in comment.splitlines()]


def _headings(layers: pd.DataFrame) -> list[str]:
    return ["Results", *(["Layers"] if len(layers) else []), "Notebooks", "Run", "Files"]


def _percent(digits: int) -> Callable[[pd.Series], str]:
    return lambda number: f"{100 * number:.{digits}f}"


def _kilobytes(number: float) -> str:
    return f"{number / 1000:,.1f}"


MEASURES = [
    ("accuracy", "accuracy (%)", _percent(2)),
    ("accuracy_int8", "INT8 accuracy (%)", _percent(2)),
    ("gzip_bytes", "raw → gzip (kB, saved)", _kilobytes),
    ("zip_bytes", "ZIP (kB)", _kilobytes),
    ("sparsity", "sparsity (%)", _percent(1)),
    ("unique_weights", "unique weights", lambda number: f"{number:,.0f}"),
]


def _table(results: pd.DataFrame) -> dict:
    """Titles and cells of the results table; columns that are absent or wholly empty are left out."""
    rows = palette.numbers(results, ["tflite_bytes", *(column for column, _, _ in MEASURES)])
    measured = [measure for measure in MEASURES if rows[measure[0]].notna().any()]
    told = [column for column in ("parent", "scheme") if column in rows and (rows[column] != "").any()]
    told += [column for column in SETTINGS if column in rows and len({*rows[column]} - {""}) > 1]
    with_preserved = "preserved" in rows
    columns = [{"title": "stage"}, *({"title": column.replace("_", " ")} for column in told)]
    columns += [{"title": title, "number": True} for _, title, _ in measured]
    columns += [{"title": "preserved"}] if with_preserved else []
    cells = []
    for row in rows.to_dict("records"):
        line = [{"text": palette.name(row["stage"])}, *({"text": palette.name(row[column])} for column in told)]
        line += [
            {"text": _from_raw(row) if column == "gzip_bytes" else _written(row[column], written), "kind": "number"}
            for column, _, written in measured
        ]
        cells.append(line + ([_preserved(row["preserved"])] if with_preserved else []))
    return {"columns": columns, "rows": cells}


def _written(number: float, written: Callable[[float], str]) -> str:
    return written(number) if pd.notna(number) else ""


def _from_raw(row: dict) -> str:
    """A row's size from raw to gzip: "528.1 → 434.9 (17.7 %)", what was saved; what is not known is left out."""
    raw, packed = row["tflite_bytes"], row["gzip_bytes"]
    share = f" ({100 * (1 - packed / raw):.1f} %)" if packed / raw > 0 else ""
    return " → ".join(_kilobytes(size) for size in (raw, packed) if pd.notna(size)) + share


def _preserved(value: str) -> dict:
    kept = palette.preserved(value)
    return {"text": ""} if kept is None else {"text": "yes"} if kept else {"text": "NO", "kind": "no"}


def picture(draw: Callable[[pd.DataFrame], Figure], rows: pd.DataFrame, alt: str, caption: str) -> dict | None:
    if not len(rows):
        return None
    figure, file = draw(rows), io.BytesIO()
    figure.savefig(file, format="png", metadata={"Software": None})
    width, height = (round(96 * inches) for inches in figure.get_size_inches())
    png = base64.b64encode(pictures.smaller(file.getvalue())).decode()
    return {"png": png, "alt": alt, "caption": caption, "width": width, "height": height}


def _tree_alt(results: pd.DataFrame) -> str:
    if not len(results):
        return ""
    said = []
    for row in palette.numbers(results, ["accuracy_int8", "gzip_bytes"]).to_dict("records"):
        lost = ", NOT preserved" if palette.preserved(row.get("preserved")) is False else ""
        scheme = f" ({row['scheme']})" if row.get("scheme") else ""
        accuracy = f" {100 * row['accuracy_int8']:.1f} % INT8," if pd.notna(row["accuracy_int8"]) else ""
        size = f" {row['gzip_bytes'] / 1000:.0f} kB gzip" if pd.notna(row["gzip_bytes"]) else ""
        said.append(f"{palette.name(row['stage'])}{scheme}{accuracy}{size}{lost}")
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
        page = _page(directory / f"{name}.html")
        if told.get(name, "ok") != "ok":
            page["failure"] = FAILED.sub("", told[name]) or "no reason given"
        pages.append(page)
    return pages


def _page(path: Path) -> dict:
    """What the head of a page tells of it."""
    if not path.is_file():
        return {"name": path.stem, "title": path.stem.replace("_", " ")}
    head = bs4.BeautifulSoup(path.read_text(encoding="utf-8").partition("</head>")[0], "html.parser")
    told = {tag["name"]: tag.get("content", "") for tag in head.find_all("meta", attrs={"name": True})}
    title = head.title.get_text(strip=True) if head.title else ""
    return {**told, "name": path.stem, "href": quote(path.name), "title": title or path.stem}


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
    others = sorted(path.name for path in directory.glob("*.csv") if path.name not in first)
    models = sorted(f"models/{path.name}" for path in (directory / "models").glob("*.tflite"))
    present = [name for name in [*first, *others, *models] if (directory / name).is_file()]
    sizes = {name: (directory / name).stat().st_size for name in present}
    return [{"name": name, "href": quote(name), "size": f"{sizes[name] / 1000:,.1f} kB"} for name in present]
