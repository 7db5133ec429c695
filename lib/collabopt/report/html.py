"""Pages from templates, and the PNG figures that they embed."""

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
import pandas as pd
from markupsafe import Markup
from matplotlib.figure import Figure
from PIL import Image
from pygments.formatters import HtmlFormatter

TEMPLATES = Path(__file__).parent / "templates"

UNSEEN = 8
"""Invisible difference of a colour, of 255 levels. A thousandth of the pixels may differ more."""

_LIGHT, _DARK = "default", "github-dark"


def render(template: str, **values: Any) -> str:
    """Render one of the package's templates. The page's policy allows its own script only, and fetches nothing.

    Args:
        template: File name of the template.
        **values: Its variables. Text is escaped unless it is `markupsafe.Markup`.
    """
    trusted = {"css": Markup(_read_css()), "script": Markup(_read_script())}
    digest = base64.b64encode(hashlib.sha256(_read_script().encode()).digest()).decode()
    return _make_environment().get_template(template).render(**values, **trusted, script_digest=digest)


def make_contents(headings: dict[str, str]) -> list[dict[str, Any]]:
    """Return the contents list of a page.

    Args:
        headings: Text of each heading of the second level, by its id.
    """
    return [{"level": 2, "id": name, "text": text} for name, text in headings.items()]


def make_links(home: Path | None, directory: Path) -> dict[str, str]:
    """Return the links at the top of a page: label by address.

    Args:
        home: The page of all reports; None if there is none.
        directory: Directory of the page.
    """
    return {} if home is None else {quote(Path(os.path.relpath(home, directory)).as_posix()): "All reports"}


def make_picture(
    draw: Callable[[pd.DataFrame], Figure], rows: pd.DataFrame, alt: str, caption: str, csv: str
) -> dict[str, Any] | None:
    """Draw a figure for the macro `figure` of `table.html.j2`.

    Args:
        draw: The function that draws it.
        rows: Its data.
        alt: Alternative text.
        caption: Caption.
        csv: The file with its data, relative to the page.

    Returns:
        The variables of the macro; None without rows.
    """
    if not len(rows):
        return None
    figure, file = draw(rows), io.BytesIO()
    figure.savefig(file, format="png", metadata={"Software": None})
    width, height = (round(96 * inches) for inches in figure.get_size_inches())
    png = base64.b64encode(shrink_png(file.getvalue())).decode()
    return {"png": png, "alt": alt, "caption": caption, "csv": csv, "width": width, "height": height}


def shrink_png(png: bytes) -> bytes:
    """Reduce a figure to 256 colours, a third of its bytes.

    Args:
        png: Content of a PNG file.

    Returns:
        The smaller file. A photograph, which has more colours, and a transparent picture are returned unchanged.
    """
    with Image.open(io.BytesIO(png)) as picture:
        dpi, before = picture.info.get("dpi"), picture.convert("RGB")
        if picture.convert("RGBA").getextrema()[3][0] < 255:  # transparency would be lost
            return png
    after = before.quantize(256, method=Image.Quantize.MEDIANCUT, dither=Image.Dither.NONE, kmeans=1)
    differences = np.abs(np.asarray(after.convert("RGB"), np.int16) - np.asarray(before, np.int16)).max(axis=-1)
    if np.percentile(differences, 99.9) > UNSEEN:
        return png
    file = io.BytesIO()
    after.save(file, "PNG", optimize=True, **({"dpi": dpi} if dpi else {}))
    return min(png, file.getvalue(), key=len)


@functools.cache
def _make_environment() -> jinja2.Environment:
    loader = jinja2.FileSystemLoader(TEMPLATES)
    return jinja2.Environment(loader=loader, autoescape=True, trim_blocks=True, undefined=jinja2.ChainableUndefined)


@functools.cache
def _read_script() -> str:
    return (TEMPLATES / "page.js").read_text(encoding="utf-8")


@functools.cache
def _read_css() -> str:
    css = (TEMPLATES / "page.css").read_text(encoding="utf-8")
    dark = f"@media screen and (prefers-color-scheme: dark) {{\n{_list_code_rules(_DARK)}\n}}"
    return f"{css}{_list_code_rules(_LIGHT)}\n{dark}"


def _list_code_rules(style: str) -> str:
    """The colours of highlighted code, without the background that Pygments paints under it."""
    rules = HtmlFormatter(style=style).get_style_defs(".highlight").splitlines()
    plain = ".highlight [class] { color: inherit; background: none; font: inherit; border: none }"
    kept = [re.sub(r"background-color: [^;}]*;?", "", rule) for rule in rules if rule.startswith(".highlight .")]
    return "\n".join([plain, *kept])
