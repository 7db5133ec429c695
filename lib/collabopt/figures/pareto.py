"""Accuracy against each cost of the tree's leaves, with the Pareto fronts: what no other leaf beats in both."""

from pathlib import Path

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from collabopt.config.formats import FORMATS, get_format_label
from collabopt.config.stages import STAGES, get_label
from collabopt.figures import style, text_placement
from collabopt.figures.style import ALARM, INK, MUTED, get_colour, parse_preserved, use_style


def draw_sizes(results: pd.DataFrame, csv: Path | None = None) -> Figure:
    """Gzip size (kB, 1,000 bytes) against INT8 accuracy (%), a labelled point a row of `results`.

    Accuracy is that on test; on validation, and the axis says so, where no row has any. A row whose stage did not
    preserve what its parent won has a red ring and says so.
    """
    shown = style.to_numbers(results, ["gzip_bytes", "accuracy_int8", "validation_accuracy_int8"])
    unread = bool(shown["accuracy_int8"].isna().all())
    if unread:
        shown = shown.assign(accuracy_int8=shown["validation_accuracy_int8"])
    shown = shown.dropna(subset=["gzip_bytes", "accuracy_int8"])
    shown = shown.reindex(columns=["stage", "scheme", "gzip_bytes", "accuracy_int8", "preserved"])
    with use_style():
        figure = style.make_figure(7.2, 4.6)
        axes = figure.subplots()
        axes.set(xlabel="gzip size of the int8 .tflite (kB)", ylabel=f"INT8 {'validation ' * unread}accuracy (%)")
        axes.set_axisbelow(True)
        axes.grid()
        axes.margins(0.12)
        for row in shown.itertuples():
            at, colour = (row.gzip_bytes / 1000, 100 * row.accuracy_int8), get_colour(row.stage)
            axes.plot(*at, style.get_marker(row.stage), color=colour, markersize=9, markeredgecolor="white")
            if parse_preserved(row.preserved) is False:
                axes.plot(*at, "o", markersize=17, fillstyle="none", color=ALARM, markeredgewidth=1.8)
        floats, quantized = (Line2D([], [], color=MUTED, linestyle="", marker=shape, markersize=7) for shape in "os")
        names = ["post-training quantization", "quantization-aware training"]
        figure.legend([floats, quantized], names, loc="outside upper right", ncols=2)
        _label(axes, shown)
    said = [
        f"{get_label(row.stage)} {100 * row.accuracy_int8:.1f} % at {row.gzip_bytes / 1000:,.0f} kB"
        + ", NOT preserved" * (parse_preserved(row.preserved) is False)
        for row in shown.itertuples()
    ]
    return style.save(figure, shown, csv, f"INT8 accuracy against gzip size: {'; '.join(said)}.")


def _label(axes: Axes, shown: pd.DataFrame) -> None:
    twice = shown.groupby("stage")["scheme"].transform("nunique") > 1
    data = np.column_stack([shown["gzip_bytes"] / 1000, 100 * shown["accuracy_int8"]])
    lost = [parse_preserved(value) is False for value in shown["preserved"]]
    said = [
        get_label(row.stage) + (f" ({row.scheme or 'own'} scheme)" if schemes else "") + ", NOT preserved" * gone
        for row, schemes, gone in zip(shown.itertuples(), twice, lost, strict=True)
    ]
    colours = [ALARM if gone else INK for gone in lost]
    text_placement.place(axes, data, said, colours, [1.4 if gone else 1.0 for gone in lost])


COSTS = {
    "gzip_bytes": ("size after gzip (kB)", 1e-3),
    "latency_ratio": ("latency here (× float32 baseline)", 1.0),
    "npu_ms": ("{accelerator} inference (ms)", 1.0),
    "npu_sram_kib": ("{accelerator} SRAM (KiB)", 1.0),
    "npu_flash_kib": ("{accelerator} flash (KiB)", 1.0),
}
"""Columns of leaves.csv: what an axis says, and what it multiplies by."""


WIDE = 5
"""Where the largest cost is more than this many times the smallest, the axis is logarithmic."""


def draw_costs(leaves: pd.DataFrame, csv: Path | None = None) -> Figure:
    """Validation accuracy (%) against each cost that is known, a panel a cost, a point a leaf of leaves.csv.

    Colour tells the stage, the marker the format; leaves on the front are larger, outlined and named. Where a stage has
    several settings the first is drawn. The CSV has `front_<cost>` too. Raises ValueError where no cost is known.
    """
    rows = style.select_first_setting(style.to_numbers(leaves, ["validation_accuracy", *COSTS]), "stage", "format")
    rows = rows.dropna(subset=["validation_accuracy"])
    known = [cost for cost in COSTS if rows[cost].notna().any()]
    if not known:
        raise ValueError(f"leaves: no leaf has an accuracy and one of {', '.join(COSTS)}")
    rows = rows.assign(**{f"front_{cost}": find_front(rows[cost], rows["validation_accuracy"]) for cost in known})
    across = min(len(known), 3)
    down = -(-len(known) // across)
    with use_style():
        figure = style.make_figure(max(3.1 * across, 5.2), 0.9 + 2.7 * down)
        panels = figure.subplots(down, across, squeeze=False, sharey=True)
        for axes, cost in zip(panels.flat, known, strict=False):
            _panel(axes, rows, cost)
        panels[0, 0].set_ylim(top=min(panels[0, 0].get_ylim()[1], 100.5))
        _legend(figure, rows, list(panels.flat[len(known) :]))
        figure.draw_without_rendering()
        figure.set_layout_engine("none")  # names are placed where the panels are now
        for axes, cost in zip(panels.flat, known, strict=False):
            _name(axes, rows, cost)
    columns = ["stage", "format", "scheme", "validation_accuracy", "accelerator", *known]
    return style.save(figure, rows.reindex(columns=[*columns, *(f"front_{one}" for one in known)]), csv, _alt(rows))


def find_front(cost: pd.Series, accuracy: pd.Series) -> pd.Series:
    """Whether no other is at least as cheap and as accurate, and better in one of them; not where the cost is unknown.

    Equal ones are all on the front.
    """
    order = pd.DataFrame({"cost": cost, "loss": -accuracy}).dropna().sort_values(["cost", "loss"])
    best = order["loss"].cummin()
    # The first that reaches a loss is the cheapest that does; its equals share cost and loss.
    first = order.loc[~best.duplicated()]
    marked = pd.MultiIndex.from_frame(order).isin(pd.MultiIndex.from_frame(first))
    return pd.Series(marked, order.index).reindex(cost.index, fill_value=False)


def _panel(axes: Axes, rows: pd.DataFrame, cost: str) -> None:
    title, scale = COSTS[cost]
    shown = rows.dropna(subset=[cost]).sort_values(cost)
    best = shown[shown[f"front_{cost}"]]
    for row in shown.to_dict("records"):
        on = row[f"front_{cost}"]
        form = {"markersize": 9 if on else 6, "markeredgecolor": INK if on else "white", "zorder": 4 if on else 3}
        marker = FORMATS[row["format"]].marker if row["format"] in FORMATS else "o"
        at = scale * row[cost], 100 * row["validation_accuracy"]
        axes.plot(*at, marker, color=get_colour(row["stage"]), markeredgewidth=0.8, **form)
    axes.step(scale * best[cost], 100 * best["validation_accuracy"], where="post", color=INK, linewidth=1, zorder=2)
    if shown[cost].max() > WIDE * shown[cost].min() > 0:
        axes.set_xscale("log")
        _plain_ticks(axes, scale * shown[cost])
    named = shown["accelerator"].dropna() if "accelerator" in shown else shown[cost].head(0)
    axes.set_xlabel(style.escape(title.format(accelerator=named.iloc[0].title() if len(named) else "NPU")))
    axes.set_axisbelow(True)
    axes.grid()
    axes.margins(0.12, 0.14)
    if axes.get_subplotspec().is_first_col():
        axes.set_ylabel("validation accuracy (%)")


def _plain_ticks(axes: Axes, values: pd.Series) -> None:
    """Ticks at 1, 2 and 5 times the powers of ten, written out."""
    decades = 10.0 ** np.arange(np.floor(np.log10(values.min())) - 1, np.ceil(np.log10(values.max())) + 1)
    ticks = [mantissa * decade for decade in decades for mantissa in (1, 2, 5)]
    axes.set_xticks([tick for tick in ticks if 0.7 * values.min() <= tick <= 1.4 * values.max()])
    axes.minorticks_off()
    axes.xaxis.set_major_formatter(lambda value, _: f"{value:,.10g}")


def _name(axes: Axes, rows: pd.DataFrame, cost: str) -> None:
    """The stage beside every leaf on the front; its marker says the format."""
    at = np.column_stack([COSTS[cost][1] * rows[cost], 100 * rows["validation_accuracy"]])
    on, known = rows[f"front_{cost}"].to_numpy(), rows[cost].notna().to_numpy()
    names = [get_label(stage) for stage in rows.loc[on, "stage"]]
    line = _along(at[on][np.argsort(at[on][:, 0])])
    text_placement.place(axes, at[on], names, [INK] * len(names), others=np.concatenate([at[known & ~on], line]))


def _along(points: np.ndarray, steps: int = 12) -> np.ndarray:
    """Points on the steps between `points` (n, 2), which go to the right and then up."""
    corners = np.column_stack([points[1:, 0], points[:-1, 1]])
    share = np.linspace(0, 1, steps)[:, None]
    pieces = [*zip(points[:-1], corners, strict=True), *zip(corners, points[1:], strict=True)]
    return np.concatenate([points[:0], *(start + share * (end - start) for start, end in pieces)])


def _legend(figure: Figure, rows: pd.DataFrame, free: list[Axes]) -> None:
    """In the place of a panel where one is free, else above."""
    stages = [stage for stage in STAGES if stage in set(rows["stage"])]
    formats = [form for form in FORMATS if form in set(rows["format"])]
    marks = [Line2D([], [], color=get_colour(stage), linewidth=6, solid_capstyle="butt") for stage in stages]
    marks += [
        Line2D([], [], color=MUTED, linestyle="", marker=FORMATS[form].marker, markersize=7, fillstyle="none")
        for form in formats
    ]
    marks.append(Line2D([], [], color=INK, linewidth=1))
    said = [*map(get_label, stages), *map(get_format_label, formats), "Pareto front"]
    for axes in free:
        axes.set_axis_off()
    if free:
        free[0].legend(marks, said, loc="center", ncols=2)
    else:
        figure.legend(marks, said, loc="outside upper center", ncols=5)


def _alt(rows: pd.DataFrame) -> str:
    said = []
    for cost in (one for one in COSTS if f"front_{one}" in rows):
        best = rows[rows[f"front_{cost}"]].sort_values(cost)
        names = [f"{get_label(row.stage)} {get_format_label(row.format)}" for row in best.itertuples()]
        said.append(f"{cost}: {', '.join(names)}")
    return f"Validation accuracy of {len(rows)} leaves against each cost. On the Pareto fronts, {'; '.join(said)}."
