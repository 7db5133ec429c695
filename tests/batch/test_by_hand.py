"""A notebook run by hand leaves its page and the index of its report."""

import json
import shutil

import nbformat
import pytest
from nbformat.v4 import new_code_cell

from collabopt.batch import by_hand
from collabopt.batch.plan import NOTEBOOKS
from collabopt.config import loading


@pytest.fixture
def place(tmp_path, monkeypatch):
    monkeypatch.setattr(loading, "REPORTS", tmp_path / "reports")
    monkeypatch.setattr(loading, "DATA", tmp_path / "data")
    report = tmp_path / "reports" / "digits" / "sparsity=0.8"
    report.mkdir(parents=True)
    (report / "run.json").write_text(json.dumps({"experiment": {"name": "digits"}, "settings": {"sparsity": 0.8}}))
    return tmp_path


def execute(notebook, **parameters) -> None:
    """A copy of a notebook with injected parameters, as papermill leaves it."""
    cells = nbformat.read(NOTEBOOKS / "pqat.ipynb", as_version=4)
    source = "# Parameters\n" + "\n".join(f"{name} = {value!r}" for name, value in parameters.items())
    cells.cells.insert(2, new_code_cell(source, metadata={"tags": ["injected-parameters"]}))
    cells.metadata["papermill"] = {"input_path": "/somewhere/notebooks/pqat.ipynb", "output_path": str(notebook)}
    nbformat.write(cells, notebook)


def test_page_index_and_notebook_are_written_to_the_report_of_the_parameters(place):
    execute(place / "out.ipynb", sparsity=0.8)
    page = by_hand.write_pages(place / "out.ipynb")
    assert page == place / "reports" / "digits" / "sparsity=0.8" / "pqat.html"
    assert {"index.html", "pqat.html", "pqat.ipynb"} <= {path.name for path in page.parent.iterdir()}
    assert (place / "reports" / "index.html").is_file()
    text = page.read_text(encoding="utf-8")
    assert "With sparsity 0.8" in text and "(sparsity 0.8)</title>" in text
    assert 'href="index.html" ' in text and "Verdict and results" in text
    assert str(place) not in page.with_suffix(".ipynb").read_text(encoding="utf-8")


def test_a_notebook_without_a_report_or_of_somebody_else_has_no_page(place):
    execute(place / "out.ipynb", sparsity=0.7)
    assert by_hand.write_pages(place / "out.ipynb") is None
    shutil.copy(NOTEBOOKS / "pqat.ipynb", place / "mine.ipynb")
    assert by_hand.write_pages(place / "mine.ipynb") is None
