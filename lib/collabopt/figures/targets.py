"""The tree's leaves against the targets: what each takes of what is bounded, where that is too much, the chosen one."""

from pathlib import Path

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from collabopt.config.experiment import Targets
from collabopt.deploy import targets
from collabopt.figures import style
from collabopt.figures.style import ALARM, FAINT, INK, MUTED, get_colour, use_style

ROW, COLUMN, NAMES = 0.24, 1.05, 2.3  # inches: height of a line, width of a target's column and of the names'


def draw_verdicts(leaves: pd.DataFrame, wanted: Targets, csv: Path | None = None) -> Figure:
    """A line a leaf, in the order of the walk, a column a target: what the leaf takes, with ✗ where that is too much.

    `leaves` has the columns of leaves.csv. The first that meets all is chosen and has a frame; where none does, the
    nearest has a dashed one.
    """
    rows, bounds, base = (
        targets.judge(leaves, wanted),
        targets.list_targets(wanted),
        targets.get_baseline_accuracy(leaves),
    )
    near = None if rows["chosen"].any() else targets.find_nearest(leaves, wanted)
    with use_style():
        width, height = NAMES + COLUMN * max(len(bounds), 2) + 0.9, ROW * (len(rows) + 2)
        figure = style.make_figure(width + 0.2, height + 0.35)
        axes = figure.subplots()
        axes.set(xlim=(-0.02, width + 0.02), ylim=(height + 0.02, 0), aspect="equal")
        axes.set_axis_off()
        _head(axes, bounds)
        for line, (at, row) in enumerate(rows.iterrows(), start=2):
            spent = {target: targets.get_cost(row, target, base) for target in bounds}
            verdict = "chosen" if row["chosen"] else "nearest" if at == near else ""
            _line(axes, ROW * (line + 0.5), row, spent, verdict, width)
        figure.supxlabel(
            "Accuracy is that on validation; –: not known.\nThe first leaf that meets all targets is chosen.",
            fontsize=8,
            color=MUTED,
        )
    columns = ["stage", "format", "scheme", "validation_accuracy", *(set(leaves) & set(targets.COSTS.values()))]
    return style.save(
        figure, rows.reindex(columns=[*columns, "verdict", "chosen"]), csv, targets.describe(rows, wanted)
    )


def _head(axes: Axes, bounds: dict[str, float]) -> None:
    for column, (target, limit) in enumerate(bounds.items()):
        right, bound = NAMES + COLUMN * (column + 1), targets.BOUNDS[target]
        axes.text(right, 0.5 * ROW, f"{bound.title} ({bound.unit})", ha="right", va="center", fontsize=8.5)
        axes.text(right, 1.5 * ROW, f"≤ {bound.number(limit)}", ha="right", va="center", fontweight="bold")
    if not bounds:
        axes.text(NAMES, 1.5 * ROW, "no targets", va="center", color=MUTED)
    axes.axhline(2 * ROW, color=FAINT, linewidth=1)


def _line(axes: Axes, y: float, row: pd.Series, spent: dict[str, float], verdict: str, width: float) -> None:
    """verdict: `chosen`, `nearest` or nothing."""
    axes.add_patch(Rectangle((0.2, y - 0.32 * ROW), 0.1, 0.64 * ROW, facecolor=get_colour(row["stage"])))
    weight = "bold" if verdict else "normal"
    axes.text(0.38, y, style.escape(targets.format_variant(row)), va="center", fontweight=weight, color=INK)
    for column, (target, amount) in enumerate(spent.items()):
        missed, right = target in row["missed"], NAMES + COLUMN * (column + 1)
        form = {"color": ALARM, "fontweight": "bold"} if missed else {"color": INK, "fontweight": weight}
        axes.text(right, y, "✗ " * missed + targets.BOUNDS[target].number(amount), ha="right", va="center", **form)
    said = verdict or (f"misses {len(row['missed'])}" if row["missed"] else "✓ meets all")
    colour = MUTED if row["missed"] else INK
    axes.text(width - 0.05, y, said, ha="right", va="center", color=colour, fontweight=weight)
    if verdict:
        axes.text(0.03, y, "▶", va="center", fontsize=8)
        line = {"linewidth": 1.4, "linestyle": "-" if verdict == "chosen" else (0, (4, 2))}
        axes.add_patch(Rectangle((0, y - ROW / 2), width, ROW, facecolor="none", edgecolor=INK, **line))
