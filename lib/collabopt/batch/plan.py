"""What a batch is to run: parameters from the command line, notebooks or cells, and where their files go."""

import dataclasses
import re
import shlex
from pathlib import Path
from typing import Any

import collabopt
from collabopt.config import loading, overriding, published, stages, sweep
from collabopt.config.experiment import Experiment, ExperimentError

NOTEBOOKS = loading.ROOT / "notebooks"
SEARCH_NOTEBOOK, SETTINGS_NOTEBOOK = "deployment_tree", "search"
EVERY_NOTEBOOK = "all"
"""In place of the names of notebooks."""
CHECK_FAILURE = "check.failed"
"""File of the mistakes in data and model, in the working directory of a batch."""

_SUFFIXES = {".py", ".j2", ".js", ".css", ".csv", ".mplstyle"}
_NOT_OF_EXPERIMENTS = {"experiment", "reports", "kernel", "stage", "first", "second", "others", "settings"}


@dataclasses.dataclass(frozen=True)
class Work:
    """What a batch is to do.

    Attributes:
        pages: The report directory.
        config: Values for the Snakefile besides the experiment.
        jobs: The page of each notebook or cell.
        marks: Directory of the jobs' marks, below the working directory.
    """

    pages: Path
    config: dict[str, Any]
    jobs: dict[str, Path]
    marks: str = "."


def list_sources(name: str) -> list[str]:
    """Return the files of the library and of the experiment `name`, on which every job depends."""
    library = sorted(path for path in Path(collabopt.__file__).parent.rglob("*") if path.suffix in _SUFFIXES)
    return [str(path) for path in (*loading.list_files(name), *library)]


def list_notebooks() -> list[Path]:
    """Return every notebook of the workbook that runs an experiment; not the overview."""
    return sorted({*NOTEBOOKS.glob("*.ipynb")} - {NOTEBOOKS / "overview.ipynb"})


def read_parameters(notebook: Path) -> set[str]:
    """Return the names in the parameters cell of a `notebook`."""
    import papermill

    return set(papermill.inspect_notebook(str(notebook)))


def parse_settings(text: str) -> sweep.Grid:
    """Return the `text` "sparsity=0.8 seed=0,1" as {"sparsity": [0.8], "seed": [0, 1]}.

    Raises:
        ExperimentError: A word is malformed, no notebook has the parameter, or a name or value is given twice.
    """
    try:
        words = _split_words(text)
    except ValueError as error:
        raise ExperimentError(f"SET: {text}: {error}; expected name=value, separated by blanks") from None
    known = set().union(*(read_parameters(notebook) for notebook in list_notebooks() if words)) - _NOT_OF_EXPERIMENTS
    grid: sweep.Grid = {}
    for word in words:
        name, equals, text = word.removeprefix("targets.").partition("=")
        values = re.split(r",(?![^\[{]*[\]}])", text)  # a list in brackets, or {default: 0.5, conv_1: 0}, is one value
        if not equals or "" in values:
            raise ExperimentError(f"SET: {word!r}: expected name=value, or name=value,value for a sweep")
        if len(values) > 1 and any(value.startswith("[") for value in values):
            raise ExperimentError(f"SET: {name}: a sweep over lists is not possible; give one list")
        if name not in known and not overriding.is_nested(name):
            raise ExperimentError(f"SET: {name}: no notebook has this parameter{_suggest(name, sorted(known))}")
        if name in grid:
            raise ExperimentError(f"SET: {name}: given twice; a sweep is {name}=value,value")
        grid[name] = [loading.parse_value(value, f"SET: {name}") for value in values]
        if len({*map(repr, grid[name])}) < len(grid[name]):
            raise ExperimentError(f"SET: {word!r}: a value is given twice; keep one")
    return grid


def _split_words(text: str) -> list[str]:
    """Words separated by blanks. Blanks in brackets or braces do not separate."""
    words: list[str] = []
    for word in shlex.split(text):
        is_open = words and len(re.findall(r"[\[{]", words[-1])) > len(re.findall(r"[\]}]", words[-1]))
        words[-1:] = [f"{words[-1]} {word}"] if is_open else [*words[-1:], word]
    return words


def find_workplace(report: Path) -> Path:
    """Return where a batch of a `report` directory keeps executed notebooks, its log and marks."""
    below = report.relative_to(loading.REPORTS)
    return loading.DATA / "runs" / (below if len(below.parts) > 1 else below / "as_given")


def plan_work(name: str, grid: sweep.Grid, chosen: list[str]) -> Work:
    """Plan the notebooks of a report, or the cells of a sweep.

    Args:
        name: Name or path of the experiment.
        grid: Values by parameter; more than one combination makes a sweep.
        chosen: Names of notebooks, or "all"; an empty list takes the core notebooks.

    Returns:
        The notebooks or cells, with their pages.

    Raises:
        ExperimentError: The experiment, a cell of it or a notebook does not exist or is not valid.
    """
    known, cells = [path.stem for path in list_notebooks()], sweep.list_cells(grid)
    for notebook in {*chosen} - {EVERY_NOTEBOOK}:
        if notebook not in known:
            raise ExperimentError(f"NOTEBOOKS: {notebook}: no such notebook{loading.suggest(notebook, known)}")
    experiments = [loading.load(name, **cell) for cell in cells]
    if len(cells) == 1:
        notebooks = chosen or stages.list_core_notebooks(experiments[0].tree)
        if EVERY_NOTEBOOK in chosen:
            notebooks = published.list_notebooks(experiments[0])
        elif experiments[0].has_targets and not chosen:  # the search decides which stages are trained
            notebooks = [SETTINGS_NOTEBOOK if experiments[0].search.is_given else SEARCH_NOTEBOOK]
        if experiments[0].search.is_given and SEARCH_NOTEBOOK in chosen and SETTINGS_NOTEBOOK not in chosen:
            raise ExperimentError(
                f"NOTEBOOKS={' '.join(chosen)}: {SEARCH_NOTEBOOK} does not search over settings; expected "
                f"{SETTINGS_NOTEBOOK} in its place"
            )
        pages = loading.find_report_directory(name, **cells[0])
        _refuse_without_subject(notebooks, experiments[0], pages)
        config = {"overrides": cells[0], "notebooks": notebooks}
        return Work(pages, config, {notebook: pages / f"{notebook}.html" for notebook in notebooks})
    if chosen:
        words = " ".join(chosen)
        raise ExperimentError(f"NOTEBOOKS={words}: a sweep runs {SEARCH_NOTEBOOK} in every cell; leave NOTEBOOKS out")
    if any(experiment.has_targets for experiment in experiments):
        raise ExperimentError("targets: a sweep trains every stage of its cells; give targets to one setting at a time")
    pages = sweep.find_directory(name, grid)
    jobs = {cell: pages / cell / f"{SEARCH_NOTEBOOK}.html" for cell in map(sweep.format_name, cells)}
    return Work(pages, {"grid": grid}, jobs, "cells")


def _suggest(name: str, known: list[str]) -> str:
    """What to write instead of an unknown parameter."""
    section, _, key = name.partition(".")
    if key and section in known:
        return f"; expected {section}={{{key}: value}}"
    if name in Experiment.model_fields:
        return "; expected this key in an experiment file, which can extend another (extends: digits)"
    return loading.suggest(name, known)


def _refuse_without_subject(notebooks: list[str], experiment: Experiment, pages: Path) -> None:
    """Refuse notebooks that would find nothing to do."""
    if SETTINGS_NOTEBOOK in notebooks and not experiment.search.is_given:
        raise ExperimentError(
            f"NOTEBOOKS: {SETTINGS_NOTEBOOK}: nothing to search; give values, such as "
            'SET="search.sparsity=[0.5,0.8] max_accuracy_drop=0.01"'
        )
    if "published" in notebooks:
        published.require_figures(experiment)
    home = loading.REPORTS / pages.relative_to(loading.REPORTS).parts[0]
    others = {path.parent for path in home.rglob("results.csv")} - {pages}
    if "compare" in notebooks and not others:
        raise ExperimentError(f"NOTEBOOKS: compare: {home} has no other report; make one first, with other parameters")
