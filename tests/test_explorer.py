"""Explorers: a widget and the picture it begins with in one output; a new value shows something else."""

import base64
import copy
from pathlib import Path

import bs4
import nbformat
import numpy as np
import pandas as pd
import pytest
from nbclient import NotebookClient
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook

from collabopt.config import loading
from collabopt.config.experiment import Targets
from collabopt.deploy import targets
from collabopt.figures import explorer
from collabopt.report import notebook_page
from collabopt.run import Run
from collabopt.runtime import progress

PNG = b"\x89PNG\r\n\x1a\n"
VIEW = "application/vnd.jupyter.widget-view+json"
LEAVES = pd.DataFrame(
    [
        ("baseline", "float32", 0.98, 4000, 3600, None, None, None),
        ("baseline", "int8", 0.97, 1000, 900, 1.4, 100.0, 489.0),
        ("pruned", "int8", 0.965, 1000, 600, 1.1, 100.0, 296.0),
        ("pcqat", "int8", 0.955, 1000, 400, 1.1, 100.0, 179.0),
    ],
)
COLUMNS = "stage format validation_accuracy tflite_bytes gzip_bytes npu_ms npu_sram_kib npu_flash_kib"
LEAVES.columns = COLUMNS.split()
WANTED = Targets(max_gzip_bytes=900, max_accuracy_drop=0.02)


@pytest.fixture(scope="module")
def finished(tiny, tmp_path_factory):
    """A baseline and its pruned model, small and hardly trained."""
    place = tmp_path_factory.mktemp("place")
    plan = place / "small.yaml"
    plan.write_text(tiny.read_text().replace("name: digits_cnn", 'function: "conftest:small_network"'))
    return Run(loading.load(str(plan)), place / "report", plan, place / "stages").stages("baseline", "pruned")


def test_moving_a_target_shows_another_choice():
    shown = explorer.targets(LEAVES, WANTED)
    assert shown.said == "Chosen: baseline int8. Of 4 leaves 2 meet all targets."
    before = shown.png
    shown.controls["max_gzip_bytes"].value = 0.7  # kB
    assert shown.said == "Chosen: pruned int8. Of 4 leaves 1 meet all targets."
    assert shown.png.startswith(PNG)
    assert shown.png != before
    shown.controls["max_gzip_bytes"].value = 0.9
    assert shown.png == before


def test_a_target_counts_where_it_is_ticked_and_nowhere_else():
    shown = explorer.targets(LEAVES, WANTED)
    assert [name for name, control in shown.controls.items() if control.value is True] == [
        "max_accuracy_drop_asked",
        "max_gzip_bytes_asked",
    ]
    flash, tick = shown.controls["max_flash_kib"], shown.controls["max_flash_kib_asked"]
    flash.value = 200
    assert flash.disabled
    assert shown.said == "Chosen: baseline int8. Of 4 leaves 2 meet all targets."
    tick.value = True
    assert not flash.disabled
    assert "The nearest is" in shown.said
    shown.controls["max_accuracy_drop_asked"].value = False
    assert shown.said == "Chosen: PCQAT int8. Of 4 leaves 1 meet all targets."


@pytest.mark.parametrize("wanted", [Targets(), WANTED, Targets(max_npu_ms=99.0), Targets(max_gzip_bytes=1)])
def test_it_begins_with_the_targets_as_they_are(wanted):
    shown = explorer.targets(LEAVES, wanted)
    rows = targets.judge(LEAVES, wanted)
    assert shown.said == targets.describe(rows, wanted)
    for name, control in shown.controls.items():
        if not name.endswith("_asked"):
            assert control.min <= control.value <= control.max


def test_sliders_reach_from_a_target_that_no_leaf_meets_to_one_that_all_do():
    shown = explorer.targets(LEAVES, Targets(max_flash_kib=200.0))
    slider = shown.controls["max_flash_kib"]
    slider.value = slider.min
    assert shown.said.startswith("None of 4 leaves")
    slider.value = slider.max
    assert shown.said.startswith("Chosen: baseline int8")


def test_every_position_of_a_slider_is_a_target():
    extreme = LEAVES.assign(
        validation_accuracy=[1.0, 1.0, 1.0, 0.0], gzip_bytes=[1, 1, 2, 2], npu_ms=[None, 0.0, 0.0, 0.0]
    )
    shown = explorer.targets(extreme, Targets())
    for name, control in shown.controls.items():
        if name.endswith("_asked"):
            slider = shown.controls[name.removesuffix("_asked")]
            control.value = True
            for position in (slider.min, slider.max):
                slider.value = position
                assert "leaves" in shown.said


def test_a_cost_that_no_leaf_tells_has_no_slider_unless_it_is_asked_for():
    without = LEAVES.assign(npu_ms=None, npu_sram_kib=None).drop(columns="npu_flash_kib")
    assert "max_npu_ms" not in explorer.targets(without, WANTED).controls
    asked = explorer.targets(without, Targets(max_npu_ms=2.0))
    assert "NPU time not known" in asked.said


def test_picking_a_stage_or_a_kernel_shows_it(finished):
    shown = explorer.kernels(finished, "conv")
    _, pruned = finished
    assert "Weight densities of conv: pruned, sparsity 50.0 %" in shown.said
    assert "bits a weight" in shown.said
    before = shown.png
    shown.controls["layer"].value = "pw"
    unique = len(np.unique(pruned.kernels()["pw"]))
    assert f"Weight densities of pw: pruned, sparsity 50.0 %, {unique} unique values" in shown.said
    assert shown.png != before
    shown.controls["stage"].value = 0
    assert "Weight densities of pw: baseline, sparsity 0.0 %, 128 unique values" in shown.said


def test_kernels_begin_with_the_last_stage_and_the_largest_kernel_that_is_touched(finished):
    shown = explorer.kernels(finished)
    assert shown.controls["stage"].label == "Pruned"
    assert shown.controls["layer"].value == "fc"
    assert set(shown.controls["layer"].options) == {"conv", "dw", "pw", "fc"}


def test_what_there_is_not_is_named(finished):
    with pytest.raises(ValueError, match="kernel=nothing: expected one of conv, dw, pw, fc"):
        explorer.kernels(finished, "nothing")
    with pytest.raises(ValueError, match="at least one finished stage"):
        explorer.kernels([])


CELLS = [
    new_markdown_cell("# Which leaf?"),
    new_code_cell(
        "import pandas as pd\nfrom collabopt import explorer, plots\n"
        "from collabopt.config.experiment import Targets\nleaves = pd.read_csv('leaves.csv')"
    ),
    new_code_cell("explorer.targets(leaves, Targets(max_gzip_bytes=900))"),
    new_code_cell("plots.leaf_verdicts(leaves, Targets(max_gzip_bytes=900))"),
]
SAID = "Chosen: baseline int8. Of 4 leaves 3 meet all targets."


@pytest.fixture(scope="module")
def executed(tmp_path_factory) -> tuple[nbformat.NotebookNode, Path]:
    """A notebook that shows an explorer and a figure, run by a kernel of its own, and its page."""
    place = tmp_path_factory.mktemp("notebook")
    LEAVES.to_csv(place / "leaves.csv", index=False)
    notebook = new_notebook(cells=copy.deepcopy(CELLS))
    NotebookClient(notebook, kernel_name="python3").execute(cwd=str(place))
    nbformat.write(notebook, place / "which.ipynb")
    notebook_page.write_page(place / "which.ipynb", place / "which.html", {})
    return notebook, place / "which.html"


def test_an_output_holds_the_widget_and_its_picture(executed):
    notebook, _ = executed
    (output,) = notebook.cells[2].outputs
    assert set(output.data) == {VIEW, "image/png", "text/plain"}
    assert base64.b64decode(output.data["image/png"]).startswith(PNG)
    assert output.data["text/plain"] == output.metadata.alt == SAID
    # What shows the notebook without its kernel finds the widget in it.
    state = notebook.metadata.widgets["application/vnd.jupyter.widget-state+json"]["state"]
    assert output.data[VIEW]["model_id"] in state


def test_a_batch_keeps_the_picture_alone_and_once(tmp_path, monkeypatch):
    monkeypatch.setattr("collabopt.batch.notebook.NOTEBOOKS", tmp_path)
    LEAVES.to_csv(tmp_path / "leaves.csv", index=False)
    parameters = new_code_cell("experiment = reports = None", metadata={"tags": ["parameters"]})
    notebook = new_notebook(cells=[CELLS[0], parameters, *CELLS[1:]])
    notebook.metadata.kernelspec = {"name": "python3", "display_name": "Python 3", "language": "python"}
    nbformat.write(notebook, tmp_path / "which.ipynb")
    (tmp_path / "runs").mkdir()
    monkeypatch.setattr(progress.logger, "handlers", [])
    monkeypatch.setattr(progress.logger, "propagate", True)
    monkeypatch.setenv("COLLABOPT_NOTEBOOK", "")
    monkeypatch.setenv("COLLABOPT_LOG", str(tmp_path / "batch.log"))
    assert notebook.run_notebook("which", "digits", {}, tmp_path / "runs", tmp_path, "1/1") == 0
    done = nbformat.read(tmp_path / "runs" / "which.ipynb", as_version=4)
    (shown,) = [cell.outputs for cell in done.cells if cell.source.startswith("explorer.targets")]
    assert [set(output.data) for output in shown] == [{"image/png", "text/plain"}]
    assert "widgets" not in done.metadata
    body = bs4.BeautifulSoup((tmp_path / "which.html").read_text(encoding="utf-8"), "html.parser")
    assert [image["alt"] for image in body.find_all("img")] == [SAID, SAID]


def test_a_page_shows_the_picture_once_and_says_what_it_shows(executed):
    _, page = executed
    body = bs4.BeautifulSoup(page.read_text(encoding="utf-8"), "html.parser")
    images = body.find_all("img")
    assert [image["alt"] for image in images] == [SAID, SAID]
    assert images[0]["src"].startswith("data:image/png;base64,")
