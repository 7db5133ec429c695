"""Channels per layer, before and after the network changed its shape."""

from pathlib import Path

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from collabopt.config.stages import get_label
from collabopt.figures import style
from collabopt.figures.style import INK, get_colour, use_style


@use_style()
def draw_channels(channels: pd.DataFrame, csv: Path | None = None) -> Figure:
    """Draw and return the output `channels` (layers, stages; NaN where there is no layer). `csv` is for the data."""
    figure = style.make_figure(7.4, 1.2 + 0.24 * max(channels.shape) * channels.shape[1] ** 0.5)
    axes = figure.subplots()
    height = 0.8 / channels.shape[1]
    for number, stage in enumerate(channels):
        places = np.arange(len(channels)) + height * (number - (channels.shape[1] - 1) / 2)
        bars = axes.barh(places, channels[stage].fillna(0), height, color=get_colour(stage), label=get_label(stage))
        axes.bar_label(bars, ["" if pd.isna(one) else f"{one:.0f}" for one in channels[stage]], padding=2, fontsize=8)
    axes.set_yticks(range(len(channels)), map(style.escape, channels.index))
    axes.invert_yaxis()
    axes.tick_params(axis="y", length=0, colors=INK)
    axes.set_xlabel("output channels")
    axes.legend(loc="lower right")
    told = [f"{get_label(stage)} {channels[stage].sum():.0f} in {channels[stage].count()} layers" for stage in channels]
    data = channels.rename_axis("layer").reset_index()
    return style.save(figure, data, csv, f"Output channels per layer: {'; '.join(told)}.")
