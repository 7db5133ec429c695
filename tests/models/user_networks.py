"""Small networks in the style of users, for Keras 2 and 3 alike, with random weights."""

import importlib
from collections.abc import Callable
from typing import Any

import numpy as np

from collabopt.runtime.tensorflow import keras as keras_2

keras_3 = importlib.import_module("keras")  # after Keras 2, which sets what `tf.keras` is
BOTH = {"keras2": keras_2, "keras3": keras_3}


def randomize(model: Any, seed: int = 0) -> Any:
    """Give a model random weights, its batch norm trained statistics and gammas of both signs."""
    generator = np.random.default_rng(seed)
    for layer in _walk(model):
        weights = layer.get_weights()
        drawn = [generator.normal(0, 0.5, weight.shape).astype(weight.dtype) for weight in weights]
        if type(layer).__name__ == "BatchNormalization":
            drawn[-1] = generator.uniform(0.2, 2, weights[-1].shape)
        if type(layer).__name__ == "Normalization" and weights:
            drawn[1] = generator.uniform(0.2, 2, weights[1].shape)
            drawn[2:] = weights[2:]
        layer.set_weights(drawn)
        if type(layer).__name__ == "Normalization":
            layer.finalize_state()
    return model


def _walk(model: Any):
    for layer in model.layers:
        if hasattr(layer, "layers") and hasattr(layer, "inputs"):
            yield from _walk(layer)
        else:
            yield layer


def _graph(shape: tuple[int, ...], body: Callable) -> Callable:
    """A builder of a functional model from a body of (keras, x)."""

    def build(keras: Any) -> Any:
        inputs = keras.Input(shape)
        return keras.Model(inputs, body(keras, inputs))

    return build


def _chain(shape: tuple[int, ...], make: Callable) -> Callable:
    """A builder of a Sequential model from a list of layers made by (keras.layers)."""
    return lambda keras: keras.Sequential([keras.Input(shape), *make(keras.layers)])


def _residual(keras: Any, x: Any) -> Any:
    layers = keras.layers
    x = layers.Conv2D(4, 3, padding="same")(x)
    y = layers.ReLU()(layers.BatchNormalization()(layers.Conv2D(4, 3, padding="same", use_bias=False)(x)))
    y = layers.BatchNormalization()(layers.Conv2D(4, 3, padding="same")(y))
    x = layers.Activation("relu")(layers.Add()([x, y]))
    x = layers.Concatenate()([layers.MaxPooling2D()(x), layers.AveragePooling2D(2)(x)])
    return layers.Dense(3, activation="softmax")(layers.GlobalAveragePooling2D()(x))


def _arithmetic(keras: Any, x: Any) -> Any:
    layers = keras.layers
    x = layers.Conv2D(4, 3)(x)
    y = x * layers.ReLU(6.0)(x + 3.0) / 6.0
    z = (1.0 - y)[:, 1:-1, ..., :2] * 2.0 - y[:, 1:-1, :, 2:]
    z = -z + z * z - z
    return layers.Dense(3)(layers.Flatten()(z))


def _two_ends(keras: Any) -> Any:
    layers = keras.layers
    image, table = keras.Input((6, 6, 1), name="image"), keras.Input((5,), name="table")
    x = layers.Flatten()(layers.Conv2D(2, 3, activation="relu")(image))
    x = layers.Concatenate()([x, layers.Dense(4, activation="tanh")(table)])
    outputs = [layers.Dense(3, activation="softmax", name="kind")(x), layers.Dense(1, name="size")(x)]
    return keras.Model([image, table], outputs)


def _nested(keras: Any) -> Any:
    layers = keras.layers
    base_input = keras.Input((12, 12, 3))
    x = layers.ReLU(6.0)(layers.BatchNormalization()(layers.Conv2D(4, 3)(base_input)))
    base = keras.Model(base_input, layers.Add()([x, layers.Conv2D(4, 1)(x)]), name="base")
    base.trainable = False
    head = keras.Sequential([keras.Input((10, 10, 4)), keras.Sequential([layers.MaxPooling2D(), layers.Flatten()])])
    inputs = keras.Input((12, 12, 3))
    return keras.Model(inputs, layers.Dense(2, activation="softmax")(head(base(inputs, training=False))))


def _dicts(keras: Any) -> Any:
    table, image = keras.Input((3,), name="table"), keras.Input((4,), name="image")
    return keras.Model(
        {"table": table, "image": image}, keras.layers.Dense(2)(keras.layers.Concatenate()([table, image]))
    )


def _states(keras: Any, x: Any) -> Any:
    layers = keras.layers
    x, hidden, cell = layers.LSTM(4, return_state=True, return_sequences=True)(x)
    x = layers.LSTM(4)(x, initial_state=[hidden, cell])
    return layers.Dense(2)(layers.Concatenate()([x, cell]))


def _used_softmax(keras: Any) -> Any:
    inputs = keras.Input((4,))
    shares = keras.layers.Dense(3, activation="softmax")(inputs)
    return keras.Model(inputs, [shares, keras.layers.Dense(2)(shares)])


def _constants(keras: Any, x: Any) -> Any:
    x = (x - np.array([1, 2, 3], np.float32)) / np.array([2, 3, 4], np.float32)
    return keras.layers.Conv2D(2, 3)(x)


def _attention(keras: Any, x: Any) -> Any:
    layers = keras.layers
    x = layers.Embedding(20, 8)(x)
    x = layers.LayerNormalization()(x + layers.MultiHeadAttention(2, 4)(x, x))
    return layers.Dense(2)(layers.GlobalAveragePooling1D()(x))


NETWORKS: dict[str, Callable] = {
    "residual": _graph((8, 8, 1), _residual),
    "arithmetic": _graph((8, 8, 3), _arithmetic),
    "two_ends": _two_ends,
    "dicts": _dicts,
    "states": _graph((7, 3), _states),
    "used_softmax": _used_softmax,
    "constants": _graph((8, 8, 3), _constants),
    "open_size": _chain(
        (None, None, 3), lambda k: [k.Conv2D(4, 3, activation="relu"), k.BatchNormalization(), k.Conv2D(2, 1)]
    ),
    "open_length": _chain((None, 3), lambda k: [k.Conv1D(4, 3, padding="causal"), k.GlobalMaxPooling1D(), k.Dense(2)]),
    "nested": _nested,
    "attention": _graph((6,), _attention),
    "binary": _chain((7,), lambda k: [k.Dense(5, activation="relu"), k.Dropout(0.2), k.Dense(1, activation="sigmoid")]),
    "softmax_layer": _chain((7,), lambda k: [k.Dense(5, activation="elu"), k.Dense(3), k.Softmax()]),
    "activation_layer": _chain((7,), lambda k: [k.Dense(3), k.Activation("softmax")]),
    "activations": _chain(
        (6,),
        lambda k: [
            *(
                k.Dense(5, activation=name)
                for name in ("relu6", "swish", "tanh", "sigmoid", "selu", "gelu", "hard_sigmoid")
            ),
            k.PReLU(),
            k.LeakyReLU(),
            k.ELU(),
            k.Dense(2),
        ],
    ),
    "separable": _chain(
        (9, 9, 2),
        lambda k: [
            k.SeparableConv2D(4, 3, strides=2, padding="same", depth_multiplier=2, activation="relu"),
            k.BatchNormalization(),
            k.SeparableConv2D(3, 3, use_bias=False),
            k.BatchNormalization(),
            k.GlobalMaxPooling2D(),
            k.Dense(2),
        ],
    ),
    "signal": _chain(
        (32, 3),
        lambda k: [
            k.Conv1D(4, 5, padding="causal", dilation_rate=2),
            k.BatchNormalization(),
            k.ReLU(),
            k.SpatialDropout1D(0.1),
            k.MaxPooling1D(),
            k.SeparableConv1D(6, 3, padding="same", activation="swish"),
            k.DepthwiseConv1D(3, strides=2, padding="same", depth_multiplier=2),
            k.ZeroPadding1D(2),
            k.Cropping1D((1, 0)),
            k.UpSampling1D(2),
            k.PReLU(shared_axes=[1]),
            k.Conv1DTranspose(3, 3, strides=2),
            k.AveragePooling1D(3, strides=2, padding="same"),
            k.Flatten(),
            k.Dense(2),
        ],
    ),
    "signal_pooled": _chain(
        (32, 3), lambda k: [k.Conv1D(4, 5), k.LSTM(3, return_sequences=True), k.GlobalAveragePooling1D(), k.Dense(2)]
    ),
    "signal_out": _chain((16, 3), lambda k: [k.Conv1D(4, 3, padding="same"), k.Conv1D(2, 3, activation="sigmoid")]),
    "norm_first": _chain((8,), lambda k: [k.BatchNormalization(), k.Dense(4, activation="relu"), k.Dense(2)]),
    "norm_after_relu": _chain(
        (8, 8, 3),
        lambda k: [
            k.Conv2D(4, 3, activation="relu"),
            k.BatchNormalization(),
            k.Conv2D(4, 3, padding="same", activation="relu"),
            k.BatchNormalization(scale=False),
            k.Conv2D(4, 3, activation="relu"),
            k.BatchNormalization(center=False),
            k.DepthwiseConv2D(3, depth_multiplier=2, activation="relu"),
            k.BatchNormalization(),
            k.Flatten(),
            k.BatchNormalization(),
            k.Activation("relu"),
            k.BatchNormalization(),
            k.ReLU(),
            k.Dense(2),
        ],
    ),
    "norm_before_padding": _chain(
        (8, 8, 3), lambda k: [k.BatchNormalization(), k.Conv2D(4, 3, padding="same"), k.Flatten(), k.Dense(2)]
    ),
    "norm_before_depthwise": _chain(
        (8, 8, 3), lambda k: [k.BatchNormalization(), k.DepthwiseConv2D(3, depth_multiplier=2), k.Flatten(), k.Dense(2)]
    ),
    "dense_norm": _chain(
        (8,), lambda k: [k.Dense(6, use_bias=False), k.BatchNormalization(), k.ReLU(), k.Dropout(0.5), k.Dense(2)]
    ),
    "transposed": _chain(
        (5, 5, 2),
        lambda k: [
            k.Conv2DTranspose(4, 3, strides=2, padding="same"),
            k.BatchNormalization(),
            k.ReLU(),
            k.Conv2D(1, 3),
        ],
    ),
    "preprocessing": _chain(
        (8, 8, 3),
        lambda k: [
            k.RandomFlip(),
            k.RandomRotation(0.1),
            k.Rescaling(1 / 127.5, offset=-1),
            k.Conv2D(2, 3),
            k.Flatten(),
        ],
    ),
    "normalization": _chain((5,), lambda k: [k.Normalization(), k.Dense(2)]),
    "normalization_constant": _chain(
        (5,), lambda k: [k.Normalization(mean=[1.0, 2, 3, 4, 5], variance=[2.0] * 5), k.Dense(2)]
    ),
    "recurrent": _chain(
        (9, 4),
        lambda k: [k.GRU(5, return_sequences=True), k.Bidirectional(k.LSTM(3)), k.Dense(2, activation="softmax")],
    ),
    "masked": _chain((9,), lambda k: [k.Embedding(20, 4, mask_zero=True), k.LSTM(3), k.Dense(2)]),
    "time_distributed": _chain((9, 4), lambda k: [k.TimeDistributed(k.Dense(3)), k.Flatten(), k.Dense(2)]),
}
"""Builders by name; each takes the package tf_keras or keras."""
