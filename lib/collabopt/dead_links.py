"""Links that lead nowhere, taken out of the pages of a report that is released without all of its files.

    python -m collabopt.dead_links reports/digits

A page links what is beside it when it is written. Figures' data and models are not committed with a report: run this
where only what will be committed is there.
"""

import argparse
from pathlib import Path
from urllib.parse import unquote, urlsplit

import bs4

from collabopt import store


def of(page: Path, body: bs4.BeautifulSoup) -> list[bs4.Tag]:
    """The links of a page to files that are not there."""
    links = [(link, urlsplit(link["href"])) for link in body.select("a[href]")]
    files = [(link, unquote(address.path)) for link, address in links if not address.scheme and address.path]
    return [link for link, file in files if not (page.parent / file).is_file()]


def remove(directory: Path) -> list[str]:
    """Make text of every dead link in the pages of a directory; returns their addresses."""
    found = []
    for page in sorted(directory.glob("*.html")):
        body = bs4.BeautifulSoup(page.read_text(encoding="utf-8"), "html.parser")
        dead = of(page, body)
        found += [f"{page.name}: {link['href']}" for link in dead]
        for link in dead:
            link.unwrap()
        if dead:
            store.write(page, str(body))
    return found


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(prog="collabopt.dead_links", description=__doc__.splitlines()[0])
    parser.add_argument("report", type=Path, nargs="+")
    for directory in parser.parse_args().report:
        for line in remove(directory):
            print(line)


if __name__ == "__main__":
    main()
