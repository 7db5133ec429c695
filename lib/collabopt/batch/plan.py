""""""

import dataclasses
import shlex
from pathlib import Path
from typing import Any

from collabopt.config import loading, sweep
from collabopt.config.experiment import ExperimentError

NOTEBOOKS = loading.ROOT / "notebooks"


SEARCH_NOTEBOOK = "deployment_tree"


NOT_PARAMETERS = {"experiment", "reports", "kernel"}


def list_notebooks() -> list[Path]:
    """Every notebook of the workbook."""
    return sorted(NOTEBOOKS.glob("*.ipynb"))


def read_parameters(notebook: Path) -> set[str]:
    """The names in a notebook's parameters cell."""
    import papermill

    return set(papermill.inspect_notebook(str(notebook)))


def parse_settings(text: str) -> sweep.Grid:
    """`sparsity=0.8 seed=0,1` as names and values: {"sparsity": [0.8], "seed": [0, 1]}.

    Raises ExperimentError for a word that is not name=value or name=value,value, a name that no notebook has as a
    parameter, and a name or value given twice.
    """
    try:
        words = shlex.split(text)
    except ValueError as error:
        raise ExperimentError(f"SET: {text}: {error}; expected name=value, with blanks between") from None
    grid, known = (
        {},
        set().union(*(read_parameters(notebook) for notebook in list_notebooks() if words)) - NOT_PARAMETERS,
    )
    for word in words:
        name, equals, values = word.partition("=")
        if not equals or "" in values.split(","):
            raise ExperimentError(f"SET: {word!r}: expected name=value, or name=value,value for a sweep")
        if name not in known:
            raise ExperimentError(f"SET: {name}: no notebook has this parameter{loading.suggest(name, sorted(known))}")
        if name in grid:
            raise ExperimentError(f"SET: {name}: given twice; a sweep is {name}=value,value")
        grid[name] = [loading.parse_value(value, f"SET: {name}") for value in values.split(",")]
        if len(set(grid[name])) < len(grid[name]):
            raise ExperimentError(f"SET: {word!r}: a value is given twice; keep one")
    return grid


def find_workplace(report: Path) -> Path:
    """Where a batch keeps executed notebooks, log and marks of a report directory."""
    below = report.relative_to(loading.REPORTS)
    return loading.DATA / "runs" / (below if len(below.parts) > 1 else below / "as_given")


@dataclasses.dataclass(frozen=True)
class Work:
    """What a batch is to do. pages: its report directory. config: what the Snakefile is told beside it. jobs: the page
    that each notebook or cell leaves. marks: where below the workplace their marks are."""

    pages: Path
    config: dict[str, Any]
    jobs: dict[str, Path]
    marks: str = "."


def plan_work(name: str, grid: sweep.Grid, chosen: list[str]) -> Work:
    """The notebooks of a report, all or the `chosen` ones, or the cells of a sweep.

    Raises ExperimentError where the experiment, a cell of it or a notebook is none.
    """
    known, cells = [path.stem for path in list_notebooks()], sweep.list_cells(grid)
    for notebook in chosen:
        if notebook not in known:
            raise ExperimentError(f"NOTEBOOKS: {notebook}: no such notebook{loading.suggest(notebook, known)}")
    plans = [loading.load(name, **cell) for cell in cells]
    if len(cells) == 1:
        # With targets the walk down the tree decides what is trained.
        every = [SEARCH_NOTEBOOK] if plans[0].has_targets else known
        pages, run = loading.find_report_directory(name, **cells[0]), chosen or every
        config = {"overrides": cells[0], "notebooks": {"names": run}}
        return Work(pages, config, {notebook: pages / f"{notebook}.html" for notebook in run})
    if chosen:
        told = " ".join(chosen)
        raise ExperimentError(f"NOTEBOOKS={told}: a sweep runs {SEARCH_NOTEBOOK} in every cell; leave it out")
    if any(plan.has_targets for plan in plans):
        raise ExperimentError("targets: a sweep trains every stage of its cells; give targets to one setting at a time")
    pages = sweep.find_directory(name, grid)
    jobs = {cell: pages / cell / f"{SEARCH_NOTEBOOK}.html" for cell in map(sweep.format_name, cells)}
    return Work(pages, {"grid": grid}, jobs, "cells")
