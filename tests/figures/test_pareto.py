"""Accuracy against costs: panels, fronts, markers and names."""

import itertools

import numpy as np
import pandas as pd
import pytest
from example_figures import PNG, draw_png, get_texts, make_results, make_variants
from hypothesis import given
from hypothesis import strategies as st

from collabopt import figures
from collabopt.figures import pareto, style
from collabopt.report import summary
from collabopt.storage.results import KEY


@pytest.fixture
def results() -> pd.DataFrame:
    return make_results()


@pytest.fixture
def variants() -> pd.DataFrame:
    return make_variants()


numbers = st.lists(st.tuples(st.sampled_from([1.0, 2.0, 3.0, 4.0, np.nan]), st.integers(0, 4)), min_size=1, max_size=9)


@given(numbers)
def test_front_holds_the_points_that_no_other_beats(points):
    cost, accuracy = (pd.Series(values, dtype=float) for values in zip(*points, strict=True))
    beaten = [
        any(one <= own and other >= right and (one, other) != (own, right) for one, other in points)
        for own, right in points
    ]
    assert pareto.find_front(cost, accuracy).tolist() == list(~np.array(beaten) & cost.notna())


def test_size_against_accuracy_labels_every_point(results, tmp_path):
    figure = pareto.draw_sizes(results, tmp_path / "size.csv")
    shown = get_texts(figure).splitlines()
    assert "PCQAT (tfmot scheme), NOT preserved" in shown
    assert (
        "PCQAT 94.06 % at 200.5 kB; sparse clustered 93.21 % at 231.0 kB; PCQAT 93.00 % at 231.7 kB, NOT preserved"
        in figure.alt
    )
    assert "sparse clustered" in shown
    assert len(pd.read_csv(tmp_path / "size.csv")) == len(results)
    assert draw_png(figure).startswith(PNG)


def test_only_names_of_the_other_scheme_are_long(results):
    schemes = results["scheme"].replace("", "collabopt")
    shown = get_texts(pareto.draw_sizes(results.assign(scheme=schemes))).splitlines()
    assert "PCQAT" in shown and not any("collabopt" in text for text in shown)


def test_costs_have_one_panel_per_known_cost_with_its_front(variants, tmp_path):
    figure = figures.draw_costs(variants, tmp_path / "costs.csv")
    drawn = pd.read_csv(tmp_path / "costs.csv")
    labels = [axes.get_xlabel() for axes in figure.axes if axes.axison]
    assert labels == [
        "file after gzip (kB)",
        "latency on this host ÷ float32 baseline",
        "NPU time (ms), Ethos-U55-128",
        "flash (KiB), Ethos-U55-128",
    ]
    assert len(drawn) == len(variants) - 1  # one setting per variant
    front = drawn.loc[drawn["front_npu_flash_kib"], ["stage", "format"]].to_numpy().tolist()
    assert front == [["baseline", "int8"], ["pruned", "int8"], ["pcqat", "int8"]]
    assert draw_png(figure).startswith(PNG)


def test_costs_tell_stage_and_format_apart_in_more_than_colour(variants):
    figure = figures.draw_costs(variants)
    shown = get_texts(figure)
    assert {"float32", "float16", "int8", "Pareto front", "PCQAT"} <= set(shown.splitlines())
    shapes = {line.get_marker() for line in figure.axes[0].lines if len(line.get_xdata()) == 1}
    assert len(shapes) == variants["format"].nunique()


def test_axis_ends_near_100_percent(variants):
    figure = figures.draw_costs(variants.head(1))
    low, high = 100 * variants["validation_accuracy"].iloc[0] + np.array([-0.1, 0.1])
    assert figure.axes[0].get_ylim()[0] < low < high < figure.axes[0].get_ylim()[1] <= 100.5


def test_costs_of_variants_without_any_is_an_error(variants):
    with pytest.raises(ValueError, match="gzip_bytes, latency_ratio"):
        figures.draw_costs(
            variants.drop(columns=["gzip_bytes", "latency_ratio", "npu_ms", "npu_sram_kib", "npu_flash_kib"])
        )


def test_sizes_without_test_accuracy_show_that_on_validation(results):
    figure = figures.draw_sizes(results.rename(columns={"accuracy_int8": "validation_accuracy_int8"}))
    assert figure.axes[0].get_ylabel() == "INT8 validation accuracy (%)"
    assert "baseline 94.48 % at 434.9 kB" in figure.alt


def test_sizes_show_all_rows_if_some_were_read_on_validation_only(results):
    some = results["accuracy_int8"].where(results["stage"] == "qat")
    figure = figures.draw_sizes(results.assign(validation_accuracy_int8=results["accuracy_int8"], accuracy_int8=some))
    assert figure.axes[0].get_ylabel() == "INT8 validation accuracy (%)"


def test_pareto_draws_labels_errors_and_lost_stages(results, tmp_path):
    rows = results.assign(accuracy_int8_std=0.01)
    labels = pd.Series(["", "", "", "", "", "sparsity 0.5", ""])
    figure = figures.draw_pareto(rows, labels=labels, error="accuracy_int8_std", csv=tmp_path / "sweep.csv")
    (bar, *_), drawn = figure.axes[0].collections, pd.read_csv(tmp_path / "sweep.csv")
    ((_, low), (_, high)), *_ = bar.get_segments()
    assert high - low == pytest.approx(2)  # points: one standard deviation either way
    assert len(figure.axes[0].collections) == len(results)
    rings = [line for line in figure.axes[0].lines if line.get_color() == style.ALARM]
    assert [line.get_xdata().tolist() for line in rings] == [pytest.approx([231.728])]
    shown = get_texts(figure).splitlines()
    assert {"sparsity 0.5, NOT preserved", "NOT preserved", "sparse clustered", "Pareto front"} <= set(shown)
    assert drawn.loc[drawn["front_gzip_bytes"], "accuracy_int8"].tolist() == [0.9472, 0.9413, 0.9406]


def test_names_do_not_cover_each_other_where_there_is_room():
    rows = pd.DataFrame(
        {"stage": ["pruned", "pqat", "pcqat"], "gzip_bytes": [100_000, 101_000, 200_000], "accuracy_int8": 0.9}
    )
    figure = figures.draw_pareto(rows, labels=pd.Series(["long name"] * 3))
    boxes = [text.get_window_extent() for text in figure.axes[0].texts]
    assert len(boxes) == 3
    assert not any(one.overlaps(other) for one, other in itertools.combinations(boxes, 2))


def test_the_front_of_a_sweep_does_not_look_at_test(results):
    """The stage that is best on test is beaten on validation."""
    rows = results.assign(validation_accuracy_int8=np.linspace(0.9, 0.8, len(results)), gzip_bytes=100.0, seed=0)
    rows = rows.reindex(columns=dict.fromkeys([*KEY, *rows])).assign(experiment="mine")
    front = summary.average_over_seeds(rows.assign(accuracy_int8=np.linspace(0.8, 0.9, len(rows))))
    assert front.loc[front["front"], "validation_accuracy_int8"].tolist() == [0.9]
