"""Experiments are checked before any training. A mistake names the key, its value and what would be right."""

import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from collabopt.config import loading
from collabopt.config.experiment import ExperimentError, compute_rate
from collabopt.config.stages import FINE_TUNING
from collabopt.config.yaml_loader import Loader

DIGITS = (loading.EXPERIMENTS / "digits.yaml").read_text(encoding="utf-8")
REMOVED = object()


@pytest.fixture
def file(tmp_path) -> Path:
    """The path of an experiment file, a sound one until a test writes another."""
    path = tmp_path / "mine.yaml"
    path.write_text(DIGITS, encoding="utf-8")
    return path


def change(path: Path, changes: dict) -> None:
    """Write the experiment with values changed by dotted key; REMOVED removes."""
    plan = yaml.load(DIGITS, Loader)
    for key, value in changes.items():
        *above, last = key.split(".")
        section = plan
        for part in above:
            section = section.setdefault(part, {})
        if value is REMOVED:
            del section[last]
        else:
            section[last] = value
    path.write_text(yaml.safe_dump(plan), encoding="utf-8")


def said(path: Path, **overrides) -> str:
    with pytest.raises(ExperimentError) as caught:
        loading.load(str(path), **overrides)
    return str(caught.value)


@pytest.mark.parametrize("name", sorted(path.stem for path in loading.EXPERIMENTS.glob("*.yaml")))
def test_every_committed_experiment_loads(name):
    text = loading.find_experiment(name).read_text(encoding="utf-8")
    if "further_formats" in text:
        pytest.importorskip("ai_edge_quantizer")
    assert loading.load(name).name == name
    head = re.match(r"(#.*\n)+", text).group()
    assert all(f"{word}: " in head for word in ("Source", "Expected", "Time", "Command"))


MISTAKES = [
    ({"sparsty": 0.5}, ["sparsty=0.5", "unknown key", "did you mean sparsity?"]),
    ({"learning_rat": 1}, ["learning_rat=1", "unknown key", "expected one of"]),
    ({"dataset.nam": "digits"}, ["dataset.nam='digits'", "unknown key", "did you mean name?"]),
    ({"model.fuction": "a:b"}, ["model.fuction='a:b'", "unknown key", "did you mean function?"]),
    ({"exclude": {"prunning": ["pw_1"]}}, ["exclude.prunning=['pw_1']", "did you mean pruning?"]),
    ({"stages.pqta": {}}, ["stages.pqta={}", "unknown key", "did you mean pqat?"]),
    ({"stages.qat.epoch": 2}, ["stages.qat.epoch=2", "unknown key", "did you mean epochs?"]),
    ({"stages.qat.frequency": 2}, ["stages.qat.frequency=2", "unknown key"]),
    (
        {"initial_weights": {"path": "a.npz", "training": {"epoch": 1}}},
        ["initial_weights.training.epoch=1", "did you mean epochs?", "initial_weights.training.batch_size: missing"],
    ),
    (
        {"task": {"loss": "m:f", "metric": "m:g", "higher_is_better": True, "looss": 1}},
        ["task.looss=1", "unknown key"],
    ),
    ({"further_formats": ["int8"]}, ["further_formats.0='int8'", "expected 'float32_sparse', 'openvino'"]),
    ({"sparsity": "0.5"}, ["sparsity='0.5'", "expected a valid number"]),
    ({"sparsity": "half"}, ["sparsity='half'", "expected a valid number"]),
    ({"sparsity": True}, ["sparsity=True", "expected a valid number"]),
    ({"sparsity": None}, ["sparsity=None", "expected a valid number"]),
    ({"sparsity": 1}, ["sparsity=1", "expected less than 1"]),
    ({"sparsity": 1.5}, ["sparsity=1.5", "expected less than 1"]),
    ({"sparsity": -0.1}, ["sparsity=-0.1", "expected greater than or equal to 0"]),
    ({"sparsity": float("nan")}, ["sparsity=nan", "expected a finite number"]),
    ({"sparsity": float("inf")}, ["sparsity=inf", "expected a finite number"]),
    ({"train_fraction": 0}, ["train_fraction=0", "expected greater than 0"]),
    ({"train_fraction": float("nan")}, ["train_fraction=nan", "expected a finite number"]),
    ({"validation_fraction": 1}, ["validation_fraction=1", "expected less than 1"]),
    ({"seed": True}, ["seed=True", "expected a valid integer"]),
    ({"seed": 1.0}, ["seed=1.0", "expected a valid integer"]),
    ({"seed": -1}, ["seed=-1", "expected greater than or equal to 0"]),
    ({"seed": 2**31}, [f"seed={2**31}", f"expected less than {2**31}"]),
    ({"threads": 0}, ["threads=0", "expected greater than or equal to 1"]),
    ({"number_of_clusters": 2}, ["number_of_clusters=2", "expected greater than or equal to 3"]),
    ({"number_of_clusters": 2}, ["symmetric=true for binary weights"]),
    ({"number_of_clusters": 4, "symmetric": True}, ["number_of_clusters=4", "expected 2 for binary or 3 for ternary"]),
    ({"number_of_clusters": 3, "symmetric": True, "scheme": "tfmot"}, ["symmetric=true", "set scheme=collabopt"]),
    ({"number_of_clusters": 1025}, ["number_of_clusters=1025", "expected less than or equal to 1024"]),
    ({"number_of_clusters": 8.5}, ["number_of_clusters=8.5", "expected a valid integer"]),
    ({"cluster_per_channel": 1}, ["cluster_per_channel=1", "expected a valid boolean"]),
    ({"centroid_initialization": "kmeans"}, ["centroid_initialization='kmeans'", "'kmeans_plus_plus', 'linear'"]),
    ({"dataset": "digits"}, ["dataset='digits'", "expected a valid dictionary"]),
    ({"dataset": {}}, ["dataset: ", "expected exactly one of name, function and path"]),
    ({"dataset.path": "my.npz"}, ["dataset: ", "expected exactly one of name, function and path"]),
    ({"dataset.name": "digit"}, ["dataset.name='digit'", "'digits', 'mnist', 'fashion_mnist'"]),
    ({"dataset": {"function": "mine.load"}}, ["dataset.function='mine.load'", "expected"]),
    ({"model.path": "my.keras"}, ["model: ", "expected exactly one of name, function and path"]),
    ({"model": {"path": "my.npz"}}, ["model.path: my.npz: expected a .keras", "SavedModel"]),
    ({"model.output": "logits"}, ["model: output: for a function or path; the model", "is built in"]),
    ({"model": {"path": "my.h5", "weights": "w.h5"}}, ["model: weights=w.h5: goes with function"]),
    ({"model": {"function": "my:net", "trust_code": True}}, ["model: trust_code=True: goes with path"]),
    ({"model": {"path": "my.h5", "custom_objects": ["my.Layer"]}}, ["model.custom_objects", "='my.Layer'"]),
    ({"exclude": {"pruning": [1]}}, ["exclude.pruning.0=1", "expected a valid string"]),
    ({"dataset": REMOVED}, ["dataset: missing"]),
    ({"stages.cqat": None}, ["stages.cqat=None: expected a valid dictionary or instance of Training"]),
    ({"stages": [1]}, ["stages=[1]: expected a valid dictionary or instance of Stages"]),
    ({"stages.cqat.epochs": -1}, ["stages.cqat.epochs=-1", "expected greater than or equal to 0"]),
    ({"stages.qat.batch_size": 0}, ["stages.qat.batch_size=0", "expected greater than or equal to 1"]),
    ({"stages.qat.learning_rate": 0}, ["stages.qat.learning_rate=0", "expected greater than 0"]),
    ({"stages.qat.learning_rate": float("inf")}, ["stages.qat.learning_rate=inf", "expected a finite number"]),
    ({"stages.qat.optimizer": "adamw"}, ["stages.qat.optimizer='adamw'", "expected 'adam' or 'sgd'"]),
    ({"stages.qat.momentum": 0.9}, ["stages.qat: optimizer=adam", "momentum and nesterov go with sgd"]),
    ({"stages.qat.warmup_epochs": 4}, ["stages.qat: warmup_epochs=4", "expected fewer than epochs=4"]),
    ({"stages.pruned.epochs": 0}, ["stages.pruned: epochs=0", "at least one epoch"]),
    ({"stages.pruned.end_epoch": 9}, ["stages.pruned: ", "end_epoch=9", "end_epoch <= epochs=8"]),
    ({"stages.pruned.begin_epoch": 4}, ["stages.pruned: begin_epoch=4", "begin_epoch < end_epoch"]),
    ({"stages.pruned.end_epoch": REMOVED}, ["stages.pruned: sparsity_schedule=polynomial", "expected an end_epoch"]),
]


@pytest.mark.parametrize(("changes", "words"), MISTAKES, ids=[" ".join(words[:2]) for _, words in MISTAKES])
def test_a_mistake_stops_with_key_value_and_what_would_be_right(file, changes, words):
    change(file, changes)
    line = said(file)
    assert line.startswith("mine.yaml: ")
    assert all(word in line for word in words), line


def test_a_format_whose_package_is_missing_stops_if_it_is_asked_for(file, monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None if name == "nncf" else object())
    change(file, {"further_formats": ["int4", "openvino"]})
    assert loading.load(str(file)).further_formats == ("int4", "openvino")
    change(file, {"further_formats": ["int4", "openvino_int8"]})
    assert said(file) == (
        "mine.yaml: further_formats=openvino_int8: needs the package nncf, which is not installed; run make formats "
        "under Python 3.11, the only one for nncf, or leave out openvino_int8"
    )


TEXTS = {
    "empty": ("", ["expected keys and values"]),
    "a list": ("- sparsity\n- 0.5\n", ["expected keys and values", "list"]),
    "a word": ("sparsity", ["expected keys and values", "str"]),
    "not YAML": ("sparsity: [0.5\nseed: 0\n", ["not YAML", "line 2"]),
    "tabs": ("stages:\n\tqat: 1\n", ["not YAML", "line 2"]),
    "two documents": ("seed: 0\n---\nseed: 1\n", ["not YAML", "line 2"]),
    "object": ("seed: !!python/object/apply:os.getpid []\n", ["not YAML", "line 1"]),
    "duplicate key": (DIGITS + "\nseed: 1\n", ["seed", "given twice"]),
    "duplicate stage": (DIGITS + "  qat: {}\n", ["qat", "given twice"]),
    "key that is no word": (DIGITS + "\n1: 2\n", ["1=", "string"]),
    "not UTF-8": (b"# \xe9t\xe9\nseed: 0\n", ["not YAML"]),
    "no such day": (DIGITS.replace("seed: 0", "seed: 2020-02-31"), ["not YAML"]),
}


@pytest.mark.parametrize("text", TEXTS)
def test_a_file_that_is_no_experiment_stops_with_its_name_and_the_reason(file, text):
    content, words = TEXTS[text]
    file.write_bytes(content if isinstance(content, bytes) else content.encode())
    line = said(file)
    assert line.startswith("mine.yaml: ")
    assert "\n" not in line
    assert all(word in line for word in words), line


def test_all_mistakes_are_listed_a_line_each(file):
    change(file, {"sparsity": 1.5, "seed": "zero", "sead": 1, "stages.qat.epochs": "four", "dataset.name": REMOVED})
    lines = said(file).splitlines()
    assert len(lines) == 5
    for key in ("sparsity=1.5", "seed='zero'", "sead=1", "stages.qat.epochs='four'", "dataset: "):
        assert any(line.startswith(f"mine.yaml: {key}") for line in lines), key


@pytest.mark.parametrize("name", ["digit", "nowhere/mine.yaml", "digits.yml", ""])
def test_an_experiment_that_is_not_there_stops_with_those_that_are(name):
    line = said(name)
    assert f"experiment={name}" in line
    assert "'digits'" in line


@pytest.mark.parametrize("written", ["1e-3", "1E-3", "1.0e-3", "0.001", "+1e-03"])
def test_one_thousandth_is_a_number_however_it_is_written(file, written):
    file.write_text(DIGITS.replace("learning_rate: 3e-3", f"learning_rate: {written}"), encoding="utf-8")
    assert loading.load(str(file)).stages.baseline.learning_rate == 0.001


def test_none_keeps_the_experiments_own_value():
    assert loading.load("digits", **dict.fromkeys(loading.PARAMETERS)) == loading.load("digits")


OTHERS = {
    "deploy_nearest": True,
    "seed": 3,
    "threads": 2,
    "devices": 2,
    "train_fraction": 0.5,
    "calibration_examples": 50,
    "sparsity": 0.8,
    "filter_sparsity": 0.25,
    "rank_energy": 0.9,
    "max_flops": 0.5,
    "sparsity_pattern": "2:4",
    "symmetric": True,
    "weight_bits": 4,
    "number_of_clusters": 32,
    "cluster_per_channel": True,
    "clustering": "fixed",
    "cluster_rate": 0.3,
    "centroid_initialization": "linear",
    "distill": {"temperature": 2.0, "weight": 0.25},
    "scheme": "tfmot",
    "strict": True,
    "accelerator": "ethos-u65-256",
    "max_accuracy_drop": 0.01,
    "max_metric_drop": 0.02,
    "max_tflite_bytes": 500_000,
    "max_gzip_bytes": 250_000,
    "max_sram_kib": 256.0,
    "max_flash_kib": 200.0,
    "max_npu_ms": 2.0,
}


@pytest.mark.parametrize("knob", loading.PARAMETERS)
def test_an_override_changes_only_itself(knob):
    few = {"number_of_clusters": 3} if knob == "symmetric" else {}
    own, changed = loading.load("digits", **few), loading.load("digits", **few | {knob: OTHERS[knob]})
    expected = own.model_dump()
    (expected["targets"] if knob in expected["targets"] else expected)[knob] = OTHERS[knob]
    if knob == "number_of_clusters":  # the price of a bit follows it
        expected["cluster_rate"] = compute_rate(OTHERS[knob])
    assert expected == changed.model_dump() != own.model_dump()


@pytest.mark.parametrize("knob", ["sparsty", "epochs", "stages"])
def test_an_unknown_override_stops(knob):
    line = said("digits", **{knob: 0.5})
    assert f"{knob}=0.5: unknown parameter" in line
    ends = {"sparsty": "did you mean sparsity?", "epochs": "stages.<stage>.epochs, where <stage> is one of baseline"}
    assert ends.get(knob, "expected one of seed") in line


def test_an_override_is_checked_as_the_file_is(file):
    assert said(file, sparsity=2).startswith("sparsity=2: expected less than 1")  # the file is not to blame
    assert said(file, max_gzip_bytes="9k").startswith("targets.max_gzip_bytes='9k': expected")
    assert "seed='1': expected a valid integer" in said(file, seed="1")


def test_a_report_has_its_own_place_only_where_an_override_changes_something():
    plain = loading.find_report_directory("digits")
    assert plain == loading.REPORTS / "digits"
    assert loading.find_report_directory("digits", sparsity=None) == plain
    assert loading.find_report_directory("digits", sparsity=0.5, seed=0, cluster_per_channel=False) == plain
    # One place for the same overrides, in whatever order they are given.
    both = loading.find_report_directory("digits", number_of_clusters=32, sparsity=0.8)
    assert both == loading.find_report_directory("digits", sparsity=0.8, number_of_clusters=32)
    assert both == plain / "sparsity=0.8,number_of_clusters=32"
    values = {"default": 0.5} | {f"block_{number}_expand": 0.1 for number in range(50)}
    many = [loading.find_report_directory("digits", sparsity={**values, "fc": value}) for value in (0, 0.5)]
    assert len({*many}) == 2 and all(len(one.name.encode()) < 200 for one in many)


def test_a_file_of_ones_own_is_reported_under_its_name(file):
    assert loading.find_report_directory(str(file)) == loading.REPORTS / "mine"
    assert loading.load(str(file)).name == "mine"


def test_loading_an_experiment_imports_no_tensorflow():
    heavy = "print(*sorted({name.partition('.')[0] for name in sys.modules} & {'tensorflow', 'tf_keras', 'keras'}))"
    load = "from collabopt.config import loading; import collabopt.batch.scheduler; loading.load('digits')"
    code = f"import sys; {load}; {heavy}"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "\n"


def extending(file: Path, text: str) -> Path:
    """A second file that extends the first."""
    other = file.with_name("other.yaml")
    other.write_text(text, encoding="utf-8")
    return other


def test_an_extended_experiment_holds_where_the_file_says_nothing(file):
    other = extending(file, "extends: mine\nnumber_of_clusters: 5\nmodel: {name: mnist_cnn}\n")
    base, plan = loading.load(str(file)), loading.load(str(other))
    assert (plan.name, plan.number_of_clusters, plan.model.name) == ("other", 5, "mnist_cnn")
    assert plan.stages == base.stages
    assert loading.load(str(other), sparsity=0.7).sparsity == 0.7


def test_an_experiment_extends_one_of_the_workbook_from_anywhere(file):
    other = extending(file, "extends: speech_commands-ds_cnn_l\n")
    assert loading.load(str(other)).model.name == "ds_cnn_l"


def test_a_section_of_a_stage_is_merged_with_that_of_the_extended_experiment(file):
    shipped = loading.load("digits").stages
    stages = loading.load(str(extending(file, "extends: digits\nstages: {pruned: {epochs: 12}}\n"))).stages
    assert stages.pruned == shipped.pruned.model_copy(update={"epochs": 12})
    assert stages.model_copy(update={"pruned": shipped.pruned}) == shipped


@pytest.mark.parametrize("section", ["stages", "stages.cqat", "stages.cqat.epochs"])
def test_a_stage_that_an_experiment_does_not_mention_has_defaults(file, section):
    change(file, {section: REMOVED})
    assert loading.load(str(file)).stages.cqat.epochs == FINE_TUNING["epochs"]


def test_what_cannot_be_extended_is_told(file):
    assert "experiment=nowhere: no such file" in said(extending(file, "extends: nowhere\n"))
    chain = file.with_name("chain.yaml")
    chain.write_text("extends: other\n", encoding="utf-8")
    extending(file, "extends: mine\n")
    assert "chain.yaml: extends=other: other extends another file itself" in said(chain)


def test_the_digest_changes_with_every_file_of_an_experiment(file):
    other = extending(file, "extends: mine\n")
    before = loading.compute_digest(str(other))
    assert before == loading.compute_digest(str(other)) != loading.compute_digest(str(file))
    file.write_text(file.read_text(encoding="utf-8") + "\n# changed", encoding="utf-8")
    assert loading.compute_digest(str(other)) != before


def test_another_seed_is_asked_for_alone(file):
    file.write_text(DIGITS.replace("seed: 0", "seed: 0\nrepeat_seeds: [1, 2]"), encoding="utf-8")
    assert loading.load(str(file)).repeat_seeds == (1, 2)
    assert loading.load(str(file), seed=0).repeat_seeds == ()
    assert loading.load(str(file), seed=5).repeat_seeds == ()


@pytest.mark.parametrize("seeds", ["[0, 1]", "[1, 1]"])
def test_seeds_that_repeat_themselves_are_told(file, seeds):
    file.write_text(DIGITS.replace("seed: 0", f"seed: 0\nrepeat_seeds: {seeds}"), encoding="utf-8")
    assert f"repeat_seeds={seeds}: expected seeds that differ, without 0" in said(file)


def test_the_report_of_one_seed_does_not_go_over_that_of_all(file):
    file.write_text(DIGITS.replace("seed: 0", "seed: 0\nrepeat_seeds: [1, 2]"), encoding="utf-8")
    assert loading.find_report_directory(str(file), seed=0).name == "seed=0"
    assert loading.find_report_directory(str(file)).name == file.stem
