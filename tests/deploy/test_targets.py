"""Targets: what a variant misses, which one is chosen, and the nearest where none meets all."""

import math

import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from collabopt.config import loading
from collabopt.config.experiment import ExperimentError, Targets
from collabopt.config.stages import STAGES, get_level
from collabopt.deploy import targets

NO_NPU = float("nan")
LEAVES = pd.DataFrame(
    {
        "stage": ["baseline", "baseline", "pruned", "pcqat"],
        "format": ["float32", "int8", "int8", "int8"],
        "validation_accuracy": [0.95, 0.94, 0.935, 0.92],
        "tflite_bytes": [4000, 1000, 1000, 1000],
        "gzip_bytes": [3600, 900, 600, 400],
        "npu_sram_kib": [NO_NPU, 100.0, 100.0, 100.0],
        "npu_flash_kib": [NO_NPU, 500.0, 300.0, 180.0],
        "npu_ms": [NO_NPU, 1.4, 1.1, 1.1],
    },
    index=["a", "b", "c", "d"],
)


def test_without_targets_the_recommended_variant_is_chosen():
    """It loses at most a point of accuracy on validation."""
    assert targets.choose(LEAVES, Targets()) == targets.recommend(LEAVES) == "b"


@pytest.mark.parametrize(
    ("accuracy", "error", "recommended"),
    [
        (0.945, 0.004, "d"),  # half a point is within noise
        (0.945, 0.002, "b"),  # half a point more than chance explains
        (0.935, 0.02, "b"),  # within noise, but more than the tolerance
        (0.95, 0.0, "d"),
    ],
)
def test_a_recommended_file_loses_no_more_than_tolerance_and_noise_explain(accuracy, error, recommended):
    rows = LEAVES.assign(validation_examples=1000, validation_drop_error=0.001)
    rows["validation_accuracy"] = [0.95, 0.95, 0.9, accuracy]
    rows.loc["d", "validation_drop_error"] = error
    assert targets.recommend(rows) == recommended


def test_of_a_level_the_smallest_variant_that_meets_all_is_chosen():
    """The formats of a level are tried with the largest first."""
    large = LEAVES.loc["b"].replace({"int8": "int16x8"}).copy()
    large[["gzip_bytes", "tflite_bytes"]] = 1200
    rows = pd.concat([LEAVES.loc[["a"]], large.to_frame("large").T, LEAVES.loc["b":]]).infer_objects()
    assert targets.choose(rows, Targets(max_gzip_bytes=1300)) == "b"
    assert targets.choose(rows, Targets(max_accuracy_drop=0.5)) == "b"
    assert targets.choose(rows, Targets(max_gzip_bytes=600)) == "c"


@pytest.mark.parametrize(
    ("wanted", "chosen"),
    [
        ({"max_accuracy_drop": 0.0}, "a"),
        ({"max_gzip_bytes": 900}, "b"),
        ({"max_gzip_bytes": 899}, "c"),
        ({"max_gzip_bytes": 599, "max_accuracy_drop": 0.03}, "d"),
        ({"max_gzip_bytes": 599, "max_accuracy_drop": 0.02}, None),
        ({"max_npu_ms": 1.4}, "b"),
        ({"max_flash_kib": 300, "max_sram_kib": 99}, None),
        ({"max_tflite_bytes": 1000}, "b"),
    ],
)
def test_a_variant_of_the_first_level_that_meets_all_targets_is_chosen(wanted, chosen):
    assert targets.choose(LEAVES, Targets(**wanted)) == chosen


def test_a_file_for_another_runtime_is_compared_but_never_deployed():
    peer = LEAVES.loc[["d"]].assign(format="openvino_int8", gzip_bytes=1, validation_accuracy=0.95)
    leaves = pd.concat([LEAVES, peer.set_axis(["peer"])])
    wanted = Targets(max_gzip_bytes=1)
    assert targets.choose(leaves, wanted) is None
    assert targets.find_nearest(leaves, wanted) == "d"
    assert targets.recommend(leaves) == targets.recommend(LEAVES)
    assert targets.judge(leaves, wanted).loc["peer", "verdict"] == "no .tflite file, for comparison only"


def test_a_miss_says_by_how_much():
    missed = targets.find_misses(
        LEAVES.loc["d"], Targets(max_accuracy_drop=0.01, max_gzip_bytes=300, max_npu_ms=2), 0.95
    )
    assert missed == {"max_accuracy_drop": pytest.approx(0.02), "max_gzip_bytes": 100}


def test_a_cost_that_is_not_known_meets_no_target():
    assert targets.find_misses(LEAVES.loc["a"], Targets(max_npu_ms=1000), 0.95) == {"max_npu_ms": math.inf}


@pytest.mark.parametrize("wanted", [{"max_accuracy_drop": 0.5}, {"max_gzip_bytes": 5000}, {}])
def test_a_file_whose_score_is_not_a_number_is_never_chosen(wanted):
    """Such as a correlation where the outputs are constant."""
    smallest = LEAVES.loc[["d"]].assign(validation_accuracy=math.nan, gzip_bytes=1)
    leaves = pd.concat([LEAVES, smallest.set_axis(["nan"])])
    assert targets.choose(leaves, Targets(**wanted)) == targets.choose(LEAVES, Targets(**wanted))
    assert targets.judge(leaves, Targets(**wanted)).loc["nan", "verdict"] == "its score is not a number"
    with pytest.raises(ValueError, match="no file has a score that is a number"):
        targets.recommend(LEAVES.assign(validation_accuracy=math.nan))


def test_the_nearest_misses_least_of_its_targets():
    assert targets.find_nearest(LEAVES, Targets(max_gzip_bytes=390, max_accuracy_drop=0.02)) == "d"
    # Two points more than none at all weigh more than a third more bytes.
    assert targets.find_nearest(LEAVES, Targets(max_gzip_bytes=300, max_accuracy_drop=0.0)) == "c"
    assert targets.find_nearest(LEAVES, Targets(max_npu_ms=0.1)) != "a"


@given(
    drop=st.none() | st.floats(0, 0.5),
    size=st.none() | st.integers(1, 5000),
    time=st.none() | st.floats(0.01, 3),
)
def test_what_is_chosen_misses_nothing_and_all_above_or_smaller_beside_it_something(drop, size, time):
    wanted = Targets(max_accuracy_drop=drop, max_gzip_bytes=size, max_npu_ms=time)
    chosen, levels = targets.choose(LEAVES, wanted), LEAVES["stage"].map(lambda name: get_level(name, STAGES))
    for label, row in LEAVES.iterrows():
        if label == chosen:
            assert not targets.find_misses(row, wanted, 0.95)
            continue
        is_above = chosen is None or levels[label] < levels[chosen]
        if is_above or (levels[label] == levels[chosen] and row["gzip_bytes"] < LEAVES.loc[chosen, "gzip_bytes"]):
            assert wanted == Targets() or targets.find_misses(row, wanted, 0.95)


def test_looser_targets_never_choose_a_leaf_further_down():
    places = {at: place for place, at in enumerate([*LEAVES.index, None])}
    chosen = [places[targets.choose(LEAVES, Targets(max_gzip_bytes=size))] for size in range(300, 4000, 50)]
    assert chosen == sorted(chosen, reverse=True)


def test_targets_come_from_the_file_and_from_parameters():
    assert not loading.load("digits").has_targets
    plan = loading.load("digits", max_gzip_bytes=12_000, max_accuracy_drop=0.02)
    assert plan.targets == Targets(max_gzip_bytes=12_000, max_accuracy_drop=0.02)
    assert plan.has_targets
    assert loading.list_overrides("digits", max_gzip_bytes=12_000) == {"max_gzip_bytes": 12_000}
    assert loading.find_report_directory("digits", max_npu_ms=0.5).name == "max_npu_ms=0.5"


def test_a_parameter_goes_before_the_file_s_own_target(tmp_path):
    path = tmp_path / "mine.yaml"
    path.write_text("extends: digits\ntargets: {max_gzip_bytes: 20_000, max_npu_ms: 2}\n")
    assert loading.load(path, max_gzip_bytes=1000).targets == Targets(max_gzip_bytes=1000, max_npu_ms=2)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("targets: {max_gzip_bytes: -1}", "targets.max_gzip_bytes=-1"),
        ("targets: {max_gzip: 1000}", "did you mean max_gzip_bytes?"),
        ("targets: {max_accuracy_drop: 1.5}", "targets.max_accuracy_drop=1.5"),
        ("targets: 3", "targets=3"),
        ("accelerator: ethos-u77", "ethos-u55-128"),
    ],
)
def test_a_target_out_of_range_is_named(text, said, tmp_path):
    path = tmp_path / "mine.yaml"
    path.write_text(f"extends: digits\n{text}\n")
    with pytest.raises(ExperimentError, match=said.replace("?", r"\?")):
        loading.load(path)
    with pytest.raises(ExperimentError, match="targets"):
        loading.load(path, max_gzip_bytes=1.5)
