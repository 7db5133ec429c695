"""An exported stage is complete: a Keras model that plain Keras loads with the same outputs, a file, and a card."""

import dataclasses
import os
import shutil
import subprocess
import sys

import numpy as np
import pytest
import yaml

from collabopt.analysis import scoring
from collabopt.config import loading
from collabopt.config.stages import STAGES
from collabopt.deploy import export
from collabopt.run import Run
from collabopt.runtime.tensorflow import keras, run_eagerly
from collabopt.techniques import plain_model, quantization, registry
from collabopt.techniques.checkpoints import NO_CHECKPOINT

LOAD = """
import sys
import numpy as np
import tf_keras
model = tf_keras.models.load_model(sys.argv[1])
np.save(sys.argv[3], model.predict(np.load(sys.argv[2]), verbose=0))
assert not any(name.startswith(("tensorflow_model_optimization", "collabopt")) for name in sys.modules)
"""


@pytest.fixture(scope="module")
def run(trained_small, small, tmp_path_factory) -> Run:
    place = tmp_path_factory.mktemp("export")
    shutil.copytree(trained_small / "stages", place / "stages")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(loading, "DATA", place)
        yield Run(loading.load(str(small)), place / "report", small, place / "stages")


@pytest.fixture(scope="module")
def images(run) -> np.ndarray:
    ((inputs, _),) = run.data.test.take(slice(64)).batches(64).as_numpy_iterator()
    return inputs


@pytest.fixture(scope="module")
def folder(run):
    return run.export("pqat")


def train_briefly_with_tfmot(run: Run, name: str) -> keras.Model:
    """A stage after two steps of TFMOT's scheme, from the parent of ours."""
    experiment = run.with_scheme("tfmot").experiment
    stage, data = STAGES[name], dataclasses.replace(run.data, train=run.data.train.take(slice(32)))
    with run_eagerly():
        return registry.find_trainer(stage)(stage, run.model(stage.parent), data, experiment, NO_CHECKPOINT)[0]


QAT = [stage.name for stage in STAGES.values() if stage.quantizes]
TFMOT = [
    pytest.param("tfmot", name, marks=[] if name in ("qat", "pcqat") else pytest.mark.slow, id=f"tfmot-{name}")
    for name in QAT
]


@pytest.mark.parametrize(("scheme", "name"), [*(("collabopt", name) for name in QAT), *TFMOT])
def test_a_fake_quantized_model_becomes_plain_layers_with_the_same_outputs(run, images, name, scheme):
    wrapped = run.model(name) if scheme == "collabopt" else train_briefly_with_tfmot(run, name)
    plain = plain_model.make_plain(wrapped)
    assert not quantization.is_wrapped(plain)
    np.testing.assert_allclose(plain(images), wrapped(images), rtol=1e-5, atol=1e-5)


def test_plain_keras_loads_the_model_without_our_library_and_tfmot(run, images, folder, tmp_path):
    np.save(tmp_path / "images.npy", images)
    command = [sys.executable, "-c", LOAD, str(folder / "small-pqat.keras"), "images.npy", "outputs.npy"]
    subprocess.run(command, check=True, cwd=tmp_path, env=os.environ | {"TF_USE_LEGACY_KERAS": "1", "PYTHONPATH": ""})
    expected = run.model("pqat").predict(images, verbose=0)
    np.testing.assert_allclose(np.load(tmp_path / "outputs.npy"), expected, rtol=1e-5, atol=1e-5)
    assert np.ptp(expected) > 1


def test_the_plain_model_keeps_the_zeros_and_the_int8_grid(run, folder):
    model = export.load_model(folder / "small-pqat.keras")
    for name, values in run.stage("pqat").int8_values().items():
        kernel = next(array for array in model.get_layer(name).get_weights() if array.ndim > 1)
        if kernel.shape != values.shape:  # a depthwise kernel, in another layout
            continue
        steps, largest = (np.abs(one).reshape(-1, one.shape[-1]).max(axis=0) for one in (values.astype(float), kernel))
        np.testing.assert_allclose(kernel * (steps / largest), values, atol=1e-3)


def test_the_file_is_that_of_the_stage(run, folder):
    assert (folder / "small-pqat.tflite").read_bytes() == run.stage("pqat").tflite.read_bytes()


def test_the_folder_is_complete(folder):
    assert {path.name for path in folder.iterdir()} == {
        *("README.md", "small-pqat.json", "small-pqat.keras", "small-pqat.tflite", "small-pqat-test_vectors.npz"),
        *("model_small_pqat.c", "model_small_pqat.h", "model_small_pqat_main.cc"),
        *("model_small_pqat_test_vectors.c", "model_small_pqat_test_vectors.h"),
    }


def test_the_card_begins_with_the_score_as_hugging_face_reads_it(run, folder):
    _, header, text = (folder / "README.md").read_text().split("---\n", 2)
    (index,) = yaml.safe_load(header)["model-index"]
    (result,) = index["results"]
    assert index["name"] == "small-pqat"
    assert result["task"]["type"] == "image-classification"
    assert result["dataset"] == {"type": "digits", "name": "digits", "split": "test"}
    (metric,) = result["metrics"]
    assert metric["type"] == "accuracy"
    test = run.data.test
    scores = scoring.score_file((folder / "small-pqat.tflite").read_bytes(), test, run.data.task)
    assert metric["value"] == pytest.approx(scores.mean())
    assert text.lstrip().startswith("# small-pqat: PQAT, int8")
    assert "exported by its name" in text


def test_a_float_stage_is_exported_in_any_of_its_formats(run, images, tmp_path):
    folder = run.export("pruned", "float16", tmp_path / "mine")
    assert folder == tmp_path / "mine"
    model = keras.models.load_model(folder / "small-pruned.keras", compile=False)
    np.testing.assert_array_equal(model(images), run.model("pruned")(images))
    assert not list(folder.glob("*.c"))  # float16 is nothing for microcontrollers


def test_what_cannot_be_exported_is_named(run):
    with pytest.raises(export.ExportError, match=r"^format=float16: pqat has no such file; expected one of int8$"):
        run.export("pqat", "float16")
    with pytest.raises(KeyError, match="expected one of baseline"):
        run.export("pqta")
