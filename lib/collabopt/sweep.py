"""A sweep: an experiment over a grid of parameters, a cell each combination of values, ancestors shared.

    grid = {"sparsity": [0.5, 0.7], "number_of_clusters": [8, 16]}
    sweep.cells(grid)  # four dicts

Nothing here imports TensorFlow: the Snakefile is read again for every job.
"""

import hashlib
import itertools
from pathlib import Path
from typing import Any

from collabopt import experiment
from collabopt.stages import lineage

Grid = dict[str, list[Any]]
Cell = dict[str, Any]

BRANCHES = {"baseline_qat": "qat", "pruned_pqat": "pqat", "clustered_cqat": "cqat"}
"""Jobs that several cells may share: each trains a stage of quantization-aware training and what it goes on from."""
OF_EVERY_STAGE = ("seed", "threads", "devices", "train_fraction", "calibration_examples", "strict")
"""Knobs that decide every stage, or what is measured of it."""
LONGEST_NAME = 150


def cells(grid: Grid) -> list[Cell]:
    """Every combination of the grid's values, the last parameter changing fastest."""
    return [dict(zip(grid, values, strict=True)) for values in itertools.product(*grid.values())]


def deciding(branch: str, grid: Grid) -> list[str]:
    """The grid's parameters that decide the stages of a branch."""
    stages = lineage(BRANCHES[branch])
    knobs = {*OF_EVERY_STAGE, *(knob for stage in stages for knob in stage.knobs)}
    if any(stage.has_schemes for stage in stages):
        knobs.add("scheme")
    return [knob for knob in grid if knob in knobs]


def shared(grid: Grid) -> dict[str, Grid]:
    """The branches that more than one cell needs, each with the part of the grid that decides it."""
    parts = {branch: {knob: grid[knob] for knob in deciding(branch, grid)} for branch in BRANCHES}
    return {branch: part for branch, part in parts.items() if len(cells(part)) < len(cells(grid))}


def name(values: Grid | Cell) -> str:
    """The name of a sweep, `sparsity=0.5+0.7`, or of a cell, `sparsity=0.5`, as a directory."""
    said = ",".join(f"{key}={'+'.join(map(str, some))}" for key, some in as_grid(values).items())
    if len(said) > LONGEST_NAME:
        said = f"{said[:LONGEST_NAME]}…{hashlib.sha256(said.encode()).hexdigest()[:8]}"
    return said


def as_grid(values: Grid | Cell) -> Grid:
    """A cell is a grid of one value a parameter."""
    return {key: some if isinstance(some, list) else [some] for key, some in values.items()}


def directory(plan: str, grid: Grid) -> Path:
    """Where the pages and tables of a sweep go; those of a cell go to a directory below, of its own name."""
    return experiment.REPORTS / experiment.path_of(plan).stem / f"sweep,{name(grid)}"
