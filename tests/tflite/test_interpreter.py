"""Predictions of a file are those of each example alone, with any number of threads and any batch size."""

import numpy as np
import pytest
from example_files import make_file, make_inputs, make_network, run_each

from collabopt.datasets import Split
from collabopt.runtime.tensorflow import keras, tf
from collabopt.tflite import convert
from collabopt.tflite.interpreter import score_examples


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


@pytest.mark.parametrize("format", convert.FORMATS)
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
