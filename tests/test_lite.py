"""Int8 files: their kernels are Keras's, their predictions those of each example alone; and what files weigh."""

from pathlib import Path

import numpy as np
import pytest
from ai_edge_litert.interpreter import Interpreter

from collabopt import audit, lite, sizes
from collabopt.backend import keras, seed_everything
from collabopt.datasets import Split

layers = keras.layers


def converted(model: keras.Model) -> bytes:
    calibration = np.random.default_rng(0).uniform(-1, 1, (20, *model.input_shape[1:])).astype(np.float32)
    return lite.quantized(model, calibration)


def codes_of(model: keras.Model, tflite: bytes) -> dict[str, np.ndarray]:
    return lite.kernels(tflite, {name: kernel.shape for name, kernel in audit.kernels(model).items()})


def scales(tflite: bytes, layer: str, size: int) -> np.ndarray:
    """The scales (channels,) of the kernel of a layer, found by LiteRT and not by the library."""
    (found,) = (
        tensor["quantization_parameters"]["scales"]
        for tensor in Interpreter(model_content=tflite).get_tensor_details()
        if layer in tensor["name"].split("/") and tensor["dtype"] == np.int8 and np.prod(tensor["shape"]) == size
    )
    return found


@pytest.fixture(scope="module")
def every_kind() -> tuple[keras.Model, bytes]:
    """A network of every kind of kernel, without batch norm, in which a third of the weights is zero; its int8 file."""
    seed_everything(0)
    inputs = x = keras.Input((8, 8, 3), name="input")
    for convolution in (
        layers.Conv2D(4, (3, 2), padding="same", activation="relu", name="conv"),
        layers.DepthwiseConv2D((2, 3), padding="same", activation="relu", name="dw"),
        layers.DepthwiseConv2D(3, depth_multiplier=2, activation="relu", name="dw_twice"),
    ):
        x = convolution(x)
    model = keras.Model(inputs, layers.Dense(5, name="fc")(layers.Flatten(name="flatten")(x)))
    draw = np.random.default_rng(0)
    for layer in filter(audit.kind, model.layers):
        kernel, bias = layer.get_weights()
        layer.set_weights([kernel * (draw.random(kernel.shape) > 1 / 3), bias])
    return model, converted(model)


@pytest.fixture(scope="module")
def similar_names() -> tuple[keras.Model, bytes]:
    """Kernels of one shape in layers whose names hold each other's, one of them the model's; its int8 file."""
    seed_everything(0)
    inputs = x = keras.Input((4, 4, 4), name="input")
    for name in ("pw_11", "pw_1", "pw", "conv", "conv_1"):
        x = layers.Conv2D(4, 1, use_bias=False, name=name)(x)
        x = layers.ReLU(name=f"{name}_relu")(layers.BatchNormalization(name=f"{name}_bn")(x))
    outputs = layers.Dense(1, name="conv_2")(layers.Flatten(name="flatten")(x))
    model = keras.Model(inputs, outputs, name="conv")
    return model, converted(model)


@pytest.fixture(scope="module")
def perfect() -> bytes:
    """An int8 file that gives a one-hot input its own class of ten."""
    inputs = keras.Input((10,), name="input")
    model = keras.Model(inputs, layers.Dense(10, use_bias=False, name="fc")(inputs))
    model.set_weights([5 * np.eye(10)])
    return lite.quantized(model, np.eye(10, dtype=np.float32))


@pytest.mark.parametrize("layer", ["conv", "dw", "dw_twice", "fc"])
def test_a_code_times_its_scale_is_the_weight_within_half_a_scale(every_kind, layer):
    model, tflite = every_kind
    kernel, codes = audit.kernels(model)[layer], codes_of(model, tflite)[layer]
    scale = scales(tflite, layer, kernel.size)
    if layer.startswith("dw"):  # a scale an output channel, which is an input channel and a multiple
        scale = scale.reshape(kernel.shape[2:])
    assert codes.dtype == np.int8
    assert codes.shape == kernel.shape
    assert np.max(np.abs(codes * scale - kernel) / scale) <= 0.5 + 1e-3


def test_a_zero_weight_has_the_code_zero(every_kind):
    model, tflite = every_kind
    codes = codes_of(model, tflite)
    for name, kernel in audit.kernels(model).items():
        assert np.any(kernel == 0)
        assert np.all(codes[name][kernel == 0] == 0), name


def test_layers_whose_names_hold_each_other_are_not_mixed_up(similar_names):
    model, tflite = similar_names
    codes = codes_of(model, tflite)
    for name, kernel in audit.kernels(model).items():
        # The converter folds batch norm into the kernel, here one factor for all channels; each has its own scale.
        largest = np.abs(kernel).reshape(-1, kernel.shape[-1]).max(axis=0)
        np.testing.assert_allclose(codes[name] / 127, kernel / largest, atol=0.6 / 127, err_msg=name)


def test_a_kernel_of_one_output_unit_is_found(similar_names):
    model, tflite = similar_names
    assert codes_of(model, tflite)["conv_2"].shape == (64, 1)


def test_kernels_that_lost_their_names_in_the_file_are_found():
    seed_everything(0)
    inputs = x = keras.Input((4, 4, 4), name="input")
    for name, groups in (("grouped", 2), ("pw", 1), ("Conv2D", 1), ("twin", 1)):
        x = layers.Conv2D(4, 1, groups=groups, activation="relu", name=name)(x)
    model = keras.Model(inputs, layers.Dense(3, name="fc")(layers.Flatten(name="flatten")(x)))
    model.get_layer("twin").set_weights(model.get_layer("pw").get_weights())
    codes = codes_of(model, converted(model))
    for name, kernel in audit.kernels(model).items():
        largest = np.abs(kernel).reshape(-1, kernel.shape[-1]).max(axis=0)
        np.testing.assert_allclose(codes[name] / 127, kernel / largest, atol=0.6 / 127, err_msg=name)


def test_a_layer_that_the_file_does_not_hold_is_named(every_kind):
    model, tflite = every_kind
    shapes = {name: kernel.shape for name, kernel in audit.kernels(model).items()}
    with pytest.raises(ValueError, match=r"no int8 kernel in the .tflite file for con, fc_2$"):
        lite.kernels(tflite, {"con": shapes["conv"], **shapes, "fc_2": shapes["fc"]})


def test_a_layer_of_another_shape_is_not_taken_for_it(every_kind):
    _, tflite = every_kind
    with pytest.raises(ValueError, match=r"for conv$"):
        lite.kernels(tflite, {"conv": (3, 2, 3, 5)})


def test_a_perfect_model_scores_one(perfect):
    labels = np.random.default_rng(0).permutation(np.arange(200) % 10)
    split = Split(np.eye(10, dtype=np.float32)[labels], labels)
    assert np.mean(lite.predictions(perfect, split) == labels) == 1.0


@pytest.mark.parametrize("batch_size", [1, 7, 23, 64])
def test_predictions_do_not_depend_on_the_size_of_a_batch(every_kind, batch_size):
    _, tflite = every_kind
    examples = np.random.default_rng(1).uniform(-1, 1, (23, 8, 8, 3)).astype(np.float32)
    split = Split(examples, np.zeros(23, int))
    alone = np.concatenate([lite.predictions(tflite, split.take(np.array([index]))) for index in range(23)])
    assert len(np.unique(alone)) > 1
    np.testing.assert_array_equal(lite.predictions(tflite, split, batch_size=batch_size), alone)


def test_predictions_do_not_depend_on_threads(every_kind):
    _, tflite = every_kind
    split = Split(np.random.default_rng(1).uniform(-1, 1, (23, 8, 8, 3)).astype(np.float32), np.zeros(23, int))
    np.testing.assert_array_equal(lite.predictions(tflite, split, threads=2), lite.predictions(tflite, split))


def test_inputs_beyond_the_calibrated_range_are_clipped(perfect):
    split = Split(1000 * np.eye(10, dtype=np.float32), np.arange(10))
    np.testing.assert_array_equal(lite.predictions(perfect, split), np.arange(10))


def test_the_int8_file_takes_and_gives_int8(every_kind):
    _, tflite = every_kind
    interpreter = Interpreter(model_content=tflite)
    (entry,), (exit_,) = interpreter.get_input_details(), interpreter.get_output_details()
    assert (entry["dtype"], exit_["dtype"]) == (np.int8, np.int8)


@pytest.mark.parametrize("compressed", [sizes.gzipped, sizes.zipped])
def test_what_cannot_be_compressed_grows_and_repeats_nearly_vanish(tmp_path: Path, compressed):
    noise, repeats = tmp_path / "noise.tflite", tmp_path / "repeats.tflite"
    noise.write_bytes(np.random.default_rng(0).bytes(100_000))
    repeats.write_bytes(b"\1\2\3\4" * 25_000)
    assert sizes.raw(noise) == sizes.raw(repeats) == 100_000
    assert 100_000 < compressed(noise) < 101_000
    assert compressed(repeats) < 1000


@pytest.mark.parametrize("size", [sizes.raw, sizes.gzipped, sizes.zipped])
def test_a_size_depends_on_content_alone(tmp_path: Path, size):
    content = np.random.default_rng(0).integers(0, 9, 5000).astype(np.int8).tobytes()
    first, second = tmp_path / "a.tflite", tmp_path / "another_longer_name.tflite"
    first.write_bytes(content)
    second.write_bytes(content)
    assert size(first) == size(first) == size(second)
