"""What every page of a report shares: head, style, links, contents, and the one script that opens all code."""

import base64
import functools
import hashlib
import re
from pathlib import Path
from typing import Any

import jinja2
from markupsafe import Markup
from pygments.formatters import HtmlFormatter

HERE = Path(__file__).parent
LIGHT, DARK = "default", "github-dark"
SCRIPT = """
const button = document.getElementById("show-code");
if (button) {
  button.hidden = false;
  button.addEventListener("click", () => {
    const open = button.getAttribute("aria-pressed") !== "true";
    document.querySelectorAll("details.code").forEach((cell) => { cell.open = open; });
    button.setAttribute("aria-pressed", open);
    button.textContent = open ? "Hide all code" : "Show all code";
  });
}
"""


def render(template: str, **values: Any) -> str:
    """A whole page from one of the package's templates; text is escaped unless it is `markupsafe.Markup`.

    The page's policy lets a browser run only the script with this digest and fetch nothing at all.
    """
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(HERE), autoescape=True, trim_blocks=True, undefined=jinja2.ChainableUndefined
    )
    digest = base64.b64encode(hashlib.sha256(SCRIPT.encode()).digest()).decode()
    trusted = {"css": Markup(_css()), "script": Markup(SCRIPT)}
    return environment.get_template(template).render(**values, **trusted, script_digest=digest)


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
