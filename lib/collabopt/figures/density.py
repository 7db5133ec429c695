"""Weight densities: the effect of pruning, clustering and quantization on a kernel.

Few distinct values are drawn as one stem per value, so that every cluster is a peak. Continuous weights are drawn as a
fine histogram with their exact zeros apart. A zero peak far above the rest is cut (≈) and labelled with its share. For
int8 values the figure states their zero-order entropy: no coder of single values needs fewer bits per weight.
"""

from collections.abc import Iterable
from pathlib import Path

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from collabopt.config.stages import get_label
from collabopt.figures import style
from collabopt.figures.style import INK, MUTED, get_colour, use_style
from collabopt.tflite import sizes

_MOST_STEMS = 256  # more distinct floats are drawn as a histogram
_BINS, _GRID_BINS = 160, 60
_MOST_KERNELS = 30  # rows of a grid
_CUT = 1.5  # a zero peak this many times as high as the next peak is cut


def compute_distribution(weights: np.ndarray, bins: int = _BINS) -> pd.DataFrame:
    """Compute the distribution of a kernel.

    Args:
        weights: Weights of any shape.
        bins: Number of equal bins if there are more than 256 distinct floats. Zero keeps a row of its own.

    Returns:
        Rows of `value, width, count, share` in ascending order. `width` is 0 for an exact value; otherwise `value` is
        the middle of the bin. Shares sum to 1.
    """
    values, counts = np.unique(weights, return_counts=True)
    rows = pd.DataFrame({"value": values.astype(float), "width": 0.0, "count": counts})
    if len(values) > _MOST_STEMS and not _is_int8(weights):
        counts, edges = np.histogram(values[values != 0], bins, weights=counts[values != 0])
        middles = (edges[:-1] + edges[1:]) / 2
        binned = pd.DataFrame({"value": middles, "width": np.diff(edges), "count": counts.astype(int)})
        rows = pd.concat([rows[rows["value"] == 0], binned], ignore_index=True).sort_values("value", ignore_index=True)
    return rows.assign(share=rows["count"] / max(np.size(weights), 1))


def compute_entropy(values: np.ndarray) -> float:
    """Return the zero-order entropy of int8 `values`, in bits per weight."""
    return 8 * abs(sizes.compute_entropy_bytes([values])) / values.size if values.size else 0.0


@use_style()
def draw_density(kernels: dict[str, np.ndarray], title: str, csv: Path | None = None) -> Figure:
    """Draw one kernel at several stages, one panel per stage.

    Args:
        kernels: Weights of any shape by label, such as "pruned" or "PCQAT int8". Integers are int8 values.
        title: Title of the figure, usually the layer.
        csv: File for the data: `label` and the columns of `compute_distribution`.

    Returns:
        The figure.

    Raises:
        ValueError: There is no kernel.
    """
    if not kernels:
        raise ValueError("kernels={}: expected at least one label and its weights")
    kernels = {label: np.asarray(weights) for label, weights in kernels.items()}
    rows = {label: compute_distribution(weights) for label, weights in kernels.items()}
    limits = _compute_limits(weights for weights in kernels.values() if not _is_int8(weights))
    across = len(kernels) if len(kernels) < 4 else 2
    down = -(-len(kernels) // across)
    figure = style.make_figure(max(3.6 * across, 5.0), 0.4 + 2.5 * down)
    figure.suptitle(style.escape(title), x=0.01, ha="left", fontsize=11, fontweight="bold")
    for axes, label in zip(figure.subplots(down, across, squeeze=False).flat, kernels, strict=False):
        _draw_panel(axes, label, kernels[label], rows[label], limits)
    for axes in figure.axes[len(kernels) :]:
        axes.set_axis_off()
    told = "; ".join(f"{label}, {', '.join(_describe(weights))}" for label, weights in kernels.items())
    data = pd.concat(rows, names=["label"]).reset_index("label")
    return style.save(figure, data, csv, f"Weight densities of {title}: {told}.")


@use_style()
def draw_density_grid(stages: dict[str, dict[str, np.ndarray]], csv: Path | None = None) -> Figure:
    """Draw kernels (rows) at every stage (columns). The float panels of a row share their x axis.

    Args:
        stages: Weights of any shape by stage and kernel. Integers are int8 values. Of more than 30 kernels, the largest
            are drawn.
        csv: File for the data of all kernels: `stage`, `kernel` and the columns of `compute_distribution`.

    Returns:
        The figure.

    Raises:
        ValueError: There is no kernel.
    """
    kernels = list(dict.fromkeys(kernel for weights in stages.values() for kernel in weights))
    if not kernels:
        raise ValueError(f"stages={list(stages)}: expected at least one kernel")
    flat = {(stage, kernel): weights for stage in stages for kernel, weights in stages[stage].items()}
    rows = {key: compute_distribution(weights, _GRID_BINS) for key, weights in flat.items()}
    weights = pd.Series({kernel: np.size(array) for (_, kernel), array in flat.items()})
    drawn, left_out = style.select_largest(weights, _MOST_KERNELS, "kernels")
    note = "above each panel: zeros · unique values"
    note += " · entropy of int8 values (b: bits per weight)" * any(map(_is_int8, flat.values()))
    figure = style.make_figure(1.7 + 1.35 * len(stages), 0.8 + 0.72 * len(drawn))
    panels = figure.subplots(len(drawn), len(stages), squeeze=False)
    for kernel, line in zip(drawn, panels, strict=True):
        limits = _compute_limits(flat[key] for key in flat if key[1] == kernel and not _is_int8(flat[key]))
        # Horizontal: a column of names reads better than vertical names.
        line[0].set_ylabel(style.escape(kernel), rotation=0, ha="right", va="center", fontsize=8.5)
        for stage, axes in zip(stages, line, strict=True):
            _draw_cell(axes, stage, flat.get((stage, kernel)), rows.get((stage, kernel)), limits)
    for stage, axes in zip(stages, panels[0], strict=True):
        axes.set_title(style.escape(get_label(stage)), loc="center", pad=16, fontsize=9)
    figure.supxlabel("\n".join([note, "a zero peak that is cut is marked ≈", *left_out]), color=MUTED)
    alt = f"Weight densities of {len(drawn)} kernels at the stages {', '.join(map(get_label, stages))}."
    return style.save(figure, pd.concat(rows, names=["stage", "kernel"]).reset_index(["stage", "kernel"]), csv, alt)


def _is_int8(weights: np.ndarray) -> bool:
    return np.issubdtype(np.asarray(weights).dtype, np.integer)


def _summarize(weights: np.ndarray) -> tuple[float, int]:
    """Sparsity in [0, 1] and number of distinct values."""
    return 1 - np.count_nonzero(weights) / max(np.size(weights), 1), len(np.unique(weights))


def _describe(weights: np.ndarray) -> list[str]:
    sparsity, unique = _summarize(weights)
    texts = [f"sparsity {100 * sparsity:.1f} %", f"{unique:,} unique value{'s' * (unique != 1)}"]
    return texts + ([f"entropy {compute_entropy(weights):.2f} bits per weight"] if _is_int8(weights) else [])


def _compute_limits(kernels: Iterable[np.ndarray]) -> tuple[float, float]:
    """The x axis that holds zero and all weights, with a margin."""
    ends = [0.0, *(end for weights in kernels if np.size(weights) for end in (np.min(weights), np.max(weights)))]
    low, high = min(ends), max(ends)
    margin = 0.04 * (high - low) or 1.0
    return float(low - margin), float(high + margin)


def _draw_panel(axes: Axes, label: str, weights: np.ndarray, rows: pd.DataFrame, limits: tuple[float, float]) -> None:
    sparsity, unique, *entropy = _describe(weights)
    axes.set_title(style.escape(label), pad=19)
    text = f"{sparsity}  ·  {unique}"
    axes.annotate(text, (0, 1), (0, 5), xycoords="axes fraction", textcoords="offset points", color=MUTED)
    axes.set_xlim((-132, 132) if entropy else limits)
    axes.set_xlabel("\n".join(["int8 value", *entropy]) if entropy else "weight")
    axes.set_ylabel("share of weights\nper bin" if rows["width"].any() else "share of weights")
    axes.yaxis.set_major_formatter(lambda share, _: f"{100 * share:.3g} %")
    axes.locator_params(axis="y", nbins=5)
    if _draw_distribution(axes, rows, get_colour(label), thickness=2.0):
        axes.annotate(
            sparsity.replace("sparsity", "zeros"), (0, 0.9), (7, 0), xycoords=("data", "axes fraction"), va="center",
            textcoords="offset points", fontsize=8.5, bbox={"facecolor": "white", "edgecolor": "none", "pad": 1},
        )  # fmt: skip


def _draw_cell(axes: Axes, stage: str, weights: np.ndarray | None, rows: pd.DataFrame, limits: tuple) -> None:
    axes.set(yticks=[], xticks=[] if weights is None else [0], xticklabels=[])
    axes.spines["left"].set_visible(False)
    if weights is None:
        axes.text(0.5, 0.5, "none", transform=axes.transAxes, ha="center", va="center", color=MUTED, fontsize=8)
        return
    sparsity, unique = _summarize(weights)
    text = f"{100 * sparsity:.0f} % · {unique:,}"
    text += f" · {compute_entropy(weights):.1f} b" if _is_int8(weights) else ""
    axes.set_xlim((-132, 132) if _is_int8(weights) else limits)
    axes.text(0.5, 1.02, text, transform=axes.transAxes, ha="center", va="bottom", fontsize=7.5, color=MUTED)
    _draw_distribution(axes, rows, get_colour(stage), thickness=1.0)


def _draw_distribution(axes: Axes, rows: pd.DataFrame, colour: str, thickness: float) -> bool:
    """Return whether the zero peak was cut."""
    exact, bins = rows[rows["width"] == 0], rows[rows["width"] > 0]
    if len(bins):
        axes.bar(bins["value"], bins["share"], bins["width"], color=colour, linewidth=0)
    thin = min(thickness, 60 * thickness / max(len(exact), 1))
    others = exact[exact["value"] != 0]
    # One line with gaps is drawn in a tenth of the time of `vlines`.
    points = np.column_stack([np.zeros(len(others)), others["share"], np.full(len(others), np.nan)]).ravel()
    width = max(thin, 0.7 * thickness)
    axes.plot(np.repeat(others["value"], 3), points, color=colour, linewidth=width, solid_capstyle="butt")
    zero = float(exact.loc[exact["value"] == 0, "share"].sum())
    highest = float(rows.loc[(rows["value"] != 0) | (rows["width"] > 0), "share"].max()) if len(rows) > 1 else 0.0
    cut = highest > 0 and zero > _CUT * highest
    axes.set_ylim(0, 1.4 * highest if cut else 1.08 * max(zero, highest, 1e-9))
    if zero:
        axes.vlines(0, 0, zero, color=INK, linewidth=thickness)
    if cut:
        axes.text(
            0, 0.76, "≈", transform=axes.get_xaxis_transform(), ha="center", va="center", fontsize=5 + 2.5 * thickness,
            bbox={"facecolor": "white", "edgecolor": "none", "pad": 0.2}, color=INK,
        )  # fmt: skip
    return cut
