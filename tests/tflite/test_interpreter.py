"""Predictions of a file are those of each example alone, with any number of threads and any batch size."""

import numpy as np
import pytest
from example_files import make_file, make_inputs, make_network, run_each

from collabopt.datasets import Split
from collabopt.runtime.tensorflow import keras, tf
from collabopt.tflite import convert, interpreter, vela
from collabopt.tflite.interpreter import score_examples

layers = keras.layers


def predict_classes(tflite: bytes, split: Split, *settings: int) -> np.ndarray:
    """The class of each example (n,)."""
    return score_examples(tflite, split, lambda _, outputs: outputs.argmax(axis=-1), *settings)


@pytest.fixture(scope="module")
def perfect() -> bytes:
    """An int8 file that predicts the class of a one-hot input, one of ten."""
    inputs = keras.Input((10,), name="input")
    model = keras.Model(inputs, keras.layers.Dense(10, use_bias=False, name="fc")(inputs))
    model.set_weights([5 * np.eye(10)])
    return convert.convert_to_int8(model, np.eye(10, dtype=np.float32))


def test_a_perfect_model_scores_one(perfect):
    labels = np.random.default_rng(0).permutation(np.arange(200) % 10)
    split = Split(np.eye(10, dtype=np.float32)[labels], labels)
    assert np.mean(predict_classes(perfect, split) == labels) == 1.0


@pytest.mark.parametrize("format", convert.STANDARD)
@pytest.mark.parametrize("number", [1, 7, 17])
def test_predictions_are_those_of_each_example_alone(format, number):
    examples = make_inputs(make_network(), number, seed=number)
    split, expected = Split(examples, np.zeros(number, int)), run_each(make_file(format), examples).argmax(axis=1)
    assert number < 7 or len(np.unique(expected)) > 1
    for threads in (1, 2, 3):
        np.testing.assert_array_equal(predict_classes(make_file(format), split, threads), expected)


@pytest.mark.parametrize("batch_size", [1, 7, 23, 64])
def test_predictions_do_not_depend_on_the_batch_size(batch_size):
    examples = make_inputs(make_network(), 23, seed=1)
    split, expected = Split(examples, np.zeros(23, int)), run_each(make_file("int8"), examples).argmax(axis=1)
    np.testing.assert_array_equal(predict_classes(make_file("int8"), split, 2, batch_size), expected)


def test_stored_examples_are_prepared(perfect):
    """Stored as one value per example, as paths of images are."""
    split = Split(np.arange(10), np.arange(10), prepare=lambda stored: tf.one_hot(stored, 10))
    np.testing.assert_array_equal(predict_classes(perfect, split, 2, 3), np.arange(10))


def test_an_error_in_a_thread_is_raised(perfect):
    split = Split(
        np.array([b"nowhere.jpeg"] * 9), np.arange(9), prepare=lambda paths: tf.map_fn(tf.io.read_file, paths)
    )
    with pytest.raises(tf.errors.NotFoundError, match=r"nowhere\.jpeg"):
        predict_classes(perfect, split, 2)


def test_inputs_beyond_the_calibrated_range_are_clipped(perfect):
    split = Split(1000 * np.eye(10, dtype=np.float32), np.arange(10))
    np.testing.assert_array_equal(predict_classes(perfect, split), np.arange(10))


def stack(input_shape: tuple[int, ...], *middle: keras.layers.Layer) -> keras.Model:
    """A classifier of four classes."""
    inputs = x = keras.Input(input_shape, name="input")
    for layer in (*middle, layers.Flatten(name="flatten"), layers.Dense(4, name="fc")):
        x = layer(x)
    return keras.Model(inputs, x)


WITH_SHAPES = {
    "dilated": lambda: stack((12, 12, 3), layers.Conv2D(4, 3, dilation_rate=2, padding="same", name="conv")),
    "dense on two axes": lambda: stack((6, 5), layers.Dense(7, activation="relu", name="dense")),
    "transposed": lambda: stack(
        (5, 5, 3), layers.Conv2DTranspose(4, 3, strides=2, name="up"), layers.BatchNormalization(name="norm")
    ),
    "transposed axes": lambda: stack((4, 6, 3), layers.Permute((2, 1, 3), name="permute")),
    "resized": lambda: stack((4, 4, 3), layers.UpSampling2D(2, name="up"), layers.Conv2D(2, 1, name="conv")),
}
"""Networks whose files with a dynamic batch compute shapes at run time, or stay in float32 in parts."""


@pytest.mark.parametrize("format", ["float32", "int8"])
@pytest.mark.parametrize("name", WITH_SHAPES)
def test_a_file_of_one_example_runs_in_batches_with_the_same_outputs(name, format):
    model = WITH_SHAPES[name]()
    examples = make_inputs(model, 19, seed=2)
    tflite = convert.convert(model, format, examples)
    (details,) = interpreter.open_interpreter(tflite).get_input_details()
    assert list(details["shape_signature"]) == [1, *model.input_shape[1:]]
    assert interpreter._make_batched(tflite, 16, examples)[1] == 16  # not one by one
    outputs = score_examples(tflite, Split(examples, np.zeros(19)), lambda _, outputs: outputs[:, 0])
    np.testing.assert_allclose(outputs, run_each(tflite, examples)[:, 0], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", WITH_SHAPES)
def test_an_npu_runs_the_whole_int8_file(name):
    model = WITH_SHAPES[name]()
    found = vela.estimate(convert.convert_to_int8(model, make_inputs(model, 4)), "ethos-u55-128")
    assert (found["npu_operators"], found["npu_note"]) == (1, "")


def test_a_file_that_mixes_examples_of_a_batch_runs_one_by_one():
    """A normalization over the batch would differ."""
    model = stack((6,), layers.Lambda(lambda x: x - tf.reduce_mean(x, axis=0), name="center"))
    examples = make_inputs(model, 5)
    tflite = convert.convert(model, "float32")
    assert interpreter._make_batched(tflite, 16, examples) == (tflite, 1)
    scores = score_examples(tflite, Split(examples, np.zeros(5)), lambda _, outputs: outputs.sum(axis=-1))
    np.testing.assert_allclose(scores, run_each(tflite, examples).sum(axis=-1), rtol=1e-5)


def test_several_inputs_are_given_by_name():
    inputs = [keras.Input((3,), name="table"), keras.Input((2, 2, 1), name="image")]
    x = layers.Concatenate(name="both")([inputs[0], layers.Flatten(name="flatten")(inputs[1])])
    model = keras.Model(inputs, layers.Dense(4, name="fc")(x))
    generator = np.random.default_rng(0)
    examples = {
        name: generator.uniform(-1, 1, (7, *shape)).astype(np.float32)
        for name, shape in {"image": (2, 2, 1), "table": (3,)}.items()
    }
    expected = model(examples).numpy()[:, 0]
    for format, tolerance in (("float32", 1e-5), ("int8", 0.05)):
        tflite = convert.convert(model, format, examples)
        scores = score_examples(tflite, Split(examples, np.zeros(7)), lambda _, outputs: outputs[:, 0])
        np.testing.assert_allclose(scores, expected, atol=tolerance)
