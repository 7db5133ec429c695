"""The style of figures: stages of labels, pictures in notebooks, cheap import."""

import base64
import re
import subprocess
import sys

import matplotlib.pyplot as plt
import pytest
from example_figures import make_kernels, make_results, make_variants

from collabopt import figures
from collabopt.config.stages import STAGES
from collabopt.figures import style


def test_figures_are_not_kept_open():
    figures.draw_density(make_kernels(), "conv")
    assert plt.get_fignums() == []


def test_find_stage_of_a_label():
    assert style.find_stage("PCQAT int8") is STAGES["pcqat"]
    assert style.find_stage("sparse_clustered") is STAGES["sparse_clustered"]
    assert style.find_stage("sparse clustered FP32") is STAGES["sparse_clustered"]
    assert style.find_stage("mine") is None
    assert len({stage.colour for stage in STAGES.values()}) == len(STAGES)


def test_import_is_cheap():
    code = "import sys, collabopt.figures, collabopt.report.notebook_page; sys.exit('tensorflow' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_notebook_shows_the_drawn_picture_and_draws_a_changed_figure_again(tmp_path, monkeypatch):
    shown = []
    monkeypatch.setattr("IPython.display.display", lambda data, metadata, raw: shown.append((data, metadata, raw)))
    figure = figures.draw_waterfall(make_variants(), csv=tmp_path / "waterfall.csv")
    assert "10.0 times smaller" in figure.alt
    for title in (None, None, "another"):
        if title:
            figure.suptitle(title)
        figure._ipython_display_()
    pictures = [base64.b64decode(data.pop("image/png")) for data, _, _ in shown]
    assert shown == [({"text/plain": figure.alt}, {"alt": figure.alt}, True)] * 3
    assert pictures[0] == pictures[1] == (tmp_path / "waterfall.png").read_bytes() != pictures[2]
    assert figure.png() is figure.png()


def test_a_figure_to_hover_over_is_inline_svg_with_ids_of_its_own():
    import bs4

    figure = figures.draw_sizes(make_results())
    first, second = (style.number_ids(figure.svg(), name) for name in ("one", "two"))
    page = bs4.BeautifulSoup(first + second, "html.parser")
    ids = [tag["id"] for tag in page.find_all(id=True)]
    assert len(ids) == len(set(ids)) > 20
    assert {use["xlink:href"][1:] for use in page.find_all("use")} <= set(ids)
    assert {found for text in (first, second) for found in re.findall(r"url\(#(.*?)\)", text)} <= set(ids)
    svg = page.svg
    assert svg["role"] == "img" and svg["aria-label"] == figure.alt
    assert float(svg["width"]) == pytest.approx(96 * figure.get_figwidth(), abs=1)
    titles = [title.get_text() for title in svg.find_all("title")]
    assert len(titles) == len(make_results()) and "baseline 94.48 % at 434.9 kB" in titles
    assert "sparse clustered" in [text.get_text() for text in svg.find_all("text")]  # no glyphs as paths
    assert "font-face" not in first and "<metadata" not in first
    assert len(first) < 40_000
    assert figure.svg() == figures.draw_sizes(make_results()).svg()


def test_hover_titles_are_text():
    rows = make_results().assign(stage="<b>$x$</b>")
    svg = figures.draw_sizes(rows).svg()
    assert "<b>" not in svg
    assert "<title>&lt;b&gt;$x$&lt;/b&gt; 94.48 % at 434.9 kB</title>" in svg


def test_a_notebook_keeps_the_svg_for_its_page(monkeypatch):
    shown = []
    monkeypatch.setattr("IPython.display.display", lambda data, metadata, raw: shown.append((data, metadata)))  # noqa: ARG005
    figures.draw_tree(make_results())._ipython_display_()
    ((data, metadata),) = shown
    assert set(data) == {"image/png", "text/plain"}
    assert metadata["inline_svg"].startswith("<svg ")


def test_nothing_to_draw_is_no_figure():
    assert figures.draw_sizes(make_results().assign(gzip_bytes="")) is None
    assert figures.draw_confusion(make_results().head(0)) is None
