"""The deployment tree and the variants against the targets."""

import numpy as np
import pandas as pd
import pytest
from example_figures import PNG, draw_png, get_texts, make_results, make_variants
from matplotlib.colors import to_rgba

from collabopt import figures
from collabopt.config.experiment import Targets
from collabopt.config.stages import STAGES
from collabopt.deploy import targets
from collabopt.figures import style
from collabopt.storage.results import ONE_CLASS

WANTED = Targets(max_accuracy_drop=0.02, max_gzip_bytes=800, max_npu_ms=1.3)


@pytest.fixture
def results() -> pd.DataFrame:
    return make_results()


@pytest.fixture
def variants() -> pd.DataFrame:
    return make_variants()


def test_tree_greys_stages_without_results(results, tmp_path):
    figure = figures.draw_tree(results, tmp_path / "tree.csv")
    shown = get_texts(figure).splitlines()
    assert {stage.label for stage in STAGES.values()} <= set(shown)
    assert shown.count("not run") == 2
    assert "94.1 %" in shown
    assert "201 kB" in shown
    assert "✗ NOT preserved" not in shown
    drawn = pd.read_csv(tmp_path / "tree.csv")
    assert drawn.loc[drawn["stage"] == "pcqat", "scheme"].item() == "collabopt"
    assert draw_png(figure).startswith(PNG)


def test_tree_marks_lost_zeros_by_word_and_outline(results):
    figure = figures.draw_tree(results[results["scheme"] != "collabopt"])
    assert get_texts(figure).splitlines().count("✗ NOT preserved") == 1
    outlines = [patch.get_edgecolor() for patch in figure.axes[0].patches]
    assert outlines.count(to_rgba(style.ALARM)) == 1


def test_tree_of_text_cells_and_unknown_stages(results):
    rows = results.astype(str)
    rows.loc[len(rows)] = ["<script>$x$", "", "nobody", "", "", ""]
    assert draw_png(figures.draw_tree(rows)).startswith(PNG)
    assert draw_png(figures.draw_tree(results.head(0))).startswith(PNG)


def test_tree_names_misses_and_the_chosen_stage(results, variants, tmp_path):
    results.loc[results["stage"] == "pcqat", "accuracy_int8"] = np.nan  # only the chosen variant is evaluated on test
    verdicts = targets.judge(variants, WANTED)
    figure = figures.draw_tree(results, tmp_path / "tree.csv", verdicts)
    shown = get_texts(figure).splitlines()
    assert "✗ gzip, NPU time" in shown
    assert "▶ chosen: int8 file" in shown
    assert "✗ accuracy" in shown
    assert "95.5 % val" in shown
    drawn = pd.read_csv(tmp_path / "tree.csv").set_index("stage")
    assert drawn["chosen"].dropna().to_dict() == {"pruned": "int8"}
    assert drawn.loc["pcqat", "verdict"] == "accuracy drop 0.50 points over"
    assert "pruned 93.8 % INT8, 334 kB gzip, meets all targets, chosen as int8" in figure.alt
    assert draw_png(figure).startswith(PNG)


def test_tree_marks_a_chosen_file_of_another_format_and_counts_names_without_room(variants):
    everything = Targets(**{name: 1e-6 if "bytes" not in name else 1 for name in Targets.model_fields})
    figure = figures.draw_tree(variants.head(0), verdicts=targets.judge(variants, everything))
    figure.draw_without_rendering()
    (verdict, *_) = (text for text in figure.axes[0].texts if text.get_text().startswith("✗"))
    assert verdict.get_text() == "✗ accuracy, drop + 5"
    cards = [patch.get_window_extent() for patch in figure.axes[0].patches]
    assert any(card.x0 < verdict.get_window_extent().x0 < verdict.get_window_extent().x1 < card.x1 for card in cards)
    chosen = targets.judge(variants, Targets(max_gzip_bytes=1100, max_accuracy_drop=0.006))
    assert "▶ chosen: float16 file" in get_texts(figures.draw_tree(variants.head(0), verdicts=chosen)).splitlines()


def test_verdicts_name_every_miss(variants):
    rows = targets.judge(variants, WANTED)
    assert rows["verdict"].tolist() == [
        "gzip 2.8 kB over, NPU time not known",
        "gzip 0.1 kB over, NPU time 0.100 ms over",
        "gzip 1.2 kB over, NPU time not known",
        "gzip 0.3 kB over, NPU time not known",
        "meets all targets",
        "NPU time not known",
        "accuracy drop 1.00 points over",
        "accuracy drop 0.50 points over",
    ]
    assert rows["chosen"].tolist() == [False] * 4 + [True] + [False] * 3
    tight = targets.judge(variants, Targets(max_gzip_bytes=599))
    assert "gzip < 0.1 kB over" in set(tight["verdict"])


def test_a_file_that_predicts_one_class_is_said_to_on_its_card(variants):
    rows = targets.judge(variants, WANTED)
    broken = [{ONE_CLASS: float("inf")} if row.stage == "baseline" else row.missed for row in rows.itertuples()]
    assert ONE_CLASS in get_texts(figures.draw_tree(variants.head(0), verdicts=rows.assign(missed=broken)))


def test_figure_of_verdicts_marks_every_miss_and_the_chosen_variant(variants, tmp_path):
    figure = figures.draw_verdicts(variants, WANTED, tmp_path / "verdicts.csv")
    shown, missed = get_texts(figure), targets.judge(variants, WANTED)["missed"]
    assert shown.count("✗ ") == sum(map(len, missed))
    assert shown.splitlines().count("▶") == shown.splitlines().count("chosen") == 1
    assert {"≤ 2.00", "≤ 0.800", "≤ 1.300"} <= set(shown.splitlines())
    assert figure.alt == "Chosen: pruned int8. 1 of 8 variants meet all targets."
    drawn = pd.read_csv(tmp_path / "verdicts.csv")
    assert drawn.loc[drawn["chosen"], ["stage", "format"]].to_numpy().tolist() == [["pruned", "int8"]]
    assert draw_png(figure).startswith(PNG)


def test_figure_of_verdicts_without_a_choice_marks_the_nearest(variants):
    figure = figures.draw_verdicts(variants, Targets(max_gzip_bytes=300))
    assert figure.alt == "None of 8 variants meets all targets. The nearest is PCQAT int8: gzip 0.1 kB over."
    assert get_texts(figure).splitlines().count("nearest") == 1
    assert "no targets" in get_texts(figures.draw_verdicts(variants, Targets()))
