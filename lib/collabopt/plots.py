"""Figures of a run: training, layers, size and accuracy; all others from modules of their own.

    plots.density({"pruned": kernel, "PCQAT int8": codes}, "conv_1", csv=directory / "density.csv")

Every function takes plain data, returns a matplotlib Figure, and writes what the figure shows to `csv` where given.
"""

from pathlib import Path

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.colors import LogNorm, Normalize
from matplotlib.figure import Figure, SubFigure
from matplotlib.lines import Line2D

from collabopt import labels, palette
from collabopt.density import density, density_grid
from collabopt.deployment_tree import tree
from collabopt.drops import drops
from collabopt.layer_drops import layer_drops
from collabopt.leaf_verdicts import leaf_verdicts
from collabopt.palette import ALARM, INK, MUTED, _style, preserved
from collabopt.pareto import costs
from collabopt.waterfall import waterfall

__all__ = [
    "costs",
    "density",
    "density_grid",
    "drops",
    "layer_drops",
    "layer_properties",
    "leaf_verdicts",
    "size_against_accuracy",
    "training_curves",
    "tree",
    "waterfall",
]


def training_curves(histories: dict[str, pd.DataFrame], csv: Path | None = None) -> Figure:
    """Accuracy over loss, a panel a stage, training (solid) against validation (dashed).

    A frame has the columns `epoch, loss, accuracy, val_loss, val_accuracy`, accuracies in [0, 1]; a stage that was
    not trained has no rows, and its panel says so.
    """
    if not histories:
        raise ValueError("histories={}: expected at least one stage and its history")
    across = min(len(histories), 4)
    down = -(-len(histories) // across)
    with _style():
        figure = palette.blank(max(2.6 * across, 4.2), 0.4 + 3.1 * down)
        blocks = np.atleast_1d(figure.subfigures(down, across)).ravel()
        for block, (stage, history) in zip(blocks, histories.items(), strict=False):
            _history(block, stage, history)
        solid, dashed = Line2D([], [], color=INK), Line2D([], [], color=INK, linestyle="--", marker="o", markersize=3)
        figure.legend([solid, dashed], ["training", "validation"], loc="outside upper right", ncols=2)
    present = {stage: history for stage, history in histories.items() if len(history)}
    data = pd.concat(present, names=["stage"]).reset_index("stage") if present else pd.DataFrame(columns=["stage"])
    said = [f"{palette.name(stage)} {_ended(history)}" for stage, history in histories.items()]
    return palette.keep(figure, data, csv, f"Training curves: {'; '.join(said)}.")


def _ended(history: pd.DataFrame) -> str:
    """after 8 epochs validation accuracy 98.1 %"""
    if not len(history):
        return "not trained"
    accuracy = (
        f" validation accuracy {100 * history['val_accuracy'].iloc[-1]:.1f} %" if "val_accuracy" in history else ""
    )
    return f"after {len(history)} epoch{'s' * (len(history) > 1)}{accuracy}"


def _history(block: SubFigure, stage: str, history: pd.DataFrame) -> None:
    if not len(history):
        axes = block.subplots()
        axes.set_title(palette.literal(palette.name(stage)), fontweight="bold")
        axes.set(xticks=[], yticks=[], facecolor="#f6f7f8")
        axes.spines[:].set_visible(False)
        axes.text(0.5, 0.5, "0 epochs:\nnot trained", transform=axes.transAxes, ha="center", va="center", color=MUTED)
        return
    upper, lower = block.subplots(2, 1, sharex=True)
    upper.set_title(palette.literal(palette.name(stage)), fontweight="bold")
    _curve(upper, history, "accuracy", palette.colour(stage), scale=100)
    _curve(lower, history, "loss", palette.colour(stage), scale=1)
    upper.set_ylabel("accuracy (%)")
    lower.set(ylabel="loss", xlabel="epoch")
    if len(history) == 1:
        lower.set(xticks=history["epoch"], xlim=(history["epoch"].iloc[0] - 1, history["epoch"].iloc[0] + 1))


def _curve(axes: Axes, history: pd.DataFrame, metric: str, colour: str, scale: float) -> None:
    # One epoch is one point, and a line through one point is not seen.
    training = {"marker": "o", "markerfacecolor": "white", "markersize": 5} if len(history) == 1 else {}
    validation = {"linestyle": "--", "marker": "o", "markersize": 3}
    for column, form in ((metric, training), (f"val_{metric}", validation)):
        if column in history:
            axes.plot(history["epoch"], scale * history[column], color=colour, linewidth=1.6, **form)
    axes.grid(axis="y")
    axes.xaxis.get_major_locator().set_params(integer=True, nbins=5)


def layer_properties(layers: pd.DataFrame, csv: Path | None = None) -> Figure:
    """Heat maps of sparsity and unique weights, layer by stage; of the int8 files too where their columns are filled.

    `layers` has the columns `stage, layer, kind, sparsity, unique_tensor` and may have `int8_sparsity,
    int8_unique_tensor, scheme`; where a stage has several settings the first is drawn, ours before the stock scheme's.
    """
    if layers.empty:
        raise ValueError("layers: expected at least one row")
    measures = ["sparsity", "unique_tensor", "int8_sparsity", "int8_unique_tensor"]
    layers = palette.numbers(palette.first_setting(layers, "stage", "layer"), measures)
    layers["layer"] = layers["layer"].astype(str) + layers["kind"].map(_aside)
    kinds = [kind for kind in ("", "int8_") if layers[f"{kind}unique_tensor"].notna().any()]
    with _style():
        names, stages = layers["layer"].nunique(), layers["stage"].nunique()
        size = 2.4 + 2 * max(0.62 * stages, 1.6), (1.3 + 0.25 * names) * len(kinds)
        figure = palette.blank(*size)
        for row, kind in zip(figure.subplots(len(kinds), 2, squeeze=False), kinds, strict=True):
            where = "int8 file" if kind else "Keras model"
            sparsity, unique = _by_stage(layers, f"{kind}sparsity"), _by_stage(layers, f"{kind}unique_tensor")
            _heat(row[0], 100 * sparsity, f"sparsity (%), {where}", "Blues", Normalize(0, 125))
            # The ends of the scale leave out the darkest blues, on which numbers are hard to read.
            _heat(row[1], unique, f"unique weights, {where}", "Blues_r", LogNorm(1.5, max(unique.max().max(), 256)))
            row[1].set_yticks([])
        figure.supxlabel("darker compresses better; depthwise kernels are left as they are", fontsize=8, color=MUTED)
    columns = [column for column in ("stage", "layer", "kind") if column in layers]
    shown = [f"{kind}{column}" for kind in kinds for column in ("sparsity", "unique_tensor")]
    said = f"Sparsity and unique weights of {names} layers at the stages "
    said += f"{', '.join(map(palette.name, layers['stage'].unique()))}; darker compresses better."
    return palette.keep(figure, layers[columns + shown], csv, said)


def _aside(kind: str) -> str:
    return " (depthwise)" if "depthwise" in str(kind).lower() else ""


def _by_stage(layers: pd.DataFrame, column: str) -> pd.DataFrame:
    """A table of `column`, layers (rows) by stages (columns), both in the order they come in."""
    table = layers.pivot_table(column, "layer", "stage", sort=False, dropna=False)
    order = [stage for stage in palette.NAMES if stage in table] + [s for s in table if s not in palette.NAMES]
    return table.reindex(index=layers["layer"].unique())[order].rename(columns=palette.name)


def _heat(axes: Axes, table: pd.DataFrame, title: str, shades: str, norm: Normalize) -> None:
    import seaborn as sns  # only here: it takes a second

    written = table.map(lambda value: "" if pd.isna(value) else _short(value))
    form = {"fmt": "", "annot_kws": {"size": 8}, "cbar": False, "linewidths": 1}
    sns.heatmap(table, ax=axes, cmap=shades, norm=norm, annot=written, **form)
    axes.set_title(title, fontweight="bold")
    axes.set(xlabel="", ylabel="", facecolor="#f1f3f4")
    axes.tick_params(length=0, colors=INK, labelsize=8.5)
    stages = [palette.literal(stage) for stage in table.columns]
    axes.set_xticks(np.arange(len(stages)) + 0.5, stages, rotation=30, ha="right", rotation_mode="anchor")
    axes.set_yticks(np.arange(len(table)) + 0.5, [palette.literal(label) for label in table.index], rotation=0)


def _short(count: float) -> str:
    """A count in at most four characters: 8, 512, 2.2k, 57k, 1.3M."""
    for size, letter in ((1e6, "M"), (1e3, "k")):
        if count >= size:
            return f"{count / size:.1f}{letter}" if count < 9.95 * size else f"{count / size:.0f}{letter}"
    return f"{count:.0f}"


def size_against_accuracy(results: pd.DataFrame, csv: Path | None = None) -> Figure:
    """Gzip size (kB, 1,000 bytes) against INT8 accuracy (%), a labelled point a row of `results`.

    Accuracy is that on test; on validation, and the axis says so, where no row has any. A row whose stage did not
    preserve what its parent won has a red ring and says so.
    """
    shown = palette.numbers(results, ["gzip_bytes", "accuracy_int8", "validation_accuracy_int8"])
    unread = bool(shown["accuracy_int8"].isna().all())
    if unread:
        shown = shown.assign(accuracy_int8=shown["validation_accuracy_int8"])
    shown = shown.dropna(subset=["gzip_bytes", "accuracy_int8"])
    shown = shown.reindex(columns=["stage", "scheme", "gzip_bytes", "accuracy_int8", "preserved"])
    with _style():
        figure = palette.blank(7.2, 4.6)
        axes = figure.subplots()
        axes.set(xlabel="gzip size of the int8 .tflite (kB)", ylabel=f"INT8 {'validation ' * unread}accuracy (%)")
        axes.set_axisbelow(True)
        axes.grid()
        axes.margins(0.12)
        for row in shown.itertuples():
            at, colour = (row.gzip_bytes / 1000, 100 * row.accuracy_int8), palette.colour(row.stage)
            axes.plot(*at, palette.marker(row.stage), color=colour, markersize=9, markeredgecolor="white")
            if preserved(row.preserved) is False:
                axes.plot(*at, "o", markersize=17, fillstyle="none", color=ALARM, markeredgewidth=1.8)
        floats, quantized = (Line2D([], [], color=MUTED, linestyle="", marker=shape, markersize=7) for shape in "os")
        names = ["post-training quantization", "quantization-aware training"]
        figure.legend([floats, quantized], names, loc="outside upper right", ncols=2)
        _label(axes, shown)
    said = [
        f"{palette.name(row.stage)} {100 * row.accuracy_int8:.1f} % at {row.gzip_bytes / 1000:,.0f} kB"
        + ", NOT preserved" * (preserved(row.preserved) is False)
        for row in shown.itertuples()
    ]
    return palette.keep(figure, shown, csv, f"INT8 accuracy against gzip size: {'; '.join(said)}.")


def _label(axes: Axes, shown: pd.DataFrame) -> None:
    twice = shown.groupby("stage")["scheme"].transform("nunique") > 1
    data = np.column_stack([shown["gzip_bytes"] / 1000, 100 * shown["accuracy_int8"]])
    lost = [preserved(value) is False for value in shown["preserved"]]
    said = [
        palette.name(row.stage) + (f" ({row.scheme or 'own'} scheme)" if schemes else "") + ", NOT preserved" * gone
        for row, schemes, gone in zip(shown.itertuples(), twice, lost, strict=True)
    ]
    colours = [ALARM if gone else INK for gone in lost]
    labels.place(axes, data, said, colours, [1.4 if gone else 1.0 for gone in lost])
