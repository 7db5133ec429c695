"""Progress is one line per call in a log, and one line per stage in a notebook."""

import os
import subprocess
import sys

import nbformat
import pytest
from nbclient import NotebookClient
from nbformat.v4 import new_code_cell, new_notebook

from collabopt.runtime import progress


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0, "0.0 s"),
        (0.04, "0.0 s"),
        (12.34, "12.3 s"),
        (59.94, "59.9 s"),
        (59.96, "1 min 00 s"),
        (60, "1 min 00 s"),
        (245, "4 min 05 s"),
        (3599.4, "59 min 59 s"),
        (3599.6, "1 h 00 min"),
        (3600, "1 h 00 min"),
        (7380, "2 h 03 min"),
        (100 * 3600, "100 h 00 min"),
    ],
)
def test_a_duration_has_two_units_at_most(seconds, text):
    assert progress.format_duration(seconds) == text


LOGGER = """
import sys
from collabopt.runtime import progress

progress.attach(sys.argv[1])
progress.attach("again")
for number in range(300):
    progress.log(f"{sys.argv[1]}: epoch {number} " + "x" * 200, about=sys.argv[1])
"""


def test_a_log_gets_one_whole_line_per_call_from_every_process(tmp_path):
    log = tmp_path / "batch.log"
    environment = os.environ | {"COLLABOPT_LOG": str(log)}
    names = ["pqat", "cqat", "pcqat"]
    processes = [
        subprocess.Popen([sys.executable, "-c", LOGGER, name], env=environment, stderr=subprocess.PIPE)
        for name in names
    ]
    assert [process.communicate(timeout=120)[1] for process in processes] == [b""] * 3
    lines = log.read_text(encoding="utf-8").splitlines()
    assert len(lines) == 900
    for name in names:
        own_lines = [line.partition("  ")[2] for line in lines if f" {name}: " in line]
        assert own_lines == [f"{name:<18} {name}: epoch {number} {'x' * 200}" for number in range(300)]


@pytest.mark.parametrize("forked", [False, True])
def test_without_a_log_the_lines_go_to_standard_error(forked):
    environment = {name: value for name, value in os.environ.items() if name != "COLLABOPT_LOG"}
    code = "import ipykernel.kernelapp; " * forked  # as in a forked job
    code += "from collabopt.runtime import progress; progress.attach('pqat'); "
    code += "progress.log('epoch 1/2', about='pqat'); progress.log('epoch 2/2', about='pqat')"
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    assert [line.partition("  ")[2].split() for line in done.stderr.splitlines()] == [
        ["pqat", "epoch", "1/2"],
        ["pqat", "epoch", "2/2"],
    ]
    assert done.stdout == ""


@pytest.fixture(scope="module")
def executed(tmp_path_factory) -> nbformat.NotebookNode:
    """Two cells in a real kernel that log the progress of two stages, the first one across both cells."""
    first = """
from collabopt.runtime import progress
progress.attach("notebook")
for epoch in (1, 2, 3):
    progress.log(f"qat: epoch {epoch}/4", about="qat")
progress.log("a notice")
progress.log("a notice")
"""
    second = """
progress.log("qat: epoch 4/4", about="qat")
progress.log("qat: 4 epochs took 2.0 s", about="qat", last=True)
progress.log("pqat: epoch 1/1", about="pqat")
progress.log("qat: epoch 1/4", about="qat")
"""
    notebook = new_notebook(cells=[new_code_cell(first), new_code_cell(second)])
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("COLLABOPT_LOG", raising=False)
        where = {"metadata": {"path": str(tmp_path_factory.mktemp("notebook"))}}
        return NotebookClient(notebook, timeout=120, kernel_name="python3", resources=where).execute()


def texts(cell: nbformat.NotebookNode) -> list[str]:
    assert {output.output_type for output in cell.outputs} == {"display_data"}
    return [output.data["text/plain"] for output in cell.outputs]


def test_in_a_notebook_only_the_last_line_of_a_stage_remains(executed):
    assert texts(executed.cells[0]) == ["qat: 4 epochs took 2.0 s", "a notice", "a notice"]


def test_in_a_notebook_a_stage_that_starts_again_has_a_new_line(executed):
    assert texts(executed.cells[1]) == ["pqat: epoch 1/1", "qat: epoch 1/4"]


@pytest.mark.parametrize(
    ("log", "name", "is_shown"),
    [(True, "check", True), (True, "baseline", False), (True, "pqat", False), (False, "pqat", True)],
)
def test_a_note_is_in_the_log_of_a_batch_once(tmp_path, log, name, is_shown):
    code = f"from collabopt.runtime import progress; progress.attach({name!r}); "
    code += "progress.note('no test split'); progress.log('started')"
    file = tmp_path / "batch.log"
    environment = os.environ | {"COLLABOPT_LOG": str(file) if log else ""}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    text = file.read_text() if log else done.stderr
    assert "started" in text and ("no test split" in text) == is_shown


@pytest.mark.parametrize(
    ("log", "name", "is_shown"), [(True, "baseline", True), (True, "pqat", False), (False, "pqat", True)]
)
def test_a_note_is_on_the_page_of_the_baseline(tmp_path, monkeypatch, log, name, is_shown):
    monkeypatch.setenv("COLLABOPT_LOG", str(tmp_path / "batch.log") if log else "")
    code = f"from collabopt.runtime import progress; progress.attach({name!r}); progress.note('no test split')"
    notebook = new_notebook(cells=[new_code_cell(code)])
    NotebookClient(notebook, timeout=60).execute()
    shown = [output["data"]["text/plain"] for output in notebook.cells[0].outputs if "data" in output]
    assert shown == ["no test split"] * is_shown
