"""Pages from templates, and the figures that they embed: PNG files, or SVG where a figure has texts to hover over."""

import base64
import functools
import hashlib
import io
import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import quote

import jinja2
import numpy as np
from markupsafe import Markup
from matplotlib.figure import Figure
from PIL import Image
from pygments.formatters import HtmlFormatter

from collabopt.figures.style import number_ids
from collabopt.storage import atomic

TEMPLATES = Path(__file__).parent / "templates"
_ENVIRONMENT = jinja2.Environment(
    loader=jinja2.FileSystemLoader(TEMPLATES), autoescape=True, trim_blocks=True, undefined=jinja2.ChainableUndefined
)

UNSEEN = 8
"""Invisible difference of a colour, of 255 levels. A thousandth of the pixels may differ more."""


def render(template: str, **values: Any) -> str:
    """Return the HTML of one of the package's templates, `template`, with variables `values`, which are escaped."""
    return _ENVIRONMENT.get_template(template).render(**values)


def write_page(path: Path, body: str, contents: list[tuple[int, str, str]], **values: Any) -> Path:
    """Write a page. Its policy allows its own script only, and fetches nothing.

    Args:
        path: Path of the page.
        body: HTML of its content.
        contents: Level, id and text of each heading that the contents list shows.
        **values: The other variables of `page.html.j2`.

    Returns:
        The path.
    """
    script = (TEMPLATES / "page.js").read_text(encoding="utf-8")
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    trusted = {"css": Markup(_read_css()), "script": Markup(script), "body": Markup(body)}
    atomic.write(path, render("page.html.j2", contents=contents, script_digest=digest, **trusted, **values))
    return path


def write_index(
    directory: Path, template: str, title: str, description: str, home: Path | None = None, **values: Any
) -> Path:
    """Write `index.html` of a directory. The headings of the second level are its contents list.

    Args:
        directory: The directory.
        template: Template of the content.
        title: Title of the page.
        description: Sentence about the page.
        home: The page of all reports, to which the page links.
        **values: The other variables of the template.

    Returns:
        Path of the page.
    """
    body = render(template, title=title, description=description, **values)
    contents = [(2, *heading) for heading in re.findall(r'<h2 id="(.+?)">(.+?)</h2>', body)]
    links = list_links(directory, home) if home else {}
    about = {"title": title, "description": description, "links": links, "wide": True} | values.get("place", {})
    return write_page(directory / "index.html", body, contents, **about)


def list_links(directory: Path, home: Path) -> dict[str, str]:
    """Return the links at the top of a page in `directory`: label by relative address.

    They lead from the page of all reports, `home`, down to the report of the experiment whose parameters it overrides.
    """
    above = [place for place in reversed(directory.parents) if home.parent in place.parents]
    pages = {home: "All reports"} | {place / "index.html": place.name for place in above}
    return {
        quote(Path(os.path.relpath(page, directory)).as_posix()): label
        for page, label in pages.items()
        if page == home or page.is_file()
    }


def make_picture(draw: Callable[[Any], Figure | None], rows: Any, caption: str, csv: str) -> dict[str, Any] | None:
    """Draw a figure for the macro `figure` of `table.html.j2`.

    Args:
        draw: The function of `figures` that draws it.
        rows: Its data, a table or several by name.
        caption: Caption.
        csv: The file with its data, relative to the page.

    Returns:
        The variables of the macro; None without rows or without a figure.
    """
    figure = draw(rows) if len(rows) else None
    if figure is None:
        return None
    about = {"alt": figure.alt, "caption": caption, "csv": csv}
    if figure.hovers:
        return about | {"svg": Markup(number_ids(figure.svg(), re.sub(r"\W+", "-", caption.lower())))}
    width, height = (round(96 * inches) for inches in figure.get_size_inches())
    png = base64.b64encode(shrink_png(figure.png())).decode()
    return about | {"png": png, "width": width, "height": height}


def shrink_png(png: bytes) -> bytes:
    """Return a `png` in 256 colours, a third of its bytes; a photograph or transparent picture stays as it is."""
    with Image.open(io.BytesIO(png)) as picture:
        dpi, before = picture.info.get("dpi"), picture.convert("RGB")
        if picture.convert("RGBA").getextrema()[3][0] < 255:  # transparency would be lost
            return png
    after = before.quantize(256, method=Image.Quantize.MAXCOVERAGE, dither=Image.Dither.NONE)
    differences = np.abs(np.asarray(after.convert("RGB"), np.int16) - np.asarray(before, np.int16)).max(axis=-1)
    if np.percentile(differences, 99.9) > UNSEEN:
        return png
    file = io.BytesIO()
    after.save(file, "PNG", optimize=True, **({"dpi": dpi} if dpi else {}))
    return min(png, file.getvalue(), key=len)


@functools.cache
def _read_css() -> str:
    css = (TEMPLATES / "page.css").read_text(encoding="utf-8")
    dark = f"@media screen and (prefers-color-scheme: dark) {{\n{_list_code_rules('github-dark')}\n}}"
    return f"{css}{_list_code_rules('default')}\n{dark}"


def _list_code_rules(style: str) -> str:
    """The colours of highlighted code, without the background that Pygments paints under it."""
    rules = HtmlFormatter(style=style).get_style_defs(".highlight").splitlines()
    plain = ".highlight [class] { color: inherit; background: none; font: inherit; border: none }"
    kept = [re.sub(r"background-color: [^;}]*;?", "", rule) for rule in rules if rule.startswith(".highlight .")]
    return "\n".join([plain, *kept])
