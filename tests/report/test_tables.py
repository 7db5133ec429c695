"""Tables: values, savings and verdicts are right, and flagged cells are red."""

from types import SimpleNamespace

import pandas as pd
import pytest
from conftest import plan_of

from collabopt.config.metrics import METRICS, Metric, get_metric
from collabopt.config.stages import STAGES
from collabopt.report import tables
from collabopt.report.table import Cell, Table

KEY = {
    "experiment": "x",
    "stage": "",
    "scheme": "",
    "seed": 0,
    "number_of_clusters": None,
    "cluster_per_channel": None,
    "target_sparsity": None,
    "train_fraction": 1.0,
}
RESULT = {
    "accuracy": 0.91234,
    "accuracy_int8": 0.9,
    "tflite_bytes": 1_000_000,
    "gzip_bytes": 750_000,
    "zip_bytes": 800_000,
    "sparsity": 0.5,
    "unique_weights": 1234,
    "gained_zeros": 0.125,
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
ZIP = "INT8 file → ZIP (kB, saved)"
GZIP = "INT8 file → gzip (kB, saved)"


def make_finished(stage: str, preserved: bool | None = None, key: dict | None = None, **layer: object):
    """A finished stage with one kernel, as tables see it."""
    layers = pd.DataFrame([LAYER | layer])
    key = KEY | {"stage": stage} | (key or {})
    result = RESULT | {"preserved": preserved}
    eligible = {"eligible_layers": lambda: list(layers["layer"])}
    return SimpleNamespace(stage=STAGES[stage], key=key, result=result, layers=layers, unavailable="", **eligible)


def make_run(model: str, dataset: str) -> SimpleNamespace:
    return SimpleNamespace(experiment=plan_of(model, dataset), stage=make_finished)


def find_red(table: Table) -> list[str]:
    """The texts of the flagged cells, which the HTML shows in red."""
    red = [cell.text for row in table.rows for cell in row.values() if "no" in cell.kind.split() and cell.text]
    for text in red:
        assert f'no wrap">{text}<' in table._repr_html_() or f'no">{text}<' in table._repr_html_()
    return red


@pytest.mark.parametrize(
    ("fraction", "text"), [(None, ""), (float("nan"), ""), (0.0, "0.00"), (1.0, "100.00"), (0.91234, "91.23")]
)
def test_an_unknown_fraction_is_empty(fraction, text):
    assert Cell.from_number(fraction, get_metric("accuracy"), "").text == text


@pytest.mark.parametrize(
    ("raw", "compressed", "text"),
    [
        (528_128, 434_879, "528.1 → 434.9 (17.7 %)"),
        (528_128.0, 334_154.0, "528.1 → 334.2 (36.7 %)"),
        (100, 100, "0.100 → 0.100 (0.0 %)"),
        (1000, 1100, "1.00 → 1.10 (−10.0 %)"),
        (None, 100, "0.100"),
        (100, None, "0.100"),
        (None, None, ""),
    ],
)
def test_savings_are_relative_to_the_raw_size(raw, compressed, text):
    assert tables.make_compression_cell(raw, compressed, get_metric("gzip_bytes")).text == text


def test_published_figures_are_above_ours_for_the_same_model_and_data():
    table = tables.guide(make_run("ds_cnn_l", "speech_commands"), "pqat").to_frame().set_index(["Figure", "Source"])
    assert list(table.columns) == ["Baseline", "Pruned", "QAT", "PQAT"]
    assert [source for _, source in table.index] == ["published", "ours"] * 3 + ["ours"]
    accuracy = table.loc["Accuracy, FP32 or fake-INT8 (%)"]
    assert list(accuracy.loc["published"]) == ["95.23", "94.80", "94.72", "94.13"]
    assert list(accuracy.loc["ours"]) == ["91.23"] * 4
    size = table.loc[ZIP]
    assert size.loc["published", "Baseline"] == "528.1 → 434.9 (17.7 %)"
    assert size.loc["ours", "Baseline"] == "1,000.0 → 800.0 (20.0 %)"
    assert table.loc[GZIP].loc["ours", "PQAT"] == "1,000.0 → 750.0 (25.0 %)"


@pytest.mark.parametrize("name", [stage.name for stage in STAGES.values() if stage.guide])
def test_only_our_figures_are_shown_if_nothing_is_published(name):
    shown = tables.guide(make_run("digits_cnn", "digits"), name).to_frame()
    assert set(shown["Source"]) == {"ours"}
    assert len(shown) == 4
    assert list(shown.columns)[2:] == [STAGES[stage].title for stage in STAGES[name].guide]


def test_published_sizes_in_megabytes_are_shown_as_such():
    table = tables.guide(make_run("mobilenet_v1", "cifar10"), "cqat").to_frame().set_index(["Figure", "Source"])
    assert table.loc[ZIP].loc["published", "Baseline"] == "3 MB compressed"


@pytest.mark.parametrize(("preserved", "word"), [(None, None), (True, "yes"), (False, "NO")])
def test_a_stage_that_is_not_preserved_is_red_and_says_so(preserved, word):
    table = tables.stages([make_finished("cqat", preserved)])
    assert list(table.to_frame().get("Preserved", [None])) == [word]
    assert find_red(table) == (["NO"] if preserved is False else [])


def test_fake_int8_accuracies_are_marked():
    table = tables.stages([make_finished("clustered", True), make_finished("cqat", True)]).to_frame()
    assert list(table["Accuracy (%)"]) == ["91.23", "91.23 *"]
    assert list(table["Stage"]) == ["clustered", "CQAT"]
    assert list(table["Unique weights"]) == ["1,234"] * 2


def test_validation_is_shown_if_test_was_not_read():
    finished = make_finished("pruned")
    finished.result |= {"accuracy": None, "accuracy_int8": None, "validation_accuracy": 0.5}
    table = tables.stages([finished]).to_frame()
    assert list(table["Validation accuracy (%)"]) == ["50.00"]
    assert "Accuracy (%)" not in table


@pytest.mark.parametrize(
    ("column", "values", "head", "texts"),
    [
        ("experiment", ("a", "b"), "Experiment", ["a", "b"]),
        ("seed", (0, 1), "Seed", ["0", "1"]),
        ("scheme", ("collabopt", "tfmot"), "Scheme", ["collabopt", "tfmot"]),
        ("number_of_clusters", (8, 16), "Clusters", ["8", "16"]),
        ("cluster_per_channel", (True, False), "Per channel", ["True", "False"]),
    ],
)
def test_stages_of_two_runs_are_told_apart_by_what_differs(column, values, head, texts):
    table = tables.stages([make_finished("cqat", True, key={column: value}) for value in values]).to_frame()
    assert list(table["Stage"]) == ["CQAT", "CQAT"]
    assert list(table[head]) == texts
    assert list(table.columns)[1:3] == [head, "Accuracy (%)"]


def test_a_metric_that_is_registered_later_is_a_column(monkeypatch):
    monkeypatch.setitem(METRICS, "energy", Metric("energy", "energy", "mJ"))
    finished = make_finished("qat")
    finished.result["energy"] = 7
    assert list(tables.stages([finished]).to_frame()["Energy (mJ)"]) == ["7"]


def test_a_failing_kernel_is_red_and_an_empty_column_is_left_out():
    sound = tables.layers(make_finished("cqat", True))
    assert not {"Quantizer", "Not preserved"} & set(sound.to_frame().columns)
    assert find_red(sound) == []
    defect = "9 values in a tensor instead of 8"
    failing = tables.layers(make_finished("cqat", False, defect=defect, quantizer="none"))
    assert {"Quantizer", "Not preserved", "Unique values: Per tensor"} <= set(failing.to_frame().columns)
    assert find_red(failing) == [defect]


def test_kernels_are_compared_scheme_by_scheme():
    defect = "9 values"
    table = tables.kernel_by_kernel(make_finished("cqat"), make_finished("cqat", defect=defect, unique_tensor=9))
    shown = table.to_frame()
    assert list(shown["Unique values per tensor: TFMOT"] + shown["Unique values per tensor: ours"]) == ["98"]
    assert find_red(table) == [defect]


def test_schemes_are_beside_each_other_with_their_times():
    ours, theirs = (make_finished("cqat", one == "ours", key={"scheme": one}) for one in ("ours", "tfmot"))
    table = tables.schemes([ours], [theirs]).to_frame()
    assert list(table["Scheme"]) == ["tfmot", "ours"]
    assert list(table["Preserved"]) == ["NO", "yes"]
    assert list(table["Fit (s)"]) == ["100.0"] * 2


def test_verdicts_are_on_the_stages_that_must_keep_something():
    finished = [make_finished("baseline"), make_finished("pqat", True)]
    table = tables.verdicts([*finished, make_finished("pcqat", False, defect="9 values")]).to_frame()
    assert list(table["Stage"]) == ["PQAT", "PCQAT"]
    assert list(table["Must keep"]) == [
        "every zero of its parent",
        "every zero of its parent and the number of clusters",
    ]
    assert list(table["Preserved"]) == ["yes", "NO"]
    assert list(table["Gained zeros (%)"]) == ["12.5"] * 2
    assert list(table["Failing kernels"]) == ["none", "pw_1"]
    assert list(table["First failure"]) == ["", "9 values"]


@pytest.mark.parametrize("table", [tables.verdicts([make_finished("baseline")]), tables.findings([])])
def test_a_table_without_rows_is_a_sentence(table):
    assert table.rows == []
    assert f"<p>{table.caption}</p>" in table._repr_html_()
    assert "<table" not in table._repr_html_()


def test_times_are_in_seconds():
    table = tables.times([make_finished("qat")])
    assert table.columns == ["Stage", "Epochs", "Set-up (s)", "Fit (s)"]
    assert [cell.text for cell in table.rows[0].values()] == ["QAT", "3", "1.2", "100.0"]


def test_a_table_is_html_and_text():
    values = {"<b>": Cell("1.0", kind="number"), "a|b": Cell("NO", kind="no")}
    table = Table("Caption", [{"Name": name, "bytes: File (kB)": cell} for name, cell in values.items()], "A note.")
    html = table._repr_html_()
    assert "<caption>Caption</caption>" in html and "A note." in html and "File (kB)" in html
    assert "&lt;b&gt;" in html and "<b>" not in html
    assert repr(table).splitlines()[0] == "Caption"
    assert "bytes: File (kB)" in repr(table)


def test_a_score_shows_two_standard_errors():
    """Of 400 examples with 96 % right: 2 × 0.98 points."""
    error = (0.96 * 0.04 / 400) ** 0.5
    finished = make_finished("baseline")
    finished.result |= {"accuracy": 0.96, "accuracy_error": error}
    table = tables.stages([finished])
    (cell,) = [cell for head, cell in table.rows[0].items() if head.startswith("Accuracy")]
    assert cell.text.startswith("96.00 ± 1.96")


@pytest.mark.parametrize(("options", "is_shown"), [("distilled", False), ("binary", True)])
def test_a_setting_that_is_the_same_in_all_rows_is_not_in_the_small_table(options, is_shown, tmp_path):
    stages = {"baseline": None, "qat": "distilled", "pqat": options}
    rows = pd.DataFrame([KEY | RESULT | {"stage": stage, "options": one} for stage, one in stages.items()])
    table = tables.results(rows, tmp_path)
    assert "Settings" in table.columns
    assert ("Settings" in table.presets["small"]) is is_shown
