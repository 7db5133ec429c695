"""Weight densities: what pruning, clustering and quantization make of a kernel, seen before and after.

Few distinct values are drawn one stem a value, so that every cluster is a peak of its own; continuous weights are drawn
as a fine histogram with their exact zeros apart. A zero peak far above the rest is cut (≈) and its share written. With
int8 codes stands their zero-order entropy: the bits a weight that no coder can go below which takes code by code.
"""

from pathlib import Path

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from collabopt.config.stages import get_label
from collabopt.figures import style
from collabopt.figures.style import INK, MUTED, get_colour, use_style
from collabopt.tflite import sizes

MOST_STEMS = 256
"""More distinct values than this are drawn as a histogram; int8 codes are always drawn one by one."""


BINS = 160


GRID_BINS = 60


CUT = 1.5
"""A zero peak this many times as high as the next peak is cut."""


def distribution(weights: np.ndarray, bins: int = BINS) -> pd.DataFrame:
    """The distribution of a kernel of any shape: rows of `value, width, count, share`, ascending; shares sum to 1.

    `width` is 0 for an exact value. Where there are more than 256 distinct floats, zero keeps a row of its own and the
    others are counted in `bins` equal bins, `value` the middle of each.
    """
    values, counts = np.unique(weights, return_counts=True)
    rows = pd.DataFrame({"value": values.astype(float), "width": 0.0, "count": counts})
    if len(values) > MOST_STEMS and not _is_codes(weights):
        counts, edges = np.histogram(values[values != 0], bins, weights=counts[values != 0])
        middles = (edges[:-1] + edges[1:]) / 2
        binned = pd.DataFrame({"value": middles, "width": np.diff(edges), "count": counts.astype(int)})
        rows = pd.concat([rows[rows["value"] == 0], binned], ignore_index=True).sort_values("value", ignore_index=True)
    return rows.assign(share=rows["count"] / max(np.size(weights), 1))


def draw_density(kernels: dict[str, np.ndarray], title: str, csv: Path | None = None) -> Figure:
    """One kernel at two to four stages: `kernels` maps a label ("pruned", "PCQAT int8") to its weights of any shape.

    Integer arrays are taken for int8 codes. Float panels share their x axis. `csv` gets `label` and `distribution`.
    """
    if not kernels:
        raise ValueError("kernels={}: expected at least one label and its weights")
    kernels = {label: np.asarray(weights) for label, weights in kernels.items()}
    rows = {label: distribution(weights) for label, weights in kernels.items()}
    limits = _limits(weights for weights in kernels.values() if not _is_codes(weights))
    across = len(kernels) if len(kernels) < 4 else 2
    down = -(-len(kernels) // across)
    with use_style():
        figure = style.make_figure(max(3.6 * across, 5.0), 0.4 + 2.5 * down)
        figure.suptitle(style.escape(title), x=0.01, ha="left", fontsize=11, fontweight="bold")
        for axes, label in zip(figure.subplots(down, across, squeeze=False).flat, kernels, strict=False):
            _panel(axes, label, kernels[label], rows[label], limits)
        for axes in figure.axes[len(kernels) :]:
            axes.set_axis_off()
    said = f"Weight densities of {title}: {'; '.join(f'{label}, {_told(kernels[label])}' for label in kernels)}."
    return style.save(figure, _stacked(rows, ["label"]), csv, said)


def draw_density_grid(stages: dict[str, dict[str, np.ndarray]], csv: Path | None = None) -> Figure:
    """Every kernel (rows) at every stage (columns): `stages` maps stage to kernel name to weights of any shape.

    A row's float panels share their x axis. `csv` gets `stage`, `kernel` and `distribution`.
    """
    kernels = list(dict.fromkeys(kernel for weights in stages.values() for kernel in weights))
    if not kernels:
        raise ValueError(f"stages={list(stages)}: expected at least one kernel")
    rows = {
        (stage, kernel): distribution(weights, GRID_BINS)
        for stage, of_stage in stages.items()
        for kernel, weights in of_stage.items()
    }
    codes = any(_is_codes(weights) for of_stage in stages.values() for weights in of_stage.values())
    coded = " · entropy of int8 codes (b: bits a weight)" if codes else ""
    with use_style():
        figure = style.make_figure(1.7 + 1.35 * len(stages), 0.8 + 0.72 * len(kernels))
        panels = figure.subplots(len(kernels), len(stages), squeeze=False)
        for kernel, line in zip(kernels, panels, strict=True):
            _grid_row(line, kernel, stages, rows)
        for stage, axes in zip(stages, panels[0], strict=True):
            axes.set_title(
                style.escape(get_label(stage)), fontsize=9, color=INK, fontweight="bold", loc="center", pad=16
            )
        figure.supxlabel(
            f"above each panel: zeros · unique values{coded}\na zero peak that is cut is marked ≈",
            fontsize=8,
            color=MUTED,
        )
    said = f"Weight densities of {len(kernels)} kernels at the stages {', '.join(map(get_label, stages))}."
    return style.save(figure, _stacked(rows, ["stage", "kernel"]), csv, said)


def summary(weights: np.ndarray) -> tuple[float, int]:
    """Sparsity, the fraction of exact zeros in [0, 1], and the count of distinct values."""
    return 1 - np.count_nonzero(weights) / max(np.size(weights), 1), len(np.unique(weights))


def entropy_bits(codes: np.ndarray) -> float:
    """The zero-order entropy of a kernel's int8 codes, in bits a weight; 0 of an empty kernel."""
    return 8 * abs(sizes.compute_entropy_bytes([codes])) / codes.size if codes.size else 0.0


def _is_codes(weights: np.ndarray) -> bool:
    return np.issubdtype(np.asarray(weights).dtype, np.integer)


def _told(weights: np.ndarray) -> str:
    """Sparsity, unique values and entropy of int8 codes in words."""
    sparsity, unique = summary(weights)
    said = f"sparsity {100 * sparsity:.1f} %, {unique:,} unique value{'s' * (unique != 1)}"
    return said + (f", entropy {entropy_bits(weights):.2f} bits a weight" if _is_codes(weights) else "")


def _limits(kernels) -> tuple[float, float]:
    """The x axis that holds all of the float `kernels`, zero included, with a margin."""
    ends = [end for weights in kernels if np.size(weights) for end in (np.min(weights), np.max(weights))]
    low, high = min([*ends, 0.0]), max([*ends, 0.0])
    margin = 0.04 * (high - low) or 1.0
    return float(low - margin), float(high + margin)


def _panel(axes: Axes, label: str, weights: np.ndarray, rows: pd.DataFrame, limits: tuple[float, float]) -> None:
    sparsity, unique = summary(weights)
    codes, binned = _is_codes(weights), bool(rows["width"].any())
    axes.set_title(style.escape(label), fontweight="bold", pad=19)
    values = "value" if unique == 1 else "values"
    said = f"sparsity {100 * sparsity:.1f} %  ·  {unique:,} unique {values}"
    axes.annotate(said, (0, 1), (0, 5), xycoords="axes fraction", textcoords="offset points", color=MUTED)
    axes.set_xlim((-132, 132) if codes else limits)
    axes.set_xlabel(f"int8 code\nentropy {entropy_bits(weights):.2f} bits a weight" if codes else "weight")
    axes.set_ylabel("share of weights\nper bin" if binned else "share of weights")
    axes.yaxis.set_major_formatter(lambda share, _: f"{100 * share:.3g} %")
    axes.locator_params(axis="y", nbins=5)
    if _draw(axes, rows, get_colour(label), thick=2.0):
        axes.annotate(
            f"zeros {100 * sparsity:.1f} %", (0, 0.9), (7, 0), xycoords=("data", "axes fraction"), va="center",
            textcoords="offset points", fontsize=8.5, bbox={"facecolor": "white", "edgecolor": "none", "pad": 1},
        )  # fmt: skip


def _grid_row(line: np.ndarray, kernel: str, stages: dict, rows: dict) -> None:
    present = [of_stage[kernel] for of_stage in stages.values() if kernel in of_stage]
    limits = _limits(weights for weights in present if not _is_codes(weights))
    # Horizontal: a column of names reads better than names turned on their side.
    line[0].set_ylabel(style.escape(kernel), rotation=0, ha="right", va="center", fontsize=8.5)
    for (stage, of_stage), axes in zip(stages.items(), line, strict=True):
        axes.set(yticks=[], xticks=[0], xticklabels=[])
        axes.spines["left"].set_visible(False)
        if kernel not in of_stage:
            axes.set(xticks=[])
            axes.text(0.5, 0.5, "none", transform=axes.transAxes, ha="center", va="center", color=MUTED, fontsize=8)
            continue
        sparsity, unique = summary(of_stage[kernel])
        axes.set_xlim((-132, 132) if _is_codes(of_stage[kernel]) else limits)
        said = f"{100 * sparsity:.0f} % · {unique:,}"
        if _is_codes(of_stage[kernel]):
            said += f" · {entropy_bits(of_stage[kernel]):.1f} b"
        axes.text(0.5, 1.02, said, transform=axes.transAxes, ha="center", va="bottom", fontsize=7.5, color=MUTED)
        _draw(axes, rows[stage, kernel], get_colour(stage), thick=1.0)


def _draw(axes: Axes, rows: pd.DataFrame, colour: str, thick: float) -> bool:
    """Draw a `distribution`; returns whether its zero peak was cut."""
    exact, bins = rows[rows["width"] == 0], rows[rows["width"] > 0]
    if len(bins):
        axes.bar(bins["value"], bins["share"], bins["width"], color=colour, linewidth=0)
    thin = min(thick, 60 * thick / max(len(exact), 1))
    others = exact[exact["value"] != 0]
    axes.vlines(others["value"], 0, others["share"], color=colour, linewidth=max(thin, 0.7 * thick))
    zero = float(exact.loc[exact["value"] == 0, "share"].sum())
    highest = float(rows.loc[(rows["value"] != 0) | (rows["width"] > 0), "share"].max()) if len(rows) > 1 else 0.0
    cut = highest > 0 and zero > CUT * highest
    axes.set_ylim(0, 1.25 * highest * (1.12 if cut else 1) if cut else 1.08 * max(zero, highest, 1e-9))
    if zero:
        axes.vlines(0, 0, zero, color=INK, linewidth=thick)
    if cut:
        axes.text(
            0, 0.76, "≈", transform=axes.get_xaxis_transform(), ha="center", va="center", fontsize=5 + 2.5 * thick,
            bbox={"facecolor": "white", "edgecolor": "none", "pad": 0.2}, color=INK,
        )  # fmt: skip
    return cut


def _stacked(rows: dict, keys: list[str]) -> pd.DataFrame:
    """The distributions of a figure in one table, under the names of their keys."""
    return pd.concat(rows, names=keys).reset_index(keys)
