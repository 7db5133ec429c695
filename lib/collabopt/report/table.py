"""Tables of pages: what a cell says, what it sorts by, and where it leads.

`table.html.j2` draws them, `page.js` lets a reader sort and filter them; without a script they are whole.
"""

import dataclasses
from collections.abc import Callable

import pandas as pd

from collabopt.config.stages import STAGES, get_label
from collabopt.figures import style
from collabopt.figures.style import get_colour

MISSING = ""
"""The key of a cell that has no value: it comes last whichever way a column is sorted."""


@dataclasses.dataclass(frozen=True)
class Column:
    """group: what stands above it and its neighbours of the same group."""

    title: str
    number_cell: bool = False
    group: str = ""


@dataclasses.dataclass(frozen=True)
class Cell:
    """key: what it sorts by, where that is not its text. href: the file it leads to, from the page. about: what those
    hear after the text who do not see the row. kind: its CSS class. mark: a stage's colour and shape in figures."""

    text: str = ""
    key: object = None
    href: str = ""
    about: str = ""
    kind: str = ""
    mark: tuple[str, str] | None = None


@dataclasses.dataclass(frozen=True)
class Table:
    """name: its id in the page. The first cell of a row is its header; rows of the same header belong together in a
    `grouped` table, as long as it is not sorted otherwise. note: what a reader must know of the figures."""

    name: str
    caption: str
    columns: list[Column]
    rows: list[list[Cell]]
    note: str = ""
    grouped: bool = False

    @property
    def groups(self) -> list[tuple[str, int]]:
        """What stands above the columns, each with the number of columns it spans; nothing where no column has it."""
        spans: list[tuple[str, int]] = []
        for column in self.columns:
            if spans and column.group == spans[-1][0]:
                spans[-1] = (column.group, spans[-1][1] + 1)
            else:
                spans.append((column.group, 1))
        return spans if any(group for group, _ in spans) else []


def number_cell(value: float, written: Callable[[float], str], missing: str = "") -> Cell:
    """A number as text that sorts as a number; `missing` stands in its place where it is NaN."""
    if pd.isna(value):
        return Cell(missing, MISSING, kind="missing" if missing else "number")
    return Cell(written(value), float(value), kind="number")


def stage_cell(name: str, href: str = "") -> Cell:
    """A stage by its name, with its mark; stages sort in the order of the tree."""
    order = [*STAGES, name].index(name)
    return Cell(get_label(name), order, href, mark=(get_colour(name), style.get_marker(name)))


def preserved_cell(value: object) -> Cell:
    """What a `preserved` cell of a CSV file says."""
    kept = style.parse_preserved(value)
    return Cell() if kept is None else Cell("yes") if kept else Cell("NO", kind="no")


def file_cell(href: str, of: str) -> Cell:
    """A link to a `.tflite` file; empty where there is none."""
    return Cell(".tflite", href=href, about=f" of {of}") if href else Cell()


def format_percent(fraction: float, digits: int = 2) -> str:
    return f"{100 * fraction:.{digits}f}".replace("-", "−")


def format_kilobytes(number_of_bytes: float) -> str:
    return f"{number_of_bytes / 1000:,.1f}"


def format_count(value: float) -> str:
    return f"{value:,.0f}"
