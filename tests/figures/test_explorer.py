"""Explorers: one output holds a widget and its first picture; a new value shows another picture."""

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

from collabopt.batch.notebook import run_notebook
from collabopt.config import loading
from collabopt.config.experiment import Targets
from collabopt.deploy import targets
from collabopt.figures import explorer
from collabopt.report import notebook_page
from collabopt.run import Run
from collabopt.runtime import progress

PNG = b"\x89PNG\r\n\x1a\n"
VIEW = "application/vnd.jupyter.widget-view+json"
COLUMNS = "stage format validation_accuracy tflite_bytes gzip_bytes npu_ms npu_sram_kib npu_flash_kib"
VARIANTS = pd.DataFrame(
    [
        ("baseline", "float32", 0.98, 4000, 3600, None, None, None),
        ("baseline", "int8", 0.97, 1000, 900, 1.4, 100.0, 489.0),
        ("pruned", "int8", 0.965, 1000, 600, 1.1, 100.0, 296.0),
        ("pcqat", "int8", 0.955, 1000, 400, 1.1, 100.0, 179.0),
    ],
    columns=COLUMNS.split(),
)
WANTED = Targets(max_gzip_bytes=900, max_accuracy_drop=0.02)


@pytest.fixture(scope="module")
def finished(trained_small, small):
    """A baseline and its pruned model."""
    return Run(loading.load(str(small)), None, small, trained_small / "stages").stages("baseline", "pruned")


def test_moved_target_shows_another_choice():
    shown = explorer.show_targets(VARIANTS, WANTED)
    assert shown.alt == "Chosen: baseline int8. 2 of 4 variants meet all targets."
    before = shown.png
    shown.controls["max_gzip_bytes"].value = 0.7  # kB
    assert shown.alt == "Chosen: pruned int8. 1 of 4 variants meet all targets."
    assert shown.png.startswith(PNG)
    assert shown.png != before
    shown.controls["max_gzip_bytes"].value = 0.9
    assert shown.png == before


def test_only_ticked_targets_count():
    shown = explorer.show_targets(VARIANTS, WANTED)
    assert [name for name, control in shown.controls.items() if control.value is True] == [
        "max_accuracy_drop_asked",
        "max_gzip_bytes_asked",
    ]
    flash, tick = shown.controls["max_flash_kib"], shown.controls["max_flash_kib_asked"]
    flash.value = 200
    assert flash.disabled
    assert shown.alt == "Chosen: baseline int8. 2 of 4 variants meet all targets."
    tick.value = True
    assert not flash.disabled
    assert "The nearest is" in shown.alt
    shown.controls["max_accuracy_drop_asked"].value = False
    assert shown.alt == "Chosen: PCQAT int8. 1 of 4 variants meet all targets."


@pytest.mark.parametrize("wanted", [Targets(), WANTED, Targets(max_npu_ms=99.0), Targets(max_gzip_bytes=1)])
def test_first_picture_shows_the_given_targets(wanted):
    shown = explorer.show_targets(VARIANTS, wanted)
    rows = targets.judge(VARIANTS, wanted)
    assert shown.alt == targets.describe(rows, wanted)
    for name, control in shown.controls.items():
        if not name.endswith("_asked"):
            assert control.min <= control.value <= control.max


def test_sliders_reach_from_a_target_that_no_variant_meets_to_one_that_all_meet():
    shown = explorer.show_targets(VARIANTS, Targets(max_flash_kib=200.0))
    slider = shown.controls["max_flash_kib"]
    slider.value = slider.min
    assert shown.alt.startswith("None of 4 variants")
    slider.value = slider.max
    assert shown.alt.startswith("Chosen: baseline int8")


def test_every_position_of_a_slider_is_a_valid_target():
    extreme = VARIANTS.assign(
        validation_accuracy=[1.0, 1.0, 1.0, 0.0], gzip_bytes=[1, 1, 2, 2], npu_ms=[None, 0.0, 0.0, 0.0]
    )
    shown = explorer.show_targets(extreme, Targets())
    for name, control in shown.controls.items():
        if name.endswith("_asked"):
            slider = shown.controls[name.removesuffix("_asked")]
            control.value = True
            for position in (slider.min, slider.max):
                slider.value = position
                assert "variants" in shown.alt


def test_unknown_cost_has_a_slider_only_for_a_set_target():
    without = VARIANTS.assign(npu_ms=None, npu_sram_kib=None).drop(columns="npu_flash_kib")
    assert "max_npu_ms" not in explorer.show_targets(without, WANTED).controls
    shown = explorer.show_targets(without, Targets(max_npu_ms=2.0))
    assert "NPU time not known" in shown.alt


def test_picking_a_stage_or_a_kernel_shows_it(finished):
    shown = explorer.show_kernels(finished, "conv")
    _, pruned = finished
    assert "Weight densities of conv: pruned, sparsity 50.0 %" in shown.alt
    assert "bits per weight" in shown.alt
    before = shown.png
    shown.controls["layer"].value = "pw"
    unique = len(np.unique(pruned.kernels()["pw"]))
    assert f"Weight densities of pw: pruned, sparsity 50.0 %, {unique} unique values" in shown.alt
    assert shown.png != before
    shown.controls["stage"].value = 0
    assert "Weight densities of pw: baseline, sparsity 0.0 %, 128 unique values" in shown.alt


def test_first_kernel_is_the_largest_eligible_one_of_the_last_stage(finished):
    shown = explorer.show_kernels(finished)
    assert shown.controls["stage"].label == "Pruned"
    assert shown.controls["layer"].value == "fc"
    assert set(shown.controls["layer"].options) == {"conv", "dw", "pw", "fc"}


def test_unknown_kernel_is_named_in_the_error(finished):
    with pytest.raises(ValueError, match="kernel=nothing: expected one of conv, dw, pw, fc"):
        explorer.show_kernels(finished, "nothing")
    with pytest.raises(ValueError, match="at least one finished stage"):
        explorer.show_kernels([])


CELLS = [
    new_markdown_cell("# Which variant?"),
    new_code_cell(
        "import pandas as pd\nfrom collabopt import explorer, figures\n"
        "from collabopt.config.experiment import Targets\nvariants = pd.read_csv('variants.csv')"
    ),
    new_code_cell("explorer.show_targets(variants, Targets(max_gzip_bytes=900))"),
    new_code_cell("figures.draw_verdicts(variants, Targets(max_gzip_bytes=900))"),
]
ALT = "Chosen: baseline int8. 3 of 4 variants meet all targets."


@pytest.fixture(scope="module")
def executed(tmp_path_factory) -> tuple[nbformat.NotebookNode, Path]:
    """A notebook that shows an explorer and a figure, run by its own kernel, and its page."""
    place = tmp_path_factory.mktemp("notebook")
    VARIANTS.to_csv(place / "variants.csv", index=False)
    notebook = new_notebook(cells=copy.deepcopy(CELLS))
    NotebookClient(notebook, kernel_name="python3").execute(cwd=str(place))
    nbformat.write(notebook, place / "which.ipynb")
    notebook_page.write_page(place / "which.ipynb", place / "which.html", {})
    return notebook, place / "which.html"


def test_output_holds_the_widget_and_its_picture(executed):
    notebook, _ = executed
    (output,) = notebook.cells[2].outputs
    assert set(output.data) == {VIEW, "image/png", "text/plain"}
    assert base64.b64decode(output.data["image/png"]).startswith(PNG)
    assert output.data["text/plain"] == output.metadata.alt == ALT
    # The notebook stores the widget for programs that show it without a kernel.
    state = notebook.metadata.widgets["application/vnd.jupyter.widget-state+json"]["state"]
    assert output.data[VIEW]["model_id"] in state


def test_batch_keeps_only_the_picture(tmp_path, monkeypatch):
    monkeypatch.setattr("collabopt.batch.notebook.NOTEBOOKS", tmp_path)
    VARIANTS.to_csv(tmp_path / "variants.csv", index=False)
    parameters = new_code_cell("experiment = None\nreports = None", metadata={"tags": ["parameters"]})
    notebook = new_notebook(cells=[CELLS[0], parameters, *CELLS[1:]])
    notebook.metadata.kernelspec = {"name": "python3", "display_name": "Python 3", "language": "python"}
    nbformat.write(notebook, tmp_path / "which.ipynb")
    (tmp_path / "runs").mkdir()
    monkeypatch.setattr(progress.logger, "handlers", [])
    monkeypatch.setattr(progress.logger, "propagate", True)
    monkeypatch.setenv("COLLABOPT_NOTEBOOK", "")
    monkeypatch.setenv("COLLABOPT_LOG", str(tmp_path / "batch.log"))
    assert run_notebook("which", "digits", {}, tmp_path / "runs", tmp_path, "1/1") == 0
    done = nbformat.read(tmp_path / "runs" / "which.ipynb", as_version=4)
    (shown,) = [cell.outputs for cell in done.cells if cell.source.startswith("explorer.show_targets")]
    assert [set(output.data) for output in shown] == [{"image/png", "text/plain"}]
    assert "widgets" not in done.metadata
    body = bs4.BeautifulSoup((tmp_path / "which.html").read_text(encoding="utf-8"), "html.parser")
    assert [image["alt"] for image in body.find_all("img")] == [ALT, ALT]


def test_page_shows_the_picture_with_its_text(executed):
    _, page = executed
    body = bs4.BeautifulSoup(page.read_text(encoding="utf-8"), "html.parser")
    images = body.find_all("img")
    assert [image["alt"] for image in images] == [ALT, ALT]
    assert images[0]["src"].startswith("data:image/png;base64,")
