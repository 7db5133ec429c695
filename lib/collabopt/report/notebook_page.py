"""A self-contained page from an executed notebook.

A page fetches nothing: figures are data URIs, and everything that an output would load is removed.
"""

import base64
import copy
import io
import itertools
import re
import textwrap
from pathlib import Path

import bs4
import jinja2
import nbformat
from nbconvert.exporters.html import HTMLExporter
from nbconvert.filters import strip_ansi
from PIL import Image

from collabopt.figures.style import number_ids
from collabopt.report import html, provenance
from collabopt.storage import atomic

FIGURE_DATA = re.compile(r"""\bcsv\s*=\s*run\.figures\s*/\s*["']([\w.-]+\.csv)["']""")
"""How a cell names the file of the report's `figures/` with the data of its figure."""

_HEADINGS = re.compile("^h[1-6]$")
_DROPPED = {"remove-cell", "papermill-error-cell-tag"}
"""Tags of cells that are left out. The second is papermill's banner, for which the page has a better one."""

_SHOWN = ["text/html", "image/png", "image/svg+xml", "image/jpeg", "text/markdown", "text/latex", "text/plain"]
"""The forms of an output that a page shows, the best first. Widgets and scripts fall back to these."""

_LOADING = ["script", "iframe", "object", "embed", "link", "meta", "base", "form", "audio", "video", "source"]
_LOADING += ["template"]


def write_page(notebook: Path, page: Path, links: dict[str, str], download: str = "") -> None:
    """Write an executed notebook as one HTML file. The page of a failed notebook names the cell that failed.

    Args:
        notebook: The notebook. The same notebook gives the same bytes.
        page: Path of the page.
        links: Links at the top of the page: label by relative address.
        download: Address of the executed notebook; empty leaves the link out.
    """
    cells = nbformat.read(notebook, as_version=4)
    cells.cells = [cell for cell in cells.cells if not _DROPPED & set(cell.metadata.get("tags", []))]
    failure = _find_failure(cells)
    for number, cell in enumerate(cells.cells):
        if "outputs" in cell:  # live progress leaves an empty text
            cell.outputs = [output for output in cell.outputs if output.get("data") != {"text/plain": ""}]
        _name_figure_data(cell, page.parent)
        for place, output in enumerate(cell.get("outputs", [])):
            if "inline_svg" in output.get("metadata", {}):
                output.metadata.inline_svg = number_ids(output.metadata.inline_svg, f"figure-{number}-{place}")
    exported, _ = _make_exporter().from_notebook_node(cells, {"metadata": {"path": str(notebook.parent.resolve())}})
    body = bs4.BeautifulSoup(exported, "html.parser")
    _remove_loading(body)
    contents = _make_outline(body, notebook.stem.replace("_", " "))
    _describe_media(body)
    title, setting = body.h1.get_text(" ", strip=True), provenance.describe_setting(page.parent)
    _insert_head(body, page.parent, setting, cells.metadata.get("papermill", {}).get("duration"))
    first = body.select_one(".answer") or body.select_one(".prose p")
    html.write_page(
        page,
        str(body),
        contents,
        title=f"{title} ({setting})" if setting else title,
        description=textwrap.shorten(first.get_text(), 400, placeholder=" …") if first else "",
        links=links,
        foldable=body.select_one("details.code") is not None,
        failure=failure,
        download=download,
        pages=(),
    )


def _insert_head(body: bs4.BeautifulSoup, directory: Path, setting: str, seconds: float | None) -> None:
    """Put below the title what differs from the experiment, the notebook's answer, and where the page comes from."""
    answers = body.select(".answer")
    origin = html.render("head.html.j2", setting=setting, provenance=provenance.describe(directory, seconds))
    parts = list(bs4.BeautifulSoup(origin, "html.parser").children)
    if answers:
        parts.insert(1 if setting else 0, copy.copy(answers[-1]))
    for part in reversed(parts):
        body.h1.insert_after(part)


def copy_notebook(notebook: Path, page: Path) -> str:
    """Put an executed `notebook` beside its `page`, without paths of this machine, and return its name."""
    copied, cells = page.with_suffix(".ipynb"), nbformat.read(notebook, as_version=4)
    for name in ("input_path", "output_path"):
        if name in cells.metadata.get("papermill", {}):
            cells.metadata.papermill[name] = Path(cells.metadata.papermill[name]).name
    atomic.write(copied, nbformat.writes(cells))
    return copied.name


def _name_figure_data(cell: nbformat.NotebookNode, directory: Path) -> None:
    """Note the data of every figure of a cell, if the cell names as many files as it shows figures.

    The template makes a label of `about`, and a link of `csv`, which is beside the page.
    """
    figures = [output for output in cell.get("outputs", []) if "image/png" in output.get("data", {})]
    names = FIGURE_DATA.findall(cell.source)
    if len(names) == len(figures):
        for output, name in zip(figures, names, strict=True):
            output.metadata["about"] = re.sub("[-_]", " ", name.removesuffix(".csv"))
            output.metadata["csv"] = f"figures/{name}" if (directory / "figures" / name).is_file() else ""


def _make_exporter() -> HTMLExporter:
    exporter = HTMLExporter(
        template_name="base",
        template_file="notebook.html.j2",
        extra_loaders=[jinja2.FileSystemLoader(html.TEMPLATES)],
        embed_images=True,
        exclude_anchor_links=True,
    )
    exporter.config.NbConvertBase.display_data_priority = _SHOWN
    exporter.register_preprocessor("nbconvert.preprocessors.CoalesceStreamsPreprocessor", enabled=True)
    return exporter


def _find_failure(notebook: nbformat.NotebookNode) -> dict[str, str]:
    """Id and name of the cell that failed, which is marked, and its error; empty if none failed."""
    dead = _find_dead_cell(notebook)
    for position, cell in enumerate(notebook.cells, 1):
        if cell.cell_type != "code" or "raises-exception" in cell.metadata.get("tags", []):
            continue
        errors = [f"{out.ename}: {strip_ansi(out.evalue)}" for out in cell.outputs if out.output_type == "error"]
        if errors or cell is dead:
            cell.metadata.failed = True
            name = f"cell [{cell.execution_count}]" if cell.execution_count else f"cell {position} from the top"
            error = errors[0] if errors else "the kernel died before it finished"
            return {"id": f"cell-{position}", "cell": name, "error": textwrap.shorten(error, 400, placeholder=" …")}
    return {}


def _find_dead_cell(notebook: nbformat.NotebookNode) -> nbformat.NotebookNode | None:
    """The code cell in which the kernel died. It has no traceback, and papermill calls even later cells completed, but
    these have no start time. A kernel that died in the last cell leaves no trace."""
    starts = [cell.metadata.get("papermill", {}).get("start_time", "unknown") for cell in notebook.cells]
    started = notebook.cells[: starts.index(None)] if None in starts else []
    return next((cell for cell in reversed(started) if cell.cell_type == "code"), None)


def _remove_loading(body: bs4.BeautifulSoup) -> None:
    """Remove everything that would fetch or run something. A remote image leaves its description."""
    for tag in body.find_all([*_LOADING, "style"]):
        if tag.name != "style" or re.search(r"(?i)@import|url\(", str(tag.string)):
            tag.decompose()
    for tag in body.find_all(True):
        for name, value in list(tag.attrs.items()):
            value = " ".join(value) if isinstance(value, list) else str(value)
            if _is_loading(tag.name, name.lower(), value.strip().lower()):
                del tag[name]
    for image in body.find_all("img", src=False):
        image.replace_with("[image not included]" if _has_no_alt(image) else f"[image: {image['alt']}]")


def _is_loading(tag: str, attribute: str, value: str) -> bool:
    if attribute in ("href", "xlink:href"):
        return value.startswith("javascript:") if tag == "a" else not value.startswith(("#", "data:"))
    if attribute in ("src", "srcset", "background", "poster", "data"):
        return not value.startswith("data:")
    return attribute.startswith("on") or (attribute == "style" and "url(" in value)


def _make_outline(body: bs4.BeautifulSoup, name: str) -> list[tuple[int, str, str]]:
    """Order the headings, one `h1` first and no level skipped, with unique ids, and return the contents list."""
    first = body.find(_HEADINGS)
    if first is None or first.name != "h1":
        body.insert(0, body.new_tag("h1", string=name))
    taken = {"main", "menu", "provenance", "show-code", *(tag["id"] for tag in body.find_all(id=True))}
    entries, level = [], 0
    for heading in body.find_all(_HEADINGS):
        level = min(max(int(heading.name[1]), 2), level + 1)
        text = heading.get_text(" ", strip=True)
        heading.name, heading["id"] = f"h{level}", _make_id(text, taken)
        if level > 1:
            entries.append((level, heading["id"], text))
    return entries


def _make_id(text: str, taken: set[str]) -> str:
    slug = re.sub(r"\W+", "-", text.lower()).strip("-") or "section"
    addresses = itertools.chain([slug], (f"{slug}-{number}" for number in itertools.count(2)))
    address = next(address for address in addresses if address not in taken)
    taken.add(address)
    return address


def _describe_media(body: bs4.BeautifulSoup) -> None:
    """Describe figures and tables for screen readers, and let wide ones scroll in themselves."""
    for number, image in enumerate(body.select("img:not(.example), figure > svg"), 1):
        figure = image.find_parent("figure") or image
        about = figure.attrs.pop("data-about", "")
        label = f"Figure {number}{about and f', {about}'}: {_find_section(image)}"
        if image.name == "img":
            image["alt"] = label if _has_no_alt(image) else image["alt"]
            _fit_image(image)
        if figure is not image:
            image.wrap(_make_scroll_box(body, "scroll", "group", label))
    for number, table in enumerate(body.find_all("table"), 1):
        del table["border"]
        _add_scopes(table)
        if table.caption is None:
            table.insert(0, body.new_tag("caption", attrs={"class": "unseen"}, string=_find_section(table)))
        label = f"Table {number}: {table.caption.get_text(' ', strip=True)}"
        table.wrap(_make_scroll_box(body, "table", "region", label))
    for code in body.select(".highlight pre"):
        code["tabindex"] = "0"


def _make_scroll_box(body: bs4.BeautifulSoup, kind: str, role: str, label: str) -> bs4.Tag:
    """A box in which wide content scrolls, by keyboard too."""
    return body.new_tag("div", attrs={"class": kind, "tabindex": "0", "role": role, "aria-label": label})


def _add_scopes(table: bs4.Tag) -> None:
    """Give each header its scope. A header without text becomes a cell."""
    for scope, span, cells in (("col", "colspan", "thead th"), ("row", "rowspan", "tbody th")):
        for cell in table.select(cells):
            if cell.get_text(strip=True):
                cell["scope"] = f"{scope}group" if int(cell.get(span, 1)) > 1 else scope
            else:
                cell.name = "td"


def _has_no_alt(image: bs4.Tag) -> bool:
    """Whether an image has no alternative text. nbconvert puts the phrase in its place."""
    return not image.get("alt") or image["alt"].startswith("No description has been provided")


def _fit_image(image: bs4.Tag) -> None:
    """Embed a PNG in fewer bytes, and show one of more than 96 dots per inch at its size in inches."""
    encoded = image["src"].removeprefix("data:image/png;base64,")
    if encoded == image["src"] or image.get("width"):
        return
    png = html.shrink_png(base64.b64decode(encoded))
    image["src"] = f"data:image/png;base64,{base64.b64encode(png).decode()}"
    with Image.open(io.BytesIO(png)) as picture:
        scale = min(1, 96 / picture.info.get("dpi", (96, 96))[0])
        image["width"], image["height"] = (str(round(scale * dots)) for dots in picture.size)


def _find_section(element: bs4.Tag) -> str:
    return element.find_previous(_HEADINGS).get_text(" ", strip=True)
