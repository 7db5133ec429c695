"""Training curves: score and loss by epoch, one column of panels per stage."""

from pathlib import Path

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure, SubFigure
from matplotlib.lines import Line2D

from collabopt.config.metrics import get_metric
from collabopt.config.scores import find_score
from collabopt.config.stages import get_label
from collabopt.figures import style
from collabopt.figures.style import INK, MUTED, get_colour, use_style


@use_style()
def draw_training(histories: dict[str, pd.DataFrame], csv: Path | None = None) -> Figure:
    """Draw and return score over loss per stage of `histories`, on training (solid) and validation (dashed).

    They have the columns of `training.list_history_columns`; a stage that was not trained has none. `csv` is for the
    data.

    Raises:
        ValueError: There is no stage.
    """
    if not histories:
        raise ValueError("histories={}: expected at least one stage and its history")
    across = min(len(histories), 4)
    down = -(-len(histories) // across)
    figure = style.make_figure(max(2.6 * across, 4.2), 0.4 + 3.1 * down)
    blocks = np.atleast_1d(figure.subfigures(down, across)).ravel()
    for block, (stage, history) in zip(blocks, histories.items(), strict=False):
        _draw_history(block, stage, history)
    solid, dashed = Line2D([], [], color=INK), Line2D([], [], color=INK, linestyle="--", marker="o", markersize=3)
    figure.legend([solid, dashed], ["training", "validation"], loc="outside upper right", ncols=2)
    present = {stage: history for stage, history in histories.items() if len(history)}
    data = pd.concat(present, names=["stage"]).reset_index("stage") if present else pd.DataFrame(columns=["stage"])
    told = [f"{get_label(stage)} {_describe(history)}" for stage, history in histories.items()]
    return style.save(figure, data, csv, f"Training curves: {'; '.join(told)}.")


def _describe(history: pd.DataFrame) -> str:
    if not len(history):
        return "not trained"
    text = f"after {len(history)} epoch{'s' * (len(history) > 1)}"
    score = find_score(history)
    if f"val_{score.name}" in history:
        text += f" validation {score.title} {score.format(history[f'val_{score.name}'].iloc[-1])}"
    return text


def _draw_history(block: SubFigure, stage: str, history: pd.DataFrame) -> None:
    if not len(history):
        axes = block.subplots()
        axes.set_title(style.escape(get_label(stage)))
        axes.set(xticks=[], yticks=[], facecolor="#f6f7f8")
        axes.spines[:].set_visible(False)
        axes.text(0.5, 0.5, "0 epochs:\nnot trained", transform=axes.transAxes, ha="center", va="center", color=MUTED)
        return
    upper, lower = block.subplots(2, 1, sharex=True)
    upper.set_title(style.escape(get_label(stage)))
    score = find_score(history)
    _draw_curve(upper, history, score.name, get_colour(stage), scale=1 / score.scale)
    _draw_curve(lower, history, "loss", get_colour(stage), scale=1)
    upper.set_ylabel(get_metric(score.test).heading)
    lower.set(ylabel="loss", xlabel="epoch")
    if len(history) == 1:
        lower.set(xticks=history["epoch"], xlim=(history["epoch"].iloc[0] - 1, history["epoch"].iloc[0] + 1))


def _draw_curve(axes: Axes, history: pd.DataFrame, metric: str, colour: str, scale: float) -> None:
    # One epoch is one point, and a line through one point is not visible.
    training = {"marker": "o", "markerfacecolor": "white", "markersize": 5} if len(history) == 1 else {}
    validation = {"linestyle": "--", "marker": "o", "markersize": 3}
    for column, form in ((metric, training), (f"val_{metric}", validation)):
        if column in history:
            axes.plot(history["epoch"], scale * history[column], color=colour, linewidth=1.6, **form)
    axes.grid(axis="y")
    axes.xaxis.get_major_locator().set_params(integer=True, nbins=5)
