"""Sparse files are smaller and compute the same as dense ones; where they are not, the reason is said."""

import functools

import numpy as np
import pytest

from collabopt.runtime.tensorflow import keras, seed_everything
from collabopt.tflite import convert, interpreter, sparse


@functools.cache
def make_network(sparsity: float) -> keras.Model:
    """A network with two 1×1 convolutions, of whose weights this fraction is zero."""
    seed_everything(0)
    layers = keras.layers
    inputs = x = keras.Input((8, 8, 3))
    for index, filters in enumerate((64, 128)):
        x = layers.Conv2D(filters, 1, activation="relu", name=f"pw_{index}")(x)
    model = keras.Model(inputs, layers.GlobalAveragePooling2D()(x))
    generator = np.random.default_rng(0)
    for layer in model.layers[1:3]:
        kernel, bias = layer.get_weights()
        layer.set_weights([kernel * (generator.random(kernel.shape) >= sparsity), bias])
    return model


def make_files(sparsity: float) -> tuple[bytes, bytes, np.ndarray]:
    """A dense file, the sparse file, and examples (5, 8, 8, 3)."""
    examples = np.random.default_rng(1).uniform(-1, 1, (5, 8, 8, 3)).astype(np.float32)
    dense = convert.convert(make_network(sparsity), "float32", activations=["softmax"])
    return dense, sparse.convert_to_sparse(make_network(sparsity), dense, examples, ["softmax"]), examples


def test_a_sparse_file_is_smaller_and_computes_the_same():
    dense, content, examples = make_files(0.8)
    assert sparse.count_sparse_tensors(dense) == 0 < sparse.count_sparse_tensors(content)
    assert len(content) < 0.6 * len(dense)
    expected, found = (interpreter.run(interpreter.open_interpreter(file), examples) for file in (dense, content))
    assert np.ptp(expected) > 0
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-7)


def test_batches_of_a_sparse_file_compute_the_same():
    _, content, examples = make_files(0.8)
    one, three = (interpreter.open_interpreter(content, size) for size in (1, 3))
    np.testing.assert_allclose(interpreter.run(three, examples), interpreter.run(one, examples), rtol=1e-5, atol=1e-7)


def test_without_zeros_there_is_no_sparse_file():
    with pytest.raises(convert.ConversionRefused, match="no kernel sparse: too few of its weights are zero"):
        make_files(0.0)


def test_a_sparse_file_that_is_not_smaller_is_refused():
    dense, content, examples = make_files(0.8)
    with pytest.raises(convert.ConversionRefused, match=f"no smaller: {len(content):,} bytes instead of 1,000"):
        sparse.convert_to_sparse(make_network(0.8), dense[:1000], examples, ["softmax"])


def test_a_sparse_file_that_computes_something_else_is_refused():
    other = convert.convert(make_network(0.0), "float32", activations=["softmax"])
    _, _, examples = make_files(0.8)
    with pytest.raises(convert.ConversionRefused, match="computes something else"):
        sparse.convert_to_sparse(make_network(0.8), other, examples, ["softmax"])
