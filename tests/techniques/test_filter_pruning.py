"""Filter pruning: removed channels change no other output, and the smaller network is rebuilt from its arrays."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from collabopt.models import weights
from collabopt.runtime.tensorflow import keras, seed_everything
from collabopt.techniques import channels, filter_pruning, layers

L = keras.layers
STEPS = ("conv", "depthwise", "add", "concatenate", "norm", "prelu", "pool", "gate", "transposed", "twice", "reshape")
HEADS = ("flatten", "average", "reshape", "softmax")


def build(steps, head: str, seed: int = 0) -> keras.Model:
    """A network of random layers on 6×6 pixels, with random weights."""
    seed_everything(seed)
    inputs = keras.Input((6, 6, 2))
    x = L.Conv2D(6, 3, padding="same", activation="relu")(inputs)
    for step in steps:
        size = x.shape[-1]
        match step:
            case "conv":
                x = L.Conv2D(5, 3, padding="same", activation="relu")(x)
            case "depthwise":
                x = L.DepthwiseConv2D(3, padding="same", depth_multiplier=2)(x)
            case "add":
                x = L.Add()([x, L.Conv2D(size, 1)(x), L.Conv2D(size, 3, padding="same")(x)])
            case "concatenate":
                x = L.Concatenate()([x, L.Conv2D(3, 1, activation="tanh")(x)])
            case "norm":
                x = L.ReLU()(L.BatchNormalization()(x))
            case "prelu":
                x = L.PReLU(shared_axes=[1, 2])(x)
            case "pool":
                x = L.MaxPooling2D(2, 1, padding="same")(x)
            case "gate":
                squeezed = L.Dense(3, activation="relu")(L.GlobalAveragePooling2D(keepdims=True)(x))
                x = L.Multiply()([x, L.Dense(size, activation="sigmoid")(squeezed)])
            case "transposed":
                x = L.Conv2DTranspose(4, 3, padding="same", activation="relu")(x)
            case "twice":
                shared = L.Conv2D(size, 1, activation="relu")
                x = shared(shared(x))
            case "reshape":  # as imported one-dimensional layers
                x = L.Reshape((1, 36, size))(x)
                x = L.Reshape((6, 6, 4))(L.Conv2D(4, (1, 3), padding="same")(x))
    match head:
        case "average":
            x = L.GlobalAveragePooling2D()(x)
        case "reshape":
            x = L.Reshape((36 * x.shape[-1],))(x)
        case "softmax":  # mixes channels, so it is not followed
            x = L.Flatten()(L.Softmax()(x))
        case _:
            x = L.Flatten()(x)
    x = L.Dense(7, activation="relu")(x)
    model = keras.Model(inputs, L.Dense(4)(x))
    generator = np.random.default_rng(seed)
    arrays = [generator.uniform(0.1, 1, array.shape) for array in model.get_weights()]
    signs = [generator.choice((-1, 1), array.shape) if array.ndim > 1 else 1 for array in arrays]
    model.set_weights([array * sign for array, sign in zip(arrays, signs, strict=True)])
    return model


def zero(model: keras.Model, followed, removed) -> None:
    """Let removed channels contribute nothing, and nothing else read them: zero what makes them."""
    for layer in model.layers:
        if layer.name not in followed.outputs:
            continue
        gone = np.isin(followed.find(followed.outputs[layer.name]), list(removed))
        arrays = layer.get_weights()
        if layers.get_kind(layer) is None:  # batch norm and PReLU: what they add
            if isinstance(layer, L.BatchNormalization):
                for array in arrays[:2]:
                    array[gone] = 0
        elif layers.get_kind(layer) == "depthwise":
            arrays[1][gone] = 0
        else:
            kernel = np.moveaxis(arrays[0], layers.get_channel_axis(layer), -1)  # a view
            kernel[..., gone] = 0
            arrays[1][gone] = 0
        layer.set_weights(arrays)


@settings(max_examples=10, deadline=None)
@given(
    st.lists(st.sampled_from(STEPS), max_size=5),
    st.sampled_from(HEADS),
    st.floats(0.1, 0.95),
    st.integers(0, 5),
)
def test_removed_channels_change_no_other_output(steps, head, sparsity, seed):
    model = build(steps, head, seed)
    filters = filter_pruning.find_filters(model)
    removed = filter_pruning.choose(filters, sparsity)
    before = model.count_params()
    zero(model, filters.channels, removed)
    smaller = filter_pruning.remove(model, filters.channels, removed)
    inputs = np.random.default_rng(seed).normal(size=(3, 6, 6, 2)).astype(np.float32)
    expected = model(inputs).numpy()
    np.testing.assert_allclose(smaller(inputs).numpy(), expected, rtol=1e-4, atol=1e-4 * np.abs(expected).max())
    assert (smaller.count_params() < before) == bool(removed)
    assert smaller.output_shape == model.output_shape
    assert [layer.name for layer in smaller.layers if layer.weights] == [
        one.name for one in model.layers if one.weights
    ]
    restored = filter_pruning.restore(model, weights.get_arrays(smaller))
    np.testing.assert_array_equal(restored(inputs).numpy(), smaller(inputs).numpy())
    for layer, kernel in layers.read_kernels(smaller).items():
        size = layers.read_kernels(model)[layer].shape[-1]
        assert kernel.shape[-1] >= min(size, 2, max(1, size // 10))


def test_the_wanted_share_of_filters_is_removed_where_layers_keep_enough():
    model = build(("conv", "norm", "conv"), "flatten")
    filters = filter_pruning.find_filters(model)
    assert filters.count == 6 + 5 + 5 + 7
    removed = filter_pruning.choose(filters, 0.5)
    assert len(removed) == round(0.5 * filters.count)
    assert filter_pruning.choose(filters, 0.0) == set()


def test_tied_filters_are_removed_together():
    inputs = keras.Input((4, 4, 3))
    one = L.Conv2D(6, 3, padding="same", name="one")(inputs)
    two = L.Conv2D(6, 1, name="two")(inputs)
    model = keras.Model(inputs, L.Dense(2)(L.GlobalAveragePooling2D()(L.Add()([one, two]))))
    filters = filter_pruning.find_filters(model)
    np.testing.assert_array_equal(filters.by_layer["one"], filters.by_layer["two"])


def test_the_smallest_filters_of_the_network_go_first():
    model = build((), "flatten")
    layer = model.layers[1]
    kernel, bias = layer.get_weights()
    kernel[..., [1, 4]] *= 1e-3
    layer.set_weights([kernel, bias])
    filters = filter_pruning.find_filters(model)
    removed = filter_pruning.choose(filters, 2 / filters.count)
    assert removed == {int(filters.by_layer[layer.name][index]) for index in (1, 4)}


@pytest.mark.parametrize("how", ["frozen", "excluded"])
def test_a_frozen_or_excluded_layer_keeps_its_filters(how):
    model = build(("conv",), "flatten")
    layer = model.layers[1]
    layer.trainable = how != "frozen"
    filters = filter_pruning.find_filters(model, (layer.name,) if how == "excluded" else ())
    assert not filters.by_layer[layer.name].any()
    assert filters.count == 5 + 7


def test_a_layer_that_cannot_be_followed_is_named_and_left_unchanged():
    model = build(("conv",), "softmax")
    filters = filter_pruning.find_filters(model)
    assert list(filters.channels.unknown.values()) == ["Softmax"]
    removed = filter_pruning.choose(filters, 0.9)
    assert "cannot follow softmax" in filter_pruning.describe(filters, removed)[1]
    smaller = filter_pruning.remove(model, filters.channels, removed)
    assert smaller.layers[2].filters == model.layers[2].filters
    assert smaller.layers[1].filters < model.layers[1].filters


def test_the_output_layer_keeps_its_channels():
    filters = filter_pruning.find_filters(build((), "flatten"))
    *_, last = filters.by_layer
    assert not filters.by_layer[last].any()
    assert channels.follow(build((), "flatten")).unknown == {}
