"""The score against costs, with the Pareto front: the variants that no other beats in both."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.path import Path as Polyline
from matplotlib.ticker import LogLocator

from collabopt.config.formats import FORMATS, get_format_label
from collabopt.config.metrics import Metric, get_metric
from collabopt.config.scores import ACCURACY, Score, find_score
from collabopt.config.stages import get_label, list_stages
from collabopt.figures import style, text_placement
from collabopt.figures.style import ALARM, FAINT, INK, MUTED, get_colour, use_style
from collabopt.storage.results import parse_preserved, select_first_setting, to_numbers

_COSTS = "gzip_bytes", "latency_ratio", "npu_ms", "npu_sram_kib", "npu_flash_kib"
_LOG_RANGE = 5
"""Where the largest cost is more than this many times the smallest, the axis is logarithmic."""


def draw_costs(variants: pd.DataFrame, csv: Path | None = None) -> Figure:
    """Draw and return the score on validation against sizes, latency and NPU costs of `variants`, one panel per cost.

    One seed per stage and format is drawn, and after a search over settings each of these. `csv` is for the data.

    Raises:
        ValueError: No variant has a score and a cost.
    """
    column = find_score(variants).validation
    key = [name for name in ("stage", "format", "setting") if name in variants]
    rows = select_first_setting(to_numbers(variants, [column, *_COSTS]), *key)
    if rows.dropna(subset=column)[[*_COSTS]].isna().all(axis=None):
        raise ValueError(f"variants: none has a score and a cost; expected one of {', '.join(_COSTS)}")
    return draw_pareto(rows, _COSTS, column, csv=csv)


def draw_sizes(results: pd.DataFrame, csv: Path | None = None) -> Figure | None:
    """Draw and return the score of int8 files in `results` against size after gzip; None if no file has both.

    The score is on test, or on validation if a row has one only there. `csv` is for the data.
    """
    score = find_score(results)
    read = to_numbers(results, [score.test_int8, score.validation_int8])
    unread = (read[score.test_int8].isna() & read[score.validation_int8].notna()).any()
    up = score.validation_int8 if unread else score.test_int8
    if to_numbers(results, [up, "gzip_bytes"])[[up, "gzip_bytes"]].dropna().empty:
        return None
    is_stock = results.get("scheme", pd.Series("", results.index)).eq("tfmot")
    labels = results["stage"].map(get_label) + is_stock.map({True: " (tfmot scheme)", False: ""})
    return draw_pareto(results, up=up, labels=labels, csv=csv)


@use_style()
def draw_pareto(
    rows: pd.DataFrame,
    costs: Sequence[str] = ("gzip_bytes",),
    up: str | None = None,
    labels: pd.Series | None = None,
    error: str | None = None,
    csv: Path | None = None,
) -> Figure:
    """Draw a score against each cost with its Pareto front, one panel per cost.

    Colour tells the stage. The marker tells the format or, without a column `format`, whether the stage is
    quantization-aware. A red ring marks a stage that did not preserve its parent's zeros and clusters.

    Args:
        rows: One row per variant: `stage`, the metrics, and `format`, `scheme`, `accelerator`, `preserved` if known.
        costs: Names of metrics. One that no row has is left out.
        up: Name of the metric on the y axis; None takes the score of int8 files on test.
        labels: One text per row, empty for none. By default each panel names the stages on its front.
        error: Column with the standard deviation of the score.
        csv: File for the data, with a column `front_<cost>` per cost.

    Returns:
        The figure.
    """
    score = find_score(rows)
    up = up or score.test_int8
    rows = to_numbers(rows, [up, *costs, *filter(None, [error])]).dropna(subset=up)
    rows = rows.assign(lost=[parse_preserved(value) is False for value in rows.get("preserved", [None] * len(rows))])
    known = [cost for cost in costs if rows[cost].notna().any()] or list(costs[:1])
    rows = rows.assign(**{f"front_{cost}": find_front(rows[cost], rows[up], score) for cost in known})
    across = min(len(known), 3)
    down = -(-len(known) // across)
    figure = style.make_figure(*((7.2, 4.6) if len(known) == 1 else (3.1 * across, 0.9 + 2.7 * down)))
    panels = figure.subplots(down, across, squeeze=False, sharey=True)
    for axes, cost in zip(panels.flat, known, strict=False):
        _draw_panel(axes, rows, cost, up, error)
    if score.unit == "%":
        panels[0, 0].set_ylim(top=min(panels[0, 0].get_ylim()[1], 100.5))
    if score.lower_is_better:
        panels[0, 0].invert_yaxis()  # better is up in every figure
    all_named = labels is not None and labels.loc[rows.index].ne("").all()
    _add_legend(figure, rows, list(panels.flat[len(known) :]), with_stages=not all_named)
    figure.draw_without_rendering()
    figure.set_layout_engine("none")  # names are placed where the panels are now
    for axes, cost in zip(panels.flat, known, strict=False):
        _name_points(axes, rows, cost, up, labels)
    columns = ["stage", "format", "scheme", up, error, "accelerator", "preserved", *known]
    columns = [column for column in columns if column in rows] + [f"front_{cost}" for cost in known]
    return style.save(figure, rows[columns], csv, _describe(rows, known, up, all_named))


def find_front(cost: pd.Series, scores: pd.Series, score: Score = ACCURACY) -> pd.Series:
    """Return what is on the Pareto front of `cost` (NaN never) and `scores` of a `score`; equal ones are all on it."""
    order = pd.DataFrame({"cost": cost, "loss": score.compute_drop(0.0, scores)}).dropna().sort_values(["cost", "loss"])
    best = order["loss"].cummin()
    # The first that reaches a loss is the cheapest that does; its equals share cost and loss.
    first = order.loc[~best.duplicated()]
    marked = pd.MultiIndex.from_frame(order).isin(pd.MultiIndex.from_frame(first))
    return pd.Series(marked, order.index).reindex(cost.index, fill_value=False)


def _draw_panel(axes: Axes, rows: pd.DataFrame, cost: str, up: str, error: str | None) -> None:
    across, upward = get_metric(cost), get_metric(up)
    shown = rows.dropna(subset=cost).sort_values(cost)
    for row in shown.to_dict("records"):
        at, on_front = (row[cost] / across.scale, row[up] / upward.scale), row[f"front_{cost}"]
        form = {"markersize": 9 if on_front else 7, "markeredgecolor": INK if on_front else "white"}
        marker = FORMATS[row["format"]].marker if row.get("format") in FORMATS else style.get_marker(row["stage"])
        if error and pd.notna(row[error]):
            axes.errorbar(*at, yerr=row[error] / upward.scale, ecolor=FAINT, zorder=1)
        form |= {"color": get_colour(row["stage"]), "markeredgewidth": 0.8, "zorder": 4 if on_front else 3}
        (point,) = axes.plot(*at, marker, **form)
        style.add_hover(point, _describe_point(row, across, upward))
        if row["lost"]:
            axes.plot(*at, "o", markersize=17, fillstyle="none", color=ALARM, markeredgewidth=1.8)
    best = shown[shown[f"front_{cost}"]]
    steps = best[cost] / across.scale, best[up] / upward.scale
    axes.step(*steps, where="post", color=INK, linewidth=1, zorder=2)
    if shown[cost].max() > _LOG_RANGE * shown[cost].min() > 0:
        axes.set_xscale("log")
        axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axes.xaxis.set_major_formatter(lambda value, _: f"{value:,.10g}")
        axes.minorticks_off()
    axes.set_xlabel(style.escape(_get_title(cost, shown)))
    axes.grid()
    axes.margins(0.12, 0.14)
    if axes.get_subplotspec().is_first_col():
        axes.set_ylabel(upward.heading)


def _get_title(cost: str, rows: pd.DataFrame) -> str:
    """The metric as an axis title, which stands alone: no group is above it as in a table."""
    metric = get_metric(cost)
    if metric.group == "NPU":
        accelerators = rows["accelerator"].dropna().unique() if "accelerator" in rows else []
        return ", ".join([metric.heading, *(str(name).title() for name in accelerators)])
    unit = f" ({metric.unit})" if metric.unit else ""
    return (metric.description[:1].lower() + metric.description[1:] or f"{metric.group} {metric.title}".strip()) + unit


def _get_names(rows: pd.DataFrame, cost: str, labels: pd.Series | None) -> pd.Series:
    """The texts in a panel, empty where a point has none."""
    if labels is None:
        names = rows["stage"].map(get_label)
        if "format" in rows:
            names += "\n" + rows["format"].map(get_format_label)
        labels = names.where(rows[f"front_{cost}"], "")
    names = labels.loc[rows.index].where(rows[cost].notna(), "")
    return names.where(~rows["lost"] | names.eq(""), names + ", NOT preserved")


def _name_points(axes: Axes, rows: pd.DataFrame, cost: str, up: str, labels: pd.Series | None) -> None:
    points = np.column_stack([rows[cost] / get_metric(cost).scale, rows[up] / get_metric(up).scale])
    names = _get_names(rows, cost, labels).to_numpy()
    on_front, lost, named = rows[f"front_{cost}"].to_numpy(), rows["lost"].to_numpy(), names != ""
    others = points[rows[cost].notna().to_numpy() & ~named]
    if on_front.any():
        across, up = points[on_front][np.argsort(points[on_front, 0])].T
        steps = Polyline(np.column_stack([np.repeat(across, 2)[1:], np.repeat(up, 2)[:-1]]))
        others = np.concatenate([others, steps.interpolated(11).vertices])
    colours, away = np.where(lost, ALARM, INK), np.where(lost, 1.4, 1.0)
    text_placement.place(axes, points[named], names[named], colours[named], away[named], others)


def _add_legend(figure: Figure, rows: pd.DataFrame, free: list[Axes], with_stages: bool) -> None:
    """Add the legend in the place of a free panel, else above the panels."""

    def mark(marker: str, color: str = MUTED, **form) -> Line2D:
        return Line2D([], [], marker=marker, color=color, linestyle="", **{"markersize": 7} | form)

    marks, hollow = {}, {"fillstyle": "none"}
    stages = [stage for stage in list_stages().values() if stage.name in set(rows["stage"])]
    if "format" in rows:
        marks = {one.label: Line2D([], [], color=one.colour, linewidth=6, solid_capstyle="butt") for one in stages}
        marks |= {one.label: mark(one.marker, **hollow) for one in FORMATS.values() if one.name in set(rows["format"])}
    elif with_stages:
        marks = {one.label: mark(style.get_marker(one.name), one.colour) for one in stages}
    else:
        marks = {"post-training quantization": mark("o"), "quantization-aware training": mark("s")}
    if with_stages and rows["lost"].any():
        marks["NOT preserved"] = mark("o", ALARM, markersize=10, markeredgewidth=1.8, **hollow)
    marks["Pareto front"] = Line2D([], [], color=INK, linewidth=1)
    for axes in free:
        axes.set_axis_off()
    if free:
        free[0].legend(marks.values(), marks, loc="center", ncols=2)
    else:
        figure.legend(marks.values(), marks, loc="outside upper center", ncols=5)


def _describe(rows: pd.DataFrame, costs: list[str], up: str, whole: bool) -> str:
    """Name every point, or only those on the fronts."""
    upward = get_metric(up)
    text = f"{upward.title[0].upper()}{upward.title[1:]} of {len(rows)} variant{'s' * (len(rows) != 1)}."
    for cost in costs:
        across, shown = get_metric(cost), rows[rows[cost].notna() if whole else rows[f"front_{cost}"]]
        points = [_describe_point(row, across, upward) for row in shown.sort_values(cost).to_dict("records")]
        text += f" {'Against' if whole else 'Pareto front against'} {_get_title(cost, rows)}: {'; '.join(points)}."
    return text


def _describe_point(row: dict[str, Any], across: Metric, upward: Metric) -> str:
    return (
        f"{get_label(row['stage'])} {get_format_label(row.get('format', ''))}".rstrip()
        + f" {upward.format(row[upward.name])} {upward.unit}".rstrip()
        + f" at {across.format(row[across.name])} {across.unit}".rstrip()
        + ", NOT preserved" * bool(row["lost"])
    )
