"""Figures of runs and reports.

    figures.draw_density({"pruned": kernel, "PCQAT int8": values}, "conv_1", csv=directory / "density.csv")

Every function takes plain data, returns a matplotlib Figure, and writes the figure's data to `csv` if that is given.
"""

from collabopt.figures.channels import draw_channels
from collabopt.figures.confusion import draw_confusion
from collabopt.figures.density import draw_density, draw_density_grid
from collabopt.figures.drops import draw_drops, draw_layer_drops, draw_quantization
from collabopt.figures.layers import draw_layer_properties
from collabopt.figures.pareto import draw_costs, draw_pareto, draw_sizes
from collabopt.figures.search_path import draw_search_path
from collabopt.figures.targets import draw_verdicts
from collabopt.figures.timeline import draw_timeline
from collabopt.figures.training import draw_training
from collabopt.figures.tree import draw_tree
from collabopt.figures.waterfall import draw_waterfall

__all__ = [
    "draw_channels",
    "draw_confusion",
    "draw_costs",
    "draw_density",
    "draw_density_grid",
    "draw_drops",
    "draw_layer_drops",
    "draw_layer_properties",
    "draw_pareto",
    "draw_quantization",
    "draw_search_path",
    "draw_sizes",
    "draw_timeline",
    "draw_training",
    "draw_tree",
    "draw_verdicts",
    "draw_waterfall",
]
