"""Progress is one line per call in a log, and one line per stage in a notebook."""

import contextlib
import os
import pty
import re
import subprocess
import sys
import termios

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
    code += "progress.log('epoch 1/2', about='pqat'); progress.log('epoch 2/2', about='pqat'); "
    code += "progress.advance('converting', 'pqat'); import time; time.sleep(1.5)"
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


LIVE = """
import time
from collabopt.runtime import progress
progress.attach("notebook")
rows = []
for epoch in range(4):
    for step in range(3):
        time.sleep(0.15)
        progress.advance_training("qat", epoch, step, epochs=4, steps=3)
    rows.append({"epoch": epoch + 1, "loss": 1 / (epoch + 1), "accuracy": 0.5, "val_loss": 1.0, "val_accuracy": 0.4})
    progress.log(f"qat: epoch {epoch + 1}/4, loss 0.1", about="qat", curves=rows)
progress.advance("converting to int8")
time.sleep(1.5)
progress.log("qat: 4 epochs took 2.0 s", about="qat", last=True, figures="; accuracy 98 %")
progress.advance("drawing")
time.sleep(1.5)
progress.advance("")
"""


class Watching(NotebookClient):
    """Executes a notebook, and keeps what a front end would show in between."""

    def process_message(self, message, cell, cell_index):
        if message["msg_type"] in ("display_data", "update_display_data"):
            self.shown = [*getattr(self, "shown", []), message["content"]["data"]]
        return super().process_message(message, cell, cell_index)


def execute_live() -> tuple[list[dict], nbformat.NotebookNode]:
    notebook = new_notebook(cells=[new_code_cell(LIVE)])
    client = Watching(notebook, timeout=120, kernel_name="python3")
    client.execute()
    return client.shown, notebook.cells[0]


def test_who_watches_a_notebook_sees_a_bar_and_curves_which_its_last_line_replaces(monkeypatch):
    monkeypatch.delenv("COLLABOPT_LOG", raising=False)
    monkeypatch.delenv("COLLABOPT_NOTEBOOK", raising=False)
    shown, cell = execute_live()
    live = [data["text/html"] for data in shown if "text/html" in data]
    assert any("qat: epoch 2/4, step" in one and "left" in one for one in live)
    assert any("<img" in one and "qat: epoch 2/4, loss 0.1" in one for one in live)
    assert any("qat: converting to int8, 00:01 elapsed" in one for one in live)
    assert any("drawing" in one for one in live)
    outputs = [output.data for output in cell.outputs]
    assert outputs[0] == {"text/plain": "qat: 4 epochs took 2.0 s"}  # the table below it shows the accuracy
    assert outputs[1:] == [{"text/plain": ""}]  # where a figure was drawn


def test_a_notebook_of_a_batch_gets_no_bar_and_no_curves(monkeypatch):
    monkeypatch.delenv("COLLABOPT_LOG", raising=False)
    monkeypatch.setenv("COLLABOPT_NOTEBOOK", "qat")
    shown, cell = execute_live()
    assert {*map(tuple, shown)} == {("text/plain",)}
    assert [output.data["text/plain"] for output in cell.outputs] == ["qat: 4 epochs took 2.0 s"]


def test_a_terminal_gets_the_lines_above_a_bar(monkeypatch):
    monkeypatch.delenv("COLLABOPT_LOG", raising=False)
    reader, writer = pty.openpty()
    termios.tcsetwinsize(writer, (40, 120))
    with subprocess.Popen([sys.executable, "-c", LIVE], stderr=writer, stdin=writer) as process:
        os.close(writer)
        written = b""
        with contextlib.suppress(OSError):  # the terminal's end
            while part := os.read(reader, 4096):
                written += part
    os.close(reader)
    assert process.returncode == 0
    text = written.decode()
    assert re.search(r"qat: epoch 2/4, step \d/3 +\d+% \|.*\| 00:0\d elapsed, 00:0\d left", text)
    assert "qat: converting to int8, 00:01 elapsed" in text
    lines = [line for line in re.split(r"[\r\n]+", text) if "  notebook " in line]
    assert [line.partition("qat: ")[2] for line in lines] == [
        *(f"epoch {epoch}/4, loss 0.1" for epoch in (1, 2, 3, 4)),
        "4 epochs took 2.0 s; accuracy 98 %",
    ]
