"""The overview lists notebooks and reports, starts runs by a form, and shows its tables without widgets, too."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import nbformat
import pytest
from nbclient import NotebookClient

from collabopt import __main__
from collabopt.batch import overview, plan
from collabopt.config import loading

NOTEBOOK = plan.NOTEBOOKS / "overview.ipynb"


ANSWER = '<p class="answer">PQAT keeps every zero &amp; saves <b>50 %</b>.</p>'


@pytest.fixture
def places(trained_small, tmp_path, monkeypatch):
    """A workbook with the report and the store of the small experiment."""
    shutil.copytree(trained_small / "report", tmp_path / "reports" / "small")
    shutil.copytree(trained_small / "stages", tmp_path / "data" / "stages")
    (tmp_path / "reports" / "small" / "pqat.html").write_text(ANSWER)
    monkeypatch.setattr(loading, "REPORTS", tmp_path / "reports")
    monkeypatch.setattr(loading, "DATA", tmp_path / "data")
    monkeypatch.setenv("COLLABOPT_REPORTS", str(tmp_path / "reports"))
    monkeypatch.setenv("COLLABOPT_DATA", str(tmp_path / "data"))
    paths = [str(Path(__file__).parents[1]), os.environ.get("PYTHONPATH", "")]  # of example_network
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(paths))
    monkeypatch.delenv("COLLABOPT_NOTEBOOK", raising=False)
    monkeypatch.chdir(plan.NOTEBOOKS)
    return tmp_path


@pytest.mark.usefixtures("places")
def test_every_notebook_is_listed_in_order_with_its_question_and_its_latest_answer():
    rows = {row["Notebook"].text: row for row in overview.list_notebooks().rows}
    assert [*rows] == [*dict.fromkeys(rows)]
    assert set(rows) == {path.stem for path in plan.list_notebooks()}
    assert next(iter(rows)) == "baseline"
    assert list(rows).index("pqat") < list(rows).index("pcqat")
    assert all(row["Question"].text.endswith("?") for row in rows.values())
    assert rows["pqat"]["Page"].text == "small"
    assert (plan.NOTEBOOKS / rows["pqat"]["Page"].href).resolve().is_file()
    assert rows["pqat"]["Latest answer"].text == "PQAT keeps every zero & saves 50 %."
    assert rows["cqat"]["Latest answer"].text == rows["cqat"]["Page"].href == ""


def test_the_reports_are_listed_with_their_best_file_and_filtered_by_experiment(places):
    shutil.copytree(places / "reports" / "small", places / "reports" / "other")
    assert {row["Experiment"].text for row in overview.list_reports().rows} == {"small", "other"}
    (row,) = [row for row in overview.list_reports("small").rows if not row["Changed parameters"].text]
    assert "saves" in row["Best int8 file"].text or "no " in row["Best int8 file"].text
    browser = overview.Browser()
    assert "other" in browser._table.value
    browser.experiment.value = "small"
    assert "other" not in browser._table.value


@pytest.mark.usefixtures("places")
def test_the_form_shows_the_values_of_the_experiment_and_names_a_mistake_before_anything_starts():
    form = overview.Form()
    form.experiment.value = "digits"
    assert form.fields["sparsity"].placeholder == str(loading.load("digits").sparsity)
    form.fields["sparsity"].value = "1.5"
    form.start.click()
    assert "sparsity" in form.message.value
    assert form.process is None


@pytest.fixture
def form(places, small, monkeypatch) -> overview.Form:  # noqa: ARG001 - the form runs in the workbook of `places`
    """A form filled in for one notebook of the small experiment."""
    monkeypatch.setattr(overview, "_list_experiments", lambda: {"digits": "", str(small): "small"})
    form = overview.Form()
    form.experiment.value = str(small)
    form.notebooks.value = ("baseline",)
    form.fields["seed"].value = "0"
    return form


def run(form: overview.Form) -> str:
    """Click on Run, wait for the end, and return the log."""
    form.start.click()
    assert form.start.disabled
    form.follower.join(timeout=300)
    assert not form.start.disabled
    return "".join(output["text"] for output in form.log.outputs)


@pytest.mark.slow
def test_the_form_runs_a_report_and_links_to_it(form):
    shown = run(form)
    assert form.process.returncode == 0, shown
    assert "report:" in shown
    assert "index.html" in form.message.value


@pytest.mark.parametrize(("status", "message"), [(0, "finished"), (1, "ended with status 1")])
def test_the_form_starts_the_command_line_shows_its_output_and_links_to_the_page(
    form, small, monkeypatch, status, message
):
    """A script takes the place of the batch."""
    page = plan.plan_work(str(small), {"seed": [0]}, ["baseline"]).pages / "index.html"
    script = f"import pathlib, sys; pathlib.Path({str(page)!r}).touch(); print('epoch 1'); sys.exit({status})"
    start, given = subprocess.Popen, []

    def start_script(command: list[str], **options: Any) -> subprocess.Popen:
        given.extend(command)
        return start([sys.executable, "-c", script], **options)

    monkeypatch.setattr(subprocess, "Popen", start_script)
    assert run(form) == "epoch 1\n"
    assert form.message.value.startswith(f"{message}; <a href=")
    assert "index.html" in form.message.value
    assert given[:3] == [sys.executable, "-m", "collabopt"]
    words = __main__._make_parser().parse_args(given[3:])
    assert (words.command, words.experiment, words.notebooks) == ("report", str(small), "baseline")
    assert plan.parse_settings(words.set) == {"seed": [0]}


@pytest.mark.usefixtures("places")
def test_the_notebook_shows_widgets_with_tables_for_programs_without_them():
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    assert [cell.outputs for cell in notebook.cells if cell.cell_type == "code"] == [[]] * 4
    where = {"metadata": {"path": str(plan.NOTEBOOKS)}}
    NotebookClient(notebook, timeout=120, resources=where, store_widget_state=False).execute()
    shown = [cell.outputs[0].data for cell in notebook.cells if cell.cell_type == "code" and cell.outputs]
    assert [("application/vnd.jupyter.widget-view+json" in data) for data in shown] == [False, True, True]
    assert all("<table" in data["text/html"] for data in shown)
    assert "small" in shown[2]["text/html"]
    assert "digits" in shown[1]["text/html"]


@pytest.mark.usefixtures("places")
def test_in_a_batch_the_outputs_hold_only_the_tables(monkeypatch):
    monkeypatch.setenv("COLLABOPT_NOTEBOOK", "overview")
    for one in (overview.Form(), overview.Browser()):
        assert set(one._repr_mimebundle_()) == {"text/html", "text/plain"}


def test_the_overview_is_no_notebook_of_a_batch():
    assert NOTEBOOK.is_file()
    assert NOTEBOOK not in plan.list_notebooks()
    assert json.loads(NOTEBOOK.read_text())["cells"][0]["source"][0].startswith("# ")
