"""A sweep: an experiment over a grid of parameters, a cell each combination of values, ancestors shared.

    grid = {"sparsity": [0.5, 0.7], "number_of_clusters": [8, 16]}
    sweep.cells(grid)  # four dicts

Nothing here imports TensorFlow: the Snakefile is read again for every job.
"""

import hashlib
import itertools
from pathlib import Path
from typing import Any

from collabopt.config import loading
from collabopt.config.stages import get_leaves, get_lineage

Grid = dict[str, list[Any]]


Cell = dict[str, Any]


OF_EVERY_STAGE = ("seed", "threads", "devices", "train_fraction", "calibration_examples", "strict")
"""Knobs that decide every stage, or what is measured of it."""


LONGEST_NAME = 150


def list_cells(grid: Grid) -> list[Cell]:
    """Every combination of the grid's values, the last parameter changing fastest."""
    return [dict(zip(grid, values, strict=True)) for values in itertools.product(*grid.values())]


def list_branches() -> list[str]:
    """Return the leaves of the deployment tree. A shared job of a sweep trains one of them with its ancestors."""
    return [stage.name for stage in get_leaves()]


def list_deciding_parameters(branch: str, grid: Grid) -> list[str]:
    """The grid's parameters that decide the stages of a branch."""
    stages = get_lineage(branch)
    knobs = {*OF_EVERY_STAGE, *(knob for stage in stages for knob in stage.settings)}
    if any(stage.has_schemes for stage in stages):
        knobs.add("scheme")
    return [knob for knob in grid if knob in knobs]


def find_shared_branches(grid: Grid) -> dict[str, Grid]:
    """The branches that more than one cell needs, each with the part of the grid that decides it."""
    parts = {
        branch: {knob: grid[knob] for knob in list_deciding_parameters(branch, grid)} for branch in list_branches()
    }
    return {branch: part for branch, part in parts.items() if len(list_cells(part)) < len(list_cells(grid))}


def format_name(values: Grid | Cell) -> str:
    """The name of a sweep, `sparsity=0.5+0.7`, or of a cell, `sparsity=0.5`, as a directory."""
    said = ",".join(f"{key}={'+'.join(map(str, some))}" for key, some in as_grid(values).items())
    if len(said) > LONGEST_NAME:
        said = f"{said[:LONGEST_NAME]}…{hashlib.sha256(said.encode()).hexdigest()[:8]}"
    return said


def as_grid(values: Grid | Cell) -> Grid:
    """A cell is a grid of one value a parameter."""
    return {key: some if isinstance(some, list) else [some] for key, some in values.items()}


def find_directory(plan: str, grid: Grid) -> Path:
    """Where the pages and tables of a sweep go; those of a cell go to a directory below, of its own name."""
    return loading.REPORTS / loading.find_experiment(plan).stem / f"sweep,{format_name(grid)}"
