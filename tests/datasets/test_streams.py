"""tf.data from a function is read into arrays, single elements and batches alike."""

from pathlib import Path

import numpy as np
import pytest
from example_data import make_arrays, make_experiment

from collabopt import datasets
from collabopt.datasets import DatasetError, streams
from collabopt.runtime.tensorflow import tf

MODULE = """
import numpy as np
from collabopt.runtime.tensorflow import tf
x, y = np.arange(60, dtype=np.float32).reshape(-1, 1), np.arange(60) % 3

def load():
    stream = tf.data.Dataset.from_tensor_slices((x, y))
    return {"train": stream.shuffle(60).batch(7), "test": stream.prefetch(2), "classes": ["a", "b", "c"]}
"""


def test_a_function_can_return_tf_data(tmp_path: Path, monkeypatch) -> None:
    name = f"stream_{tmp_path.parent.name}_{tmp_path.name}".replace("-", "_")
    (tmp_path / f"{name}.py").write_text(MODULE)
    monkeypatch.chdir(tmp_path)
    first, again = (datasets.load(make_experiment(dataset={"function": f"{name}:load"})) for _ in range(2))
    assert (first.classes, first.input_shape, len(first.train), len(first.test)) == (("a", "b", "c"), (1,), 54, 60)
    for split in (first.train, first.validation, first.test):
        assert np.array_equal(split.examples[:, 0] % 3, split.labels)
    assert first.fingerprint == again.fingerprint  # in spite of shuffle()


def read(**given: object) -> dict:
    stream = tf.data.Dataset.from_tensor_slices((make_arrays()["x_train"], make_arrays()["y_train"]))
    return streams.read({"train": stream, "test": stream, **given}, "function=f")


def test_elements_may_be_inputs_by_name_or_inputs_alone() -> None:
    x = make_arrays()["x_train"]
    by_name = tf.data.Dataset.from_tensor_slices(({"a": x, "b": 2 * x}, x[:, 0]))
    arrays = read(train=by_name, validation=tf.data.Dataset.from_tensor_slices(x).batch(9))
    assert np.array_equal(arrays["x_train"]["b"], 2 * x) and np.array_equal(arrays["y_train"], x[:, 0])
    assert np.array_equal(arrays["x_validation"], x) and "y_validation" not in arrays


def test_wrong_streams_are_named(monkeypatch) -> None:
    x = make_arrays()["x_train"]
    stream = tf.data.Dataset.from_tensor_slices((x, x))
    ragged = tf.data.Dataset.from_generator(
        lambda: (np.zeros((1, length)) for length in (1, 2)), output_signature=tf.TensorSpec([1, None])
    )
    monkeypatch.setattr(streams, "LARGEST_BYTES", 1000)
    for wrong, message in (
        (stream.repeat(), "train is infinite; expected a finite data set, without repeat()"),
        (stream.take(0), "train has no elements"),
        (tf.data.Dataset.zip((stream, stream, stream)).take(9), "train has elements of 3 parts; expected pairs"),
        (ragged, "train: elements cannot be batched"),
        (x, "train is ndarray; expected a tf.data.Dataset"),
        (stream.repeat(9), "train holds more than 0 GiB"),
        (tf.data.Dataset.from_generator(lambda: iter(int, 1), output_signature=tf.TensorSpec(())), "or has no end"),
    ):
        with pytest.raises(DatasetError) as caught:
            read(train=wrong)
        assert message in str(caught.value)
    with pytest.raises(DatasetError, match="function=f: no test; expected"):
        streams.read({"train": stream.take(3)}, "function=f")
