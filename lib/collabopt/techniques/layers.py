"""Which layers the techniques work on, and how their kernels are read.

Convolutions and dense layers are eligible for pruning and clustering. Depthwise kernels are not: they hold few weights,
and TFMOT leaves them out as well. A batch norm with negative gammas is rewritten here, because it would double the int8
values of a clustered kernel.
"""

from collections.abc import Sequence

import numpy as np

from collabopt.runtime.tensorflow import keras, tf


def is_eligible(layer: keras.layers.Layer) -> bool:
    """Tell whether a layer's kernel can be pruned and clustered.

    Args:
        layer: Any layer.

    Returns:
        True for convolutions and dense layers. False for depthwise convolutions, and for transposed ones, whose kernels
        end in their input channels.
    """
    return isinstance(layer, keras.layers.Conv2D | keras.layers.Dense) and not isinstance(
        layer, keras.layers.DepthwiseConv2D | keras.layers.Conv2DTranspose
    )


def clone_model(model: keras.Model, arrays: Sequence[np.ndarray] | None = None) -> keras.Model:
    """Copy a model with layers and variables of its own.

    Args:
        model: The model; it stays as it is.
        arrays: Weights for the copy, in the order of `model.get_weights()`; None copies those of `model`.

    Returns:
        The copy.
    """
    copy = keras.models.clone_model(model)
    copy.set_weights(model.get_weights() if arrays is None else arrays)
    return copy


@keras.utils.register_keras_serializable("collabopt")
class PositiveGamma(keras.constraints.Constraint):
    """Keeps the gamma of a batch norm above zero during training."""

    LEAST = 1e-3

    def __call__(self, gamma):
        return tf.maximum(gamma, self.LEAST)


def make_gammas_positive(model: keras.Model) -> keras.Model:
    """Copy a model so that no batch norm after a convolution or dense layer has a negative gamma.

    The converter folds gamma into the kernel. Channels of both signs would double the int8 values of a clustered
    kernel. Here the kernel, bias, gamma and moving mean of such a channel change sign, and the output stays the same.

    Args:
        model: A plain model; it stays as it is.

    Returns:
        The copy. It computes the same, and training keeps its gammas positive.
    """
    scaled_layers = {norm.name: layer for layer in model.layers for norm in _find_scaling_norm(layer)}

    def clone_constrained(layer: keras.layers.Layer) -> keras.layers.Layer:
        constraint = {"gamma_constraint": PositiveGamma()} if layer.name in scaled_layers else {}
        return layer.__class__.from_config(layer.get_config() | constraint)

    copy = keras.models.clone_model(model, clone_function=clone_constrained)
    copy.set_weights(model.get_weights())
    for name, layer in scaled_layers.items():
        _flip_negative_channels(copy.get_layer(layer.name), copy.get_layer(name))
    return copy


def has_negative_gamma(model: keras.Model) -> bool:
    """Return whether a batch norm after a convolution or dense layer changes the sign of a channel.

    Args:
        model: A plain model.
    """
    return any((norm.gamma.numpy() < 0).any() for layer in model.layers for norm in _find_scaling_norm(layer))


def _find_scaling_norm(layer: keras.layers.Layer) -> list[keras.layers.Layer]:
    """The batch norm with a gamma that alone follows a linear convolution or dense layer, or an empty list."""
    following = [node.outbound_layer for node in layer.outbound_nodes]
    is_linear = is_eligible(layer) and layer.activation is keras.activations.linear
    return [norm for norm in following if is_linear and len(following) == 1 and _has_gamma(norm)]


def _has_gamma(layer: keras.layers.Layer) -> bool:
    return isinstance(layer, keras.layers.BatchNormalization) and layer.scale


def _flip_negative_channels(layer: keras.layers.Layer, norm: keras.layers.BatchNormalization) -> None:
    sign = np.where(norm.gamma.numpy() < 0, -1, 1).astype(np.float32)
    for variable in (layer.kernel, layer.bias, norm.gamma, norm.moving_mean):
        if variable is not None:
            variable.assign(variable * sign)


def get_kind(layer: keras.layers.Layer) -> str | None:
    """Return the kind of a layer's kernel.

    Args:
        layer: Any layer.

    Returns:
        "conv2d" or "dense" for an eligible layer, "depthwise", or None without such a kernel.
    """
    if isinstance(layer, keras.layers.DepthwiseConv2D):
        return "depthwise"
    return {True: "dense", False: "conv2d"}[isinstance(layer, keras.layers.Dense)] if is_eligible(layer) else None


def read_kernels(model: keras.Model) -> dict[str, np.ndarray]:
    """Read the kernels of a plain model.

    Args:
        model: A plain model.

    Returns:
        float32 kernels by layer name, depthwise ones included.
    """
    return {layer.name: read_kernel(layer) for layer in model.layers if get_kind(layer)}


def read_kernel(layer: keras.layers.Layer) -> np.ndarray:
    """Read the kernel of a layer.

    Args:
        layer: A layer that has a kind (`get_kind`).

    Returns:
        The float32 kernel: (height, width, in, out), (height, width, in, multiplier) if depthwise, (in, out) if dense.
    """
    return (layer.depthwise_kernel if get_kind(layer) == "depthwise" else layer.kernel).numpy()


def read_kinds(model: keras.Model) -> dict[str, str]:
    """Read the kinds of a plain model's kernels.

    Args:
        model: A plain model.

    Returns:
        The kind (`get_kind`) by layer name.
    """
    return {layer.name: get_kind(layer) for layer in model.layers if get_kind(layer)}
