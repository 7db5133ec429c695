"""The variants against the targets: their values, the misses, and the chosen variant."""

from pathlib import Path

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from collabopt.config.experiment import Targets
from collabopt.config.metrics import get_targets
from collabopt.config.scores import find_score
from collabopt.deploy import targets
from collabopt.figures import style
from collabopt.figures.style import ALARM, FAINT, INK, MUTED, get_colour, use_style

_ROW, _COLUMN, _NAMES = 0.24, 1.05, 2.3  # inches: height of a line, width of a target's column and of the names'


@use_style()
def draw_verdicts(variants: pd.DataFrame, wanted: Targets, csv: Path | None = None) -> Figure:
    """Draw and return a line per row of `variants`, a column per `wanted` target, ✗ at a miss. `csv` is for the data.

    The chosen variant (`targets.choose`) has a frame. If no variant meets all targets, the nearest has a dashed one.
    """
    rows, limits = targets.judge(variants, wanted), targets.list_targets(wanted)
    base, score = targets.get_baseline_score(variants), find_score(variants)
    nearest = None if rows["chosen"].any() else targets.find_nearest(variants, wanted)
    width, height = _NAMES + _COLUMN * max(len(limits), 2) + 0.9, _ROW * (len(rows) + 2)
    figure = style.make_figure(width + 0.2, height + 0.35)
    axes = figure.subplots()
    axes.set(xlim=(-0.02, width + 0.02), ylim=(height + 0.02, 0), aspect="equal")
    axes.set_axis_off()
    _draw_head(axes, limits)
    for line, (at, row) in enumerate(rows.iterrows(), start=2):
        values = {target: targets.get_cost(row, target, base) for target in limits}
        mark = ("chosen" if limits else "recommended") if row["chosen"] else "nearest" if at == nearest else ""
        _draw_line(axes, _ROW * (line + 0.5), row, values, mark, width)
    note = "Drops are those on validation; –: not known.\n"
    note += "Of the first level that meets all targets,\nthe smallest file after gzip is chosen."
    note = note if limits else "The smallest file after gzip whose drop on validation\nis within tolerance and noise."
    figure.supxlabel(note, color=MUTED)
    bounded = [metric.name for metric in get_targets().values() if metric.name in variants]
    columns = ["stage", "format", "scheme", score.validation, *bounded, "verdict", "chosen"]
    return style.save(figure, rows.reindex(columns=columns), csv, targets.describe(rows, wanted))


def _draw_head(axes: Axes, limits: dict[str, float]) -> None:
    for column, (target, limit) in enumerate(limits.items()):
        right, metric = _NAMES + _COLUMN * (column + 1), get_targets()[target]
        axes.text(right, 0.5 * _ROW, metric.heading, ha="right", va="center", fontsize=8.5)
        axes.text(right, 1.5 * _ROW, f"≤ {metric.format(limit)}", ha="right", va="center", fontweight="bold")
    if not limits:
        axes.text(_NAMES, 1.5 * _ROW, "no targets", va="center", color=MUTED)
    axes.axhline(2 * _ROW, color=FAINT, linewidth=1)


def _draw_line(axes: Axes, y: float, row: pd.Series, values: dict[str, float], mark: str, width: float) -> None:
    """`mark` is "chosen", "recommended", "nearest" or empty."""
    axes.add_patch(Rectangle((0.2, y - 0.32 * _ROW), 0.1, 0.64 * _ROW, facecolor=get_colour(row["stage"])))
    weight = "bold" if mark else "normal"
    axes.text(0.38, y, style.escape(targets.format_variant(row)), va="center", fontweight=weight, color=INK)
    for column, (target, value) in enumerate(values.items()):
        missed, right = target in row["missed"], _NAMES + _COLUMN * (column + 1)
        form = {"color": ALARM, "fontweight": "bold"} if missed else {"color": INK, "fontweight": weight}
        axes.text(right, y, "✗ " * missed + get_targets()[target].format(value, "–"), ha="right", va="center", **form)
    meets = "✓ meets all" if values else ""
    text = mark or (f"misses {len(row['missed'])}" if row["missed"] else meets)
    colour = MUTED if row["missed"] else INK
    axes.text(width - 0.05, y, text, ha="right", va="center", color=colour, fontweight=weight)
    if mark:
        axes.text(0.03, y, "▶", va="center", fontsize=8)
        line = {"linewidth": 1.4, "linestyle": (0, (4, 2)) if mark == "nearest" else "-"}
        axes.add_patch(Rectangle((0, y - _ROW / 2), width, _ROW, facecolor="none", edgecolor=INK, **line))
