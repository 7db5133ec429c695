"""A parameter that a notebook lacks stops it in its first cell, if papermill runs it by hand."""

import nbformat
import papermill
import pytest

from collabopt.batch.plan import NOTEBOOKS
from collabopt.config import notebook_parameters
from collabopt.config.experiment import ExperimentError

OWN = 'experiment = "digits"  # name\nsparsity = None  # fraction'


def test_an_unknown_parameter_is_named_with_the_most_similar_one():
    with pytest.raises(
        ExperimentError, match=r"sparsty=0.8: this notebook has no such parameter; did you mean sparsity"
    ):
        notebook_parameters.check_cells(["", OWN, '# Parameters\nexperiment = "digits"\nsparsty = 0.8\n', "import x"])


@pytest.mark.parametrize(
    "cells",
    [
        ["", OWN, "# Parameters\nsparsity = 0.8\n", "import x"],
        ["", OWN, "mine = 3\n", "import x"],  # somebody's own variable in JupyterLab
        ["", "%matplotlib inline", "x = 1"],
    ],
)
def test_known_parameters_and_other_variables_pass(cells):
    notebook_parameters.check_cells(cells)


def test_papermill_stops_in_the_first_cell_of_code(tmp_path):
    source, executed = NOTEBOOKS / "pqat.ipynb", tmp_path / "out.ipynb"
    with pytest.raises(papermill.PapermillExecutionError, match="did you mean sparsity"):
        papermill.execute_notebook(source, executed, {"sparsty": 0.8}, progress_bar=False, cwd=str(NOTEBOOKS))
    cells = nbformat.read(executed, as_version=4).cells
    ran = [cell.source for cell in cells if cell.cell_type == "code" and cell.get("execution_count")]
    assert "import" in ran[-1] and not any("start(" in source for source in ran)
