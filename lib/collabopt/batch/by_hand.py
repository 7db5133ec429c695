"""The page and the index of a notebook that was run by hand: in JupyterLab, or by papermill without a batch.

Each kernel imports this module, so what takes long to import is imported where it is used.
"""

from __future__ import annotations

import ast
import os
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psutil

from collabopt.config import loading, notebook_parameters

if TYPE_CHECKING:
    import nbformat


def write_pages(notebook: Path, after: int | None = None) -> Path | None:
    """Write the page of an executed notebook, the index of its report, and the page of all reports.

    Args:
        notebook: The executed notebook.
        after: Id of a process whose end is waited for, such as the one that writes the notebook.

    Returns:
        The page; None if the notebook is none of the workbook's, or left no report.
    """
    import nbformat

    from collabopt.batch.notebook import list_links
    from collabopt.batch.plan import list_notebooks
    from collabopt.report import front_page, index_page, notebook_page

    if after:
        psutil.wait_procs([psutil.Process(after)] if psutil.pid_exists(after) else [])
    cells = nbformat.read(notebook, as_version=4)
    name = Path(cells.metadata.get("papermill", {}).get("input_path") or notebook).stem
    if name not in [path.stem for path in list_notebooks()]:
        return None
    parameters = read_values(cells)
    experiment, pages = parameters["experiment"], _find_report(parameters)
    if not (pages / "run.json").is_file():
        return None
    page = pages / f"{name}.html"
    notebook_page.write_page(notebook, page, list_links(pages), notebook_page.copy_notebook(notebook, page))
    text = "\n".join(path.read_text(encoding="utf-8") for path in loading.list_files(experiment))
    index_page.write(pages, text, home=loading.REPORTS / "index.html")
    front_page.write(loading.REPORTS)
    return page


def read_values(cells: nbformat.NotebookNode) -> dict[str, Any]:
    """Return the values of a notebook's parameters in its `cells`: its own, and those that papermill injected."""
    values = {}
    for cell in cells.cells:
        if {"parameters", "injected-parameters"} & set(cell.metadata.get("tags", [])):
            assigned = notebook_parameters.read_assignments(cell.source)
            values |= {name: ast.literal_eval(source) for name, source in assigned.items()}
    return values


def write_pages_later() -> None:
    """Let another process write the pages of this kernel's notebook, if the command papermill runs it by hand."""
    if os.environ.get("COLLABOPT_NOTEBOOK"):  # a batch writes its pages itself
        return
    parent = psutil.Process().parent()
    words = parent.cmdline() if parent else []
    notebooks = [Path(parent.cwd()) / word for word in words if word.endswith(".ipynb")]
    if not any(Path(word).name == "papermill" for word in words[:3]) or len(notebooks) < 2:
        return
    command = [sys.executable, "-m", "collabopt", "page", str(notebooks[1]), "--after", str(parent.pid)]
    subprocess.Popen(command, start_new_session=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


def save_in_lab(model: dict[str, Any], os_path: str, **_: Any) -> None:
    """Write the pages of a notebook that JupyterLab has saved, once all its cells have run (a post-save hook).

    Args:
        model: What JupyterLab says of the file.
        os_path: Its path.
        **_: Not used.
    """
    if model["type"] != "notebook":
        return
    import nbformat

    cells = nbformat.read(os_path, as_version=4)
    if all(cell.execution_count for cell in cells.cells if cell.cell_type == "code"):
        subprocess.Popen([sys.executable, "-m", "collabopt", "page", os_path])


def _find_report(parameters: dict[str, Any]) -> Path:
    if parameters.get("reports"):
        return loading.ROOT / parameters["reports"]
    overrides = {key: value for key, value in parameters.items() if key in (*loading.PARAMETERS, "settings")}
    return loading.find_report_directory(parameters["experiment"], **overrides)
