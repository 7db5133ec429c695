""""""

import os
from pathlib import Path
from typing import Any

from collabopt.batch.plan import NOTEBOOKS, SEARCH_NOTEBOOK, read_parameters
from collabopt.config import loading, sweep
from collabopt.config.stages import get_lineage
from collabopt.runtime import progress


def train_branch(branch: str, plan: str, overrides: dict[str, Any], done: Path) -> int:
    """Train the stages of a branch into the store, as a job of a sweep."""
    os.environ["COLLABOPT_NOTEBOOK"] = branch
    from collabopt.run import start

    done.parent.mkdir(parents=True, exist_ok=True)
    try:
        run = start(plan, **overrides).without_report()
        run.stages(*(stage.name for stage in get_lineage(branch)))
    except Exception as error:
        why = " ".join(f"{type(error).__name__}: {error}".split())
        done.with_suffix(".failed").write_text(why)
        progress.log(f"FAILED {why}")
        return 1
    done.touch()
    return 0


def run_cell(plan: str, overrides: dict[str, Any], pages: Path, done: Path) -> int:
    """One cell of a sweep: its deployment tree, trained as far as it is not in the store, and its pages."""
    place, label = done.with_suffix(""), sweep.format_name(overrides)
    place.mkdir(parents=True, exist_ok=True)
    status = run_notebook(SEARCH_NOTEBOOK, plan, overrides, place, pages / label, "of the cell", label)
    if status:
        done.with_suffix(".failed").write_text((place / f"{SEARCH_NOTEBOOK}.failed").read_text())
    else:
        done.touch()
    return status


def run_notebook(
    name: str, plan: str, overrides: dict[str, Any], place: Path, pages: Path, position: str, label: str = ""
) -> int:
    """Execute one notebook by papermill and write its page, also that of a notebook that failed.

    position: what its progress lines say of it. label: the cell of a sweep that it is of.
    """
    import papermill
    from nbclient.exceptions import DeadKernelError

    from collabopt.batch.forked_kernel import ForkedKernelManager
    from collabopt.report import notebook_page

    os.environ["COLLABOPT_NOTEBOOK"] = label or name
    progress.attach(label or name)
    source, executed, clock = NOTEBOOKS / f"{name}.ipynb", place / f"{name}.ipynb", progress.Clock()
    given = {key: value for key, value in overrides.items() if key in read_parameters(source)}
    progress.log(f"notebook {position} started")
    failure = None
    try:
        papermill.execute_notebook(
            str(source),
            str(executed),
            parameters={"experiment": plan, "reports": _from_root(pages)} | given,
            progress_bar=False,
            cwd=str(NOTEBOOKS),
            store_widget_state=False,  # the page has a picture of each
            kernel_manager_class=ForkedKernelManager,
            shutdown_kernel="immediate",  # all that it leaves is written; taking TensorFlow down takes a second
        )
    except papermill.PapermillExecutionError as error:
        # The number that the page shows, too: papermill adds cells, which would shift any other count.
        failure = " ".join(f"in cell [{error.exec_count}]: {error.ename}: {error.evalue}".split())
    except DeadKernelError:
        failure = "because its kernel died, most likely for want of memory"
    finally:
        if executed.is_file():
            links = {"../index.html": "The sweep"} if label else {"index.html": "All results"}
            notebook_page.write_page(executed, pages / f"{name}.html", links)
    if failure:
        (place / f"{name}.failed").write_text(failure)
        progress.log(f"notebook {position} FAILED after {progress.format_duration(clock.seconds())} {failure}")
        return 1
    progress.log(f"notebook {position} finished in {progress.format_duration(clock.seconds())}")
    return 0


def _from_root(path: Path) -> str:
    """The path from the workbook's root where it is inside, so that pages do not show where that root is."""
    return str(path.relative_to(loading.ROOT) if path.is_relative_to(loading.ROOT) else path)
