"""Pages of notebooks and reports: they fetch nothing, label everything, show failures and escape hostile text."""

import base64
import hashlib
import io
import itertools
import json
import re
import shutil
from pathlib import Path

import bs4
import nbformat
import numpy as np
import pandas as pd
import pytest
from matplotlib.figure import Figure
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_output
from PIL import Image

import remove_dead_links as dead_links
from collabopt.batch.plan import NOTEBOOKS, list_notebooks
from collabopt.config.stages import STAGES
from collabopt.report import html, index_page, notebook_page

HOSTILE = "<script>alert(1)</script>"


def figure_output(**metadata):
    file = io.BytesIO()
    figure = Figure((3, 2), dpi=192)
    figure.subplots().plot([1, 2])
    figure.savefig(file, format="png")
    data = {"image/png": base64.b64encode(file.getvalue()).decode(), "text/plain": "<Figure>"}
    return new_output("display_data", data, metadata=metadata)


def make_cells() -> list:
    """A small notebook with every kind of cell and output, among them what would fetch from a network."""
    loading = (
        f'{HOSTILE}<script src="https://example.com/a.js"></script><link rel="stylesheet" href="http://example.com/a.css">'
        '<style>@import "http://example.com/b.css";</style><img src="http://example.com/i.png" onerror="alert(1)">'
        '<p style="background:url(http://example.com/b.png)"><b>kept</b></p><iframe src="//example.com"></iframe>'
    )
    widget = {"application/vnd.jupyter.widget-view+json": {"model_id": "1"}, "text/plain": "progress: done"}
    table = pd.DataFrame({"stage": [HOSTILE], "accuracy": [0.9]}).to_html()
    return [
        new_markdown_cell(
            "# Does it keep the zeros?\n\nWe ask whether zeros stay.\n\n![remote](https://example.com/x.png)"
        ),
        new_code_cell("sparsity = 0.5", metadata={"tags": ["parameters"]}),
        new_code_cell("sparsity = 0.8", metadata={"tags": ["injected-parameters"]}),
        new_code_cell("secret = 1", metadata={"tags": ["remove-cell"]}),
        new_markdown_cell("#### Prune"),
        new_code_cell("plot()", execution_count=3, outputs=[figure_output()]),
        new_code_cell("plot()", outputs=[figure_output(alt='A "quoted" figure')]),
        new_markdown_cell("## Prune\n\n## Main"),
        new_code_cell("table", outputs=[new_output("execute_result", {"text/html": table, "text/plain": ""})]),
        new_code_cell("html", outputs=[new_output("display_data", {"text/html": loading})]),
        new_code_cell("bar", outputs=[new_output("display_data", widget)]),
        new_code_cell("say", outputs=[new_output("stream", name="stdout", text=f"\x1b[32mok\x1b[0m {HOSTILE}")]),
    ]


def fail(cells: list) -> list:
    error = new_output("error", ename="ValueError", evalue=HOSTILE, traceback=[f"\x1b[31mline 1\x1b[0m {HOSTILE}"])
    return [*cells, new_code_cell("check()", execution_count=9, outputs=[error])]


@pytest.fixture
def cells() -> list:
    return make_cells()


@pytest.fixture
def failed(cells) -> list:
    return fail(cells)


def exported(cells: list, directory: Path, name: str = "pqat") -> tuple[bs4.BeautifulSoup, str]:
    nbformat.write(new_notebook(cells=cells), str(directory / f"{name}.ipynb"))
    notebook_page.write_page(directory / f"{name}.ipynb", directory / f"{name}.html", {"index.html": "All <results>"})
    text = (directory / f"{name}.html").read_text(encoding="utf-8")
    return bs4.BeautifulSoup(text, "html.parser"), text


def assert_fetches_nothing(page: bs4.BeautifulSoup) -> None:
    for tag in page.find_all(
        ["script", "img", "iframe", "object", "embed", "audio", "video", "source", "use", "image"]
    ):
        for name in ("src", "href", "data", "srcset", "xlink:href"):
            assert tag.get(name, "data:").startswith(("data:", "#")), tag
    assert [link["href"] for link in page.find_all("link")] == ["data:,"]
    for style in [*(tag.string for tag in page.find_all("style")), *(t["style"] for t in page.find_all(style=True))]:
        assert not re.search(r"@import|url\(", style)
    assert len(page.find_all("script")) == 1
    assert not [tag for tag in page.find_all(True) if any(name.startswith("on") for name in tag.attrs)]


def assert_is_readable(page: bs4.BeautifulSoup) -> None:
    assert page.html["lang"] == "en"
    assert len(page.find_all("h1")) == 1
    levels = [int(tag.name[1]) for tag in page.find_all(re.compile("^h[1-6]$"))]
    assert all(after <= before + 1 for before, after in itertools.pairwise(levels))
    ids = [tag["id"] for tag in page.find_all(id=True)]
    assert len(ids) == len(set(ids))
    for link in page.select('a[href^="#"]'):
        assert link["href"][1:] in ids
    assert page.select_one("a.skip")["href"] == "#main"
    assert all(image["alt"] for image in page.find_all("img"))


def test_page_fetches_nothing_and_is_readable(cells, tmp_path):
    page, _ = exported(cells, tmp_path)
    assert_fetches_nothing(page)
    assert_is_readable(page)
    assert page.find("b", string="kept")
    assert "default-src 'none'" in page.find("meta", attrs={"http-equiv": True})["content"]
    assert page.select_one("nav.links a").get_text() == "All <results>"


def test_code_is_folded_and_parameters_are_not(cells, tmp_path):
    page, text = exported(cells, tmp_path)
    folded = page.select("details.code")
    assert len(folded) == 6
    assert not any(cell.has_attr("open") for cell in folded)
    assert [block.select_one("pre").get_text().strip() for block in page.select(".parameters")] == [
        "sparsity = 0.5",
        "sparsity = 0.8",
    ]
    assert "secret" not in text


def test_contents_and_alternative_texts(cells, tmp_path):
    page, _ = exported(cells, tmp_path)
    contents = [(link.get_text(), link["href"]) for link in page.select(".contents a")]
    assert contents == [("Prune", "#prune"), ("Prune", "#prune-2"), ("Main", "#main-2")]
    assert [image["alt"] for image in page.find_all("img")] == ["Figure 1: Prune", 'A "quoted" figure']
    # Three inches at 192 dots an inch are shown as three inches of 96.
    assert page.img["width"] == "288"


def test_a_figure_links_its_data_where_that_is_beside_the_page(tmp_path):
    cell = 'plots.tree(rows, csv=run.figures / "pqat-training.csv")'
    two = 'display(plot(csv=run.figures / "a.csv")); plot()'
    cells = [
        new_markdown_cell("# Zeros?"),
        new_code_cell(cell, outputs=[figure_output()]),
        new_code_cell(two, outputs=[figure_output(), figure_output()]),
    ]
    (tmp_path / "figures").mkdir()
    (tmp_path / "figures" / "a.csv").write_text("")
    page, _ = exported(cells, tmp_path)
    # Of two figures and one name nobody knows which is meant.
    assert [image["alt"] for image in page.find_all("img")] == [
        "Figure 1, pqat training: Zeros?",
        "Figure 2: Zeros?",
        "Figure 3: Zeros?",
    ]
    assert page.select("figcaption a") == []
    (tmp_path / "figures" / "pqat-training.csv").write_text("")
    page, text = exported(cells, tmp_path)
    (link,) = page.select("figcaption a")
    assert link["href"] == link.get_text() == "figures/pqat-training.csv"
    assert link.find_parent("figure").img["alt"] == "Figure 1, pqat training: Zeros?"
    assert "data-csv" not in text


def test_every_figure_of_the_workbook_names_its_data():
    for path in list_notebooks():
        for cell in nbformat.read(path, as_version=4).cells:
            if cell.cell_type == "code" and re.search(r"^figures\.draw_", cell.source, re.MULTILINE):
                assert len(notebook_page.FIGURE_DATA.findall(cell.source)) == 1, f"{path.name}: {cell.source}"


def test_headers_have_a_scope_and_blank_ones_are_cells(tmp_path):
    columns = pd.MultiIndex.from_product([["accuracy", "size"], ["published", "ours"]])
    index = pd.MultiIndex.from_tuples([("pqat", "QAT"), ("pqat", "PQAT")])
    table = pd.DataFrame([[1, 2, 3, 4], [5, 6, 7, 8]], index=index, columns=columns).to_html()
    page, _ = exported([new_code_cell("t", outputs=[new_output("execute_result", {"text/html": table})])], tmp_path)
    scopes = {cell.get_text(): cell["scope"] for cell in page.find_all("th")}
    assert scopes == {
        **dict.fromkeys(("accuracy", "size"), "colgroup"),
        **dict.fromkeys(("published", "ours"), "col"),
        **{"pqat": "rowgroup", "QAT": "row", "PQAT": "row"},
    }


def test_outputs_fall_back_and_are_escaped(cells, tmp_path):
    page, _ = exported(cells, tmp_path)
    assert "progress: done" in page.get_text()
    assert HOSTILE in page.select_one(".stream").get_text()
    assert page.select_one(".stream .ansi-green-fg").get_text() == "ok"
    table = page.select_one(".html table")
    assert table.select_one("tbody td").get_text() == HOSTILE
    assert table.parent["class"] == ["table"]
    assert {cell["scope"] for cell in table.find_all("th")} == {"col", "row"}


def test_same_notebook_gives_same_bytes_and_leaves_no_other_file(cells, tmp_path):
    _, text = exported(cells, tmp_path)
    notebook_page.write_page(tmp_path / "pqat.ipynb", tmp_path / "again.html", {"index.html": "All <results>"})
    assert (tmp_path / "again.html").read_text(encoding="utf-8") == text
    assert {path.name for path in tmp_path.iterdir()} == {"pqat.ipynb", "pqat.html", "again.html"}


def test_page_of_a_failed_notebook_names_the_cell(failed, tmp_path):
    page, _ = exported(failed, tmp_path)
    assert_fetches_nothing(page)
    assert_is_readable(page)
    banner = page.select_one(".banner")
    assert banner.get_text() == f"This notebook failed in cell [9]: ValueError: {HOSTILE}"
    cell = page.find(id=banner.a["href"][1:])
    assert cell.select_one("details").has_attr("open")
    assert cell.select_one(".error p").get_text() == f"ValueError: {HOSTILE}"
    assert cell.select_one(".error .ansi-red-fg").get_text() == "line 1"
    assert HOSTILE in cell.select_one(".error pre").get_text()


def test_expected_error_is_no_failure_and_a_dead_kernel_is_one(cells, failed, tmp_path):
    failed[-1].metadata["tags"] = ["raises-exception"]
    page, _ = exported(failed, tmp_path)
    assert page.select_one(".banner") is None
    # What papermill 2.7 leaves of a notebook whose kernel died in its last cell but two.
    for cell, start in zip(cells, [*["2026-01-01"] * (len(cells) - 2), None, None], strict=True):
        cell.metadata["papermill"] = {"exception": None, "start_time": start, "status": "completed"}
    page, _ = exported(cells, tmp_path)
    banner = page.select_one(".banner")
    assert "the kernel died" in banner.get_text()
    assert page.find(id=banner.a["href"][1:]).select_one("summary code").get_text() == cells[-3].source


def test_notebook_without_headings_is_named_by_its_file(tmp_path):
    page, _ = exported([new_code_cell("1", outputs=[figure_output()])], tmp_path, "deployment_tree")
    assert page.h1.get_text() == "deployment tree"
    assert page.img["alt"] == "Figure 1: deployment tree"


@pytest.fixture(scope="module")
def written(tmp_path_factory) -> Path:
    """A report of two notebooks, of which one failed."""
    directory = tmp_path_factory.mktemp("pages")
    (directory / "models").mkdir()
    exported(make_cells(), directory, "pqat")
    exported(fail(make_cells()), directory, "pcqat")
    rows = [
        ("digits", "pqat", "pruned", 0.97, 0.96, 512_224, 303_997, 0.5, "False"),
        ("digits", "baseline", "", 0.98, 0.975, 528_128, 434_879, 0.0, ""),
        ("digits", "pruned", "baseline", 0.975, 0.97, 528_128, 334_154, 0.5, ""),
        ("digits", HOSTILE, "pruned", 0.5, 0.5, 1000, 500, 0.5, "True"),
    ]
    columns = "experiment stage parent accuracy accuracy_int8 tflite_bytes gzip_bytes sparsity preserved"
    pd.DataFrame(rows, columns=columns.split()).to_csv(directory / "results.csv", index=False)
    run = {"commit": "abc", "parameters": {"stages": {"pqat": {"epochs": 4}}}, "note": HOSTILE}
    (directory / "run.json").write_text(json.dumps(run))
    (directory / "models" / "pqat 1.tflite").write_bytes(b"TFL3")
    return directory


@pytest.fixture
def report(written, tmp_path) -> Path:
    """A copy of `written`, which a test may change."""
    return shutil.copytree(written, tmp_path / "sparsity=0.8,seed=1")


def read(directory: Path, text: str = "# A test of <b>pages</b>.\nseed: 0\n", **status: str) -> bs4.BeautifulSoup:
    path = index_page.write(directory, text, status)
    return bs4.BeautifulSoup(path.read_text(encoding="utf-8"), "html.parser")


def test_index_fetches_nothing_and_its_links_resolve(report):
    page = read(report)
    assert_fetches_nothing(page)
    assert_is_readable(page)
    links = [link["href"] for link in page.select("main a")]
    assert {"pqat.html", "pcqat.html", "results.csv", "run.json", "models/pqat%201.tflite"} == set(links)
    for link in links:
        assert (report / link.replace("%20", " ")).is_file()


def test_index_lists_the_results(report):
    page = read(report)
    rows = [[cell.get_text() for cell in row.find_all(["th", "td"])] for row in page.select(".results tbody tr")]
    assert [row[0] for row in rows] == ["baseline", "pruned", "PQAT", HOSTILE]
    assert rows[2] == ["PQAT", "pruned", "97.00", "96.00", "512.2 → 304.0 (40.7 %)", "50.0", "NO"]
    assert page.select_one("td.no").get_text() == "NO"
    assert page.h1.get_text() == "digits"
    assert page.select_one(".lead").get_text() == "A test of <b>pages</b>."
    tree = page.select_one("figure svg")
    assert "PQAT 96.0 % INT8, 304 kB gzip, NOT preserved" in tree["aria-label"]
    assert "PQAT 96.0 % INT8, 304 kB gzip, NOT preserved" in [title.get_text() for title in tree.find_all("title")]
    assert ("stages.pqat.epochs", "4") in zip(
        *([t.get_text() for t in page.find_all(n)] for n in ("dt", "dd")), strict=True
    )


def links_by_row(page: bs4.BeautifulSoup) -> list[list[str]]:
    return [[link["href"] for link in row.find_all("a")] for row in page.select("tbody tr")]


def test_a_row_of_the_index_links_its_notebook_and_its_file(report):
    (report / "models" / "pqat.tflite").write_bytes(b"TFL3")
    (report / "deployment_tree.html").write_text("")
    baseline, _, pqat, own = links_by_row(read(report))
    assert pqat == ["pqat.html", "models/pqat.tflite"]
    # The notebook that asks about the baseline has no page here, and nothing asks about a stage of one's own.
    assert baseline == own == ["deployment_tree.html"]


def test_a_stage_by_the_other_scheme_links_the_comparison_of_schemes(report):
    rows = pd.DataFrame({"stage": ["pcqat", "pcqat"], "scheme": ["collabopt", "tfmot"], "accuracy": [0.9, 0.8]})
    rows.to_csv(report / "results.csv", index=False)
    for name in ("models/pcqat.tflite", "models/pcqat-tfmot.tflite", "preservation.html"):
        (report / name).write_text("")
    ours, other = ["pcqat.html", "models/pcqat.tflite"], ["preservation.html", "models/pcqat-tfmot.tflite"]
    assert links_by_row(read(report)) == [ours, other]
    (report / "run.json").write_text('{"experiment": {"scheme": "tfmot"}}')
    assert links_by_row(read(report))[1] == ours


def test_every_stage_has_a_notebook_that_names_it():
    for stage, name in ((stage.name, stage.notebook) for stage in STAGES.values()):
        notebook = nbformat.read(NOTEBOOKS / f"{name}.ipynb", as_version=4)
        assert any(f'"{stage}"' in cell.source for cell in notebook.cells)


def test_the_index_links_the_page_of_all_reports(report, tmp_path):
    index_page.write(report, "", home=tmp_path / "index.html")
    page = bs4.BeautifulSoup((report / "index.html").read_text(encoding="utf-8"), "html.parser")
    assert [link["href"] for link in page.select("nav.links a")] == ["../index.html"]
    assert read(report).select("nav.links a") == []


def test_a_report_of_overrides_links_that_of_its_experiment(report, tmp_path):
    home, below = tmp_path / "index.html", report / "sparsity=0.9"
    shutil.copytree(report, below)

    def list_links() -> list[tuple[str, str]]:
        page = bs4.BeautifulSoup(index_page.write(below, "", home=home).read_text(encoding="utf-8"), "html.parser")
        return [(link["href"], link.get_text()) for link in page.select("nav.links a")]

    assert list_links() == [("../../index.html", "All reports")], "it has no report yet"
    index_page.write(report, "", home=home)
    assert list_links() == [("../../index.html", "All reports"), ("../index.html", report.name)]


def make_variant(stage: str, **values: object) -> dict:
    return {"stage": stage, "seed": 0, "validation_accuracy": 0.9, "tflite_bytes": 1000} | values


@pytest.fixture
def with_variants(report) -> Path:
    """variants.csv of two stages: what is float has no int8 weights, and Vela did not take it."""
    note = "Vela takes int8 files"
    rows = [
        make_variant("pqat", format="int8", accuracy=0.91, gzip_bytes=900, entropy_bytes=500.0, npu_cycles=545_408.0)
        | {"accelerator": "Ethos-U55-128", "npu_operators": 0.9, "npu_note": "SOFTMAX on the CPU"}
        | {"tflite": "models/pqat 1.tflite"},
        make_variant("baseline", format="float32", gzip_bytes=3600, npu_note=note, tflite="models/gone.tflite"),
        make_variant("baseline", format="int8", latency_ms=2.0, latency_q1_ms=1.5, latency_q3_ms=2.25),
    ]
    pd.DataFrame(rows).to_csv(report / "variants.csv", index=False)
    return report


def find_variants(page: bs4.BeautifulSoup) -> bs4.Tag:
    return page.find("caption", id="variants-caption").parent


def test_variants_are_listed_by_stage_and_empty_cells_say_why(with_variants):
    table = find_variants(read(with_variants))
    titles = [cell.get_text() for cell in table.select("thead tr:last-child th")]
    rows = [[cell.get_text() for cell in row.find_all(["th", "td"])] for row in table.select("tbody tr")]
    columns = dict(zip(titles, zip(*rows, strict=True), strict=True))
    assert columns["Stage"] == ("baseline", "baseline", "PQAT")
    assert columns["Format"] == ("float32", "int8", "int8")
    assert columns["Accuracy (%)"] == ("not read", "not read", "91.00")
    assert columns["Entropy (kB)"] == ("not int8", "not int8", "0.500")
    assert columns["Cycles"] == ("not on NPU [1]", "not compiled", "545,408 [2]")
    assert columns["Latency (ms, quartiles)"] == ("not timed", "2.000 (1.500–2.250)", "not timed")
    assert "Not measured in this run: ZIP, zstd" in table.find_next(class_="note").get_text()
    # A model that is not there is no link.
    assert [link["href"] for link in table.select("td a")] == ["models/pqat%201.tflite"]
    assert "Ethos-U55-128, by Vela" in [cell.get_text() for cell in table.select('th[scope="colgroup"]')]


def test_columns_of_a_group_are_below_its_heading(with_variants):
    first, last = find_variants(read(with_variants)).select("thead tr")
    assert sum(int(cell["colspan"]) for cell in first.find_all(["th", "td"])) == len(last.find_all("th"))


def test_cells_sort_by_their_number_and_missing_ones_by_nothing(with_variants):
    columns = zip(
        *(row.find_all(["th", "td"]) for row in find_variants(read(with_variants)).select("tbody tr")), strict=True
    )
    numbers = [cells for cells in columns if any("number" in cell.get("class", []) for cell in cells)]
    assert len(numbers) == 9
    for cell in itertools.chain(*numbers):
        key = cell.get("data-key", cell.get_text())
        assert (key == "") == ("missing" in cell["class"])
        assert key == "" or np.isfinite(float(key))


def test_dead_links_are_removed_from_a_report(with_variants):
    read(with_variants)
    (with_variants / "models" / "pqat 1.tflite").unlink()
    (with_variants / "pcqat.html").unlink()
    removed = dead_links.remove(with_variants)
    assert set(removed) == {"index.html: models/pqat 1.tflite", "index.html: pcqat.html", "pqat.html: pcqat.html"}
    page = bs4.BeautifulSoup((with_variants / "index.html").read_text(encoding="utf-8"), "html.parser")
    assert_fetches_nothing(page)
    assert_is_readable(page)
    links = {link["href"] for link in page.select("main a")}
    assert links == {"variants.csv", "pqat.html", "results.csv", "run.json"}
    # The page's policy knows its script by its digest.
    digest = base64.b64encode(hashlib.sha256(page.script.string.encode()).digest()).decode()
    assert f"'sha256-{digest}'" in page.find("meta", attrs={"http-equiv": True})["content"]
    assert dead_links.remove(with_variants) == []


def test_index_marks_failed_notebooks(report):
    page = read(report, **{"cqat.ipynb": f"failed: {HOSTILE}", "pqat": "ok"})
    pqat, cqat, pcqat = page.select(".pages li")
    assert "FAILED" not in pqat.get_text()
    assert "We ask whether zeros stay." in pqat.get_text()
    assert cqat.a is None
    assert f"FAILED {HOSTILE}" in cqat.get_text()
    assert "FAILED ValueError" in pcqat.get_text()


def test_index_of_an_empty_directory_says_so(tmp_path):
    page = read(tmp_path, text="")
    assert_is_readable(page)
    assert len(page.select(".empty")) == 4
    (tmp_path / "results.csv").write_text("stage,parent\n")
    (tmp_path / "run.json").write_text("{")
    assert "No results yet" in read(tmp_path, text="").get_text()


def test_index_of_results_with_few_columns(tmp_path):
    (tmp_path / "results.csv").write_text("stage,accuracy\nbaseline,0.9\nqat,\n")
    page = read(tmp_path)
    assert [cell.get_text() for cell in page.select(".results thead th")] == ["Stage", "Accuracy (%)"]
    assert "nan" not in page.get_text() + "".join(figure["aria-label"] for figure in page.select("figure svg"))


def test_the_index_offers_notebooks_that_have_something_to_show(tmp_path):
    def offer(**settings) -> str:
        (tmp_path / "run.json").write_text(json.dumps({"experiment": {"name": "digits"}, "settings": settings}))
        return read(tmp_path, text="").get_text()

    assert "sensitivity" in offer()
    assert "shape" not in offer()
    assert "shape" in offer(filter_sparsity=0.5)


def test_index_is_the_same_twice(report):
    first = index_page.write(report, "seed: 0").read_bytes()
    assert index_page.write(report, "seed: 0").read_bytes() == first


def picture(dots: np.ndarray) -> bytes:
    file = io.BytesIO()
    Image.fromarray(dots.astype(np.uint8)).save(file, "PNG", dpi=(150, 150))
    return file.getvalue()


def test_a_figure_is_embedded_in_fewer_bytes_and_looks_the_same():
    figure, file = Figure((5, 3), dpi=150), io.BytesIO()
    figure.subplots().plot(np.sin(np.arange(100)))
    figure.savefig(file, format="png")
    smaller = html.shrink_png(file.getvalue())
    assert len(smaller) < 0.7 * len(file.getvalue())
    before, after = (Image.open(io.BytesIO(png)) for png in (file.getvalue(), smaller))
    assert after.size == before.size
    assert after.info["dpi"] == pytest.approx(before.info["dpi"])
    difference = np.abs(np.asarray(after.convert("RGB"), int) - np.asarray(before.convert("RGB"), int))
    assert np.percentile(difference, 99.9) <= html.UNSEEN


def test_a_photograph_stays_as_it_is():
    photograph = picture(np.random.default_rng(0).integers(0, 256, (64, 64, 3)))
    assert html.shrink_png(photograph) == photograph


def test_what_live_progress_leaves_is_not_on_the_page(tmp_path):
    outputs = [new_output("display_data", {"text/plain": text}) for text in ("", "qat: from the store")]
    notebook = new_notebook(cells=[new_markdown_cell("# Does it?"), new_code_cell("run", outputs=outputs)])
    nbformat.write(notebook, tmp_path / "qat.ipynb")
    notebook_page.write_page(tmp_path / "qat.ipynb", tmp_path / "qat.html", {})
    page = bs4.BeautifulSoup((tmp_path / "qat.html").read_text(), "html.parser")
    assert [one.get_text(strip=True) for one in page.select("main pre") if not one.find_parent(class_="highlight")] == [
        "qat: from the store"
    ]
