"""The figure of what each stage costs: published drops of accuracy beside ours, with what chance does to ours."""

from collections import Counter
from pathlib import Path

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from collabopt.analysis import comparison
from collabopt.figures import style
from collabopt.figures.style import FAINT, INK, MUTED, get_colour, use_style


def draw_drops(rows: pd.DataFrame, csv: Path | None = None) -> Figure:
    """Drops against each side's own baseline in points, a line a published stage, of float and int8 models.

    `rows` is a frame of `comparison.figures`. Ours has a bar of two standard errors either way; where nothing of ours
    can be compared only the published figure stands.
    """
    shown = rows[rows["figure"].isin(comparison.DROPS) & rows["published"].notna()]
    lines = list(
        dict.fromkeys(zip(shown["table"], map(comparison.format_setting, shown.to_dict("records")), strict=True))
    )
    with use_style():
        figure = style.make_figure(7.6, 1.2 + 0.32 * max(len(lines), 1))
        for axes, name in zip(figure.subplots(1, 2, sharey=True, sharex=True), comparison.DROPS, strict=True):
            _panel(axes, shown[shown["figure"] == name], lines)
            axes.set_title({"drop": "FP32 or fake-INT8", "drop_int8": "INT8 file"}[name], fontweight="bold")
        if not len(shown):
            axes.text(0.5, 0.5, "nothing published", transform=axes.transAxes, ha="center", color=MUTED)
        figure.supxlabel("accuracy lost against the own FP32 baseline (points)", fontsize=9)
        theirs = Line2D([], [], color=INK, linestyle="", marker="D", fillstyle="none", markersize=6)
        ours = Line2D([], [], color=MUTED, marker="o", markersize=6)
        figure.legend([theirs, ours], ["published", "ours ± 2 SE"], loc="outside upper right", ncols=2)
    return style.save(figure, shown, csv, _alt(shown))


def _panel(axes: Axes, shown: pd.DataFrame, lines: list[tuple[str, str]]) -> None:
    axes.axvline(0, color=FAINT, linewidth=1, zorder=0)
    for row in shown.to_dict("records"):
        height, colour = lines.index((row["table"], comparison.format_setting(row))), get_colour(row["stage"])
        if pd.notna(row["ours"]):
            error = 200 * row["error"]
            axes.errorbar(100 * row["ours"], height, xerr=error, fmt=style.get_marker(row["stage"]), color=colour)
        axes.plot(100 * row["published"], height, "D", color=INK, fillstyle="none", markersize=6)
    labels = [f"{style.escape(stage)}  ({table.replace('_', ' ')})" for table, stage in lines]
    axes.set_yticks(np.arange(len(lines)), labels)
    axes.set_ylim(max(len(lines), 1) - 0.5, -0.5)
    axes.tick_params(axis="y", length=0, colors=INK)
    axes.grid(axis="x")
    axes.set_axisbelow(True)


def _alt(shown: pd.DataFrame) -> str:
    known = shown[shown["ours"].notna()]
    counted = Counter(comparison.judge_figure(row) for _, row in known.iterrows())
    verdicts = "; ".join(f"{count} {verdict}" for verdict, count in counted.most_common())
    said = f"Points of accuracy lost against the own baseline, published beside ours, for {len(shown)} figures."
    return f"{said} Of {len(known)} that can be compared: {verdicts}." if len(known) else f"{said} None of ours yet."
