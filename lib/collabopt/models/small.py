"""Networks that train in seconds on a CPU, for images of 28×28 and 8×8 pixels with one channel."""

from __future__ import annotations

from collabopt.runtime.tensorflow import keras, tf


def mnist_cnn(input_shape: tuple[int, ...], classes: int) -> keras.Model:
    """Return the network of TFMOT's guides to collaborative optimization, with logits.

    It has 20,410 parameters with 10 classes. The guides reshape images of (28, 28), while this input has its channel.

    Args:
        input_shape: (height, width, channels), (28, 28, 1) for MNIST.
        classes: Number of classes.
    """
    inputs = keras.Input(input_shape, name="input")
    x = keras.layers.Conv2D(12, 3, activation="relu", name="conv_1")(inputs)
    x = keras.layers.MaxPooling2D(2, name="pool_1")(x)
    x = keras.layers.Flatten(name="flatten")(x)
    return keras.Model(inputs, keras.layers.Dense(classes, name="fc")(x), name="mnist_cnn")


def digits_cnn(input_shape: tuple[int, ...], classes: int) -> keras.Model:
    """Return a depthwise separable network with every kind of layer of the larger networks, with logits.

    It has 12,346 parameters with 10 classes.

    Args:
        input_shape: (height, width, channels), (8, 8, 1) for the digits.
        classes: Number of classes.
    """
    inputs = keras.Input(input_shape, name="input")
    x = _normalize(keras.layers.Conv2D(32, 3, padding="same", use_bias=False, name="conv_1"), inputs)
    for block, (channels, stride) in enumerate(((48, 1), (64, 2), (64, 1)), start=1):
        x = _normalize(keras.layers.DepthwiseConv2D(3, stride, padding="same", use_bias=False, name=f"dw_{block}"), x)
        x = _normalize(keras.layers.Conv2D(channels, 1, use_bias=False, name=f"pw_{block}"), x)
    x = keras.layers.GlobalAveragePooling2D(name="pool")(x)
    return keras.Model(inputs, keras.layers.Dense(classes, name="fc")(x), name="digits_cnn")


def _normalize(convolution: keras.layers.Layer, x: tf.Tensor) -> tf.Tensor:
    """Apply convolution, batch norm and ReLU. The momentum suits the 40 steps of an epoch of the digits."""
    x = keras.layers.BatchNormalization(momentum=0.9, name=f"{convolution.name}_bn")(convolution(x))
    return keras.layers.ReLU(name=f"{convolution.name}_relu")(x)
