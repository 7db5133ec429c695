"""The table of notebooks and pages: one type that renders itself as HTML, as Markdown and as text.

`table.html.j2` draws it. On a page, `page.js` lets a reader sort and filter it.
"""

import dataclasses
import math

import pandas as pd

from collabopt.config.metrics import Metric
from collabopt.config.stages import STAGES, get_label
from collabopt.figures.style import get_colour, get_marker
from collabopt.report import html
from collabopt.storage.results import parse_preserved

MISSING = ""
"""The key of a cell without a value: it comes last in either direction."""

_LOWER_CASE = "gzip", "zstd"
"""Names that do not begin with a capital letter in a table head."""


@dataclasses.dataclass(frozen=True)
class Column:
    """The head of a column.

    Attributes:
        title: Title with the unit.
        is_number: Whether its cells are numbers.
        group: Heading above this and its neighbouring columns.
    """

    title: str
    is_number: bool = False
    group: str = ""

    @property
    def heading(self) -> str:
        """Group and title."""
        return f"{self.group}: {self.title}" if self.group else self.title


@dataclasses.dataclass(frozen=True)
class Cell:
    """A cell.

    Attributes:
        text: Text that is shown.
        key: Value to sort by; None if it is the text.
        href: File that the cell links to, relative to the page.
        about: Text for screen readers after `text`.
        kind: CSS class: "number", "missing", "no" (flagged in red), "wrap" (long text).
        mark: Colour and marker of a stage in figures.
    """

    text: str = ""
    key: object = None
    href: str = ""
    about: str = ""
    kind: str = ""
    mark: tuple[str, str] | None = None


@dataclasses.dataclass(frozen=True, repr=False)
class Table:
    """A table. A notebook shows it as HTML.

    Attributes:
        name: Its id on a page.
        caption: Caption.
        columns: The heads.
        rows: The cells. The first cell of a row is its header.
        note: Explanation of the figures.
        is_grouped: Whether neighbouring rows with the same header belong together.
    """

    name: str
    caption: str
    columns: list[Column]
    rows: list[list[Cell]]
    note: str = ""
    is_grouped: bool = False

    @property
    def groups(self) -> list[tuple[str, int]]:
        """The headings above the columns, each with the number of columns it spans; empty without groups."""
        spans: list[tuple[str, int]] = []
        for column in self.columns:
            if spans and column.group == spans[-1][0]:
                spans[-1] = (column.group, spans[-1][1] + 1)
            else:
                spans.append((column.group, 1))
        return spans if any(group for group, _ in spans) else []

    def drop_empty_columns(self) -> "Table":
        """Return the table without the columns that have no text in any row."""
        kept = [at for at in range(len(self.columns)) if any(row[at].text for row in self.rows)]
        rows = [[row[at] for at in kept] for row in self.rows]
        return dataclasses.replace(self, columns=[self.columns[at] for at in kept], rows=rows)

    def to_frame(self) -> pd.DataFrame:
        """Return the texts of the cells, with the headings as columns."""
        texts = [[cell.text for cell in row] for row in self.rows]
        return pd.DataFrame(texts, columns=[column.heading for column in self.columns])

    def to_markdown(self) -> str:
        """Return the table in Markdown, without caption and note. Flagged cells are bold."""
        lines = [[column.heading for column in self.columns]]
        lines.append(["---:" if column.is_number else "---" for column in self.columns])
        lines += [[f"**{cell.text}**" if "no" in cell.kind.split() else cell.text for cell in row] for row in self.rows]
        return "\n".join(f"| {' | '.join(text.replace('|', chr(92) + '|') for text in line)} |" for line in lines)

    def __repr__(self) -> str:
        """Return caption, cells and note as text."""
        cells = self.to_frame().to_string(index=False) if self.rows else ""
        return "\n".join(filter(None, (self.caption, cells, self.note)))

    def _repr_html_(self) -> str:
        return html.render("output.html.j2", table=self)


def make_metric_column(metric: Metric, group: str = "") -> Column:
    """Return the head of a metric's column, with its unit.

    Args:
        metric: The metric.
        group: Heading above the column.
    """
    return Column(_capitalize(metric.heading), True, _capitalize(group))


def make_number_cell(
    value: float | None, metric: Metric, missing: str | None = None, deviation: float | None = None
) -> Cell:
    """Return a number in the format of its metric.

    Args:
        value: Value in the unit of the metric's column; None or NaN if not available.
        metric: The metric.
        missing: Text for an unavailable value; None takes the metric's own.
        deviation: Standard deviation over seeds; None or NaN if there is one seed.
    """
    text = metric.format(value, missing)
    if value is None or not math.isfinite(value):
        return Cell(text, MISSING, kind="missing")
    spread = "" if deviation is None or math.isnan(deviation) else f" ± {metric.format(deviation)}"
    return Cell(text + spread, float(value), kind="number")


def make_text_cell(value: object, kind: str = "") -> Cell:
    """Return a value as text.

    Args:
        value: A value of a table; None and NaN become empty.
        kind: CSS class.
    """
    return Cell("" if pd.isna(value) else str(value), kind=kind)


def make_stage_cell(name: str, href: str = "", text: str = "") -> Cell:
    """Return a stage with its mark. Stages sort in the order of the tree.

    Args:
        name: Name of the stage.
        href: Page of the stage.
        text: Text; empty takes the stage's label.
    """
    order = [*STAGES, name].index(name)
    return Cell(text or get_label(name), order, href, mark=(get_colour(name), get_marker(name)))


def make_preserved_cell(value: object) -> Cell:
    """Return whether a stage kept its zeros and clusters: "yes", "NO" in red, or empty.

    Args:
        value: Value of the column `preserved`.
    """
    is_preserved = parse_preserved(value)
    return Cell() if is_preserved is None else Cell("yes") if is_preserved else Cell("NO", kind="no")


def make_file_cell(href: str, name: str) -> Cell:
    """Return a link to a `.tflite` file; empty without a file.

    Args:
        href: Path of the file; empty if there is none.
        name: Name of the stage or variant, for screen readers.
    """
    return Cell(".tflite", href=href, about=f" of {name}") if href else Cell()


def _capitalize(title: str) -> str:
    word, _, _ = title.partition(" ")
    is_capital = word not in _LOWER_CASE and not any(letter.isdigit() for letter in word)
    return title[:1].upper() + title[1:] if is_capital else title
