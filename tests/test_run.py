"""A run trains and measures every stage once, writes complete rows and files, and repeats only what it must."""

import dataclasses
import json
import shutil
from datetime import datetime
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
from conftest import run_of

from collabopt.analysis import scoring
from collabopt.config import loading
from collabopt.config.scores import ACCURACY
from collabopt.config.stages import STAGES
from collabopt.deploy import changes, variants
from collabopt.report import tables
from collabopt.run import Run
from collabopt.storage import results, store, timeline
from collabopt.techniques import registry
from collabopt.tflite import sizes

pytestmark = pytest.mark.timeout(900)

KERNELS = ["conv", "dw", "pw", "fc"]
FREE = ["baseline", "qat", "pruned"]
"""Stages that have nothing to preserve."""


@pytest.fixture(scope="module")
def finished(small, place) -> Run:
    """A run of the whole tree."""
    run = run_of(small, place, "report")
    run.stages(*STAGES)
    return run


def test_a_stored_stage_is_logged_once_per_process(finished, capsys):
    finished.without_report().stage("pruned")
    finished.without_report().stage("pruned")
    assert "from the store" not in capsys.readouterr().out


@pytest.fixture
def again(finished, small, place) -> Run:  # noqa: ARG001 - the first run comes first
    """Another run of the same experiment, over the same store."""
    return run_of(small, place, "again")


def read_store_files(place: Path) -> dict[str, tuple[int, int]]:
    """The inode and time of every file in the store; both change when the file is written again."""
    files = (path for path in (place / "stages").glob("[a-z]*-*/**/*") if path.is_file())
    return {str(path): (path.stat().st_ino, path.stat().st_mtime_ns) for path in files}


def list_entries(place: Path) -> set[str]:
    return {path.name for path in (place / "stages").iterdir() if path.name not in ("locks", "uses")}


def test_results_have_one_row_per_stage_in_the_order_of_the_tree(finished):
    rows = pd.read_csv(finished.directory / "results.csv")
    assert list(rows.columns) == results.list_columns(ACCURACY)
    assert list(rows["stage"]) == list(STAGES)
    assert list(rows["parent"].fillna("")) == [stage.parent or "" for stage in STAGES.values()]
    assert not rows.duplicated(results.KEY).any()


def test_rows_equal_the_results_of_the_stages_to_the_last_digit(finished):
    # Rows are read and written again whenever another stage ends.
    rows = pd.read_csv(finished.directory / "results.csv").set_index("stage")
    for name in STAGES:
        result = finished.stage(name).result
        for column in ("accuracy", "accuracy_int8", "validation_accuracy", "sparsity", "rounded_to_zero", "gzip_bytes"):
            assert rows.loc[name, column] == result[column], (name, column)


def test_key_columns_are_empty_where_a_setting_does_not_apply(finished):
    rows = results.read(finished.directory / "results.csv").set_index("stage")
    clusters = rows.index[rows["number_of_clusters"].notna()]
    assert set(clusters) == {"clustered", "cqat", "sparse_clustered", "pcqat"}
    assert set(rows.index[rows["cluster_per_channel"].notna()]) == set(clusters)
    assert set(rows["number_of_clusters"].dropna()) == {32}
    assert set(rows.index[rows["target_sparsity"].notna()]) == {"pruned", "pqat", "sparse_clustered", "pcqat"}
    assert set(rows.index[rows["preserved"].isna()]) == set(FREE)


def test_accuracies_sizes_and_sparsities_are_in_their_range(finished):
    rows = results.read(finished.directory / "results.csv").set_index("stage")
    fractions = rows[[column for column in rows if "accuracy" in column or column in ("sparsity", "rounded_to_zero")]]
    by_channel = fractions.pop("accuracy_int8_channel_ranges").dropna()
    assert set(by_channel.index) == {name for name, stage in STAGES.items() if stage.clusters}
    assert ((fractions >= 0) & (fractions <= 1)).all(axis=None)
    assert by_channel.between(0, 1).all()
    assert (rows["gzip_bytes"] < rows["tflite_bytes"]).all()
    assert (rows["gzip_bytes"] < rows["zip_bytes"]).all()
    assert rows.loc["baseline", "sparsity"] == 0
    # Each of conv, pw and fc holds an even count of weights.
    assert rows.loc[["pruned", "pqat"], "sparsity"].tolist() == [0.5, 0.5]
    assert (rows.loc[["clustered", "sparse_clustered"], "unique_weights"] <= 32).all()
    assert rows.loc["baseline", "accuracy"] > 0.3  # of ten classes


def test_layers_have_one_row_per_kernel_and_stage(finished):
    rows = pd.read_csv(finished.directory / "layers.csv")
    assert list(rows.columns) == results.LAYERS
    assert list(rows["stage"]) == [stage for stage in STAGES for _ in KERNELS]
    assert list(rows["layer"]) == KERNELS * len(STAGES)
    assert (rows["weights"] == [np.prod([int(side) for side in shape.split("×")]) for shape in rows["shape"]]).all()


def test_ranges_of_activations_fit_the_data_and_one_that_does_not_is_red(finished):
    stages, head = finished.stages(*STAGES), "Learnt ÷ observed range, or the reverse"
    table = tables.activations(stages)
    assert [row["Set by"].text for row in table.rows] == ["min–max"] * len(STAGES)
    assert {row[head].kind for row in table.rows} == {"number", "missing"}
    wrong = dataclasses.replace(stages[1], result=stages[1].result | {"range_factor": 1.6, "outlier": "example 3"})
    table = tables.activations([wrong])
    assert table.rows[0][head].kind == "number no"
    assert table.note.startswith("example 3. ")


def test_only_stages_with_something_to_preserve_report_whether_they_did(finished):
    for name in STAGES:
        preserved = finished.stage(name).result["preserved"]
        assert preserved is None if name in FREE else isinstance(preserved, bool), name


def test_a_stage_is_preserved_exactly_where_no_kernel_has_a_defect(finished):
    for name in STAGES.keys() - set(FREE):
        one = finished.stage(name)
        assert one.result["preserved"] == (one.layers["defect"] == "").all(), name


def test_our_scheme_preserves_in_every_stage_that_must(finished):
    for name in STAGES.keys() - set(FREE):
        one = finished.stage(name)
        assert one.result["preserved"], (name, list(one.layers["defect"]))


def test_run_json_names_the_classes_of_which_a_split_has_few_examples(tiny, tiny_data, place):
    run = run_of(tiny, place, "scarce")
    labels = tiny_data.test.labels
    few = np.concatenate([np.flatnonzero(labels == 3)[:2], np.flatnonzero((labels != 3) & (labels != 7))])
    run.__dict__["data"] = dataclasses.replace(tiny_data, test=tiny_data.test.take(few))
    scarce = run.describe()["data"]["scarce_classes"]
    assert scarce["test"]["3"] == 2 and scarce["test"]["7"] == 0
    run.__dict__["data"] = dataclasses.replace(tiny_data, validation=tiny_data.train, test=tiny_data.train)
    assert "scarce_classes" not in run.describe()["data"]


def test_run_json_records_experiment_data_and_versions(finished):
    about = json.loads((finished.directory / "run.json").read_text())
    assert about["seed"] == 0
    assert about["experiment"]["stages"]["pruned"]["epochs"] == 2
    assert about["data"]["fingerprint"] == finished.data.fingerprint
    assert about["data"]["train"] == len(finished.data.train)
    assert about["versions"]["tensorflow-model-optimization"] == "0.8.1"
    assert about["commit"]
    start, end = (datetime.fromisoformat(about[at]) for at in ("start", "end"))
    assert start <= end
    assert start.tzinfo is not None


@pytest.mark.parametrize("name", STAGES)
def test_the_file_in_the_report_is_the_measured_one(finished, name):
    file, one = finished.directory / "models" / f"{name}.tflite", finished.stage(name)
    assert file.read_bytes() == one.tflite.read_bytes()
    scores = scoring.score_file(file.read_bytes(), finished.data.test, finished.data.task)
    assert scores.mean(dtype=float) == one.result["accuracy_int8"]
    np.testing.assert_array_equal(scores, one.scores()["test_int8"])
    assert sizes.gzipped(file) == one.result["gzip_bytes"]
    assert list(one.int8_values()) == KERNELS


def test_a_second_run_trains_nothing_and_has_the_results_of_the_first(again, place, trained_small):
    before = read_store_files(place)
    frame = again.results(*STAGES)
    assert read_store_files(place) == before
    pd.testing.assert_frame_equal(frame, pd.read_pickle(trained_small / "results.pickle"))
    for name in ("results.csv", "layers.csv"):
        assert (again.directory / name).read_bytes() == (trained_small / "report" / name).read_bytes()


def test_the_timeline_says_which_stages_were_trained_and_which_came_from_the_store(again, trained_small):
    again.stages(*STAGES)
    for directory, origin in ((trained_small / "report", "trained"), (again.directory, "store")):
        rows = timeline.read(directory)
        assert set(rows["stage"]) == set(STAGES)
        assert set(rows["origin"]) == {origin}
        # A stage begins when its parent is ready.
        times = rows.set_index("stage")[["began", "ended"]].apply(pd.to_datetime)
        for stage in filter(lambda one: one.parent, STAGES.values()):
            assert times.loc[stage.name, "began"] >= times.loc[stage.parent, "ended"]


@pytest.mark.parametrize("name", ["pruned", "pqat"])
def test_a_lost_measurement_is_repeated_from_the_stored_weights(finished, again, place, name):
    lost = finished.stage(name)
    kernels, content, before = lost.kernels(), lost.tflite.read_bytes(), read_store_files(place)
    shutil.rmtree(lost.measured)
    remade = again.stage(name)
    assert remade.measured == lost.measured
    after = read_store_files(place)
    assert {path for path, was in before.items() if after[path] != was} == {
        path for path in before if Path(path).is_relative_to(lost.measured)
    }
    assert remade.result == lost.result
    assert remade.tflite.read_bytes() == content
    for layer, kernel in remade.kernels().items():
        np.testing.assert_array_equal(kernel, kernels[layer])


def test_another_sparsity_trains_only_the_stages_that_depend_on_it(finished, small, place):
    before = list_entries(place)
    other = run_of(small, place, "sparser", sparsity=0.75)
    for name in ("baseline", "qat", "clustered", "cqat"):
        assert other.stage(name).trained == finished.stage(name).trained
    assert list_entries(place) == before
    assert other.stage("pruned").result["sparsity"] == 0.75
    assert {name.rsplit("-", 1)[0] for name in list_entries(place) - before} == {"pruned", "pruned-measured"}
    assert finished.stage("pruned").trained.is_dir()


def training_key(run: Run, name: str) -> str:
    """The key under which the store holds a trained stage."""
    stage = STAGES[name]
    parent = run.stage(stage.parent).trained.name if stage.parent else None
    return store.compute_key(registry.describe_training(stage, parent, run.experiment, run.data))


@pytest.mark.parametrize(
    ("overrides", "changed"),
    [
        ({"seed": 1}, {"baseline", "pruned", "clustered", "qat"}),
        ({"number_of_clusters": 16}, {"clustered"}),
        ({"centroid_initialization": "linear"}, {"clustered"}),
        ({"clustering": "fixed"}, {"clustered"}),
        ({"cluster_rate": 0.3}, {"clustered"}),
        ({"sparsity": 0.6}, {"pruned"}),
        ({"calibration_examples": 30}, set()),
    ],
)
def test_a_setting_changes_the_keys_of_the_stages_that_depend_on_it(finished, small, place, overrides, changed):
    other = run_of(small, place, "other", **overrides)
    # The baseline itself is not trained again here: keys are what is compared.
    other._finished["baseline"] = finished.stage("baseline")
    names = ("baseline", "pruned", "clustered", "qat")
    assert {name for name in names if training_key(other, name) != training_key(finished, name)} == changed


def test_all_that_is_measured_depends_on_the_data_and_their_settings(finished, monkeypatch):
    keys: list[set[str]] = []

    def note(self, name, material, make):
        keys[-1].add(f"{name} {store.compute_key(material)}")
        return get_or_make(self, name, material, make)

    get_or_make = Run.get_or_make
    monkeypatch.setattr(Run, "get_or_make", note)
    for fingerprint in ("one", "one", "other"):  # such as another pixel_range of the same pictures
        run = finished.without_report()
        run.__dict__["data"] = dataclasses.replace(finished.data, fingerprint=fingerprint)
        run._finished = dict(finished._finished)  # training has a test of its own
        keys.append(set())
        variant = variants.measure(run, STAGES["baseline"], "dynamic_range")
        variants._measure_on_test(run, variant)
        changes._predict(SimpleNamespace(run=run), variant)
    assert keys[0] == keys[1]
    of_test = [{key for key in one if "-test" in key or "-classes" in key} for one in keys]
    assert len(of_test[0]) == 2 and not of_test[0] & of_test[2]


def test_an_edit_of_the_computation_changes_the_key(finished, monkeypatch):
    before = training_key(finished, "pruned")
    monkeypatch.setattr(registry, "compute_digest", lambda *_: "another")
    assert training_key(finished, "pruned") != before


def test_an_edited_experiment_starts_new_tables(again, small, place):
    again.stages("baseline", "clustered")
    run_of(small, place, "again", sparsity=0.75).stage("baseline")
    assert list(results.read(again.directory / "results.csv")["stage"]) == ["baseline"]
    assert set(results.read(again.directory / "layers.csv")["stage"]) == {"baseline"}
    assert json.loads((again.directory / "run.json").read_text())["experiment"]["sparsity"] == 0.75


def test_an_unknown_stage_is_an_error_that_lists_the_known_ones(finished):
    with pytest.raises(KeyError, match=r"stage=prunned: expected one of baseline, qat, pruned, "):
        finished.stage("prunned")


def test_the_drawn_kernel_is_the_named_one_or_else_the_largest(finished):
    assert finished.kernel() == "fc"
    assert finished.kernel("conv") == "conv"
    with pytest.raises(ValueError, match=r"^kernel=dw: expected one of conv, pw, fc$"):
        finished.kernel("dw")


def test_the_experiment_can_name_the_drawn_kernel(finished):
    plan = finished.experiment.model_copy(update={"density_kernel": "pw"})
    again = Run(plan, finished.directory, finished.source, finished.store_directory)
    again._finished = finished._finished
    assert again.kernel() == "pw"


def test_histories_and_layers_are_separate_for_each_stage(finished):
    histories = finished.histories("baseline", "clustered")
    assert {name: len(history) for name, history in histories.items()} == {"baseline": 6, "clustered": 1}
    layers = finished.layers("pruned", "pqat")
    assert list(layers["stage"]) == ["pruned"] * 4 + ["pqat"] * 4


def test_every_seed_has_its_rows_and_the_first_its_model(small, place):
    shutil.copy(small, place)
    path = place / "seeds.yaml"
    path.write_text("extends: small\nrepeat_seeds: [1]\n")
    first = run_of(path, place, "seeds")
    first, second = first.with_every_seed()
    for one in (second, first, second):
        one.stages("baseline", "pruned")
    rows = results.read(first.directory / "results.csv")
    assert list(zip(rows["stage"], rows["seed"], strict=True)) == [
        ("baseline", 0),
        ("baseline", 1),
        ("pruned", 0),
        ("pruned", 1),
    ]
    assert len(set(rows["accuracy"])) > 1
    model = first.directory / "models" / "baseline.tflite"
    assert model.read_bytes() == first.stage("baseline").tflite.read_bytes()
    about = json.loads((first.directory / "run.json").read_text())
    assert (about["seed"], about["experiment"]["repeat_seeds"]) == (0, [1])
    assert about["experiment_sha256"] == loading.compute_digest(str(path))
