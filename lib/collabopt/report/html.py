"""PNG pictures as pages embed them."""

import base64
import functools
import hashlib
import io
import re
from pathlib import Path
from typing import Any

import jinja2
import numpy as np
from markupsafe import Markup
from PIL import Image
from pygments.formatters import HtmlFormatter

UNSEEN = 8
"""Levels of 255 by which a colour may differ unseen; a thousandth of the dots, on the rims of type, may differ more."""


def shrink_png(png: bytes) -> bytes:
    """The picture with 256 colours of its own choice, a third of the bytes of a figure; a photograph, which has more
    colours than that, stays as it is."""
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


HERE = Path(__file__).parent / "templates"


LIGHT, DARK = "default", "github-dark"


def render(template: str, **values: Any) -> str:
    """A whole page from one of the package's templates; text is escaped unless it is `markupsafe.Markup`.

    The page's policy lets a browser run only the script with this digest and fetch nothing at all.
    """
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(HERE), autoescape=True, trim_blocks=True, undefined=jinja2.ChainableUndefined
    )
    script = (HERE / "page.js").read_text(encoding="utf-8")
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    trusted = {"css": Markup(_css()), "script": Markup(script)}
    return environment.get_template(template).render(**values, **trusted, script_digest=digest)


def make_contents(headings: dict[str, str]) -> list[dict[str, Any]]:
    """The contents list of a page whose headings of the second level have these ids and words."""
    return [{"level": 2, "id": name, "text": text} for name, text in headings.items()]


@functools.cache
def _css() -> str:
    css = (HERE / "page.css").read_text(encoding="utf-8")
    return f"{css}{_tokens(LIGHT)}\n@media screen and (prefers-color-scheme: dark) {{\n{_tokens(DARK)}\n}}"


def _tokens(style: str) -> str:
    """The colours of highlighted code, without the ground that Pygments paints under it."""
    rules = HtmlFormatter(style=style).get_style_defs(".highlight").splitlines()
    plain = ".highlight [class] { color: inherit; background: none; font: inherit; border: none }"
    kept = [re.sub(r"background-color: [^;}]*;?", "", rule) for rule in rules if rule.startswith(".highlight .")]
    return "\n".join([plain, *kept])
