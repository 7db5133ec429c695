"""An int8 file that computes what its model computes has no fault; a changed one is found, with the layer."""

import numpy as np
import pytest

from collabopt.analysis import agreement
from collabopt.datasets import Data, Split
from collabopt.runtime.tensorflow import keras
from collabopt.techniques import activation_ranges, quantization
from collabopt.tflite import convert, flatbuffer, interpreter

layers = keras.layers
SHAPE = (8, 8, 3)


def make_model() -> keras.Model:
    keras.utils.set_random_seed(0)
    inputs = x = keras.Input(SHAPE, name="input")
    for layer in (
        layers.Conv2D(6, 3, padding="same", name="conv_1"),
        layers.BatchNormalization(name="bn_1"),
        layers.ReLU(name="relu_1"),
        layers.Conv2D(6, 3, activation="relu", name="conv_2"),
        layers.Flatten(name="flatten"),
        layers.Dense(4, name="fc"),
    ):
        x = layer(x)
    return keras.Model(inputs, x)


def calibrate(wrapped: keras.Model, split: Split) -> None:
    activation_ranges.calibrate(wrapped, Data("random", ("0", "1"), split, split, split, "", SHAPE, (2,)), 0)


@pytest.fixture(scope="module")
def split() -> Split:
    return Split(np.random.default_rng(0).normal(size=(70, *SHAPE)).astype(np.float32), np.zeros(70, int))


@pytest.fixture(scope="module")
def wrapped(split) -> keras.Model:
    model = quantization.wrap(make_model(), quantization.Preservation())
    calibrate(model, split)
    return model


@pytest.mark.parametrize("activation", [None, "softmax"])
def test_a_converted_model_has_no_fault(wrapped, split, activation):
    tflite = convert.convert_as_trained(wrapped, [activation])
    found = agreement.describe_file(wrapped, tflite, split, activation)
    assert list(found) == agreement.COLUMNS
    assert found["gap_mean_steps"] < 1
    assert found["gap_largest_steps"] >= found["gap_mean_steps"]
    assert found["gap_same_class"] > 0.9
    assert found["int8_faults"] == ""


def test_a_file_with_other_weights_is_found_from_the_layer_on(wrapped, split):
    tflite = bytearray(convert.convert_as_trained(wrapped))
    (kernel,) = [one for one in flatbuffer.list_kernels(tflite) if "conv_2" in one.name + one.output]
    kernel.int8_values[:] = -kernel.int8_values
    found = agreement.describe_file(wrapped, bytes(tflite), split, None)
    assert found["gap_mean_steps"] > agreement.MOST_STEPS
    assert found["int8_faults"].endswith("steps, from conv_2 on")
    rows = agreement.compare_layers(wrapped, bytes(tflite), split).set_index("layer")
    assert rows.loc["relu_1", "snr_db"] > 30 > rows.loc["conv_2", "snr_db"]


def test_layers_of_a_float_model_are_compared_too(split):
    """A batch norm and a ReLU are part of the convolution's operator."""
    model = make_model()
    tflite = convert.convert_to_int8(model, split.examples)
    rows = agreement.compare_layers(model, tflite, split)
    assert list(rows["layer"]) == ["relu_1", "conv_2", "flatten", "fc"]
    assert (rows["snr_db"] > 20).all()
    found = agreement.describe_file(model, tflite, split, None)
    assert (found["gap_mean_steps"], found["int8_faults"]) == (None, "")


def test_operators_in_float32_are_a_fault_unless_they_are_meant(split):
    inputs = keras.Input(SHAPE, name="input")
    x = layers.Activation("softplus", name="softplus")(layers.Conv2D(2, 3, name="conv")(inputs))
    model = keras.Model(inputs, layers.Dense(3, name="fc")(layers.Flatten(name="flatten")(x)))
    preservation = quantization.Preservation(unquantized=("softplus",))
    wrapped = quantization.wrap(model, preservation)
    calibrate(wrapped, split)
    tflite = convert.convert_as_trained(wrapped)
    assert agreement.describe_file(wrapped, tflite, split, None, ["softplus"])["int8_faults"] == ""
    assert "softplus is in float32 (" in agreement.describe_file(wrapped, tflite, split, None)["int8_faults"]


def test_reference_kernels_compute_the_same_up_to_a_step(wrapped, split):
    tflite = convert.convert_as_trained(wrapped)
    opened = interpreter.open_interpreter(tflite, reference=True)
    (output,) = opened.get_output_details()
    (values,) = interpreter.record(opened, split.examples, [output["index"]])
    steps = (values - interpreter.compute_outputs(tflite, split)) / output["quantization"][0]
    assert np.abs(steps).max() <= 2
