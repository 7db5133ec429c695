"""The int8 weights of a file are complete, and a layer's int8 kernel is the kernel in Keras."""

import numpy as np
import pytest
from ai_edge_litert.interpreter import Interpreter
from example_files import make_file, make_inputs, make_network, run_each

from collabopt.runtime.tensorflow import keras, seed_everything
from collabopt.techniques import layers as model_layers
from collabopt.tflite import convert, flatbuffer

layers = keras.layers


def convert_calibrated(model: keras.Model, format: str = "int8") -> bytes:
    return convert.convert(model, format, make_inputs(model, 20))


def read_int8_kernels(model: keras.Model, tflite: bytes) -> dict[str, np.ndarray]:
    shapes = {name: kernel.shape for name, kernel in model_layers.read_kernels(model).items()}
    return flatbuffer.read_layer_kernels(tflite, shapes)


def read_scales(tflite: bytes, layer: str, size: int) -> np.ndarray:
    """Read the scales (channels,) of a layer's kernel with LiteRT instead of the library."""
    (scales,) = (
        tensor["quantization_parameters"]["scales"]
        for tensor in Interpreter(model_content=tflite).get_tensor_details()
        if layer in tensor["name"].split("/") and tensor["dtype"] == np.int8 and np.prod(tensor["shape"]) == size
    )
    return scales


def assert_same_kernels(model: keras.Model, int8_kernels: dict[str, np.ndarray]) -> None:
    """Assert that int8 kernels are those of a model up to one factor per output channel and rounding."""
    for name, kernel in model_layers.read_kernels(model).items():
        largest = np.abs(kernel).reshape(-1, kernel.shape[-1]).max(axis=0)
        np.testing.assert_allclose(int8_kernels[name] / 127, kernel / largest, atol=0.6 / 127, err_msg=name)


@pytest.fixture(scope="module")
def similar_names() -> tuple[keras.Model, bytes]:
    """Layers with kernels of one shape, whose names contain each other's and the model's; and the int8 file."""
    seed_everything(0)
    inputs = x = keras.Input((4, 4, 4), name="input")
    for name in ("pw_11", "pw_1", "pw", "conv", "conv_1"):
        x = layers.Conv2D(4, 1, use_bias=False, name=name)(x)
        x = layers.ReLU(name=f"{name}_relu")(layers.BatchNormalization(name=f"{name}_bn")(x))
    outputs = layers.Dense(1, name="conv_2")(layers.Flatten(name="flatten")(x))
    model = keras.Model(inputs, outputs, name="conv")
    return model, convert_calibrated(model)


@pytest.mark.parametrize("layer", ["conv", "dw", "dw_twice", "fc"])
def test_an_int8_value_times_its_scale_is_the_weight_within_half_a_scale(layer):
    model, tflite = make_network(), make_file("int8")
    kernel, int8_values = model_layers.read_kernels(model)[layer], read_int8_kernels(model, tflite)[layer]
    scale = read_scales(tflite, layer, kernel.size)
    if layer.startswith("dw"):  # one scale per output channel, that is, per input channel and multiple
        scale = scale.reshape(kernel.shape[2:])
    assert int8_values.dtype == np.int8
    assert int8_values.shape == kernel.shape
    assert np.max(np.abs(int8_values * scale - kernel) / scale) <= 0.5 + 1e-3


def test_a_zero_weight_is_zero_in_int8():
    int8_kernels = read_int8_kernels(make_network(), make_file("int8"))
    for name, kernel in model_layers.read_kernels(make_network()).items():
        assert np.any(kernel == 0)
        assert np.all(int8_kernels[name][kernel == 0] == 0), name


def test_layers_whose_names_contain_each_other_are_told_apart(similar_names):
    # The converter folds batch norm into the kernel, here one factor for all channels.
    assert_same_kernels(similar_names[0], read_int8_kernels(*similar_names))


def test_a_kernel_of_one_output_unit_is_found(similar_names):
    assert read_int8_kernels(*similar_names)["conv_2"].shape == (64, 1)


def test_kernels_without_a_name_in_the_file_are_found():
    seed_everything(0)
    inputs = x = keras.Input((4, 4, 4), name="input")
    for name, groups in (("grouped", 2), ("pw", 1), ("Conv2D", 1), ("twin", 1)):
        x = layers.Conv2D(4, 1, groups=groups, activation="relu", name=name)(x)
    model = keras.Model(inputs, layers.Dense(3, name="fc")(layers.Flatten(name="flatten")(x)))
    model.get_layer("twin").set_weights(model.get_layer("pw").get_weights())
    assert_same_kernels(model, read_int8_kernels(model, convert_calibrated(model)))


def test_missing_layers_are_an_error_that_names_them():
    shapes = {name: kernel.shape for name, kernel in model_layers.read_kernels(make_network()).items()}
    with pytest.raises(ValueError, match=r"no int8 kernel in the .tflite file for con, fc_2$"):
        flatbuffer.read_layer_kernels(make_file("int8"), {"con": shapes["conv"], **shapes, "fc_2": shapes["fc"]})


def test_a_layer_of_another_shape_is_not_found():
    with pytest.raises(ValueError, match=r"for conv$"):
        flatbuffer.read_layer_kernels(make_file("int8"), {"conv": (3, 2, 3, 5)})


@pytest.mark.parametrize("format", ["float32", "float16"])
def test_a_float_file_has_no_int8_kernels(format):
    with pytest.raises(ValueError, match="no int8 kernel"):
        read_int8_kernels(make_network(), make_file(format))


@pytest.mark.parametrize("format", ["int8", "int16x8"])
def test_ranges_per_tensor_change_int8_values_and_keep_the_outputs(format):
    kernels = model_layers.read_kernels(make_network())
    kernels = {name: kernel for name, kernel in kernels.items() if not name.startswith("dw")}
    per_tensor = flatbuffer.rewrite_ranges(make_file(format), kernels, of="tensor")
    for name in kernels:
        assert np.ptp(read_scales(per_tensor, name, kernels[name].size)) < 1e-8
    inputs = make_inputs(make_network(), 40, seed=1)
    before, after = run_each(make_file(format), inputs), run_each(per_tensor, inputs)
    assert np.abs(after - before).max() < 0.05 * np.abs(before).max()


@pytest.mark.parametrize("format", ["int8", "int16x8"])
def test_the_weights_of_a_file_are_its_kernels(small_cnn, format):
    model = small_cnn()
    tflite = convert_calibrated(model, format)
    kernels = [np.sort(kernel, axis=None).tolist() for kernel in read_int8_kernels(model, tflite).values()]
    weights = [np.sort(values).tolist() for values in flatbuffer.read_weights(tflite)]
    assert sorted(weights) == sorted(kernels)


@pytest.mark.parametrize("format", ["float32", "float16"])
def test_a_float_file_has_no_int8_weights(small_cnn, format):
    assert flatbuffer.read_weights(convert_calibrated(small_cnn(), format)) == []


def test_equal_kernels_stored_as_one_tensor_count_once():
    inputs = keras.Input((6,), name="input")
    model = keras.Model(inputs, layers.Dense(6, name="two")(layers.Dense(6, name="one")(inputs)))
    model.get_layer("two").set_weights(model.get_layer("one").get_weights())
    tflite = convert_calibrated(model, "int8")
    assert len(list(flatbuffer.list_kernels(tflite))) == 2
    assert [values.size for values in flatbuffer.read_weights(tflite)] == [36]


def test_dynamic_range_keeps_small_kernels_in_float32():
    """The converter's limit is 1,024 elements."""
    inputs = keras.Input((32,), name="input")
    model = keras.Model(inputs, layers.Dense(2, name="small")(layers.Dense(64, name="large")(inputs)))
    assert [values.size for values in flatbuffer.read_weights(convert.convert(model, "dynamic_range"))] == [32 * 64]
