"""Two files: equal ones differ nowhere, and a changed kernel is found from its tensor on."""

import numpy as np
import pytest

from collabopt.analysis import file_comparison
from collabopt.config.tasks import TASKS
from collabopt.datasets import Split
from collabopt.runtime.tensorflow import keras
from collabopt.tflite import convert, flatbuffer

SHAPE = (8, 8, 3)


@pytest.fixture(scope="module")
def model() -> keras.Model:
    keras.utils.set_random_seed(0)
    inputs = x = keras.Input(SHAPE, name="input")
    for layer in (
        keras.layers.Conv2D(6, 3, activation="relu", name="conv_1"),
        keras.layers.Conv2D(6, 3, activation="relu", name="conv_2"),
        keras.layers.Flatten(name="flatten"),
        keras.layers.Dense(4, name="fc"),
    ):
        x = layer(x)
    return keras.Model(inputs, x)


@pytest.fixture(scope="module")
def split(model) -> Split:
    examples = np.random.default_rng(0).normal(size=(40, *SHAPE)).astype(np.float32)
    return Split(examples, model.predict(examples, verbose=0).argmax(axis=-1))


@pytest.fixture(scope="module")
def files(model, split) -> dict[str, bytes]:
    return {"first": convert.convert(model, "float32"), "second": convert.convert_to_int8(model, split.examples)}


def compare(files: dict[str, bytes], split: Split) -> file_comparison.FileComparison:
    return file_comparison.compare(files, split, TASKS["classification"])


def test_a_file_differs_nowhere_from_itself(files, split):
    found = compare({"first": files["first"], "second": files["first"]}, split)
    assert np.isinf(found.tensors["snr_db"]).all()
    assert "same class for 100.0% of them. No tensor falls below 20 dB" in found.answer


def test_an_int8_file_has_the_tensors_of_the_float_file(files, split):
    found = compare(files, split)
    assert [name.split("/")[0] for name in found.tensors["tensor"][:2]] == ["conv_1", "conv_2"]
    assert found.tensors["tensor"].iloc[-1] == "output"
    assert (found.tensors["snr_db"] > 20).all()
    assert "100.00% (first)" in found.answer


@pytest.mark.parametrize("quantized", [False, True])
@pytest.mark.parametrize(
    ("activations", "is_probability"),
    [(["sigmoid", None], False), ([None, "sigmoid"], True), ([None, "softmax"], True)],
)
def test_only_a_file_that_ends_in_softmax_or_sigmoid_returns_probabilities(activations, is_probability, quantized):
    """A sigmoid before the last layer decides no threshold."""
    layers = [keras.layers.Dense(3, activation=activation) for activation in activations]
    model = keras.Sequential([keras.Input((8,)), *layers])
    inputs = np.random.default_rng(0).normal(size=(20, 8)).astype(np.float32)
    content = convert.convert_to_int8(model, inputs) if quantized else convert.convert(model, "float32")
    assert file_comparison._is_probability(content) == is_probability


def test_only_examples_that_are_scored_are_counted():
    """An autoencoder is scored without the anomalies, whose labels are above 0."""
    model = keras.Sequential([keras.Input((8,)), keras.layers.Dense(8)])
    examples = np.random.default_rng(0).normal(size=(40, 8)).astype(np.float32)
    content = convert.convert(model, "float32")
    split = Split(examples, np.arange(40) % 2, reconstructs=True)
    found = file_comparison.compare({"first": content, "second": content}, split, TASKS["reconstruction"])
    assert "on 20 validation examples" in found.answer


def test_a_changed_kernel_is_found_from_its_tensor_on(files, split):
    changed = bytearray(files["second"])
    (kernel,) = [one for one in flatbuffer.list_kernels(changed) if "conv_2" in one.name + one.output]
    kernel.int8_values[:] = -kernel.int8_values
    found = compare(files | {"second": bytes(changed)}, split)
    assert "They begin to differ at conv_2/" in found.answer


def test_other_inputs_and_bad_paths_are_one_clear_error(files, tmp_path):
    other = Split(np.zeros((8, 4, 4, 1), np.float32), np.zeros(8, int))
    with pytest.raises(ValueError, match=r"^first: takes inputs .*8, 8, 3.* expected .*4, 4, 1"):
        compare(files, other)
    with pytest.raises(ValueError, match=r"^second=none.tflite: no such file"):
        file_comparison._read("second", "none.tflite")
    (tmp_path / "text.tflite").write_text("no model at all")
    with pytest.raises(ValueError, match=r"^first=.*text.tflite: is no .tflite file"):
        file_comparison._read("first", str(tmp_path / "text.tflite"))
