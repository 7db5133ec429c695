"""Notebooks in JupyterLab, run by its menu in a real browser. Screenshots stay in pytest's temporary directory."""

import contextlib
import json
import os
import re
import shutil
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import nbformat
import pytest

from collabopt.batch.plan import NOTEBOOKS, list_notebooks

pytestmark = pytest.mark.timeout(1200)

BROWSER = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
TOKEN = "tests"
NAMES = [
    pytest.param(path.stem, marks=[] if path.stem == "baseline" else pytest.mark.slow)
    for path in list_notebooks()
    # A second report, published figures, values to search and filters to remove are not in the experiment.
    if path.stem not in ("compare", "published", "search", "shape")
]


def copy_notebooks(directory: Path, experiment: Path) -> None:
    """Copy the notebooks, with another experiment in their parameters cell."""
    for path in list_notebooks():
        notebook = nbformat.read(path, as_version=4)
        (cell,) = [cell for cell in notebook.cells if "parameters" in cell.metadata.get("tags", [])]
        assert 'experiment = "digits"' in cell.source
        cell.source = cell.source.replace('"digits"', f'"{experiment}"')
        nbformat.write(notebook, directory / path.name)


@pytest.fixture(scope="module")
def lab(tmp_path_factory, shared_batch, tiny) -> Iterator[tuple[str, Path]]:
    """The address and the root directory of a JupyterLab. Its store has the stages of the shared batch."""
    if BROWSER is None:
        pytest.skip("no chromium, chromium-browser or google-chrome on the path")
    home = tmp_path_factory.mktemp("lab")
    root, log = home / "notebooks", home / "lab.log"
    root.mkdir()
    copy_notebooks(root, tiny)
    shutil.copytree(shared_batch / "copy" / "data" / "stages", home / "data" / "stages")
    directories = {
        f"JUPYTER{name}": str(home / name.strip("_").lower())
        for name in ("_CONFIG_DIR", "_DATA_DIR", "_RUNTIME_DIR", "LAB_SETTINGS_DIR", "LAB_WORKSPACES_DIR")
    }
    places = {"COLLABOPT_DATA": str(home / "data"), "COLLABOPT_REPORTS": str(home / "reports")}
    places |= {"COLLABOPT_NOTEBOOK": "", "COLLABOPT_LOG": ""}  # the tests may themselves run in a batch
    command = [sys.executable, "-m", "jupyterlab", str(root), "--no-browser", "--ip=127.0.0.1", "--port=0"]
    command += ["--ServerApp.allow_root=True", f"--IdentityProvider.token={TOKEN}"]
    with log.open("wb") as output:
        process = subprocess.Popen(
            command, stdout=output, stderr=subprocess.STDOUT, env=os.environ | directories | places, cwd=home
        )
    try:
        yield address(process, Path(directories["JUPYTER_RUNTIME_DIR"]), log), root
    finally:
        # The server ends its kernels.
        process.terminate()
        try:
            process.wait(timeout=30)
        except subprocess.TimeoutExpired:
            process.kill()


def address(process: subprocess.Popen, runtime: Path, log: Path) -> str:
    """The address of a server, when it answers there."""
    deadline = time.monotonic() + 120
    while process.poll() is None and time.monotonic() < deadline:
        for file in runtime.glob("jpserver-*.json"):
            try:
                url = json.loads(file.read_text())["url"]
                with urllib.request.urlopen(f"{url}api/status?token={TOKEN}", timeout=10) as answer:
                    if answer.status == 200:
                        return url
            except (ValueError, KeyError, OSError):
                pass
        time.sleep(0.5)
    pytest.fail(f"JupyterLab did not start: {log.read_text()[-2000:]}")


@pytest.fixture(scope="module")
def browser(lab):
    sync_api = pytest.importorskip("playwright.sync_api")
    assert lab
    with sync_api.sync_playwright() as playwright:
        # Chromium does not start as root in its sandbox.
        one = playwright.chromium.launch(executable_path=BROWSER, args=["--no-sandbox"])
        yield one
        one.close()


@contextlib.contextmanager
def opened(lab, browser, name: str, pictures: Path) -> Iterator:
    """The page of a notebook, when its kernel is ready. An error of the block lists those of the page."""
    url, _ = lab
    page = browser.new_page(viewport={"width": 1400, "height": 1000})
    errors: list[str] = []
    page.on("console", lambda message: errors.append(message.text) if message.type == "error" else None)
    page.on("requestfailed", lambda request: errors.append(f"{request.url}: {request.failure}"))
    try:
        page.goto(f"{url}lab/tree/{name}.ipynb?token={TOKEN}&reset")
        page.locator(".jp-Notebook-ExecutionIndicator[data-status=idle]").wait_for(timeout=120_000)
        yield page
    except BaseException as error:
        page.screenshot(path=pictures / f"{name}-failed.png")
        error.add_note("\n".join(["Errors of the page:", *errors[-20:]]))
        raise
    finally:
        page.close()


def run_all(page) -> None:
    """Run > Run All Cells. A menu takes no click before it has settled, so that a click may have to be repeated."""
    sync_api = pytest.importorskip("playwright.sync_api")
    # The status bar: the notebook's own indicator is idle before there is a kernel.
    page.get_by_text("(ipykernel) | Idle").wait_for(timeout=120_000)
    for _ in range(5):
        page.get_by_role("menuitem", name="Run", exact=True).click()
        entry = page.get_by_role("menuitem", name="Run All Cells", exact=True)
        entry.hover()
        page.wait_for_timeout(500)
        entry.click()
        try:
            page.get_by_text("[*]:", exact=True).first.wait_for(timeout=10_000)
        except sync_api.TimeoutError:
            page.keyboard.press("Escape")
        else:
            return
    pytest.fail("Run All Cells did nothing")


def executed(page, file: Path) -> nbformat.NotebookNode:
    """The notebook as it is saved when every cell is done, or one has failed."""
    deadline = time.monotonic() + 900
    while time.monotonic() < deadline:
        page.wait_for_timeout(3000)
        page.keyboard.press("Control+s")
        page.wait_for_timeout(1000)
        try:
            notebook = nbformat.read(file, as_version=4)
        except (OSError, ValueError):  # while it is being written
            continue
        cells = [cell for cell in notebook.cells if cell.cell_type == "code"]
        failed = any(out.output_type == "error" for cell in cells for out in cell.outputs)
        if failed or all(cell.execution_count for cell in cells):
            return notebook
    return pytest.fail(f"{file.name} did not come to its end")


@pytest.mark.parametrize("name", NAMES)
def test_a_notebook_runs_by_the_menu_to_its_last_cell(lab, browser, name, tmp_path):
    _, root = lab
    with opened(lab, browser, name, tmp_path) as page:
        run_all(page)
        notebook = executed(page, root / f"{name}.ipynb")
        page.screenshot(path=tmp_path / f"{name}-end.png")
        figure = page.locator(".jp-RenderedImage img")
        figure.first.scroll_into_view_if_needed(timeout=60_000)
        page.wait_for_timeout(1000)
        page.screenshot(path=tmp_path / f"{name}-figure.png")
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    outputs = [output for cell in code for output in cell.outputs]
    assert [output for output in outputs if output.output_type == "error"] == []
    # Not a warning either.
    assert [output.text for output in outputs if output.get("name") == "stderr"] == []
    drawn = sum(len(re.findall(r"figures\.draw_|explorer\.show_", cell.source)) for cell in code)
    assert sum("image/png" in output.get("data", {}) for output in outputs) == drawn > 0
    assert code[-1].outputs


EXPLORING = """import pandas as pd
from collabopt import explorer
from collabopt.config.experiment import Targets
leaves = pd.DataFrame({"stage": ["baseline", "pruned"], "format": ["float32", "int8"]})
leaves = leaves.assign(validation_accuracy=[0.9, 0.8], gzip_bytes=[4000, 1000])
explorer.show_targets(leaves, Targets(max_gzip_bytes=4000))"""


def test_the_overview_fits_the_window_and_an_explorer_below_it_answers(lab, browser, tmp_path):
    # One notebook has both, because a page and its kernel take longer to start than the cells.
    expect = pytest.importorskip("playwright.sync_api").expect
    _, root = lab
    notebook = nbformat.read(NOTEBOOKS / "overview.ipynb", as_version=4)
    notebook.cells.append(nbformat.v4.new_code_cell(EXPLORING))
    nbformat.write(notebook, root / "overview.ipynb")
    with opened(lab, browser, "overview", tmp_path) as page:
        run_all(page)
        notebook = executed(page, root / "overview.ipynb")
        outputs = [output for cell in notebook.cells for output in cell.get("outputs", [])]
        # Two lists, the form, and the explorer once.
        assert [output.output_type for output in outputs] == ["execute_result"] * 4

        form, reports = (
            page.locator(".widget-vbox").first,
            page.locator(".widget-html", has_text="Reports, the newest first"),
        )
        for shown in (form, reports):
            shown.scroll_into_view_if_needed(timeout=60_000)
            assert shown.evaluate("box => box.scrollWidth <= box.clientWidth")
        assert form.get_by_label("experiment").input_value() == "digits"
        page.screenshot(path=tmp_path / "overview.png")

        explorer = page.locator(".jp-OutputArea-output", has_text="Chosen: ")
        explorer.get_by_text("Chosen: baseline float32.").wait_for(timeout=120_000)
        figure = explorer.locator("img")
        expect(figure).to_have_count(1)
        before = figure.get_attribute("src")
        readout = explorer.locator(".widget-slider .widget-readout").nth(1)
        readout.fill("2")
        readout.press("Enter")
        explorer.get_by_text("Chosen: pruned int8.").wait_for()
        expect(figure).not_to_have_attribute("src", before)
        page.screenshot(path=tmp_path / "explorer-moved.png")
