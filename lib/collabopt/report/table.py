"""The table of notebooks and pages: one type that renders itself as HTML, as Markdown and as text.

`table.html.j2` draws it. On a page, `page.js` lets a reader sort and filter it.
"""

import dataclasses
import itertools
import math
from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd

from collabopt.config.metrics import METRICS, Metric
from collabopt.config.stages import get_label, list_stages
from collabopt.figures.style import get_colour, get_marker
from collabopt.report import glossary, html
from collabopt.storage.results import ONE_CLASS, is_constant, parse_preserved

MISSING = ""
"""The key of a cell without a value: it comes last in either direction."""


@dataclasses.dataclass(frozen=True)
class Cell:
    """A cell.

    Attributes:
        text: Text that is shown.
        key: Value to sort by; None if it is the text.
        href: File that the cell links to, relative to the page.
        about: Text for screen readers after `text`.
        title: Tooltip.
        kind: CSS class: "number", "missing", "no" (flagged in red), "wrap" (long text).
        mark: Colour and marker of a stage in figures.
        picture: PNG in base64, shown instead of `text`, which describes it.
    """

    text: str = ""
    key: object = None
    href: str = ""
    about: str = ""
    title: str = ""
    kind: str = ""
    mark: tuple[str, str] | None = None
    picture: str = ""

    @classmethod
    def from_number(
        cls, value: float | None, metric: Metric, missing: str | None = None, deviation: float | None = None
    ) -> "Cell":
        """Return a number in the format of its metric.

        Args:
            value: Value in the unit of the metric's column; None or NaN if not available.
            metric: The metric.
            missing: Text for an unavailable value; None takes the metric's own.
            deviation: Standard deviation over seeds; None or NaN if there is one seed.
        """
        text = metric.format(value, missing)
        if value is None or not math.isfinite(value):
            return cls(text, MISSING, kind="missing")
        rounded = dataclasses.replace(metric, digits=metric.count_decimals(value), significant=0)
        spread = "" if deviation is None or math.isnan(deviation) else f" ± {rounded.format(deviation)}"
        return cls(text + spread, float(value), kind="number")

    @classmethod
    def from_stage(cls, name: str, href: str = "", text: str = "") -> "Cell":
        """Return the stage `name` with its mark, `text` or label, and a link to `href`. Stages sort as in the tree."""
        order = [*list_stages(), name].index(name)
        return cls(text or get_label(name), order, href, mark=(get_colour(name), get_marker(name)))

    @classmethod
    def from_preserved(cls, value: object) -> "Cell":
        """Return whether a stage kept zeros and clusters, a `value` of `preserved`: "yes", "NO" in red, or empty."""
        return {True: cls("yes"), False: cls("NO", kind="no"), None: cls()}[parse_preserved(value)]

    @classmethod
    def from_warnings(cls, row: Mapping[str, Any]) -> "Cell":
        """Return in red what is wrong with the int8 file of a `row`; empty if nothing is."""
        faults = row.get("int8_faults")
        found = [faults] if isinstance(faults, str) and faults else []
        found += [f"predicts {ONE_CLASS}"] if is_constant(row) else []
        return cls("; ".join(found), kind="no wrap") if found else cls()

    @classmethod
    def from_reason(cls, value: object) -> "Cell":
        """Return why a stage or variant is not available, the `value` of `unavailable`; empty if it is."""
        return cls() if pd.isna(value) or not value else cls(f"not available: {value}", kind="wrap")

    @classmethod
    def from_file(cls, href: str, name: str) -> "Cell":
        """Return a link to a `.tflite` file `href` of the stage or variant `name`; empty without a file."""
        return cls(".tflite", href=href, about=f" of {name}") if href else cls()


@dataclasses.dataclass(repr=False)
class Table:
    """A table. A notebook shows it as HTML.

    Attributes:
        caption: Caption. It is all that is shown of a table without rows.
        rows: Per row, cell by column. The first cell is the row's header. A value that is no `Cell` becomes text; None
            and NaN become empty. Neighbouring columns "group: title" have a common heading above them.
        note: Explanation of the figures.
        presets: Selections of columns that a reader of a page can choose instead of all, by name.
        footnotes: What marks such as "[1]" in cells stand for.
        is_grouped: Whether neighbouring rows with the same header belong together.
    """

    caption: str
    rows: list[dict[str, Cell]]
    note: str = ""
    is_grouped: bool = False
    footnotes: Sequence[str] = ()
    presets: Mapping[str, Sequence[str]] = dataclasses.field(default_factory=dict)

    def __post_init__(self) -> None:
        """Make cells of the other values. Without rows there is nothing to note."""
        self.note = self.note if self.rows else ""
        self.rows = [{name: _make_cell(value) for name, value in row.items()} for row in self.rows]

    @property
    def columns(self) -> list[str]:
        """The columns, with their groups."""
        return list(self.rows[0]) if self.rows else []

    @property
    def groups(self) -> list[tuple[str, int]]:
        """The headings above the columns, each with the number of columns it spans; empty without groups."""
        names = itertools.groupby(name.rpartition(": ")[0] for name in self.columns)
        spans = [(name, len([*columns])) for name, columns in names]
        return spans if any(name for name, _ in spans) else []

    def explain(self, column: str) -> str:
        """Return the definition of the head of a `column`; empty if there is none."""
        return glossary.explain(column)

    def list_presets(self, column: str) -> list[str]:
        """Return the presets that show a `column`."""
        return [name for name, columns in self.presets.items() if column in columns]

    def is_number(self, column: str) -> bool:
        """Return whether a `column` holds numbers."""
        return any({"number", "missing"} & set(row[column].kind.split()) for row in self.rows)

    def drop_empty_columns(self) -> "Table":
        """Return the table without the columns that have no text in any row."""
        kept = [name for name in self.columns if any(row[name].text for row in self.rows)]
        return dataclasses.replace(self, rows=[{name: row[name] for name in kept} for row in self.rows])

    def to_frame(self) -> pd.DataFrame:
        """Return the texts of the cells."""
        return pd.DataFrame([{name: cell.text for name, cell in row.items()} for row in self.rows])

    def __repr__(self) -> str:
        """Return caption, cells and note as text."""
        cells = self.to_frame().to_string(index=False) if self.rows else ""
        return "\n".join(filter(None, (self.caption, cells, *self.footnotes, self.note)))

    def _repr_html_(self) -> str:
        return html.render("output.html.j2", table=self)


def format_head(metric: Metric, group: str = "") -> str:
    """Return the column of a `metric` below a heading `group`: "Accuracy (%)", or "File: ZIP (kB)"."""
    return ": ".join(map(_capitalize, filter(None, (group, metric.heading))))


def make_metric_cells(values: dict[str, float | None], group: str = "") -> dict[str, Cell]:
    """Return the cell of each metric in `values` by its column, below a heading `group`, as a part of a row."""
    return {format_head(METRICS[name], group): Cell.from_number(values[name], METRICS[name]) for name in values}


def _make_cell(value: object) -> Cell:
    return value if isinstance(value, Cell) else Cell("" if pd.isna(value) else str(value))


def _capitalize(title: str) -> str:
    word, _, _ = title.partition(" ")
    is_capital = word not in ("gzip", "zstd") and not any(letter.isdigit() for letter in word)
    return title[:1].upper() + title[1:] if is_capital else title
