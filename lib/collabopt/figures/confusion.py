"""What is taken for what: the confusion matrices of two files, or the pairs that are confused most."""

from pathlib import Path

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.colors import Normalize
from matplotlib.figure import Figure

from collabopt.figures import style
from collabopt.figures.style import FAINT, INK, MUTED, use_style
from collabopt.storage.results import to_numbers

_MATRIX = 12
"""Classes. With more, the numbers of a matrix could not be read."""
_PAIRS = 15
_LONGEST = 22  # characters of a name


@use_style()
def draw_confusion(rows: pd.DataFrame, csv: Path | None = None) -> Figure | None:
    """Draw and return the confusion matrices of `Changes.confusion` or such `rows` side by side; None without rows.

    Of more than 12 classes, the most confused pairs are drawn. `csv` is for the data.
    """
    if rows.empty:
        return None
    rows = to_numbers(rows, ["count"]).astype({"class": str, "predicted": str})
    files, classes = list(dict.fromkeys(rows["file"])), list(dict.fromkeys([*rows["class"], *rows["predicted"]]))
    draw = _draw_matrices if len(classes) <= _MATRIX else _draw_pairs
    wrong = rows[rows["class"] != rows["predicted"]]
    counted = [f"{name} {wrong.loc[wrong['file'] == name, 'count'].sum():.0f}" for name in files]
    alt = f"Confusions of {len(classes)} classes on validation. Wrong predictions: {', '.join(counted)}."
    worst = _rank_pairs(wrong, files).head(3)
    told = [f"{one} taken for {other} ({row[files[-1]]:.0f} times)" for (one, other), row in worst.iterrows()]
    alt += f" Most by {files[-1]}: {'; '.join(told)}." if told else ""
    return style.save(draw(rows, files, classes), rows, csv, alt)


def _rank_pairs(wrong: pd.DataFrame, files: list[str]) -> pd.DataFrame:
    """Counts by pair (class, predicted) and file, the most frequent of the last file first."""
    table = wrong.pivot_table("count", ["class", "predicted"], "file", "sum", fill_value=0, sort=False)
    table = table.reindex(columns=files, fill_value=0)
    return table.sort_values(files[::-1], ascending=False, kind="stable")


def _draw_matrices(rows: pd.DataFrame, files: list[str], classes: list[str]) -> Figure:
    side = 0.55 + 0.29 * len(classes)
    figure = style.make_figure((side + 0.75) * len(files) + 0.3, side + 0.95)
    panels = figure.subplots(1, len(files), squeeze=False, sharey=True)[0]
    most = max(rows.loc[rows["class"] != rows["predicted"], "count"].max(), 1)
    for axes, name in zip(panels, files, strict=True):
        own = rows[rows["file"] == name].pivot_table("count", "class", "predicted", "sum", fill_value=0)
        _draw_matrix(axes, own.reindex(index=classes, columns=classes, fill_value=0), most)
        axes.set_title(style.escape(name))
        axes.set_xlabel("predicted")
    panels[0].set_ylabel("class")
    return figure


def _draw_matrix(axes: Axes, table: pd.DataFrame, most: float) -> None:
    counts = table.to_numpy(float)
    is_wrong = ~np.eye(len(counts), dtype=bool)
    # Light reds, on which numbers can be read; what is right or did not occur stays white.
    axes.imshow(np.where(is_wrong & (counts > 0), counts, np.nan), "Reds", Normalize(-0.3 * most, 2.2 * most))
    for row, column in zip(*np.nonzero(counts), strict=True):
        form = {"color": INK, "fontweight": "bold"} if row != column else {"color": MUTED}
        axes.text(column, row, f"{counts[row, column]:.0f}", ha="center", va="center", fontsize=8, **form)
    names = [_shorten(name) for name in table.index]
    turned = {} if max(map(len, names)) <= 3 else {"rotation": 45, "ha": "right", "rotation_mode": "anchor"}
    axes.set_xticks(range(len(names)), names, **turned)
    axes.set_yticks(range(len(names)), names)
    axes.tick_params(length=0, colors=INK)
    axes.spines[:].set_visible(False)
    axes.set(xlim=(-0.5, len(names) - 0.5), ylim=(len(names) - 0.5, -0.5))
    axes.set_xticks(np.arange(0.5, len(names) - 1), minor=True)
    axes.set_yticks(np.arange(0.5, len(names) - 1), minor=True)
    axes.grid(which="minor", color=FAINT)
    axes.tick_params(which="minor", length=0)


def _draw_pairs(rows: pd.DataFrame, files: list[str], classes: list[str]) -> Figure:
    table = _rank_pairs(rows[rows["class"] != rows["predicted"]], files).head(_PAIRS)
    figure = style.make_figure(7.4, 1.1 + 0.27 * max(len(table), 1))
    axes, heights = figure.subplots(), np.arange(len(table))
    axes.hlines(heights, table.min(axis=1), table.max(axis=1), color=FAINT, linewidth=2.5, zorder=1)
    for name, form in zip(files, ({"marker": "D", "fillstyle": "none"}, {"marker": "o"}), strict=False):
        axes.plot(table[name], heights, linestyle="", markersize=6.5, color=INK, label=style.escape(name), **form)
    names = [f"{_shorten(one)} → {_shorten(other)}" for one, other in table.index]
    axes.set_yticks(heights, names)
    axes.set(ylim=(max(len(table), 1) - 0.4, -0.6), xlim=(0, 1.08 * max(table.to_numpy().max(initial=1), 1)))
    axes.set_xlabel("examples of validation")
    axes.set_title(f"Most confused of {len(classes)} classes: class → predicted", pad=12)
    axes.xaxis.get_major_locator().set_params(integer=True)
    axes.tick_params(axis="y", length=0, colors=INK)
    axes.grid(axis="x")
    figure.legend(*axes.get_legend_handles_labels(), loc="outside upper right", ncols=2)
    return figure


def _shorten(name: str) -> str:
    return style.escape(name if len(name) <= _LONGEST else f"{name[: _LONGEST - 1]}…")
