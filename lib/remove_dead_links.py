"""Links that lead nowhere, taken out of the pages of a report that is released without all of its files.

    .venv/bin/python lib/remove_dead_links.py reports/digits

A page links what is beside it when it is written. Figures' data and models are not committed with a report: run this
where only what will be committed is there.
"""

import argparse
import itertools
from pathlib import Path
from urllib.parse import unquote, urlsplit

import bs4

from collabopt.storage import atomic


def targets(body: bs4.BeautifulSoup) -> dict[str, list[bs4.Tag]]:
    """The files that a page leads to, as paths from where it is, each with its links."""
    found: dict[str, list[bs4.Tag]] = {}
    for link in body.select("a[href]"):
        address = urlsplit(link["href"])
        if not address.scheme and address.path:
            found.setdefault(unquote(address.path), []).append(link)
    return found


def remove(directory: Path) -> list[str]:
    """Make text of every dead link in the pages of a directory; returns them as "page.html: missing file"."""
    said = []
    for page in sorted(directory.glob("*.html")):
        body = bs4.BeautifulSoup(page.read_text(encoding="utf-8"), "html.parser")
        dead = {file: links for file, links in targets(body).items() if not (directory / file).is_file()}
        for link in itertools.chain(*dead.values()):
            link.unwrap()
        if dead:
            atomic.write(page, str(body))
        said += [f"{page.name}: {file}" for file in dead]
    return said


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("report", type=Path, nargs="+")
    for directory in parser.parse_args().report:
        for line in remove(directory):
            print(line)


if __name__ == "__main__":
    main()
