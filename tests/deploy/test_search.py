"""The walk down the tree: it stops where it may, trains no more than it must, and reads test once."""

import dataclasses
import json
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from collabopt.config import experiment, loading
from collabopt.config.formats import STANDARD
from collabopt.config.scores import ACCURACY
from collabopt.config.stages import STAGES, get_level, get_lineage
from collabopt.deploy import c_source, model_card, recommendation, search, targets, variants
from collabopt.deploy.search import Search
from collabopt.report import tables
from collabopt.run import Run

pytestmark = pytest.mark.timeout(900)

FLOAT = ["baseline", "pruned", "clustered", "sparse_clustered"]


def run_of(small: Path, place: Path, store: str = "stages", **overrides: object) -> Run:
    name = ",".join(f"{key}={value}" for key, value in overrides.items()) or "report"
    return Run(loading.load(str(small), **overrides), place / store / name, small, place / store)


@pytest.fixture(scope="module")
def place(searched_small, tmp_path_factory) -> Iterator[Path]:
    """A directory for reports and stores. Its store `stages` has every variant."""
    with pytest.MonkeyPatch.context() as patch:
        path = tmp_path_factory.mktemp("place")
        shutil.copytree(searched_small / "stages", path / "stages")
        patch.setattr(loading, "DATA", path)
        yield path


@pytest.fixture(scope="module")
def whole(small, place) -> Search:
    """The walk without targets."""
    return search.search(run_of(small, place))


SHORT = ["baseline", "pruned"]


@pytest.fixture
def short(whole, monkeypatch) -> pd.DataFrame:
    """Makes trees end with the pruned stage; the rows of these stages in the table of the whole tree."""
    monkeypatch.setattr(experiment.Experiment, "tree", property(lambda _: {name: STAGES[name] for name in SHORT}))
    return whole.table[whole.table["stage"].isin(SHORT)]


def trained(place: Path, store: str) -> set[str]:
    """The stages whose weights a store holds."""
    return {path.parent.name.rsplit("-", 1)[0] for path in (place / store).glob("[a-z]*/weights.npz")}


def read_on_test(place: Path, store: str) -> list[str]:
    return [path.parent.name.rsplit("-", 1)[0] for path in (place / store).glob("[a-z]*/test.json")]


def test_without_targets_it_comes_to_every_leaf(whole):
    expected = {f"{stage}-{kind}" for stage in FLOAT for kind in STANDARD}
    expected |= {f"{stage}-int8" for stage in ("qat", "pqat", "cqat", "pcqat")}
    assert set(whole.table.index) == expected
    assert whole.stages[0] == "baseline"
    assert whole.stages[-1] == "pcqat"
    assert whole.chosen == whole.nearest == targets.recommend(whole.table)
    assert whole.table["accuracy"].notna().all()
    depth = [len(get_lineage(stage, STAGES)) for stage in whole.table["stage"]]
    assert depth == sorted(depth)


def with_formats(small: Path, place: Path, *formats: str) -> Run:
    """A run of the trained stages that asks for further formats."""
    run = run_of(small, place)
    wanted = run.experiment.model_copy(update={"further_formats": formats})
    return Run(wanted, place / "formats", small, place / "stages")


def test_a_stage_with_zeros_has_a_sparse_file_or_a_reason_why_not(short, small, place):
    found = search.search(with_formats(small, place, "float32_sparse"))
    added = {*found.table.index, *found.unavailable.index} - {*short.index}
    assert added == {"pruned-float32_sparse"}
    columns = ["validation_accuracy", "gzip_bytes"]
    pd.testing.assert_frame_equal(found.table.loc[short.index, columns], short[columns])
    assert found.unavailable["unavailable"].str.contains("no smaller: |too few of its weights are zero").all()


def test_a_slow_format_of_a_large_network_is_left_out_unless_asked_for(whole, small, place, tmp_path, monkeypatch):
    monkeypatch.setitem(variants.LARGEST_WORK, "int16x8", 1e3)
    shutil.copytree(place / "stages", tmp_path / "stages", ignore=shutil.ignore_patterns("baseline-int16x8-*"))

    def measure(*formats):
        wanted = loading.load(str(small)).model_copy(update={"further_formats": formats})
        return variants.measure(
            Run(wanted, tmp_path / "report", small, tmp_path / "stages"), STAGES["baseline"], "int16x8"
        )

    left_out, asked = measure(), measure("int16x8")
    assert left_out.tflite is None
    assert "limit 1e+03; further_formats=[int16x8] asks for it" in left_out.row["unavailable"]
    assert asked.row["gzip_bytes"] == whole.table.loc["baseline-int16x8", "gzip_bytes"]


def test_further_formats_are_measured_like_all_others_and_other_runtimes_are_not_deployed(short, small, place):
    for package in ("ai_edge_quantizer", "openvino", "nncf", "tf2onnx", "onnxruntime"):
        pytest.importorskip(package)
    formats = "int4", "onnx", "openvino", "openvino_fp16", "openvino_int8"
    table = search.search(with_formats(small, place, *formats)).table
    assert set(table.index) - set(short.index) == {f"{stage}-{kind}" for stage in SHORT for kind in formats}
    added = table[table["format"].isin(formats)]
    assert (added["latency_ms"] > 0).all()
    assert added["npu_ms"].isna().all()
    assert added["npu_note"].ne("").all()
    for stage in SHORT:
        float32 = table.loc[f"{stage}-float32"]
        assert table.loc[f"{stage}-openvino", "accuracy"] == pytest.approx(float32["accuracy"], abs=0.003)
        assert table.loc[f"{stage}-int4", "tflite_bytes"] < float32["tflite_bytes"]
    written = pd.read_csv(place / "formats" / "variants.csv")
    assert all((place / "formats" / name).is_file() for name in written["tflite"])
    assert set(written["tflite"].str.endswith(".zip")[written["format"].str.startswith("openvino")]) == {True}
    assert table.loc[targets.recommend(table), "format"] not in formats[1:]


def test_leaves_csv_is_what_was_found_and_every_file_is_there(whole):
    directory = whole.run.directory
    written = pd.read_csv(directory / "variants.csv")
    assert list(written.columns) == variants.list_columns(ACCURACY)
    pd.testing.assert_series_equal(written["gzip_bytes"], whole.table["gzip_bytes"].reset_index(drop=True))
    for _, leaf in written.iterrows():
        assert (directory / leaf["tflite"]).stat().st_size == leaf["tflite_bytes"]


def test_a_format_costs_what_its_bits_say(whole):
    table = whole.table
    for stage in FLOAT:
        sizes = {kind: table.loc[f"{stage}-{kind}", "gzip_bytes"] for kind in STANDARD}
        assert sizes["int8"] < sizes["float16"] < sizes["float32"]
    for kind in ("int8", "int16x8"):
        assert set(table.loc[table["format"] == kind, "weight_bytes"]) == {8 * 9 + 8 * 9 + 8 * 16 + 16 * 10}
    assert (table["entropy_bytes"].dropna() <= table["weight_bytes"].dropna()).all()
    assert table.loc["baseline-float32", "latency_ratio"] == pytest.approx(1)


def test_the_int8_leaf_is_the_stage_s_own_file(whole):
    for name in STAGES:
        finished = whole.run.stage(name)
        assert whole.tried[f"{name}-int8"].tflite.read_bytes() == finished.tflite.read_bytes()
        assert whole.table.loc[f"{name}-int8", "accuracy"] == finished.result["accuracy_int8"]
        assert whole.table.loc[f"{name}-int8", "gzip_bytes"] == finished.result["gzip_bytes"]


def test_float_files_score_as_their_keras_model(whole):
    for name in FLOAT:
        finished = whole.run.stage(name)
        assert whole.table.loc[f"{name}-float32", "accuracy"] == pytest.approx(finished.result["accuracy"], abs=0.003)


def test_clusters_and_zeros_bring_the_entropy_down(whole):
    entropy = whole.table["entropy_bytes"]
    assert entropy["pcqat-int8"] < entropy["pruned-int8"] < entropy["baseline-int8"]


def test_it_stops_at_the_first_level_that_meets_all_and_trains_nothing_beyond(whole, small, place):
    enough = int(whole.table.loc["baseline-int8", "gzip_bytes"])
    for weights in (place / "stages").glob("baseline-*/weights.npz"):
        shutil.copytree(weights.parent, place / "early" / weights.parent.name)
    went = search.search(run_of(small, place, "early", max_gzip_bytes=enough))
    assert went.chosen == went.nearest == "baseline-int8"
    assert trained(place, "early") == {"baseline"}
    assert read_on_test(place, "early") == ["baseline-int8-test"]
    assert list(went.table["accuracy"].notna()) == [False] * 4 + [True]
    results = pd.read_csv(went.run.directory / "results.csv")
    assert results[["accuracy", "accuracy_int8"]].isna().all(axis=None)
    assert results["validation_accuracy_int8"].notna().all()


def test_a_level_further_down_it_trains_what_leads_there(whole, small, place):
    table = whole.table
    levels = table["stage"].map(lambda name: get_level(name, STAGES))
    limit = int(table.loc["baseline-int8", "gzip_bytes"]) - 1
    first = levels[table["gzip_bytes"] <= limit].min()
    assert first > 0
    for kind in ("trial", "baseline", "pruned", "clustered"):  # as if an earlier search had come to these
        for entry in (place / "stages").glob(f"{kind}-*"):
            shutil.copytree(entry, place / "further" / entry.name)
    went = search.search(run_of(small, place, "further", max_gzip_bytes=limit))
    assert went.chosen == table.loc[levels == first, "gzip_bytes"].idxmin()
    assert trained(place, "further") == set(went.stages) == set(table.loc[levels <= first, "stage"])
    for name in table.index[levels < first]:
        assert went.find_misses(name)["max_gzip_bytes"] > 0
    assert not went.find_misses(went.chosen)


def test_where_no_leaf_meets_all_the_nearest_is_said_and_what_it_misses(short, small, place):
    smallest = int(short["gzip_bytes"].min())
    went = search.search(run_of(small, place, max_gzip_bytes=smallest - 100))
    assert went.chosen is None
    assert went.table.loc[went.nearest, "gzip_bytes"] == smallest
    assert went.find_misses(went.nearest) == {"max_gzip_bytes": 100}
    assert went.table["accuracy"].notna().sum() == 1
    deployed = went.run.directory / "deployed"
    deployed.mkdir()
    (deployed / "small.tflite").write_bytes(b"of an earlier run")
    written = model_card.write(went)
    assert written.tflite is None
    assert [*deployed.iterdir()] == []
    assert "None of" in written.text and "deploy_nearest" in written.text
    went.run.experiment = went.run.experiment.model_copy(update={"deploy_nearest": True})
    written = model_card.write(went)
    assert written.tflite.is_file()
    assert not written.content["meets_all_targets"]
    assert "no variant meets all targets" in written.text
    found = recommendation.recommend(went.run.directory)
    assert found.misses == {"max_gzip_bytes": 100}
    assert "No file meets all targets. The nearest, which misses gzip" in str(found)


def test_the_choice_does_not_look_at_test(short, small, place):
    limit = int(short["gzip_bytes"].quantile(0.3))
    went = [search.search(run_of(small, place, max_gzip_bytes=limit, max_accuracy_drop=0.05))]
    other = run_of(small, place, max_gzip_bytes=limit, max_accuracy_drop=0.05)
    test = other.data.test
    wrong = dataclasses.replace(test, labels=(test.labels + 1) % 10)
    other.__dict__["data"] = dataclasses.replace(other.data, test=wrong)
    went.append(search.search(other))
    assert went[0].nearest == went[1].nearest
    right, other_right = (one.table.loc[one.nearest, "accuracy"] for one in went)
    assert right + other_right <= 1
    assert right != other_right
    same = ["validation_accuracy", "gzip_bytes", "npu_cycles"]
    pd.testing.assert_frame_equal(went[0].table[same], went[1].table[same])


def test_a_cost_that_is_not_known_is_no_cost_that_is_met(whole):
    float32 = whole.table.loc["baseline-float32"]
    assert np.isnan(float32["npu_ms"])
    assert float32["npu_note"]
    wanted = experiment.Targets(max_npu_ms=1e6)
    chosen = targets.choose(whole.table, wanted)
    assert whole.table.loc[chosen, "npu_ms"] > 0


@pytest.fixture(scope="module")
def carded(whole, small, place) -> model_card.ModelCard:
    limit = int(whole.table.loc["baseline-int8", "gzip_bytes"])
    return model_card.write(search.search(run_of(small, place, max_gzip_bytes=limit, max_accuracy_drop=0.5)))


def test_the_card_s_file_scores_the_accuracy_on_the_card(carded, tiny_data):
    from ai_edge_litert.interpreter import Interpreter

    content = json.loads(carded.tflite.with_suffix(".json").read_text())
    interpreter = Interpreter(model_path=str(carded.tflite))
    interpreter.allocate_tensors()
    (entry,), (exit_,) = interpreter.get_input_details(), interpreter.get_output_details()
    right = []
    test = tiny_data.test
    for inputs, labels in test.batches(1).as_numpy_iterator():
        scale, zero_point = content["input"]["scale"], content["input"]["zero_point"]
        codes = np.clip(np.round(inputs / scale) + zero_point, -128, 127).astype(np.int8)
        interpreter.set_tensor(entry["index"], codes)
        interpreter.invoke()
        right.append(interpreter.get_tensor(exit_["index"])[0].argmax() == labels[0])
    assert np.mean(right) == pytest.approx(content["metrics"]["test_accuracy"])
    assert content["data"]["test"] == len(right)


def test_the_card_says_what_the_file_is(carded):
    import hashlib

    content = carded.content
    assert content["sha256"] == hashlib.sha256(carded.tflite.read_bytes()).hexdigest()
    assert content["path"] == ["baseline"]
    assert content["targets"]["max_gzip_bytes"]["met"]
    assert content["costs"]["tflite_bytes"] == carded.tflite.stat().st_size
    assert {"experiment", "seed", "data", "versions", "commit"} <= set(content)


def test_what_the_card_says_of_running_the_file_runs(carded, tmp_path):
    (code,) = re.findall(r"```python\n(.*?)```", carded.text, re.DOTALL)
    shutil.copy(carded.tflite, tmp_path)
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=True)
    assert 0 <= int(done.stdout.splitlines()[-1]) < 10


def test_test_vectors_are_what_the_file_returns(carded, tiny_data):
    """By the reference kernels; XNNPACK may differ by a step."""
    from ai_edge_litert.interpreter import Interpreter

    with np.load(carded.tflite.with_name(f"{carded.tflite.stem}-test_vectors.npz")) as file:
        vectors = dict(file)
    assert vectors["input"].shape == (10, *tiny_data.input_shape)
    assert vectors["input"].dtype == vectors["output"].dtype == np.int8
    assert len(np.unique(vectors["output"])) > 5
    interpreter = Interpreter(model_path=str(carded.tflite))
    interpreter.allocate_tensors()
    (entry,), (exit_,) = interpreter.get_input_details(), interpreter.get_output_details()
    for example, expected in zip(vectors["input"], vectors["output"], strict=True):
        interpreter.set_tensor(entry["index"], example[None])
        interpreter.invoke()
        assert np.abs(interpreter.get_tensor(exit_["index"])[0].astype(int) - expected).max() <= 1


def test_c_source_lies_beside_the_file_if_microcontrollers_can_run_it(whole, small, place):
    limit = int(whole.table.loc["baseline-int8", "gzip_bytes"])
    went = search.search(run_of(small, place, max_gzip_bytes=limit, max_accuracy_drop=0.4))
    identifier, directory = c_source.make_identifier(went.run.experiment.name), went.run.directory / "deployed"
    written = model_card.write(went)
    assert len([*directory.glob(f"{identifier}*")]) == 5
    assert f"`{identifier}.c` holds the file" in written.text
    assert written.content["microcontroller"]["obstacles"] == []
    written = model_card.write(dataclasses.replace(went, nearest="baseline-float16"))
    assert "TensorFlow Lite Micro cannot run this file: it has no float16 weights" in written.text
    assert not [*directory.glob(f"{identifier}*")]


def test_without_targets_the_recommended_file_has_the_card(whole):
    written = model_card.write(whole)
    assert written.tflite.read_bytes() == whole.tried[whole.chosen].tflite.read_bytes()
    assert written.content["targets"] == {} and written.content["meets_all_targets"] is None
    assert "within tolerance and within noise" in written.text and "| Target |" not in written.text
    found = recommendation.recommend(whole.run.directory)
    assert found.tflite.read_bytes() == written.tflite.read_bytes()


def test_the_error_of_a_score_is_that_of_its_examples(whole):
    table, accuracy = whole.table, whole.table["accuracy"]
    examples = table["test_examples"]
    binomial = np.sqrt(accuracy * (1 - accuracy) / (examples - 1))
    np.testing.assert_allclose(table["accuracy_error"].astype(float), binomial.astype(float), rtol=1e-6)
    assert table.loc["baseline-float32", ["validation_drop_error", "test_drop_error"]].tolist() == [0, 0]
    # Pairing takes out what both files find hard.
    drops = table["test_drop_error"].astype(float)
    assert (drops <= 1e-12 + np.hypot(table["accuracy_error"], table.loc["baseline-float32", "accuracy_error"])).all()


def test_tables_say_what_was_chosen_and_what_each_other_misses(small, place, whole):
    limit = int(whole.table.loc["baseline-int8", "gzip_bytes"])
    went = search.search(run_of(small, place, max_gzip_bytes=limit))
    *others, last = tables.search(went).to_frame()["Verdict"]
    assert last == "chosen"  # int8 is the last format of the baseline
    assert all(re.fullmatch(r"gzip [<\d., ]+ kB over", verdict) for verdict in others)
    assert len(tables.sizes(went).rows) == len(tables.inference(went).rows) == len(others) + 1
    assert "Verdict" not in tables.search(whole).to_frame()
