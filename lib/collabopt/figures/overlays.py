"""Reports beside each other: training curves and weight densities of several runs, one over the other."""

from pathlib import Path

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from collabopt.config.scores import find_score
from collabopt.config.stages import get_label, list_stages
from collabopt.figures import style
from collabopt.figures.style import use_style

_COLOURS = "#0063a3", "#a34700", "#333333", "#8a2065", "#2a7f3f"
_DASHES = "-", "--", "-.", ":"
_ACROSS, _FEW = 4, 40
"""Panels in a line, and up to how many values are drawn one by one."""


@use_style()
def draw_curves(histories: dict[str, pd.DataFrame], csv: Path | None = None) -> Figure | None:
    """Draw and return the validation score per epoch of `histories` by report, a panel per shared stage, or None.

    Rows have `stage`, `epoch` and `val_<score>`. `csv` is for the data.
    """
    column = f"val_{find_score(next(iter(histories.values()))).name}"
    trained = set.intersection(*({*rows["stage"]} for rows in histories.values()))
    stages = [stage for stage in list_stages() if stage in trained]
    if not stages:
        return None
    figure, panels = _make_panels(stages)
    for axes, stage in zip(panels, stages, strict=False):
        for number, (report, rows) in enumerate(histories.items()):
            own = rows[rows["stage"] == stage]
            axes.plot(own["epoch"], own[column], label=style.escape(report), **_get_form(number))
        axes.set_title(get_label(stage))
        axes.set_xlabel("epoch")
    title = f"{find_score(next(iter(histories.values()))).title} on validation"
    return _finish(figure, panels[0], title, histories, csv)


@use_style()
def draw_densities(densities: dict[str, pd.DataFrame], csv: Path | None = None) -> Figure | None:
    """Draw and return weight `densities` by report, one panel per model; None if no model is in every report.

    Rows have `label` (the model), `value`, `width` and `share` of weights. `csv` is for the data.
    """
    first, *others = ([*dict.fromkeys(rows["label"])] for rows in densities.values())
    labels = [label for label in first if all(label in other for other in others)]
    if not labels:
        return None
    figure, panels = _make_panels(labels)
    for axes, label in zip(panels, labels, strict=False):
        for number, (report, rows) in enumerate(densities.items()):
            own = rows[rows["label"] == label].sort_values("value")
            form = {"label": style.escape(report), **_get_form(number)}
            if len(own) <= _FEW:  # a bar per value; the first report's is the widest
                axes.vlines(own["value"], 0, 100 * own["share"], linewidth=4 / (number + 1), **form)
            else:
                axes.step(own["value"], 100 * own["share"], where="mid", linewidth=1.2, **form)
        axes.set_title(style.escape(label))
        axes.set_xlabel("weight")
    return _finish(figure, panels[0], "share of weights (%)", densities, csv)


def _make_panels(titles: list[str]) -> tuple[Figure, list[Axes]]:
    across = min(len(titles), _ACROSS)
    down = -(-len(titles) // across)
    figure = style.make_figure(max(2.6 * across, 4.2), 0.6 + 2.4 * down)
    panels = list(np.atleast_1d(figure.subplots(down, across)).ravel())
    for axes in panels[len(titles) :]:
        axes.set_axis_off()
    return figure, panels


def _get_form(number: int) -> dict[str, str]:
    return {"color": _COLOURS[number % len(_COLOURS)], "linestyle": _DASHES[number % len(_DASHES)]}


def _finish(figure: Figure, first: Axes, title: str, reports: dict[str, pd.DataFrame], csv: Path | None) -> Figure:
    first.set_ylabel(title)
    figure.legend(*first.get_legend_handles_labels(), loc="outside upper center", ncols=min(len(reports), 3))
    data = pd.concat(reports, names=["report"]).reset_index("report")
    return style.save(figure, data, csv, f"{title} of the reports {', '.join(reports)}, one line each.")
