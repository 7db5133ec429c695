"""Weights as arrays: a round trip, and every mistake is named."""

import numpy as np
import pytest
from named_models import SIZES, build_named

from collabopt import models
from collabopt.models import weights
from collabopt.runtime.tensorflow import keras


def test_weights_round_trip(tmp_path):
    trained, other = build_named("digits_cnn", 1), build_named("digits_cnn", 2)
    np.savez(tmp_path / "weights.npz", **weights.get_arrays(trained))
    weights.assign(other, weights.read(tmp_path / "weights.npz"))
    arrays = weights.get_arrays(trained)
    assert {"conv_1/kernel", "dw_1/depthwise_kernel", "pw_2_bn/moving_variance", "fc/bias"} <= set(arrays)
    assert sum(array.size for array in arrays.values()) == SIZES["digits_cnn"][2]
    assert all(np.array_equal(array, weights.get_arrays(other)[key]) for key, array in arrays.items())
    arrays["fc/bias"][:] = 7  # arrays are copies, so that the model keeps its weights
    assert not weights.get_variables(trained)["fc/bias"].numpy().any()


def test_equal_layers_inside_a_layer_have_keys_of_their_own():
    inputs = keras.Input((5, 3))
    cells = [keras.layers.LSTMCell(4), keras.layers.LSTMCell(4)]
    model = keras.Model(inputs, keras.layers.RNN(cells, name="rnn")(inputs))
    arrays = weights.get_arrays(model)
    assert len(arrays) == len(model.weights) == 6
    assert all(np.array_equal(array, variable) for array, variable in zip(arrays.values(), model.weights, strict=True))


def test_weights_that_do_not_fit_change_nothing():
    model = build_named("mnist_cnn")
    before, arrays = weights.get_arrays(model), {key: array + 1 for key, array in weights.get_arrays(model).items()}
    del arrays["fc/bias"]
    arrays["conv_1/kernel"] = arrays["conv_1/kernel"][..., :-1]
    arrays["conv_1/bias"] = np.array(["x"] * 12)
    arrays["conv_2/kernel"] = np.zeros(3)
    with pytest.raises(models.ModelError) as caught:
        weights.assign(model, arrays)
    assert str(caught.value).splitlines() == [
        "weights do not fit model=mnist_cnn:",
        "conv_1/bias: dtype=<U1: expected real numbers",
        "conv_1/kernel: shape=(3, 3, 1, 11): expected (3, 3, 1, 12)",
        "conv_2/kernel: unexpected; the model has no such variable",
        "fc/bias: missing; expected an array of shape (10,)",
    ]
    assert all(np.array_equal(array, weights.get_arrays(model)[key]) for key, array in before.items())


@pytest.mark.parametrize("content", [None, b"", b"not an npz", "npy", "pickled"])
def test_files_of_weights_that_cannot_be_read_are_named(tmp_path, content):
    path = tmp_path / "weights.npz"
    if content == "npy":
        with path.open("wb") as file:
            np.save(file, np.zeros(3))
    elif content == "pickled":
        np.savez(path, a=np.array([{}], dtype=object))
    elif content is not None:
        path.write_bytes(content)
    with pytest.raises(models.ModelError, match=r"path=.*weights\.npz: (no such file|not an \.npz)"):
        weights.read(path)
