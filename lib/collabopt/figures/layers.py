""""""

from pathlib import Path

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.colors import LogNorm, Normalize
from matplotlib.figure import Figure

from collabopt.config.stages import STAGES, get_label
from collabopt.figures import style
from collabopt.figures.style import INK, MUTED, use_style


def draw_layer_properties(layers: pd.DataFrame, csv: Path | None = None) -> Figure:
    """Heat maps of sparsity and unique weights, layer by stage; of the int8 files too where their columns are filled.

    `layers` has the columns `stage, layer, kind, sparsity, unique_tensor` and may have `int8_sparsity,
    int8_unique_tensor, scheme`; where a stage has several settings the first is drawn, ours before the stock scheme's.
    """
    if layers.empty:
        raise ValueError("layers: expected at least one row")
    measures = ["sparsity", "unique_tensor", "int8_sparsity", "int8_unique_tensor"]
    layers = style.to_numbers(style.select_first_setting(layers, "stage", "layer"), measures)
    layers["layer"] = layers["layer"].astype(str) + layers["kind"].map(_aside)
    kinds = [kind for kind in ("", "int8_") if layers[f"{kind}unique_tensor"].notna().any()]
    with use_style():
        names, stages = layers["layer"].nunique(), layers["stage"].nunique()
        size = 2.4 + 2 * max(0.62 * stages, 1.6), (1.3 + 0.25 * names) * len(kinds)
        figure = style.make_figure(*size)
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
    said += f"{', '.join(map(get_label, layers['stage'].unique()))}; darker compresses better."
    return style.save(figure, layers[columns + shown], csv, said)


def _aside(kind: str) -> str:
    return " (depthwise)" if "depthwise" in str(kind).lower() else ""


def _by_stage(layers: pd.DataFrame, column: str) -> pd.DataFrame:
    """A table of `column`, layers (rows) by stages (columns), both in the order they come in."""
    table = layers.pivot_table(column, "layer", "stage", sort=False, dropna=False)
    order = [stage for stage in STAGES if stage in table] + [s for s in table if s not in STAGES]
    return table.reindex(index=layers["layer"].unique())[order].rename(columns=get_label)


def _heat(axes: Axes, table: pd.DataFrame, title: str, shades: str, norm: Normalize) -> None:
    import seaborn as sns  # only here: it takes a second

    written = table.map(lambda value: "" if pd.isna(value) else _short(value))
    form = {"fmt": "", "annot_kws": {"size": 8}, "cbar": False, "linewidths": 1}
    sns.heatmap(table, ax=axes, cmap=shades, norm=norm, annot=written, **form)
    axes.set_title(title, fontweight="bold")
    axes.set(xlabel="", ylabel="", facecolor="#f1f3f4")
    axes.tick_params(length=0, colors=INK, labelsize=8.5)
    stages = [style.escape(stage) for stage in table.columns]
    axes.set_xticks(np.arange(len(stages)) + 0.5, stages, rotation=30, ha="right", rotation_mode="anchor")
    axes.set_yticks(np.arange(len(table)) + 0.5, [style.escape(label) for label in table.index], rotation=0)


def _short(count: float) -> str:
    """A count in at most four characters: 8, 512, 2.2k, 57k, 1.3M."""
    for size, letter in ((1e6, "M"), (1e3, "k")):
        if count >= size:
            return f"{count / size:.1f}{letter}" if count < 9.95 * size else f"{count / size:.0f}{letter}"
    return f"{count:.0f}"
