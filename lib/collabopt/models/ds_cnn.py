"""Depthwise separable networks for keyword spotting, from Zhang et al. 2017, "Hello Edge" (arXiv:1711.07128).

The input is a map of MFCC features (frames, coefficients, 1), (49, 10, 1) in the paper. Sizes and strides are those of
the paper's training commands (github.com/ARM-software/ML-KWS-for-MCU, train_commands.txt). So are the biases before
batch norm, its momentum of 0.96, "same" padding and the average over the whole last map. With 12 classes, S, M and L
have 24,908, 141,224 and 422,844 parameters, including those of batch norm.
"""

from __future__ import annotations

from collabopt.runtime.tensorflow import keras, tf


def ds_cnn_s(input_shape: tuple[int, ...], classes: int) -> keras.Model:
    """Return the small network (64 channels, four blocks): `input_shape` (frames, features, 1), `classes` logits."""
    return _ds_cnn("ds_cnn_s", input_shape, classes, channels=64, stem_strides=(2, 2), block_strides=(1, 1, 1, 1))


def ds_cnn_m(input_shape: tuple[int, ...], classes: int) -> keras.Model:
    """Return the medium network (172 channels, four blocks): `input_shape` (frames, features, 1), `classes` logits."""
    return _ds_cnn("ds_cnn_m", input_shape, classes, channels=172, stem_strides=(2, 1), block_strides=(2, 1, 1, 1))


def ds_cnn_l(input_shape: tuple[int, ...], classes: int) -> keras.Model:
    """Return the large network (276 channels, five blocks): `input_shape` (frames, features, 1), `classes` logits."""
    return _ds_cnn("ds_cnn_l", input_shape, classes, channels=276, stem_strides=(2, 1), block_strides=(2, 1, 1, 1, 1))


def _ds_cnn(
    name: str,
    input_shape: tuple[int, ...],
    classes: int,
    channels: int,
    stem_strides: tuple[int, int],
    block_strides: tuple[int, ...],
) -> keras.Model:
    inputs = keras.Input(input_shape, name="input")
    x = _normalize(keras.layers.Conv2D(channels, (10, 4), stem_strides, padding="same", name="conv_1"), inputs)
    for block, stride in enumerate(block_strides, start=1):
        x = _normalize(keras.layers.DepthwiseConv2D(3, stride, padding="same", name=f"dw_{block}"), x)
        x = _normalize(keras.layers.Conv2D(channels, 1, padding="same", name=f"pw_{block}"), x)
    x = keras.layers.GlobalAveragePooling2D(name="pool")(x)
    return keras.Model(inputs, keras.layers.Dense(classes, name="fc")(x), name=name)


def _normalize(convolution: keras.layers.Layer, x: tf.Tensor) -> tf.Tensor:
    """Apply convolution, batch norm and ReLU."""
    x = keras.layers.BatchNormalization(momentum=0.96, epsilon=1e-3, name=f"{convolution.name}_bn")(convolution(x))
    return keras.layers.ReLU(name=f"{convolution.name}_relu")(x)
