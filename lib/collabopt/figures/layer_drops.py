"""The figure of what pruning and clustering each layer alone costs, beside the weights that the layer holds."""

from pathlib import Path

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from collabopt.figures import style
from collabopt.figures.style import FAINT, INK, MUTED, get_colour, use_style

SERIES = {"pruned": ("pruned alone", "o", -0.17), "clustered": ("clustered alone", "D", 0.17)}
"""By technique: its name, its marker, and how far below the middle of a layer's line it is drawn."""


LONG = 10.0
"""Points: where a drop exceeds this, the axis is logarithmic beyond ±1, or the small drops would be one line."""


def draw_layer_drops(table: pd.DataFrame, tolerance_points: float | None = None, csv: Path | None = None) -> Figure:
    """Drops in points of validation accuracy, ± two standard errors, a line a layer in network order.

    `table` has the columns of `sensitivity.COLUMNS`; a drop that is empty is not drawn. The tolerance is a dashed line.
    """
    if table.empty:
        raise ValueError("table: expected a row a layer; the experiment leaves every layer out")
    line = 0.3 if len(table) <= 30 else 0.2
    with use_style():
        figure = style.make_figure(7.4, 1.2 + line * len(table))
        axes, beside = figure.subplots(1, 2, sharey=True, width_ratios=(4, 1))
        for technique, (label, marker, below) in SERIES.items():
            heights, drops = np.arange(len(table)) + below, table[f"{technique}_drop_points"].astype(float)
            form = {"fmt": marker, "color": get_colour(technique), "markeredgecolor": INK, "ecolor": MUTED}
            errors = 2 * table[f"{technique}_error_points"].astype(float)
            axes.errorbar(drops, heights, xerr=errors, label=label, markersize=6, markeredgewidth=0.6, **form)
        if tolerance_points is not None:
            said = f"tolerance ({tolerance_points:g})"
            axes.axvline(tolerance_points, color=INK, linestyle="--", linewidth=1, zorder=0, label=said)
        _scale(axes, table)
        _weights(beside, table)
        size = 9 if line == 0.3 else 7.5
        axes.set_yticks(np.arange(len(table)), map(style.escape, table["layer"]), fontsize=size)
        axes.set(ylim=(len(table) - 0.5, -0.5), xlabel="accuracy lost on validation (points, ± 2 SE)")
        handles, labels = axes.get_legend_handles_labels()
        figure.legend(handles[::-1], labels[::-1], loc="outside upper right", ncols=3, reverse=True)
    return style.save(figure, table, csv, _alt(table))


def _scale(axes: Axes, table: pd.DataFrame) -> None:
    drops, errors = (table[[f"{one}_{what}_points" for one in SERIES]].astype(float) for what in ("drop", "error"))
    if drops.max(axis=None) > LONG:
        low, high = np.nanmin(drops.to_numpy() - 2 * errors), np.nanmax(drops.to_numpy() + 2 * errors)
        axes.set_xscale("symlog", linthresh=1, linscale=0.7)
        axes.set_xticks([-30, -10, -3, -1, 0, 1, 3, 10, 30, 100])
        axes.xaxis.set_major_formatter("{x:g}")
        axes.set_xlim(min(-1.0, 1.3 * low), 1.3 * high)
    axes.axvline(0, color=MUTED, linewidth=1, zorder=0)
    axes.grid(axis="x")
    axes.set_axisbelow(True)
    axes.tick_params(axis="y", length=0, colors=INK)


def _weights(axes: Axes, table: pd.DataFrame) -> None:
    shares = 100 * table["weights"] / table["weights"].sum()
    axes.barh(np.arange(len(table)), shares, height=0.6, color=FAINT)
    for height, share in enumerate(shares):
        said = f"{share:.1f}" if share < 9.95 else f"{share:.0f}"
        axes.annotate(said, (share, height), (3, 0), textcoords="offset points", va="center", fontsize=7.5)
    axes.set(xlabel="weights (%)", xlim=(0, 1.35 * shares.max()))
    axes.tick_params(axis="y", length=0)


def _alt(table: pd.DataFrame) -> str:
    said = []
    for technique, (label, _, _) in SERIES.items():
        drops = table.set_index("layer")[f"{technique}_drop_points"].astype(float)
        if drops.notna().any():
            said.append(f"{label}, {drops.idxmax()} costs most, {drops.max():.1f} points")
    return f"Accuracy lost by pruning or clustering each of {len(table)} layers alone: {'; '.join(said)}."
