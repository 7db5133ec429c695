"""A sweep: an experiment over a grid of parameters. Every combination of values is a cell, and cells share stages.

Nothing here imports TensorFlow: every job reads the Snakefile again.
"""

import itertools
from pathlib import Path
from typing import Any

from collabopt.config import loading
from collabopt.config.overriding import format_value, shorten
from collabopt.config.stages import OPTIONAL_STAGES, build_tree, get_leaves, get_lineage

Grid = dict[str, list[Any]]
Cell = dict[str, Any]

_OF_EVERY_STAGE = ("seed", "threads", "devices", "train_fraction", "calibration_examples", "distill", "strict")
"""Parameters that decide every stage, or what is measured of it."""


def list_cells(grid: Grid) -> list[Cell]:
    """Return every combination of the values of a `grid`; the last parameter changes fastest."""
    return [dict(zip(grid, values, strict=True)) for values in itertools.product(*grid.values())]


def list_branches() -> list[str]:
    """Return the leaves of the deployment tree. A shared job of a sweep trains one of them with its ancestors."""
    return [stage.name for stage in get_leaves(build_tree(()))]


def find_shared_branches(grid: Grid) -> dict[str, Grid]:
    """Return the branches that more than one cell of a `grid` needs, each with the part that decides it."""
    parts = {}
    for branch in list_branches():
        stages = get_lineage(branch, build_tree(OPTIONAL_STAGES))  # cells may differ in their optional stages
        deciding = {*_OF_EVERY_STAGE, *(setting for stage in stages for setting in stage.settings)}
        if any(stage.has_schemes for stage in stages):
            deciding.add("scheme")
        deciding |= {key for key in grid if key.startswith(("exclude.", *(f"stages.{one.name}." for one in stages)))}
        parts[branch] = {parameter: values for parameter, values in grid.items() if parameter in deciding}
    return {branch: part for branch, part in parts.items() if len(list_cells(part)) < len(list_cells(grid))}


def format_name(values: Grid | Cell) -> str:
    """Return the directory name of a grid's or cell's `values`, "sparsity=0.5+0.7". A long one ends in a digest."""
    lists = {key: value if isinstance(value, list) else [value] for key, value in values.items()}
    return shorten(",".join(f"{encode(key)}={'+'.join(map(format_value, value))}" for key, value in lists.items()))


def encode(key: str) -> str:
    """Return a parameter's name, or `key`, as a wildcard of Snakemake, which has no dots."""
    return key.replace(".", "__")


def decode(wildcard: str) -> str:
    """Return the parameter of a `wildcard` of `encode`."""
    return wildcard.replace("__", ".")


def find_directory(name: str, grid: Grid) -> Path:
    """Return where the tables of a sweep of the experiment `name` over a `grid` go. Each cell has a directory in it."""
    return loading.REPORTS / loading.find_experiment(name).stem / f"sweep,{format_name(grid)}"
