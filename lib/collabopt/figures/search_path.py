"""The path of a search over settings: drop against size of each trained file, in order."""

import itertools
from pathlib import Path

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import LogLocator

from collabopt.config.metrics import get_metric
from collabopt.config.scores import Score
from collabopt.config.stages import list_stages
from collabopt.figures import style, text_placement
from collabopt.figures.style import ALARM, FAINT, INK, MUTED, get_colour, get_marker, use_style


@use_style()
def draw_search_path(trials: pd.DataFrame, score: Score, limit: float | None = None, csv: Path | None = None) -> Figure:
    """Draw the drop on validation of each file against its size, numbered in the order of the search.

    A filled point meets all targets. A bold line joins the files that were the best so far. Bars are two standard
    errors of the drop.

    Args:
        trials: The trials of a search (`SettingsSearch.trials`).
        score: The task's score.
        limit: Largest drop that the targets allow, in units of the score's column; None draws no line.
        csv: File for the data.

    Returns:
        The figure.
    """
    size, drop = get_metric("gzip_bytes"), get_metric(score.drop)
    shown = trials[trials["gzip_bytes"].notna()]
    points = np.column_stack([shown["gzip_bytes"] / size.scale, shown["drop"] / drop.scale])
    figure = style.make_figure(7.2, 4.6)
    axes = figure.subplots()
    axes.plot(*points.T, color=FAINT, linewidth=1, zorder=1)
    best = points[shown["best"].to_numpy()]
    axes.plot(*best.T, color=INK, linewidth=2, zorder=2)
    axes.errorbar(*points.T, yerr=shown["noise"] / drop.scale, fmt="none", ecolor=FAINT, zorder=1)
    for (x, y), row in zip(points, shown.itertuples(), strict=True):
        colour = get_colour(row.stage)
        face = colour if row.verdict == "meets all targets" else "white"
        axes.plot(x, y, get_marker(row.stage), markeredgecolor=colour, markerfacecolor=face, markersize=8, zorder=3)
    if limit is not None:
        axes.axhline(limit / drop.scale, color=ALARM, linewidth=1, linestyle=(0, (4, 2)))
    if points[:, 0].max() > 3 * points[:, 0].min():
        axes.set_xscale("log")
        axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axes.xaxis.set_major_formatter(lambda value, _: f"{value:,.10g}")
        axes.minorticks_off()
    axes.invert_yaxis()  # better is up in every figure
    axes.set(xlabel=f"file after gzip ({size.unit})", ylabel=f"validation {drop.heading}")
    axes.grid()
    axes.margins(0.1)
    marks = {
        one.label: Line2D([], [], marker=get_marker(name), color=one.colour, linestyle="", markersize=7)
        for name, one in list_stages().items()
        if name in set(shown["stage"])
    }
    marks["misses targets"] = Line2D([], [], marker="o", color=MUTED, linestyle="", fillstyle="none", markersize=7)
    marks["smallest so far"] = Line2D([], [], color=INK, linewidth=2)
    if limit is not None:
        marks["largest drop allowed"] = Line2D([], [], color=ALARM, linewidth=1, linestyle=(0, (4, 2)))
    figure.legend(marks.values(), marks, loc="outside upper center", ncols=4)
    figure.draw_without_rendering()
    figure.set_layout_engine("none")  # numbers are placed where the panel is now
    numbers, colours = [f"{one}" for one in shown["trainings"]], [INK] * len(shown)
    lines = [
        np.linspace(*ends, 14)[1:-1] for ends in itertools.chain(itertools.pairwise(points), itertools.pairwise(best))
    ]
    others = np.concatenate([np.empty((0, 2)), *lines])  # numbers do not stand on lines
    text_placement.place(axes, points, numbers, colours, [1.0] * len(shown), others)
    told = [
        f"{row.trainings}: {' '.join(filter(None, (row.stage, row.setting)))}, drop {drop.format(row.drop)} "
        f"{drop.unit}, {size.format(row.gzip_bytes)} {size.unit}, {row.verdict}"
        for row in shown.itertuples()
    ]
    return style.save(figure, trials, csv, f"Files in the order of the search. {'; '.join(told)}.")
