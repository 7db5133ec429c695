"""The table of variants on a page: noise on scores and drops, footnotes instead of long cells, presets, escaping."""

import bs4
import pandas as pd
import pytest

from collabopt.report import tables
from collabopt.report.glossary import GLOSSARY, explain
from collabopt.report.table import Cell, Table

HOSTILE = "<script>alert(1)</script>"
NOTE = f"nothing runs on the NPU: {HOSTILE}"


@pytest.fixture
def rows() -> pd.DataFrame:
    return pd.DataFrame(
        {
            "stage": ["baseline", "baseline", "pcqat"],
            "format": ["float32", "int8", "int8"],
            "validation_accuracy": ["0.95", "0.948", "0.90"],
            "validation_accuracy_error": "0.01",
            "validation_examples": "500",
            "validation_drop_error": ["0", "0.003", "0.01"],
            "accuracy": ["0.94", "0.93", ""],
            "accuracy_error": ["0.005", "0.005", ""],
            "gzip_bytes": ["4000", "900", "500"],
            "npu_cycles": ["", "20000", "10000"],
            "npu_ms": ["", "0.2", "0.1"],
            "npu_note": [NOTE, "", NOTE],
            "accelerator": "ethos-u55-128",
        }
    )


def test_scores_and_drops_have_their_noise(rows, tmp_path):
    frame = tables.variants(rows, tmp_path).to_frame()
    assert frame["Accuracy: Validation accuracy (%)"].tolist() == ["95.00 ± 2.00", "94.80 ± 2.00", "90.00 ± 2.00"]
    drops = frame["Accuracy: Validation drop (points)"].tolist()
    # One of 500 examples is the least that can be told apart.
    assert drops == ["0.00 ± 0.20 ≈", "0.20 ± 0.60 ≈", "5.00 ± 2.00"]


def test_a_reason_why_a_file_is_not_on_the_npu_is_one_footnote(rows, tmp_path):
    table = tables.variants(rows, tmp_path)
    cycles, time = [name for name in table.columns if "Cycles" in name or "time" in name]
    assert [row[cycles].text for row in table.rows] == ["not on NPU [1]", "20,000", "10,000 [1]"]
    assert [row[time].text for row in table.rows] == ["not on NPU [1]", "0.200", "0.100 [1]"]
    assert table.footnotes == [f"[1] {NOTE}"]
    body = bs4.BeautifulSoup(table._repr_html_(), "html.parser")
    assert body.find("script") is None
    assert body.find("td", attrs={"title": NOTE}) is not None
    assert [note.get_text() for note in body.select(".footnote")] == [f"[1] {NOTE}"]


def test_presets_keep_the_names_and_choose_among_the_figures(rows, tmp_path):
    table = tables.variants(rows, tmp_path)
    assert {"Stage", "Format"} <= set(table.presets["small"]) & set(table.presets["NPU"])
    small, npu = (" ".join(table.presets[name]) for name in ("small", "NPU"))
    assert "gzip" in small and "gzip" not in npu
    assert "Cycles" in npu and "Cycles" not in small
    for name, columns in table.presets.items():  # each shows what the footnotes stand for
        assert any("[1]" in row[column].text for row in table.rows for column in columns), name
    assert set(table.presets["small"]) | set(table.presets["NPU"]) <= set(table.columns)


def test_every_head_of_results_and_variants_is_explained(rows, tmp_path):
    table = tables.variants(rows, tmp_path)
    assert [name for name in table.columns if not explain(name)] == []
    assert all(len(text) > 20 for text in GLOSSARY.values())


@pytest.mark.parametrize("place", ["text", "title", "about"])
def test_markup_in_a_cell_is_text(place):
    page = Table("caption", [{HOSTILE: Cell(**{"text": "x", place: HOSTILE})}])._repr_html_()
    assert bs4.BeautifulSoup(page, "html.parser").find("script") is None
