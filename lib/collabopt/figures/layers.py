"""Heat maps of the layers: sparsity and unique weights, stage by stage."""

from pathlib import Path

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.colors import LogNorm, Normalize
from matplotlib.figure import Figure

from collabopt.config.stages import get_label, list_stages
from collabopt.figures import style
from collabopt.figures.style import INK, MUTED, use_style
from collabopt.storage.results import select_first_setting, to_numbers

_MOST_LAYERS = 40


@use_style()
def draw_layer_properties(layers: pd.DataFrame, csv: Path | None = None) -> Figure:
    """Draw and return sparsity and unique weights, layer by stage, of Keras models and, if known, of int8 files.

    `layers` are rows of layers.csv: `stage, layer, kind, weights, sparsity, unique_tensor`, one setting per stage. Of
    more than 40 layers, the largest are drawn. `csv` is for the data of all.

    Raises:
        ValueError: There are no rows.
    """
    if layers.empty:
        raise ValueError("layers: expected at least one row")
    measures = ["weights", "sparsity", "unique_tensor", "int8_sparsity", "int8_unique_tensor"]
    layers = to_numbers(select_first_setting(layers, "stage", "layer"), measures)
    is_depthwise = layers["kind"].astype(str).str.contains("depthwise", case=False)
    layers["layer"] = layers["layer"].astype(str) + is_depthwise.map({True: " (depthwise)", False: ""})
    weights = layers.groupby("layer", sort=False)["weights"].max()
    names, left_out = style.select_largest(weights, _MOST_LAYERS, "layers")
    drawn, stages = layers[layers["layer"].isin(names)], layers["stage"].unique()
    kinds = [kind for kind in ("", "int8_") if drawn[f"{kind}unique_tensor"].notna().any()]
    figure = style.make_figure(2.4 + 2 * max(0.62 * len(stages), 1.6), (1.3 + 0.25 * len(names)) * len(kinds))
    for row, kind in zip(figure.subplots(len(kinds), 2, squeeze=False), kinds, strict=True):
        where = "int8 file" if kind else "Keras model"
        sparsity, unique = _pivot(drawn, f"{kind}sparsity"), _pivot(drawn, f"{kind}unique_tensor")
        _draw_heat(row[0], 100 * sparsity, f"sparsity (%), {where}", "Blues", Normalize(0, 125))
        # The ends of the scale leave out the darkest blues, on which numbers are hard to read.
        ends = LogNorm(1.5, max(unique.max().max(), 256))
        _draw_heat(row[1], unique, f"unique weights, {where}", "Blues_r", ends)
        row[1].set_yticks([])
    note = "stronger blue compresses better; depthwise kernels are not compressed"
    figure.supxlabel("\n".join([note, *left_out]), color=MUTED)
    columns = ["stage", "layer", "kind", *(f"{kind}{one}" for kind in kinds for one in ("sparsity", "unique_tensor"))]
    alt = f"Sparsity and unique weights of {len(names)} layers at the stages {', '.join(map(get_label, stages))}"
    return style.save(figure, layers[columns], csv, f"{alt}; stronger blue compresses better.")


def _pivot(layers: pd.DataFrame, column: str) -> pd.DataFrame:
    """A table of `column`, layers by stages. Stages that are not registered come last."""
    table = layers.pivot_table(column, "layer", "stage", sort=False, dropna=False)
    known = list_stages()
    order = [stage for stage in known if stage in table] + [stage for stage in table if stage not in known]
    return table.reindex(index=layers["layer"].unique())[order].rename(columns=get_label)


def _draw_heat(axes: Axes, table: pd.DataFrame, title: str, shades: str, norm: Normalize) -> None:
    import seaborn as sns  # only here: it takes a second

    texts = table.map(lambda value: "" if pd.isna(value) else _shorten(value))
    form = {"fmt": "", "annot_kws": {"size": 8}, "cbar": False, "linewidths": 1}
    form |= {"xticklabels": False, "yticklabels": False}  # seaborn would draw names that are not escaped yet
    sns.heatmap(table, ax=axes, cmap=shades, norm=norm, annot=texts, **form)
    axes.set_title(title)
    axes.set(xlabel="", ylabel="", facecolor="#f1f3f4")
    axes.tick_params(length=0, colors=INK, labelsize=8.5)
    stages = [style.escape(stage) for stage in table.columns]
    axes.set_xticks(np.arange(len(stages)) + 0.5, stages, rotation=30, ha="right", rotation_mode="anchor")
    axes.set_yticks(np.arange(len(table)) + 0.5, [style.escape(label) for label in table.index], rotation=0)


def _shorten(count: float) -> str:
    """Format a count in at most four characters: 8, 512, 2.2k, 57k, 1.3M."""
    for size, letter in ((1e6, "M"), (1e3, "k")):
        if count >= size:
            return f"{count / size:.1f}{letter}" if count < 9.95 * size else f"{count / size:.0f}{letter}"
    return f"{count:.0f}"
