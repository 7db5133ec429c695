"""From a trained model and data to an experiment file and a recommendation: what is written, refused and said."""

import os
import time
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import yaml
from bs4 import BeautifulSoup
from conftest import skip_trial
from PIL import Image

from collabopt import __main__
from collabopt.batch import scheduler, shrink
from collabopt.config import loading
from collabopt.config.experiment import ExperimentError
from collabopt.report import index_page
from collabopt.runtime.tensorflow import keras

pytestmark = [
    pytest.mark.xdist_group("batch"),
    pytest.mark.filterwarnings("ignore:You are saving your model as an HDF5 file"),
]

OWN_LAYER = """
from collabopt.runtime.tensorflow import keras

class Halved(keras.layers.Layer):
    def call(self, inputs):
        return 0.5 * inputs
"""


@pytest.fixture
def workbook(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A workbook with mine.keras, a classifier of (6,) into three classes, and mine.npz for it."""
    for name in ("EXPERIMENTS", "DATA", "REPORTS"):
        monkeypatch.setattr(loading, name, tmp_path / name.lower())
    monkeypatch.setattr(loading, "ROOT", tmp_path)
    skip_trial(monkeypatch)
    monkeypatch.chdir(tmp_path)
    model = keras.Sequential([keras.Input((6,)), keras.layers.Dense(8, "relu"), keras.layers.Dense(3, "softmax")])
    model.save("mine.keras")
    save(tmp_path)
    return tmp_path


def save(folder: Path, **changes: np.ndarray) -> None:
    x, y = np.random.default_rng(0).normal(size=(60, 6)).astype(np.float32), np.arange(60) % 3
    np.savez(folder / "mine.npz", **{"x_train": x, "y_train": y, "x_test": x, "y_test": y} | changes)


def refuse(capsys: pytest.CaptureFixture, *words: str) -> str:
    """What the command prints for input that it refuses, before it runs or leaves anything."""
    assert __main__.main(["shrink", *words]) == 2
    assert not list(loading.EXPERIMENTS.glob("*"))
    return capsys.readouterr().err.strip()


@pytest.mark.usefixtures("workbook")
def test_the_file_is_written_once_model_and_data_fit(capsys):
    file = shrink.write_experiment("mine.keras", "mine.npz")
    values = yaml.safe_load(file.read_text())
    assert values["task"] == "classification" and values["stages"]["baseline"]["epochs"] == 0
    assert values["model"] == {"path": "../mine.keras"} and loading.load(str(file)).model.path
    assert "wrote experiments/mine.yaml" in capsys.readouterr().out
    file.write_text(file.read_text().replace("sparsity: ", "sparsity: 0.3  # was "))
    assert shrink.write_experiment("mine.keras", "mine.npz") == file
    assert loading.load(str(file)).sparsity == 0.3
    with pytest.raises(ExperimentError, match=r"is of another run: .*; delete it, or give another NAME"):
        shrink.write_experiment("mine.keras", "mine.npz", task="regression")


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"x_train": np.zeros((60, 5)), "x_test": np.zeros((60, 5))}, ["input shape=(None, 6)", "(None, 5)"]),
        ({"y_train": np.arange(60) % 3 + 1}, ["y_train has labels 1 to 3 but no 0"]),
        ({"y_train": np.arange(60) % 3 + 5}, ["y_train has labels 5 to 7 but no 0", "renumber the labels"]),
        ({"y_test": np.full(60, 9)}, ["y_test has the label 9; expected 0 to 2"]),
        (
            {"y_train": np.arange(60) % 2, "y_test": np.arange(60) % 2},
            ["output shape=(None, 3)", "list all 3 in an array `classes`"],
        ),
        ({"x_train": np.full((60, 6), np.nan)}, ["x_train has NaN or infinity in 60 examples"]),
    ],
    ids=["shape", "first label", "first label 5", "label", "classes", "nan"],
)
def test_data_that_does_not_fit_is_refused_and_leaves_no_file(workbook, capsys, changes, words):
    save(workbook, **changes)
    line = refuse(capsys, "mine.keras", "mine.npz")
    assert all(word in line for word in words), line
    save(workbook)
    assert shrink.write_experiment("mine.keras", "mine.npz").exists()  # the mistake is mended


@pytest.mark.usefixtures("workbook")
def test_code_in_a_file_runs_on_request_only(capsys):
    layers = [keras.Input((6,)), keras.layers.Lambda(lambda x: x * 2.0), keras.layers.Dense(3, "softmax")]
    keras.Sequential(layers).save("code.h5")
    line = refuse(capsys, "code.h5", "mine.npz")
    assert "holds Python code, in layer lambda" in line and "TRUST_CODE=1" in line
    file = shrink.write_experiment("code.h5", "mine.npz", trust_code=True)
    assert yaml.safe_load(file.read_text())["model"]["trust_code"] is True
    assert loading.load(str(file)).model.trust_code
    assert "TRUST_CODE" in (Path(__file__).parents[2] / "Makefile").read_text()


def test_a_class_of_the_user_is_named_on_the_command_line(workbook, capsys):
    (workbook / "own_layer_of_shrink.py").write_text(OWN_LAYER)
    scope: dict = {"__name__": "own_layer_of_shrink"}
    exec(OWN_LAYER, scope)
    keras.Sequential([keras.Input((6,)), scope["Halved"](), keras.layers.Dense(3, "softmax")]).save("own.h5")
    assert "CUSTOM_OBJECTS=module:Halved" in refuse(capsys, "own.h5", "mine.npz")
    file = shrink.write_experiment("own.h5", "mine.npz", custom_objects=["own_layer_of_shrink:Halved"])
    assert loading.load(str(file)).model.custom_objects == {"Halved": "own_layer_of_shrink:Halved"}


def test_a_function_builds_a_model_for_the_data(workbook, capsys):
    (workbook / "build_for_shrink.py").write_text(
        "from collabopt.runtime.tensorflow import keras\n\n"
        "def build(input_shape, classes):\n"
        "    return keras.Sequential([keras.Input(input_shape), keras.layers.Dense(classes)])\n\n"
        "def fail():\n    return {}['x']\n"
    )
    assert "KeyError: 'x'" in refuse(capsys, "build_for_shrink:fail", "mine.npz")
    values = yaml.safe_load(shrink.write_experiment("build_for_shrink:build", "mine.npz").read_text())
    assert values["stages"]["baseline"]["epochs"] > 0  # its weights are not trained


def test_pictures_get_the_size_of_the_models_input(workbook, capsys):
    layers = [keras.layers.Conv2D(2, 3), keras.layers.GlobalAveragePooling2D(), keras.layers.Dense(2, "softmax")]
    keras.Sequential([keras.Input((12, 10, 3)), *layers]).save("picture.keras")
    for number, name in enumerate(["cat"] * 20 + ["dog"] * 20):
        (workbook / "pictures" / name).mkdir(parents=True, exist_ok=True)
        pixels = np.full((20 + number % 2, 20, 3), number, np.uint8)
        Image.fromarray(pixels).save(workbook / "pictures" / name / f"{number}.png")
    options = shrink.parse_dataset("pixel_range=[-1,1] test_fraction=0.3")
    section = loading.load(str(shrink.write_experiment("picture.keras", "pictures", **options))).dataset
    assert (section.image_size, section.pixel_range, section.test_fraction) == ((12, 10), (-1, 1), 0.3)
    assert shrink.write_experiment("picture.keras", "pictures", **options)  # again, with the file as it is
    assert "pixels reach the model as -1 to 1" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (["mine.kera", "mine.npz"], "did you mean mine.keras?"),
        (["mine.keras", "mine.npz", "--target", "price"], "dataset.target=price: only tables take it; leave it out"),
        (["mine.keras", "mine.npz", "--dataset", "group"], "DATASET: group: expected key=value"),
        (["mine.keras", "mine.npz", "--dataset", "grup=a"], "dataset.grup='a': unknown key; did you mean group?"),
        (["mine.keras", "mine.npz", "--name", "a/b"], "NAME=a/b: expected letters"),
        (["mine.keras", "empty"], "no data in this folder. Expected"),
        (["empty", "mine.npz"], "a folder without a SavedModel"),
        (["mine.npz", "mine.npz"], "mine.npz: expected a .keras, .h5 or .hdf5 file"),
        (["broken.keras", "mine.npz"], "neither a .keras nor an HDF5 file"),
        (["mine.keras", "broken.keras"], "broken.keras: not readable: no .npz file"),
        (["mine.keras", ""], "make shrink MODEL=mine.keras DATA=mine.npz"),
    ],
)
def test_wrong_words_are_refused_in_a_line_that_helps(workbook, capsys, words, line):
    (workbook / "empty").mkdir()
    (workbook / "broken.keras").write_text("hello")
    found = refuse(capsys, *words)
    assert line in found and len(found.splitlines()) == 1, found


def make_variants(folder: Path, count: int, error: float, score: str = "accuracy") -> Path:
    rows = pd.DataFrame(
        {
            "stage": ["baseline", "pcqat"],
            "format": ["float32", "int8"],
            f"validation_{score}": [0.95, 0.95],
            score: [0.94, 0.93],
            "validation_examples": count,
            "validation_drop_error": [0.0, error],
            "gzip_bytes": [4000, 500],
            "tflite": ["models/a.tflite", "models/b.tflite"],
        }
    )
    rows.to_csv(folder / "variants.csv", index=False)
    return folder


@pytest.mark.parametrize(
    ("count", "error", "score", "is_warned"),
    [
        (8, 0.0, "accuracy", True),  # one example is 12.5 points
        (400, 0.0, "accuracy", False),
        (400, 0.004, "accuracy", False),
        (400, 0.006, "accuracy", True),
        (400, 0.02, "mae", False),  # 5 % of 0.95
        (400, 0.03, "mae", True),
        (1, np.nan, "mae", True),
    ],
)
def test_a_recommendation_says_how_many_examples_it_rests_on(tmp_path, count, error, score, is_warned):
    shrunk = shrink.recommend(make_variants(tmp_path, count, error, score))
    assert f"on {count} validation examples" in str(shrunk) and shrunk.variant["stage"] == "pcqat"
    assert str(shrunk).endswith(
        "on test 93.00% instead of 94.00%" if score == "accuracy" else "0.9300 instead of 0.9400"
    )
    assert bool(shrunk.warning) == is_warned
    assert ("too few for this choice" in shrunk._repr_html_()) == is_warned
    assert not is_warned or f"{count} validation examples" in shrunk.warning


def test_the_last_line_names_the_deployed_file_and_only_the_batch_names_the_report(tmp_path, monkeypatch, capsys):
    for name in ("models/b", "deployed/mine"):
        (tmp_path / name).parent.mkdir()
        (tmp_path / f"{name}.tflite").write_bytes(b"file")
    shrunk = shrink.recommend(make_variants(tmp_path, 8, 0.0))
    monkeypatch.setattr(shrink, "shrink", lambda: shrunk)
    monkeypatch.chdir(tmp_path)
    assert shrink.print_shrunk() == 0
    recommended, caution, file = capsys.readouterr().out.splitlines()
    assert recommended.startswith("Recommended: PCQAT int8") and caution.startswith("Caution: 8 validation examples")
    assert file == "file: deployed/mine.tflite"


@pytest.mark.parametrize("status", [1, 2])
def test_a_report_that_stopped_before_its_files_recommends_none_of_an_earlier_run(workbook, monkeypatch, status):
    experiment = workbook / "mine.yaml"
    experiment.touch()
    (loading.REPORTS / "mine").mkdir(parents=True)
    table = make_variants(loading.REPORTS / "mine", 800, 0.001) / "variants.csv"
    os.utime(table, (1e9, 1e9))
    monkeypatch.setattr(shrink, "write_experiment", lambda *_: experiment)
    monkeypatch.setattr(scheduler, "run_report", lambda *_: status)
    with pytest.raises(RuntimeError, match="the report of mine has no new table of files; the lines above say why"):
        shrink.shrink("mine.keras", "mine.npz")
    monkeypatch.setattr(scheduler, "run_report", lambda *_: os.utime(table, (time.time() + 1,) * 2) or status)
    assert shrink.shrink("mine.keras", "mine.npz").variant["stage"] == "pcqat"


def test_the_index_page_begins_with_the_recommendation(tmp_path):
    make_variants(tmp_path, 8, 0.0)
    page = BeautifulSoup(index_page.write(tmp_path, "# mine").read_text(), "html.parser")
    text = " ".join(page.get_text(" ").split())
    assert "Deploy PCQAT int8" in text and "0.500 kB after gzip, 8.0 times smaller" in text
    assert "Caution: 8 validation examples are too few" in text
    (tmp_path / "run.json").write_text('{"experiment": {"targets": {"max_gzip_bytes": 100}}}')
    assert "No file meets all targets" in index_page.write(tmp_path, "# mine").read_text()


def test_a_job_that_did_not_run_says_why(tmp_path):
    (tmp_path / "snakemake.log").write_text("Building DAG of jobs...\nNothing to be done.\n")
    states = scheduler._read_states(["baseline", "pqat"], tmp_path, ".")
    assert states["pqat"] == "not run, because Snakemake says: Building DAG of jobs... | Nothing to be done."
    (tmp_path / "baseline.failed").write_text("in cell [3]")
    states = scheduler._read_states(["baseline", "pqat"], tmp_path, ".")
    assert states == {"baseline": "FAILED in cell [3]", "pqat": "not run, because a job that it needs failed"}
