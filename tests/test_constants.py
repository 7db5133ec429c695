"""The int8 weights of a file: all of them, each once, and none where there are none."""

import numpy as np
import pytest

from collabopt.runtime.tensorflow import keras
from collabopt.techniques import layers
from collabopt.tflite import convert, flatbuffer


def calibrated(model: keras.Model, format: str) -> bytes:
    draw = np.random.default_rng(0)
    return convert.convert(model, format, draw.uniform(-1, 1, (8, *model.input_shape[1:])).astype(np.float32))


@pytest.mark.parametrize("format", ["int8", "int16x8"])
def test_the_weights_of_a_file_are_its_kernels(small_cnn, format):
    model = small_cnn()
    tflite = calibrated(model, format)
    shapes = {name: kernel.shape for name, kernel in layers.read_kernels(model).items()}
    kernels = [
        codes.ravel().tolist()
        for codes in map(np.sort, map(np.ravel, flatbuffer.read_layer_kernels(tflite, shapes).values()))
    ]
    weights = [np.sort(codes).tolist() for codes in flatbuffer.read_weights(tflite)]
    assert sorted(weights) == sorted(kernels)


@pytest.mark.parametrize("format", ["float32", "float16"])
def test_a_float_file_has_none(small_cnn, format):
    assert flatbuffer.read_weights(calibrated(small_cnn(), format)) == []


def test_equal_kernels_that_are_one_tensor_of_the_file_count_once():
    inputs = keras.Input((6,), name="input")
    model = keras.Model(inputs, keras.layers.Dense(6, name="two")(keras.layers.Dense(6, name="one")(inputs)))
    model.get_layer("two").set_weights(model.get_layer("one").get_weights())
    tflite = calibrated(model, "int8")
    assert len(list(flatbuffer.list_kernels(tflite))) == 2
    assert [codes.size for codes in flatbuffer.read_weights(tflite)] == [36]


def test_dynamic_range_leaves_small_kernels_as_floats():
    """The converter's limit is 1,024 elements."""
    inputs = keras.Input((32,), name="input")
    model = keras.Model(inputs, keras.layers.Dense(2, name="small")(keras.layers.Dense(64, name="large")(inputs)))
    assert [codes.size for codes in flatbuffer.read_weights(convert.convert(model, "dynamic_range"))] == [32 * 64]
