"""The tree's leaves against the targets: what each takes of what is bounded, where that is too much, the chosen one."""

from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from collabopt import palette, targets
from collabopt.experiment import Targets
from collabopt.palette import ALARM, FAINT, INK, MUTED, _style

ROW, COLUMN, NAMES = 0.24, 1.05, 2.3  # inches: height of a line, width of a target's column and of the names'


class Bound(NamedTuple):
    """How a target is written: what it bounds, in which unit, and the unit's size in the target's own."""

    title: str
    unit: str
    size: float
    digits: int

    def number(self, amount: float) -> str:
        return f"{amount / self.size:,.{self.digits}f}".replace("-", "−") if np.isfinite(amount) else "–"

    def beyond(self, excess: float) -> str:
        """By how much the target is exceeded: "gzip 34.1 kB over"; or "SRAM not known"."""
        if not np.isfinite(excess):
            return f"{self.title} not known"
        least = 10.0**-self.digits
        said = self.number(excess) if excess >= least * self.size else f"< {least:g}"
        return f"{self.title} {said} {self.unit} over"


BOUNDS = {
    "max_accuracy_drop": Bound("accuracy drop", "points", 0.01, 2),
    "max_tflite_bytes": Bound("file", "kB", 1000, 1),
    "max_gzip_bytes": Bound("gzip", "kB", 1000, 1),
    "max_sram_kib": Bound("SRAM", "KiB", 1, 1),
    "max_flash_kib": Bound("flash", "KiB", 1, 1),
    "max_npu_ms": Bound("NPU time", "ms", 1, 3),
}
"""Every target by its name."""


def judged(leaves: pd.DataFrame, wanted: Targets) -> pd.DataFrame:
    """The leaves with three more columns: `missed`, a dict of target and excess, empty where all are met; `verdict`,
    the same in words; `chosen`, true of one row at most."""
    base, chosen = targets.baseline(leaves), targets.choose(leaves, wanted)
    missed = [targets.misses(leaf, wanted, base) for leaf in leaves.to_dict("records")]
    said = [_said(one) for one in missed]
    return leaves.assign(missed=missed, verdict=said, chosen=leaves.index == chosen)


def _said(missed: dict[str, float]) -> str:
    """meets all targets; or "gzip 34.1 kB over, SRAM not known"."""
    return ", ".join(BOUNDS[target].beyond(excess) for target, excess in missed.items()) or "meets all targets"


def leaf_verdicts(leaves: pd.DataFrame, wanted: Targets, csv: Path | None = None) -> Figure:
    """A line a leaf, in the order of the walk, a column a target: what the leaf takes, with ✗ where that is too much.

    `leaves` has the columns of leaves.csv. The first that meets all is chosen and has a frame; where none does, the
    nearest has a dashed one.
    """
    rows, bounds, base = judged(leaves, wanted), targets.asked(wanted), targets.baseline(leaves)
    near = None if rows["chosen"].any() else targets.nearest(leaves, wanted)
    with _style():
        width, height = NAMES + COLUMN * max(len(bounds), 2) + 0.9, ROW * (len(rows) + 2)
        figure = palette.blank(width + 0.2, height + 0.35)
        axes = figure.subplots()
        axes.set(xlim=(-0.02, width + 0.02), ylim=(height + 0.02, 0), aspect="equal")
        axes.set_axis_off()
        _head(axes, bounds)
        for line, (at, row) in enumerate(rows.iterrows(), start=2):
            spent = {target: targets.spent(row, target, base) for target in bounds}
            verdict = "chosen" if row["chosen"] else "nearest" if at == near else ""
            _line(axes, ROW * (line + 0.5), row, spent, verdict, width)
        figure.supxlabel(
            "Accuracy is that on validation; –: not known.\nThe first leaf that meets all targets is chosen.",
            fontsize=8,
            color=MUTED,
        )
    columns = ["stage", "format", "scheme", "validation_accuracy", *(set(leaves) & set(targets.COSTS.values()))]
    return palette.keep(figure, rows.reindex(columns=[*columns, "verdict", "chosen"]), csv, told(rows, wanted))


def told(rows: pd.DataFrame, wanted: Targets) -> str:
    """What the figure shows in words, from `judged` rows: the chosen leaf, or what the nearest misses."""
    meet, chosen = sum(not missed for missed in rows["missed"]), rows[rows["chosen"]]
    if len(chosen):
        return f"Chosen: {name(chosen.iloc[0])}. Of {len(rows)} leaves {meet} meet all targets."
    near = rows.loc[targets.nearest(rows, wanted)]
    return f"None of {len(rows)} leaves meets all targets. The nearest is {name(near)}: {near['verdict']}."


def name(row: dict | pd.Series) -> str:
    """A leaf as it is written: `sparse clustered int16×8`."""
    return f"{palette.name(row['stage'])} {palette.form(row['format'])}"


def _head(axes: Axes, bounds: dict[str, float]) -> None:
    for column, (target, limit) in enumerate(bounds.items()):
        right, bound = NAMES + COLUMN * (column + 1), BOUNDS[target]
        axes.text(right, 0.5 * ROW, f"{bound.title} ({bound.unit})", ha="right", va="center", fontsize=8.5)
        axes.text(right, 1.5 * ROW, f"≤ {bound.number(limit)}", ha="right", va="center", fontweight="bold")
    if not bounds:
        axes.text(NAMES, 1.5 * ROW, "no targets", va="center", color=MUTED)
    axes.axhline(2 * ROW, color=FAINT, linewidth=1)


def _line(axes: Axes, y: float, row: pd.Series, spent: dict[str, float], verdict: str, width: float) -> None:
    """verdict: `chosen`, `nearest` or nothing."""
    axes.add_patch(Rectangle((0.2, y - 0.32 * ROW), 0.1, 0.64 * ROW, facecolor=palette.colour(row["stage"])))
    weight = "bold" if verdict else "normal"
    axes.text(0.38, y, palette.literal(name(row)), va="center", fontweight=weight, color=INK)
    for column, (target, amount) in enumerate(spent.items()):
        missed, right = target in row["missed"], NAMES + COLUMN * (column + 1)
        form = {"color": ALARM, "fontweight": "bold"} if missed else {"color": INK, "fontweight": weight}
        axes.text(right, y, "✗ " * missed + BOUNDS[target].number(amount), ha="right", va="center", **form)
    said = verdict or (f"misses {len(row['missed'])}" if row["missed"] else "✓ meets all")
    colour = MUTED if row["missed"] else INK
    axes.text(width - 0.05, y, said, ha="right", va="center", color=colour, fontweight=weight)
    if verdict:
        axes.text(0.03, y, "▶", va="center", fontsize=8)
        line = {"linewidth": 1.4, "linestyle": "-" if verdict == "chosen" else (0, (4, 2))}
        axes.add_patch(Rectangle((0, y - ROW / 2), width, ROW, facecolor="none", edgecolor=INK, **line))
