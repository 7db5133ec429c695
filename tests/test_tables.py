"""Tables: percentages and savings are right, published figures stand above ours, and what was lost stands in red."""

from types import SimpleNamespace

import pandas as pd
import pytest
from conftest import plan_of

from collabopt.config.stages import STAGES
from collabopt.report import tables

RESULT = {
    "accuracy": 0.91234,
    "accuracy_int8": 0.9,
    "tflite_bytes": 1_000_000,
    "gzip_bytes": 750_000,
    "zip_bytes": 800_000,
    "sparsity": 0.5,
    "unique_weights": 1234,
    "setup_seconds": 1.25,
    "fit_seconds": 100.0,
    "epochs": 3,
}
LAYER = {
    "layer": "pw_1",
    "kind": "conv2d",
    "shape": "1×1×4×4",
    "weights": 16,
    "sparsity": 0.5,
    "unique_tensor": 8,
    "unique_channel": 4,
    "int8_sparsity": 0.5,
    "int8_unique_tensor": 8,
    "int8_unique_channel": 4,
    "quantizer": "",
    "skipped": "",
    "defect": "",
}


def finished(stage: str, preserved: bool | None = None, **layer: object) -> SimpleNamespace:
    """A finished stage with one kernel, as tables see it."""
    layers = pd.DataFrame([LAYER | layer])
    return SimpleNamespace(stage=STAGES[stage], result=RESULT | {"preserved": preserved}, layers=layers)


def run(model: str, dataset: str) -> SimpleNamespace:
    return SimpleNamespace(experiment=plan_of(model, dataset), stage=finished)


@pytest.mark.parametrize(
    ("fraction", "text"), [(None, ""), (float("nan"), ""), (0.0, "0.00%"), (1.0, "100.00%"), (0.91234, "91.23%")]
)
def test_a_percentage_is_empty_where_there_is_no_fraction(fraction, text):
    assert tables.percent(fraction) == text


@pytest.mark.parametrize(
    ("raw", "compressed", "text"),
    [
        (528_128, 434_879, "528,128 → 434,879 (17.66%)"),
        (528_128.0, 334_154.0, "528,128 → 334,154 (36.73%)"),
        (100, 100, "100 → 100 (0.00%)"),
        (100, 110, "100 → 110 (-10.00%)"),
        (None, 100, ""),
        (100, None, ""),
    ],
)
def test_what_compression_saves_is_told_of_the_raw_size(raw, compressed, text):
    assert tables.compression(raw, compressed) == text


def test_published_figures_stand_above_ours_where_model_and_data_are_the_same():
    table = tables.guide(run("ds_cnn_l", "speech_commands"), "pqat").data
    assert list(table.columns) == ["Baseline", "Pruned", "QAT", "PQAT"]
    assert [source for _, source in table.index] == ["published", "ours"] * 3 + ["ours"]
    accuracy = table.loc["FP32 or fake-INT8 top-1 accuracy"]
    assert list(accuracy.loc["published"]) == ["95.23%", "94.80%", "94.72%", "94.13%"]
    assert list(accuracy.loc["ours"]) == ["91.23%"] * 4
    size = table.loc["INT8 file, raw → ZIP, bytes (saved)"]
    assert size.loc["published", "Baseline"] == "528,128 → 434,879 (17.66%)"
    assert size.loc["ours", "Baseline"] == "1,000,000 → 800,000 (20.00%)"
    assert table.loc["INT8 file, raw → gzip, bytes (saved)"].loc["ours", "PQAT"] == "1,000,000 → 750,000 (25.00%)"


@pytest.mark.parametrize("table", [stage.name for stage in STAGES.values() if stage.guide])
def test_only_ours_are_shown_where_nothing_was_published(table):
    shown = tables.guide(run("digits_cnn", "digits"), table).data
    assert {source for _, source in shown.index} == {"ours"}
    assert len(shown) == 4
    assert list(shown.columns) == [STAGES[stage].title for stage in STAGES[table].guide]


def test_published_sizes_in_megabytes_are_shown_as_such():
    table = tables.guide(run("mobilenet_v1", "cifar10"), "cqat").data
    assert table.loc["INT8 file, raw → ZIP, bytes (saved)"].loc["published", "Baseline"] == "3 MB compressed"


@pytest.mark.parametrize(("preserved", "word"), [(None, ""), (True, "yes"), (False, "NO")])
def test_a_stage_that_was_not_preserved_is_red_and_says_so(preserved, word):
    table = tables.stages([finished("cqat", preserved)])
    assert list(table.data["Preserved"]) == [word]
    assert ("color: #b3261e" in table.to_html()) == (preserved is False)


def test_fake_int8_accuracies_are_marked():
    table = tables.stages([finished("clustered", True), finished("cqat", True)]).data
    assert list(table["Accuracy, FP32 or fake-INT8"]) == ["91.23%", "91.23% *"]
    assert list(table.index) == ["Clustered", "CQAT"]
    assert list(table["Unique weights"]) == ["1,234"] * 2


def test_a_kernel_at_fault_is_red_and_an_empty_column_is_left_out():
    sound = tables.layers(finished("cqat", True))
    assert not {"Quantizer", "Not preserved"} & set(sound.data.columns)
    assert "color: #b3261e" not in sound.to_html()
    faulty = tables.layers(finished("cqat", False, defect="9 values in a tensor instead of 8", quantizer="none"))
    assert {"Quantizer", "Not preserved"} <= set(faulty.data.columns)
    assert "color: #b3261e" in faulty.to_html()


def test_verdicts_are_on_the_stages_that_must_keep_something():
    stages = [finished("baseline"), finished("pqat", True), finished("pcqat", False, defect="9 values")]
    table = tables.verdicts(stages).data
    assert list(table.index) == ["PQAT", "PCQAT"]
    assert list(table["Must keep"]) == ["every zero of its parent", "every zero of its parent and the clusters"]
    assert list(table["Preserved"]) == ["yes", "NO"]
    assert list(table["Kernels at fault"]) == ["none", "pw_1"]
    assert list(table["First of them"]) == ["", "9 values"]


def test_times_are_in_seconds():
    assert tables.times([finished("qat")]).data.loc["QAT"].tolist() == [3, "1.2", "100.0"]
