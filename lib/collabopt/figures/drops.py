"""Lost accuracy: per published stage beside the published figure, and per layer that is compressed alone."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import SymmetricalLogLocator

from collabopt.analysis import judgement
from collabopt.config.scores import ACCURACY, SCORES
from collabopt.config.stages import list_stages
from collabopt.figures import style
from collabopt.figures.style import ALARM, FAINT, INK, MUTED, get_colour, use_style

if TYPE_CHECKING:  # imports TensorFlow, which pages do without
    from collabopt.analysis.quantization_sensitivity import Diagnosis

_TITLES = {"drop": "FP32 or fake-INT8", "drop_int8": "INT8 file"}
_LOG_ABOVE = 10.0
"""Points. Where a drop exceeds this, the axis is logarithmic beyond ±1, or the small drops would be one line."""


@use_style()
def draw_drops(rows: pd.DataFrame, csv: Path | None = None) -> Figure | None:
    """Draw and return the published and our drop of each stage against its baseline, of Keras models and int8 files.

    `rows` are those of `comparison.compare_figures`; None if no drop is published. Our bars are two standard errors.
    `csv` is for the data.
    """
    shown = rows[rows["figure"].isin(judgement.DROPS) & rows["published"].notna()]
    if shown.empty:
        return None
    settings = [(row["table"], judgement.format_setting(row)) for row in shown.to_dict("records")]
    lines = list(dict.fromkeys(settings))
    shown_at = shown.assign(height=[lines.index(setting) for setting in settings])
    figure = style.make_figure(7.6, 1.2 + 0.32 * len(lines))
    names = [name for name in _TITLES if name in set(shown["figure"])]
    panels = figure.subplots(1, len(names), sharey=True, sharex=True, squeeze=False)
    for axes, name in zip(panels.flat, names, strict=True):
        _draw_published(axes, shown_at[shown_at["figure"] == name])
        _set_lines(axes, [f"{style.escape(stage)}  ({table.replace('_', ' ')})" for table, stage in lines])
        axes.set_title(_TITLES[name])
    figure.supxlabel("accuracy lost against the own FP32 baseline (points)", fontsize=9)
    theirs = Line2D([], [], color=INK, linestyle="", marker="D", fillstyle="none", markersize=6)
    ours = Line2D([], [], color=MUTED, marker="o", markersize=6)
    figure.legend([theirs, ours], ["published", "ours ± 2 SE"], loc="outside upper right", ncols=2)
    known = shown[shown["ours"].notna()]
    counted = Counter(judgement.judge_figure(row) for _, row in known.iterrows())
    verdicts = "; ".join(f"{count} {verdict}" for verdict, count in counted.most_common())
    alt = f"Points of accuracy lost against the own baseline, published beside ours, for {len(shown)} figures."
    alt += f" Of {len(known)} that can be compared: {verdicts}." if len(known) else " None of ours yet."
    return style.save(figure, shown, csv, alt)


@use_style()
def draw_layer_drops(table: pd.DataFrame, tolerance: float | None = None, csv: Path | None = None) -> Figure:
    """Draw and return what each layer of `sensitivity.measure`'s `table` costs on validation alone, and its weights.

    `tolerance`, in the unit of the drops, is a dashed line. `csv` is for the data.

    Raises:
        ValueError: The table has no rows.
    """
    if table.empty:
        raise ValueError("table: expected one row per layer; the experiment leaves every layer out")
    techniques = [stage for stage in list_stages().values() if f"{stage.name}_drop" in table]
    drops = table[[f"{stage.name}_drop" for stage in techniques]].astype(float)
    errors = 2 * table[[f"{stage.name}_error" for stage in techniques]].astype(float)
    score = SCORES[table["score"].iloc[0]] if "score" in table and len(table) else ACCURACY
    digits, unit = max(score.digits - 1, 1), f"{score.drop_unit}, " if score.drop_unit else ""
    height, size = (0.3, 9) if len(table) <= 30 else (0.2, 7.5)
    alt = []
    figure = style.make_figure(7.4, 1.2 + height * len(table))
    axes, beside = figure.subplots(1, 2, sharey=True, width_ratios=(4, 1))
    for number, stage in enumerate(techniques):
        heights = np.arange(len(table)) + 0.68 * ((number + 0.5) / len(techniques) - 0.5)
        form = {"fmt": "oDs^v"[number % 5], "color": stage.colour, "markeredgecolor": INK, "ecolor": MUTED}
        drop, error, label = drops.iloc[:, number], errors.iloc[:, number], f"{stage.label} alone"
        axes.errorbar(drop, heights, xerr=error, label=label, markersize=6, markeredgewidth=0.6, **form)
        if drop.notna().any():
            layer = table["layer"].iloc[int(np.nanargmax(drop))]
            alt.append(f"{label}, {layer} costs most, {drop.max():.{digits}f} {score.drop_unit}".rstrip())
    if tolerance is not None:
        form = {"label": f"tolerance ({tolerance:.3g})", "linestyle": "--", "linewidth": 1}
        axes.axvline(tolerance, color=INK, zorder=0, **form)
    _set_scale(axes, drops.to_numpy(), errors.to_numpy())
    _draw_weights(beside, table["weights"])
    _set_lines(axes, list(map(style.escape, table["layer"])), fontsize=size)
    change = "added" if score.lower_is_better else "lost"
    axes.set_xlabel(f"{score.title} {change} on validation ({unit}± 2 SE)")
    handles, labels = axes.get_legend_handles_labels()
    figure.legend(handles[::-1], labels[::-1], loc="outside upper right", ncols=len(labels), reverse=True)
    alt = f"Validation {score.title} {change} if each of {len(table)} layers alone is compressed: {'; '.join(alt)}."
    return style.save(figure, table, csv, alt)


@use_style()
def draw_quantization(diagnosis: Diagnosis, csv: Path | None = None) -> Figure:
    """Draw and return the signal-to-noise ratio and the cost of int8 of each layer in a `diagnosis`.

    Names of layers that are proposed to stay in float32 are red. `csv` is for the data.
    """
    table, score = diagnosis.table, diagnosis.score
    heights, labels = np.arange(len(table)), list(map(style.escape, table["layer"]))
    figure = style.make_figure(7.4, 1.4 + 0.3 * len(table))
    ratios, axes = figure.subplots(1, 2, sharey=True, width_ratios=(2, 3))
    finite = table[["snr_db", "kernel_snr_db"]].astype(float).replace(np.inf, np.nan)
    ratios.plot(finite["snr_db"], heights, "o-", color=INK, markersize=5, label="output, all layers in int8")
    ratios.plot(finite["kernel_snr_db"], heights, "D", color=MUTED, fillstyle="none", label="kernel")
    drops, errors = [], []
    for prefix, form, shift in (("only_int8", "o", -0.14), ("only_float", "s", 0.14)):
        drops.append(table[f"{prefix}_drop"].astype(float))
        errors.append(2 * table[f"{prefix}_error"].astype(float))
        label = f"only this layer in {prefix.removeprefix('only_')}{'' if prefix == 'only_int8' else '32'}"
        colour = get_colour("qat" if prefix == "only_float" else "cqat")
        bars = {"xerr": errors[-1], "fmt": form, "color": colour, "ecolor": MUTED, "markersize": 5.5}
        axes.errorbar(drops[-1], heights + shift, label=label, **bars)
    total = diagnosis.drops.loc["int8", "drop"]
    axes.axvline(total, color=ALARM, linestyle="--", linewidth=1, zorder=0, label="all layers in int8")
    if not np.any(np.nan_to_num([*drops, *errors])):
        axes.set_xlim(-1, 1)
    _set_scale(axes, np.array([*drops, [total] * len(table)]), np.array([*errors, [0] * len(table)]))
    _set_lines(axes, labels)
    _set_lines(ratios, labels)
    for text, layers in zip(ratios.get_yticklabels(), table["layers"], strict=True):
        text.set_color(ALARM if {*layers.split(", ")} <= {*diagnosis.proposed} else INK)
    ratios.set_xlabel("signal-to-noise ratio (dB)")
    unit = f"{score.drop_unit}, " if score.drop_unit else ""
    axes.set_xlabel(f"{score.title} {'added' if score.lower_is_better else 'lost'} on validation ({unit}± 2 SE)")
    figure.legend(*ratios.get_legend_handles_labels(), loc="outside upper left", ncols=1)
    figure.legend(*axes.get_legend_handles_labels(), loc="outside upper right", ncols=1)
    return style.save(figure, table, csv, f"Signal-to-noise ratio and cost of int8 by layer. {diagnosis.answer}")


def _draw_published(axes: Axes, shown: pd.DataFrame) -> None:
    axes.axvline(0, color=FAINT, linewidth=1, zorder=0)
    for row in shown.to_dict("records"):
        if pd.notna(row["ours"]):
            form = {"fmt": style.get_marker(row["stage"]), "color": get_colour(row["stage"])}
            axes.errorbar(100 * row["ours"], row["height"], xerr=200 * row["error"], **form)
        axes.plot(100 * row["published"], row["height"], "D", color=INK, fillstyle="none", markersize=6)


def _set_lines(axes: Axes, labels: list[str], **form) -> None:
    """One labelled line per row, from the top."""
    axes.set_yticks(np.arange(len(labels)), labels, **form)
    axes.set_ylim(max(len(labels), 1) - 0.5, -0.5)
    axes.tick_params(axis="y", length=0, colors=INK)
    axes.grid(axis="x")


def _set_scale(axes: Axes, drops: np.ndarray, errors: np.ndarray) -> None:
    if (drops > _LOG_ABOVE).any():
        axes.set_xscale("symlog", linthresh=1, linscale=0.7)
        axes.xaxis.set_major_locator(SymmetricalLogLocator(base=10, linthresh=1, subs=(1, 3)))
        axes.xaxis.set_major_formatter("{x:g}")
        axes.set_xlim(min(-1.0, 1.3 * np.nanmin(drops - errors)), 1.3 * np.nanmax(drops + errors))
    axes.axvline(0, color=MUTED, linewidth=1, zorder=0)


def _draw_weights(axes: Axes, weights: pd.Series) -> None:
    shares = 100 * weights / weights.sum()
    axes.barh(np.arange(len(shares)), shares, height=0.6, color=FAINT)
    for height, share in enumerate(shares):
        text = f"{share:.1f}" if share < 9.95 else f"{share:.0f}"
        axes.annotate(text, (share, height), (3, 0), textcoords="offset points", va="center", fontsize=7.5)
    axes.set(xlabel="weights (%)", xlim=(0, 1.35 * shares.max()))
    axes.tick_params(axis="y", length=0)
