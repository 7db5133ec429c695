"""The pages of a report as readers go through them: the list beside every page, and the previous and the next page."""

import re
from pathlib import Path
from typing import Any

from collabopt.config.stages import sort_notebooks
from collabopt.report import html
from collabopt.report.directory import read_head
from collabopt.storage import atomic

_BLOCK = re.compile(r"<!-- (pages|steps) -->.*?<!-- /\1 -->", re.DOTALL)


def list_pages(directory: Path) -> list[dict[str, str]]:
    """Return `read_head` of the notebooks' pages in `directory` in the order of reading, without the index."""
    names = {path.stem for path in directory.glob("*.html")} - {"index"}
    return [read_head(directory / f"{name}.html") for name in sort_notebooks(names)]


def describe(page: Path) -> dict[str, Any]:
    """Return the place of a `page`: `pages` (label, address, whether it is this), `previous` and `next`."""
    entries = [("Verdict and results", "index.html")]
    entries += [(entry["title"].partition(":")[0], entry["href"]) for entry in list_pages(page.parent)]
    at = [href for _, href in entries].index(page.name)
    return {
        "pages": [(label, href, href == page.name) for label, href in entries],
        "previous": entries[at - 1] if at else None,
        "next": entries[at + 1] if at + 1 < len(entries) else None,
    }


def refresh(directory: Path) -> None:
    """Let the notebooks' pages of a report `directory` list all pages that there are now."""
    for entry in list_pages(directory):
        page = directory / entry["href"]
        before, place = page.read_text(encoding="utf-8"), describe(page)
        after = _BLOCK.sub(lambda found, place=place: html.render(f"{found[1]}.html.j2", **place), before)
        if after != before:
            atomic.write(page, after)
