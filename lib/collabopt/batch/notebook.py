"""The jobs of a batch: one notebook, one cell of a sweep, branches that cells share, another seed, or variants."""

import os
import tempfile
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

from collabopt.batch.plan import NOTEBOOKS, SEARCH_NOTEBOOK, read_parameters
from collabopt.config import loading, overriding, sweep
from collabopt.config.stages import get_lineage
from collabopt.runtime import progress
from collabopt.storage import timeline

_BELOW_INDEX = MappingProxyType({"index.html": "All results"})
"""Links of a page below that of all reports."""


def run_notebook(
    name: str, experiment: str, overrides: dict[str, Any], place: Path, pages: Path, position: str, label: str = ""
) -> int:
    """Execute a notebook by papermill and write its page, also if the notebook fails.

    Args:
        name: Name of the notebook.
        experiment: Name or path of the experiment.
        overrides: Parameters of the batch.
        place: Directory of the executed notebook.
        pages: Directory of the page.
        position: Number of the notebook in its batch, for progress lines.
        label: Name of the cell of a sweep, if it is part of one.

    Returns:
        The exit status.
    """
    import papermill
    from nbclient.exceptions import DeadKernelError
    from traitlets.config import Config

    from collabopt.report import notebook_page

    os.environ["COLLABOPT_NOTEBOOK"] = label or name
    progress.attach(label or name)
    source, executed, clock = NOTEBOOKS / f"{name}.ipynb", place / f"{name}.ipynb", progress.Clock()
    began = progress.now("milliseconds")
    known = read_parameters(source)
    progress.log(f"notebook {position} started")
    failure, sockets = None, tempfile.TemporaryDirectory(prefix="collabopt-", dir="/tmp")  # short, as they must be
    try:
        papermill.execute_notebook(
            str(source),
            str(executed),
            parameters={"experiment": experiment, "reports": _make_relative(pages), **_select(overrides, known)},
            progress_bar=False,
            cwd=str(NOTEBOOKS),
            # Two kernels that start at once can choose the same TCP ports.
            config=Config({"KernelManager": {"transport": "ipc", "ip": f"{sockets.name}/kernel"}}),
            store_widget_state=False,  # the page has a picture of each widget
            shutdown_kernel="immediate",  # an orderly shutdown of TensorFlow takes a second and saves nothing
        )
    except papermill.PapermillExecutionError as error:
        # The page shows this number too. papermill adds cells, so any other count would be off.
        # TensorFlow lists the nodes of the graph before the cause, in thousands of characters.
        text = " ".join(f"in cell [{error.exec_count}]: {error.ename}: {error.evalue}".split())
        failure = text if len(text) <= 600 else f"{text[:150]} … {text[-400:]}"
    except DeadKernelError:
        failure = "because its kernel died, most likely because the memory is full"
    finally:
        sockets.cleanup()
        if executed.is_file():
            links = list_links(pages, {"../index.html": "The sweep"} if label else _BELOW_INDEX)
            page = pages / f"{name}.html"
            notebook_page.write_page(executed, page, links, notebook_page.copy_notebook(executed, page))
    timeline.record(pages, began, "notebook", label or name)
    duration = progress.format_duration(clock.seconds())
    if failure:
        (place / f"{name}.failed").write_text(failure)
        progress.log(f"notebook {position} FAILED after {duration} {failure}")
        return 1
    progress.log(f"notebook {position} finished in {duration}")
    return 0


def list_links(pages: Path, links: Mapping[str, str] = _BELOW_INDEX) -> dict[str, str]:
    """Return the links at the top of a page in `pages`, from the page of all reports down to `links`."""
    from collabopt.report import html

    if not pages.is_relative_to(loading.REPORTS):
        return {**links}
    return html.list_links(pages, loading.REPORTS / "index.html") | links


def _select(overrides: dict[str, Any], known: set[str]) -> dict[str, Any]:
    """The overrides that a notebook has as parameters, and all others of the experiment as its `settings`.

    All notebooks of a batch are then of one experiment.
    """
    plain = {key: value for key, value in overrides.items() if key in known}
    others = {key: value for key, value in overrides.items() if key not in known}
    others = {key: others[key] for key in others if key in loading.PARAMETERS or overriding.is_nested(key)}
    return plain | ({"settings": others} if others else {})


def run_cell(experiment: str, overrides: dict[str, Any], pages: Path, done: Path) -> int:
    """Run a sweep's cell of `experiment` with `overrides`, write its page, and return the exit status.

    `pages` is the sweep's directory. `done` marks success; a failure is written beside it.
    """
    place, label = done.with_suffix(""), sweep.format_name(overrides)
    place.mkdir(parents=True, exist_ok=True)
    status = run_notebook(SEARCH_NOTEBOOK, experiment, overrides, place, pages / label, "of the cell", label)
    if status:
        done.with_suffix(".failed").write_text((place / f"{SEARCH_NOTEBOOK}.failed").read_text())
    else:
        done.touch()
    return status


def train_branches(branches: list[str], experiment: str, overrides: dict[str, Any], done: Path) -> int:
    """Train the stages of branches into the store.

    Args:
        branches: Name of the last stage of each branch.
        experiment: Name or path of the experiment.
        overrides: Parameters that decide the branches.
        done: The file that marks success; a failure is written beside it.

    Returns:
        The exit status.
    """
    os.environ["COLLABOPT_NOTEBOOK"] = branches[0] if len(branches) == 1 else f"seed {overrides['seed']}"
    from collabopt.run import start

    done.parent.mkdir(parents=True, exist_ok=True)
    try:
        run = start(experiment, **overrides).without_report()
        run.stages(*(stage.name for branch in branches for stage in get_lineage(branch, run.experiment.tree)))
    except Exception as error:
        failure = " ".join(f"{type(error).__name__}: {error}".split())
        done.with_suffix(".failed").write_text(failure)
        progress.log(f"FAILED {failure}")
        return 1
    done.touch()
    return 0


def measure_variants(stages: list[str], experiment: str, overrides: dict[str, Any], done: Path) -> int:
    """Measure the variants of trained stages into the store, while other stages train.

    The notebook `deployment_tree` takes them from there. It meets the same failure, if there is one, and reports it.

    Args:
        stages: Names of the stages.
        experiment: Name or path of the experiment.
        overrides: Parameters of the batch.
        done: The file that marks success.

    Returns:
        The exit status.
    """
    os.environ["COLLABOPT_NOTEBOOK"] = "variants"
    from collabopt.deploy import variants
    from collabopt.run import start

    clock = progress.Clock()
    try:
        run = start(experiment, **overrides).without_report()
        with progress.silence():
            count = variants.measure_all(run, stages)
        progress.log(f"{count} files measured in {progress.format_duration(clock.seconds())}")
    except Exception as error:
        progress.log(f"stopped by {type(error).__name__}: {' '.join(str(error).split())}")
        return 1
    done.touch()
    return 0


def _make_relative(path: Path) -> str:
    """The path from the workbook's root if it is inside, so that pages do not show where the root is."""
    return str(path.relative_to(loading.ROOT) if path.is_relative_to(loading.ROOT) else path)
