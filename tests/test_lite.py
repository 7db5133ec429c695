"""Files of every format: their predictions are those of each example alone, their int8 kernels Keras's."""

import numpy as np
import pytest
from ai_edge_litert.interpreter import Interpreter

from collabopt.datasets import Split
from collabopt.runtime.tensorflow import keras, seed_everything, tf
from collabopt.techniques import layers as model_layers
from collabopt.tflite import convert, flatbuffer
from collabopt.tflite.interpreter import predict_classes

layers = keras.layers


def converted(model: keras.Model) -> bytes:
    calibration = np.random.default_rng(0).uniform(-1, 1, (20, *model.input_shape[1:])).astype(np.float32)
    return convert.convert_to_int8(model, calibration)


def outputs(tflite: bytes, examples: np.ndarray) -> np.ndarray:
    """What a file gives (n, classes), in real numbers, for each example (n, ...) float32 run alone."""
    interpreter = Interpreter(model_content=tflite)
    interpreter.allocate_tensors()
    (entry,), (exit_,) = interpreter.get_input_details(), interpreter.get_output_details()
    given = []
    for example in examples:
        if entry["dtype"] != np.float32:
            (scale, zero_point), limits = entry["quantization"], np.iinfo(entry["dtype"])
            example = np.clip(np.round(example / scale) + zero_point, limits.min, limits.max).astype(entry["dtype"])
        interpreter.set_tensor(entry["index"], example[None])
        interpreter.invoke()
        given.append(interpreter.get_tensor(exit_["index"])[0])
    scale, zero_point = exit_["quantization"]
    return (np.array(given) - float(zero_point)) * (scale or 1.0)


def codes_of(model: keras.Model, tflite: bytes) -> dict[str, np.ndarray]:
    return flatbuffer.read_layer_kernels(
        tflite, {name: kernel.shape for name, kernel in model_layers.read_kernels(model).items()}
    )


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
    for layer in filter(model_layers.get_kind, model.layers):
        kernel, bias = layer.get_weights()
        layer.set_weights([kernel * (draw.random(kernel.shape) > 1 / 3), bias])
    return model, converted(model)


@pytest.fixture(scope="module")
def formats(every_kind) -> dict[str, bytes]:
    """That network in every format."""
    calibration = np.random.default_rng(0).uniform(-1, 1, (20, 8, 8, 3)).astype(np.float32)
    return {format: convert.convert(every_kind[0], format, calibration) for format in convert.FORMATS}


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
    return convert.convert_to_int8(model, np.eye(10, dtype=np.float32))


@pytest.mark.parametrize("layer", ["conv", "dw", "dw_twice", "fc"])
def test_a_code_times_its_scale_is_the_weight_within_half_a_scale(every_kind, layer):
    model, tflite = every_kind
    kernel, codes = model_layers.read_kernels(model)[layer], codes_of(model, tflite)[layer]
    scale = scales(tflite, layer, kernel.size)
    if layer.startswith("dw"):  # a scale an output channel, which is an input channel and a multiple
        scale = scale.reshape(kernel.shape[2:])
    assert codes.dtype == np.int8
    assert codes.shape == kernel.shape
    assert np.max(np.abs(codes * scale - kernel) / scale) <= 0.5 + 1e-3


def test_a_zero_weight_has_the_code_zero(every_kind):
    model, tflite = every_kind
    codes = codes_of(model, tflite)
    for name, kernel in model_layers.read_kernels(model).items():
        assert np.any(kernel == 0)
        assert np.all(codes[name][kernel == 0] == 0), name


def test_layers_whose_names_hold_each_other_are_not_mixed_up(similar_names):
    model, tflite = similar_names
    codes = codes_of(model, tflite)
    for name, kernel in model_layers.read_kernels(model).items():
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
    for name, kernel in model_layers.read_kernels(model).items():
        largest = np.abs(kernel).reshape(-1, kernel.shape[-1]).max(axis=0)
        np.testing.assert_allclose(codes[name] / 127, kernel / largest, atol=0.6 / 127, err_msg=name)


def test_a_layer_that_the_file_does_not_hold_is_named(every_kind):
    model, tflite = every_kind
    shapes = {name: kernel.shape for name, kernel in model_layers.read_kernels(model).items()}
    with pytest.raises(ValueError, match=r"no int8 kernel in the .tflite file for con, fc_2$"):
        flatbuffer.read_layer_kernels(tflite, {"con": shapes["conv"], **shapes, "fc_2": shapes["fc"]})


def test_a_layer_of_another_shape_is_not_taken_for_it(every_kind):
    _, tflite = every_kind
    with pytest.raises(ValueError, match=r"for conv$"):
        flatbuffer.read_layer_kernels(tflite, {"conv": (3, 2, 3, 5)})


def test_a_perfect_model_scores_one(perfect):
    labels = np.random.default_rng(0).permutation(np.arange(200) % 10)
    split = Split(np.eye(10, dtype=np.float32)[labels], labels)
    assert np.mean(predict_classes(perfect, split) == labels) == 1.0


@pytest.mark.parametrize("format", convert.FORMATS)
@pytest.mark.parametrize("number", [1, 7, 17])
def test_predictions_are_those_of_each_example_alone(formats, format, number):
    examples = np.random.default_rng(number).uniform(-1, 1, (number, 8, 8, 3)).astype(np.float32)
    split, alone = Split(examples, np.zeros(number, int)), outputs(formats[format], examples).argmax(axis=1)
    assert number < 7 or len(np.unique(alone)) > 1
    for threads in (1, 2, 3):
        np.testing.assert_array_equal(predict_classes(formats[format], split, threads), alone)


@pytest.mark.parametrize("batch_size", [1, 7, 23, 64])
def test_predictions_do_not_depend_on_the_size_of_a_batch(every_kind, batch_size):
    _, tflite = every_kind
    examples = np.random.default_rng(1).uniform(-1, 1, (23, 8, 8, 3)).astype(np.float32)
    split = Split(examples, np.zeros(23, int))
    np.testing.assert_array_equal(
        predict_classes(tflite, split, 2, batch_size), outputs(tflite, examples).argmax(axis=1)
    )


def test_examples_are_prepared_from_what_is_stored(perfect):
    """Stored as numbers of classes, as paths of pictures are: one value an example."""
    split = Split(np.arange(10), np.arange(10), prepare=lambda stored: tf.one_hot(stored, 10))
    np.testing.assert_array_equal(predict_classes(perfect, split, threads=2, batch_size=3), np.arange(10))


def test_what_fails_in_a_thread_is_raised(perfect):
    split = Split(
        np.array([b"nowhere.jpeg"] * 9), np.arange(9), prepare=lambda paths: tf.map_fn(tf.io.read_file, paths)
    )
    with pytest.raises(tf.errors.NotFoundError, match=r"nowhere\.jpeg"):
        predict_classes(perfect, split, threads=2)


def test_inputs_beyond_the_calibrated_range_are_clipped(perfect):
    split = Split(1000 * np.eye(10, dtype=np.float32), np.arange(10))
    np.testing.assert_array_equal(predict_classes(perfect, split), np.arange(10))


@pytest.mark.parametrize(
    ("format", "dtype"),
    list(zip(convert.FORMATS, (np.float32, np.float32, np.float32, np.int8, np.int16), strict=True)),
)
def test_a_file_takes_and_gives_numbers_of_its_format(formats, format, dtype):
    interpreter = Interpreter(model_content=formats[format])
    (entry,), (exit_,) = interpreter.get_input_details(), interpreter.get_output_details()
    assert (entry["dtype"], exit_["dtype"]) == (dtype, dtype)


def test_the_float32_file_computes_what_keras_does(every_kind, formats):
    inputs = np.random.default_rng(1).uniform(-1, 1, (5, 8, 8, 3)).astype(np.float32)
    found = outputs(formats["float32"], inputs)
    np.testing.assert_allclose(found, every_kind[0](inputs), rtol=1e-4, atol=1e-5)


def test_float16_halves_the_weights_of_float32_and_int8_the_rest(every_kind, formats):
    weights = every_kind[0].count_params()
    saved = len(formats["float32"]) - len(formats["float16"])
    assert saved == pytest.approx(2 * weights, abs=4000)  # what describes the graph takes some KB
    assert len(formats["float16"]) - len(formats["int8"]) == pytest.approx(weights, abs=4000)


def test_int8_and_int16x8_have_the_same_weights(every_kind, formats):
    model, _ = every_kind
    codes, others = codes_of(model, formats["int8"]), codes_of(model, formats["int16x8"])
    for name, kernel in codes.items():
        np.testing.assert_array_equal(others[name], kernel, err_msg=name)


@pytest.mark.parametrize("format", ["float32", "float16"])
def test_a_float_file_has_no_int8_kernels(every_kind, formats, format):
    with pytest.raises(ValueError, match="no int8 kernel"):
        codes_of(every_kind[0], formats[format])


@pytest.mark.parametrize("format", ["int8", "int16x8"])
def test_another_range_moves_codes_and_not_what_is_computed(every_kind, formats, format):
    model, _ = every_kind
    kernels = {name: kernel for name, kernel in model_layers.read_kernels(model).items() if not name.startswith("dw")}
    shared = flatbuffer.rewrite_ranges(formats[format], kernels, of="tensor")
    for name in kernels:
        assert np.ptp(scales(shared, name, kernels[name].size)) < 1e-8
    inputs = np.random.default_rng(1).uniform(-1, 1, (40, 8, 8, 3)).astype(np.float32)
    before, after = outputs(formats[format], inputs), outputs(shared, inputs)
    assert np.abs(after - before).max() < 0.05 * np.abs(before).max()


def test_a_format_there_is_not_is_named(every_kind):
    with pytest.raises(
        ValueError, match=r"format='int4': expected one of float32, float16, dynamic_range, int8, int16x8"
    ):
        convert.convert(every_kind[0], "int4")


@pytest.mark.parametrize("format", ["int8", "int16x8"])
def test_a_format_that_is_calibrated_asks_for_inputs(every_kind, format):
    with pytest.raises(ValueError, match=rf"calibration=None: {format} takes activation ranges"):
        convert.convert(every_kind[0], format)


def test_a_conversion_says_nothing(every_kind, capfd):
    for format in convert.FORMATS:
        convert.convert(every_kind[0], format, np.zeros((1, 8, 8, 3), np.float32))
    assert capfd.readouterr() == ("", "")
