"""Deployed files of imported models: drop-in replacements with the user's last activation, inputs and outputs."""

import numpy as np
import pytest
from ai_edge_litert.interpreter import Interpreter
from user_networks import NETWORKS, keras_3, randomize

from collabopt import datasets
from collabopt.models import importing
from collabopt.runtime.tensorflow import keras, seed_everything, tf
from collabopt.techniques import quantization
from collabopt.tflite import convert, flatbuffer, interpreter

UNITS = {"softmax": 4, "sigmoid": 1}


def make_original(activation: str, package=keras):
    k = package.layers
    steps = [
        k.Rescaling(1 / 255),
        k.Conv2D(8, 3, activation="relu"),
        k.Flatten(),
        k.Dense(UNITS[activation], activation),
    ]
    return randomize(package.Sequential([package.Input((8, 8, 1)), *steps]))


def run(content: bytes, **inputs: np.ndarray) -> dict[str, np.ndarray]:
    """Real outputs (n, …) of a file by name for inputs (n, …), one example at a time."""
    interpreter = Interpreter(model_content=content)
    runner = interpreter.get_signature_runner()
    entries, ends = runner.get_input_details(), runner.get_output_details()
    assert entries.keys() == inputs.keys()
    results = []
    for example in zip(*inputs.values(), strict=True):
        values = {name: quantize(part[None], entries[name]) for name, part in zip(inputs, example, strict=True)}
        results.append({name: dequantize(output, ends[name]) for name, output in runner(**values).items()})
    return {name: np.concatenate([result[name] for result in results]) for name in ends}


def quantize(values: np.ndarray, details: dict) -> np.ndarray:
    scale, zero_point = details["quantization"]
    if not scale:
        return values.astype(details["dtype"])
    limits = np.iinfo(details["dtype"])
    return np.clip(np.round(values / scale) + zero_point, limits.min, limits.max).astype(details["dtype"])


def dequantize(values: np.ndarray, details: dict) -> np.ndarray:
    scale, zero_point = details["quantization"]
    return (values.astype(np.float32) - zero_point) * scale if scale else values


def list_operators(content: bytes) -> list[str]:
    interpreter = Interpreter(model_content=content)
    return [operator["op_name"] for operator in interpreter._get_ops_details() if operator["op_name"] != "DELEGATE"]


INPUTS = np.random.default_rng(1).uniform(0, 255, (40, 8, 8, 1)).astype(np.float32)


FEW = ("float32", "int8")
SLOW = pytest.mark.slow
FORMATS = [one if one in FEW else pytest.param(one, marks=SLOW) for one in convert.STANDARD]


@pytest.mark.parametrize("package", [keras, pytest.param(keras_3, marks=SLOW)], ids=["keras2", "keras3"])
@pytest.mark.parametrize("activation", UNITS)
@pytest.mark.parametrize("format", FORMATS)
def test_the_file_returns_what_the_original_returns(activation, format, package):
    original = make_original(activation, package)
    imported = importing.import_model(lambda: original)
    activations = list(imported.output_activations.values())
    (outputs,) = run(convert.convert(imported.model, format, INPUTS, activations), input_layer_1=INPUTS).values()
    tolerance = {"float32": 1e-5, "float16": 1e-2}.get(format, 0.1)
    np.testing.assert_allclose(outputs, np.asarray(original(INPUTS)), atol=tolerance)


@pytest.mark.parametrize("is_trained", [False, True], ids=["ptq", "qat"])
@pytest.mark.parametrize("activation", UNITS)
def test_the_last_activation_runs_in_int8_with_its_fixed_range(activation, is_trained):
    seed_everything(0)
    k = keras.layers
    steps = [k.Conv2D(8, 3, activation="relu"), k.Flatten(), k.Dense(UNITS[activation], activation)]
    original = randomize(keras.Sequential([keras.Input((8, 8, 1)), *steps]))
    model = importing.import_model(lambda: original).model
    inputs = INPUTS / 255
    if is_trained:
        wrapped = quantization.wrap(model, quantization.Preservation())
        for _ in range(30):
            wrapped(inputs, training=True)  # learns the ranges
        content = convert.convert_as_trained(wrapped, [activation])
        expected = getattr(tf.nn, activation)(wrapped(inputs))
    else:
        expected = original(inputs)
        content = convert.convert_to_int8(model, inputs, [activation])
    assert list_operators(content) == [
        "CONV_2D", "RESHAPE", "FULLY_CONNECTED", {"softmax": "SOFTMAX", "sigmoid": "LOGISTIC"}[activation]
    ]  # fmt: skip
    (output,) = Interpreter(model_content=content).get_output_details()
    assert (output["dtype"], output["quantization"]) == (np.int8, (1 / 256, -128))
    (found,) = run(content, input_layer_1=inputs).values()
    np.testing.assert_allclose(found, expected, atol=0.05)
    assert len(flatbuffer.read_weights(content)) == 2


@pytest.mark.parametrize("format", FORMATS)
def test_several_inputs_and_outputs_keep_their_names(format):
    original = randomize(NETWORKS["two_ends"](keras_3))
    imported = importing.import_model(lambda: original)
    generator = np.random.default_rng(0)
    inputs = {
        name: generator.normal(size=(20, *shape)).astype(np.float32)
        for name, shape in (("table", (5,)), ("image", (6, 6, 1)))
    }
    activations = list(imported.output_activations.values())
    assert activations == ["softmax", None]
    content = convert.convert(imported.model, format, inputs, activations)
    expected = original([inputs["image"], inputs["table"]])
    found = run(content, **inputs)
    for name, other in zip(("kind", "size"), expected, strict=True):
        tolerance = {"float32": 1e-5, "float16": 1e-2}.get(format, 0.1) * np.abs(other).max()
        np.testing.assert_allclose(found[name], np.asarray(other), atol=tolerance)


@pytest.mark.parametrize("format", FORMATS)
def test_indices_of_an_embedding_stay_integers(format):
    """An int8 input could not tell 1,000 words apart."""
    k, words = keras.layers, np.random.default_rng(0).integers(0, 1000, (20, 9))
    steps = [k.Embedding(1000, 8), k.GlobalAveragePooling1D(), k.Dense(3)]
    original = randomize(keras.Sequential([keras.Input((9,), dtype="int32"), *steps]))
    content = convert.convert(importing.import_model(lambda: original).model, format, words.astype(np.float32))
    (found,) = run(content, input_layer_1=words).values()
    np.testing.assert_allclose(found, original(words), atol=0.05)
    data = datasets.Split(words, np.zeros(20))
    scores = interpreter.score_examples(content, data, lambda labels, outputs: outputs[:, 0])  # noqa: ARG005
    np.testing.assert_allclose(scores, found[:, 0], atol=0.01)
