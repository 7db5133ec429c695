"""The pages of a finished batch in a real browser: nothing fetched or broken, sorted, filtered, accessible, printed."""

import functools
import io
import itertools
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from urllib.parse import unquote, urlsplit
from urllib.request import url2pathname

import numpy as np
import pandas as pd
import pytest
from example_batch import NOTEBOOKS
from PIL import Image

from collabopt.config import loading
from collabopt.report import front_page, index_page, notebook_page, sweep_page

pytestmark = pytest.mark.timeout(1200)

BROWSER = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
if BROWSER is None:
    pytest.skip("no chromium, chromium-browser or google-chrome on the path", allow_module_level=True)
sync_api = pytest.importorskip("playwright.sync_api")
axe = pytest.importorskip("axe_playwright_python.sync_playwright")

WIDE, NARROW = 1400, 400
RELEASED = loading.ROOT / "reports" / "speech_commands-ds_cnn_l"
READ = """() => {
    const all = (selector) => [...document.querySelectorAll(selector)], name = (one) => one.outerHTML.slice(0, 200);
    return {
        title: document.title,
        broken_images: [...document.images].filter((one) => !one.complete || one.naturalWidth === 0).map(name),
        unnamed_images: all("img:not([alt]), img[alt='']").map(name),
        links: all("a[href]").map((link) => link.href),
        ids: all("[id]").map((one) => one.id),
        heading_levels: all("h1, h2, h3, h4, h5, h6").map((one) => Number(one.tagName[1])),
        tables_without_caption: all("table:not(:has(caption))").map(name),
        displays_of_cells: [...new Set(all("td, th").map((cell) => getComputedStyle(cell).display))],
        width: document.documentElement.scrollWidth,
        unreachable: all("main *").filter((one) => one.scrollWidth > one.clientWidth + 1
            && getComputedStyle(one).overflowX === "auto" && one.tabIndex < 0).map(name),
    };
}"""
"""What the tests of every page read from one, in JavaScript."""


@pytest.fixture(scope="module")
def reports(shared_batch, tiny, tmp_path_factory) -> Path:
    """The reports of a batch of the tiny experiment, and two that the library writes from tables: a report with
    variants, and a sweep of which one cell failed."""
    root = tmp_path_factory.mktemp("browser")
    shutil.copytree(shared_batch / "copy", root, dirs_exist_ok=True)
    released, home = root / "reports" / RELEASED.name, root / "reports" / "index.html"
    assert f'href="{tiny.stem}/index.html"' in home.read_text(encoding="utf-8")
    released.mkdir()
    for name in ("results.csv", "layers.csv", "comparison.csv", "run.json"):
        shutil.copy(RELEASED / name, released)
    add_variants(released)
    index_page.write(released, "# DS-CNN-L.\nseed: 0\n", {"pqat": "FAILED for a test"}, home)
    add_sweep(root / "reports" / tiny.stem, root / "data" / "runs" / tiny.stem / "as_given" / "baseline.ipynb", tiny)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(loading, "DATA", root / "data")
        front_page.write(root / "reports")
    return root / "reports"


def add_variants(report: Path) -> None:
    rows = pd.read_csv(report / "results.csv").query("scheme != 'tfmot' and seed == 0")
    rows = rows[["stage", "seed", "validation_accuracy", "tflite_bytes", "gzip_bytes"]]
    int8 = rows.assign(format="int8", npu_cycles=range(10**6, 10**4, -(10**5))[: len(rows)], npu_note="")
    floats = rows.assign(format="float32", tflite_bytes=4 * rows["tflite_bytes"], npu_note="Vela takes no floats")
    pd.concat([floats, int8]).assign(accelerator="Ethos-U55-128").to_csv(report / "variants.csv", index=False)


def add_sweep(report: Path, executed: Path, plan: Path) -> None:
    sweep = report / "sweep,seed=0+1"
    for seed in (0, 1):
        cell = sweep / f"seed={seed}"
        cell.mkdir(parents=True)
        pd.read_csv(report / "results.csv").assign(seed=seed).to_csv(cell / "results.csv", index=False)
        shutil.copy(report / "run.json", cell)
    shutil.copytree(report / "models", sweep / "seed=0" / "models")
    notebook_page.write_page(executed, sweep / "seed=0" / "deployment_tree.html", {"../index.html": "The sweep"})
    sweep_page.write(sweep, str(plan), {"seed=0": "ok", "seed=1": "FAILED"}, report.parent / "index.html")


@pytest.fixture(scope="module", params=["one notebook", pytest.param("other notebooks", marks=pytest.mark.slow)])
def pages(request, reports, tiny) -> list[Path]:
    """The pages of one notebook, indexes, sweep and variants; or those of the other notebooks."""
    others = {path for path in (reports / tiny.stem).glob("*.html") if path.stem not in ("index", "baseline")}
    if request.param == "one notebook":
        found = {*reports.rglob("*.html")} - others
    else:
        found = others | {request.getfixturevalue("preservation_report") / "preservation.html"}
    assert len(found) >= 6
    return sorted(found)


@pytest.fixture(scope="module")
def browser() -> Iterator:
    with sync_api.sync_playwright() as playwright:
        # Chromium does not start as root in its sandbox.
        one = playwright.chromium.launch(executable_path=BROWSER, args=["--no-sandbox"])
        yield one
        one.close()


@pytest.fixture(scope="module")
def windows(browser) -> Callable:
    """The browser's window of a width in pixels and a colour scheme."""

    @functools.cache
    def window(width: int, scheme: str):
        return browser.new_context(viewport={"width": width, "height": 900}, color_scheme=scheme)

    return window


@pytest.fixture
def visit(windows) -> Iterator[Callable]:
    """Opens a page: its path, a width in pixels and a colour scheme. Checks at the end that no page had an error."""
    opened, errors = [], []

    def show(path: Path, width: int = WIDE, scheme: str = "light"):
        opened.append(open_page(windows(width, scheme), path, errors))
        return opened[-1]

    yield show
    for page in opened:
        page.close()
    assert errors == []


def open_page(window, path: Path, errors: list[str]):
    """Open a page in a window. What it fetches from elsewhere, lacks, warns of or fails at is added to `errors`."""
    page = window.new_page()
    page.on("request", lambda request: errors.append(request.url) if is_remote(request.url) else None)
    page.on("requestfailed", lambda request: errors.append(f"failed: {request.url}"))
    page.on("console", lambda said: errors.append(said.text) if said.type in ("error", "warning") else None)
    page.on("pageerror", lambda error: errors.append(str(error)))
    page.goto(path.as_uri())
    return page


def is_remote(url: str) -> bool:
    return urlsplit(url).scheme not in ("file", "data")


def find_violations(page) -> list[str]:
    """What axe finds wrong on a page."""
    return [f"{one['id']}: {one['nodes'][0]['html'][:200]}" for one in axe.Axe().run(page).response["violations"]]


# Every page is visited once in either window, because the visits take longer than the checks.


@pytest.fixture(scope="module")
def wide(pages, windows) -> dict[Path, SimpleNamespace]:
    """What each page shows in a wide and light window, where it is also used by keyboard and printed."""

    def use(page) -> dict:
        page.keyboard.press("Tab")
        page.keyboard.press("Enter")
        return {
            "focused": page.evaluate("document.activeElement.id"),
            "printed": page.pdf(prefer_css_page_size=True),
        }

    return {path: observe(windows(WIDE, "light"), path, use) for path in pages}


@pytest.fixture(scope="module")
def narrow(pages, windows) -> dict[Path, SimpleNamespace]:
    """What each page shows in a narrow and dark window, and what axe finds wrong there."""
    window = windows(NARROW, "dark")
    return {path: observe(window, path, lambda page: {"violations": find_violations(page)}) for path in pages}


def observe(window, path: Path, use: Callable) -> SimpleNamespace:
    """Open a page, and return what it shows, what `use` finds on it, and its `errors`."""
    errors: list[str] = []
    page = open_page(window, path, errors)
    found = SimpleNamespace(**page.evaluate(READ), **use(page), errors=errors)
    page.close()
    return found


def texts(page, table: str, column: int) -> list[str]:
    """What the cells of a column say, from above, of the rows that are seen."""
    rows = page.locator(f"table:has(#{table}-caption) tbody tr:visible")
    return [row.locator("th, td").nth(column).inner_text() for row in rows.all()]


def header(page, table: str, title: str):
    return page.locator(f"table:has(#{table}-caption) thead th").filter(has=page.get_by_role("button", name=title))


def values(page, table: str, column: int) -> list[float | None]:
    cells = [cell.partition(" ±")[0].partition("→")[0] for cell in texts(page, table, column)]
    return [float(cell.replace(",", "").replace("−", "-")) if cell else None for cell in cells]


def test_pages_load_nothing_and_say_no_error(wide, narrow):
    for path, page in (*wide.items(), *narrow.items()):
        assert page.errors == [], path.name
        assert page.broken_images == [], path.name
        assert page.title, path.name
        assert page.heading_levels.count(1) == 1, path.name


def test_every_link_and_anchor_leads_somewhere(wide):
    followed = 0
    for path, page in wide.items():
        for link in page.links:
            address = urlsplit(link)
            if address.scheme in ("http", "https"):
                continue
            target = Path(url2pathname(address.path))
            assert target.is_file(), f"{path.name}: {link}"
            if address.fragment:
                assert target == path
                assert page.ids.count(unquote(address.fragment)) == 1, f"{path.name}: {link}"
            followed += 1
    assert followed > 50


def test_a_table_sorts_by_click_up_and_down(reports, visit):
    page = visit(reports / RELEASED.name / "index.html")
    before = texts(page, "results", 0)
    table = page.locator("table:has(#results-caption)")
    sorter = table.get_by_role("button", name="INT8 accuracy (%)", exact=True)
    column = sorter.locator("..").evaluate("header => header.cellIndex")
    sorter.click()
    up = values(page, "results", column)
    assert up == sorted(up)
    assert header(page, "results", "INT8 accuracy (%)").first.get_attribute("aria-sort") == "ascending"
    sorter.click()
    assert values(page, "results", column) == sorted(up, reverse=True)
    assert page.locator("[aria-sort]").count() == 1
    assert page.locator("[aria-sort=descending]").count() == 1
    # By stage is the order of the tree, in which it came.
    table.get_by_role("button", name="stage").first.click()
    assert texts(page, "results", 0) == before


def test_a_table_sorts_by_keyboard(reports, visit):
    page = visit(reports / "index.html")
    gzip = page.get_by_role("button", name="gzip (kB)")
    column = gzip.locator("..").evaluate("header => header.cellIndex")
    page.get_by_role("button", name="INT8 accuracy (%)").focus()
    for _ in range(2):
        page.keyboard.press("Tab")
    assert gzip.evaluate("button => button === document.activeElement")
    assert gzip.evaluate("button => getComputedStyle(button).outlineStyle") == "solid"
    page.keyboard.press("Enter")
    up = values(page, "stages", column)
    assert up == sorted(up) and len(set(up)) > 1
    page.keyboard.press("Space")
    assert values(page, "stages", column) == sorted(up, reverse=True)


def test_what_has_no_value_comes_last_both_ways(reports, visit):
    page = visit(reports / RELEASED.name / "index.html")
    cycles = page.get_by_role("button", name="cycles")
    column = cycles.locator("..").evaluate("header => header.cellIndex")
    for _ in range(2):
        cycles.click()
        said = texts(page, "variants", column)
        missing = [cell == "not on NPU [1]" for cell in said]
        assert missing == sorted(missing)
        assert 0 < sum(missing) < len(missing)


def test_numbers_sort_as_numbers_and_words_as_words(reports, visit):
    page = visit(reports / RELEASED.name / "index.html")
    raw = page.get_by_role("button", name="File (kB)", exact=True)
    raw.click()
    up = values(page, "variants", raw.locator("..").evaluate("header => header.cellIndex"))
    assert up == sorted(up)
    assert [str(value) for value in up] != sorted(str(value) for value in up), "these tell text from numbers"
    page.get_by_role("button", name="format").click()
    assert texts(page, "variants", 1) == sorted(texts(page, "variants", 1))


def test_a_filter_shows_the_rows_with_every_word(reports, visit):
    page = visit(reports / RELEASED.name / "index.html")
    field = page.get_by_label("Filter").nth(2)  # after those of results and means
    rows = len(texts(page, "variants", 0))
    field.fill("PQAT  int8")
    assert texts(page, "variants", 0) == ["PQAT"]
    assert page.get_by_role("status").nth(2).inner_text() == f"1 of {rows} rows"
    field.fill("no such word")
    assert texts(page, "variants", 0) == []
    field.fill("")
    assert len(texts(page, "variants", 0)) == rows
    assert len(texts(page, "results", 0)) > 1, "another table is left alone"


def test_a_preset_shows_its_columns_and_headings_span_only_these(reports, visit):
    page = visit(reports / RELEASED.name / "index.html")
    heads = page.locator("table:has(#variants-caption) thead tr:last-child th:visible")
    columns = page.locator("#variants-columns")
    columns.select_option("all")
    every = heads.count()
    columns.select_option("NPU")
    assert 2 < heads.count() < every
    assert heads.filter(has_text="Cycles").count() == 1
    spans = page.locator("table:has(#variants-caption) thead tr:first-child").evaluate(
        "row => [...row.cells].filter(cell => !cell.hidden).reduce((sum, cell) => sum + cell.colSpan, 0)"
    )
    assert spans == heads.count()
    columns.select_option("all")
    assert heads.count() == every


def test_tables_with_presets_begin_with_columns_that_fit_under_heads_of_three_lines(reports, visit):
    page = visit(reports / RELEASED.name / "index.html")
    for name in ("results", "variants"):
        table = page.locator(f".table:has(#{name}-caption)")
        assert table.evaluate("box => box.scrollWidth <= box.clientWidth"), name
        for preset in ("small", "all"):
            page.locator(f"#{name}-columns").select_option(preset)
            heads = table.locator("thead tr:last-child")
            assert heads.evaluate("row => row.clientHeight") < 90, "three lines and the padding"


def test_a_table_is_copied_as_csv(reports, visit):
    page = visit(reports / RELEASED.name / "index.html")
    page.context.grant_permissions(["clipboard-read"])
    page.locator("#variants-columns").select_option("small")
    page.locator(".table:has(#variants-caption) + button.copy").click()
    head, *rows = page.evaluate("navigator.clipboard.readText()").splitlines()
    assert head.startswith("Stage,Format,") and "ZIP" not in head
    assert len(rows) == len(texts(page, "variants", 0))


def test_a_reader_goes_through_the_pages_of_a_report_one_by_one(reports, visit):
    page = visit(reports / "tiny" / "index.html")
    listed = page.locator("nav.pages-list a").evaluate_all("links => links.map((link) => link.href)")
    assert len(listed) == len(["index", *NOTEBOOKS])
    seen = [page.url]
    while page.locator("a[rel=next]").count():
        page.locator("a[rel=next]").click()
        seen.append(page.url)
        assert page.locator("#provenance").count() == 1
        assert page.locator("a[download]").count() == 1
    assert seen == listed


def test_the_tables_are_whole_without_a_script(reports, browser):
    context = browser.new_context(java_script_enabled=False)
    page = context.new_page()
    page.goto((reports / RELEASED.name / "index.html").as_uri())
    assert page.locator("tbody tr:visible").count() == page.locator("tbody tr").count() > 4
    assert page.locator("button:visible, input:visible").count() == 0
    context.close()


def test_a_reader_goes_from_all_reports_to_a_notebook_and_its_data_and_back(reports, visit):
    page = visit(reports / "index.html")
    page.get_by_role("heading", name="tiny").get_by_role("link").click()
    assert page.url.endswith("/tiny/index.html")
    page.locator("table:has(#results-caption)").get_by_role("link", name="QAT", exact=True).click()
    assert page.url.endswith("/tiny/baseline.html")
    figures = page.locator("figure")
    assert figures.count() == figures.filter(has=page.locator("figcaption a[href$='.csv']")).count() > 2
    page.get_by_role("link", name="All results").click()
    page.get_by_role("link", name="All reports").click()
    assert page.url == (reports / "index.html").as_uri()


def test_ticking_two_reports_compares_their_stages(reports, visit):
    page = visit(reports / "index.html")
    boxes = page.locator("#compare-reports input")
    assert boxes.count() >= 2
    assert page.locator("#compared *").count() == 0
    boxes.nth(0).check()
    boxes.nth(1).check()
    assert boxes.count() == 2 or boxes.nth(2).is_disabled()
    table = page.locator("#compared table")
    names = [boxes.nth(place).get_attribute("value") for place in (0, 1)]
    heads = table.locator("thead th").all_inner_texts()
    assert [heads[1].partition(":")[0], heads[2].partition(":")[0]] == names
    baseline = table.locator("tbody tr").first.locator("th, td").all_inner_texts()
    first, second = (float(text.partition(" ±")[0].partition(" ")[0]) for text in baseline[1:3])
    assert float(baseline[3].removesuffix(" ≈").replace("−", "-")) == pytest.approx(second - first, abs=0.011)
    assert float(baseline[6]) == pytest.approx(float(baseline[5]) / float(baseline[4]), rel=0.05)
    assert f'make compare A="{names[0]}" B="{names[1]}"' in page.locator("#compared").inner_text()
    assert find_violations(page) == []
    boxes.nth(0).uncheck()
    assert page.locator("#compared *").count() == 0


def test_the_index_shows_what_changed_and_what_ran_when(reports, visit):
    page = visit(reports / "tiny" / "index.html")
    for name in ("changed-classes", "changed-layers"):
        assert page.locator(f"table:has(#{name}-caption) tbody tr").count() >= 3
    pictures = page.locator("img.example")
    assert pictures.evaluate_all("all => all.every((one) => one.naturalWidth === 8 && one.alt)")
    titles = page.locator("figure svg title").all_text_contents()
    assert any(title.startswith("deployment_tree: ") for title in titles), "the timeline"
    assert any(title.startswith("PQAT ") and "kB" in title for title in titles), "a point or a card"
    # A text does not take the pointer from the card or the point below it.
    assert page.locator("figure svg text").first.evaluate("text => getComputedStyle(text).pointerEvents") == "none"


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_a_figure_has_the_ground_of_the_page_and_a_shadow_where_it_goes_on(reports, visit, scheme):
    for name in ("index", "baseline"):  # of SVG, and of PNG files
        page = visit(reports / "tiny" / f"{name}.html", NARROW, scheme)
        box = page.locator(".drawn .scroll:has(> img)" if name == "baseline" else ".drawn .scroll:has(> svg)").first
        box.scroll_into_view_if_needed()
        assert box.evaluate("box => box.scrollWidth > box.clientWidth")
        ground = page.evaluate("getComputedStyle(document.body).backgroundColor.match(/\\d+/g).map(Number)")

        def look(at: int, box=box) -> list[int]:
            """The colour of the figure's top row, a place from the left or, if negative, from the right."""
            with Image.open(io.BytesIO(box.screenshot())) as picture:
                return list(picture.convert("RGB").getpixel((at % picture.width, 1)))

        assert np.allclose(look(2), ground, atol=3), name
        assert not np.allclose(look(-2), ground, atol=20), f"{name}: no shadow"
        box.evaluate("box => { box.scrollLeft = box.scrollWidth }")
        assert np.allclose(look(-2), ground, atol=3), name


def test_all_code_opens_by_its_button(reports, visit):
    page = visit(reports / "tiny" / "baseline.html")
    assert page.locator("details.code[open]").count() == 0
    page.get_by_role("button", name="Show all code").click()
    assert page.locator("details.code:not([open])").count() == 0


# Colours do not go by the width, nor does what scrolls by the scheme.
def test_pages_pass_the_checks_of_axe(narrow):
    assert {path.name: page.violations for path, page in narrow.items() if page.violations} == {}


@pytest.mark.slow
def test_pages_pass_the_checks_of_axe_in_a_wide_window(pages, visit):
    for path in pages:
        assert find_violations(visit(path)) == [], path.name


def test_a_page_is_no_wider_than_its_window(wide, narrow):
    for width, found in ((WIDE, wide), (NARROW, narrow)):
        assert {path.name: page.width for path, page in found.items() if page.width > width} == {}


def test_what_scrolls_is_reached_by_keyboard(narrow):
    assert {path.name: page.unreachable for path, page in narrow.items() if page.unreachable} == {}


def test_the_content_is_the_first_that_the_keyboard_offers(wide):
    assert {path.name: page.focused for path, page in wide.items() if page.focused != "main"} == {}


def test_headings_go_down_by_one_and_tables_are_tables_with_captions(wide):
    for path, page in wide.items():
        levels = page.heading_levels
        assert levels[0] == 1, path.name
        assert all(after <= before + 1 for before, after in itertools.pairwise(levels)), f"{path.name}: {levels}"
        assert page.unnamed_images == [], path.name
        assert page.tables_without_caption == [], path.name
        assert set(page.displays_of_cells) <= {"table-cell", "none"}, path.name  # a preset hides columns


def test_a_page_prints(wide):
    for path, page in wide.items():
        assert page.printed.startswith(b"%PDF") and len(page.printed) > 10_000, path.name
