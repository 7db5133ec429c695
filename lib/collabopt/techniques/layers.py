"""Which layers pruning and clustering touch."""

from collections.abc import Sequence

import numpy as np

from collabopt.runtime.tensorflow import keras, tf


def is_eligible(layer: keras.layers.Layer) -> bool:
    """Whether pruning and clustering touch the layer's kernel: convolutions and dense layers, not depthwise ones, nor
    transposed ones, whose kernels end in their input channels."""
    return isinstance(layer, keras.layers.Conv2D | keras.layers.Dense) and not isinstance(
        layer, keras.layers.DepthwiseConv2D | keras.layers.Conv2DTranspose
    )


def clone_model(model: keras.Model, arrays: Sequence[np.ndarray] | None = None) -> keras.Model:
    """A copy of `model` with layers and variables of its own, holding its weights or `arrays` in the same order."""
    copy = keras.models.clone_model(model)
    copy.set_weights(model.get_weights() if arrays is None else arrays)
    return copy


@keras.utils.register_keras_serializable("collabopt")
class Positive(keras.constraints.Constraint):
    """Keeps a batch-norm gamma from becoming zero or negative while it is trained."""

    LEAST = 1e-3

    def __call__(self, gamma):
        return tf.maximum(gamma, self.LEAST)


def make_gammas_positive(model: keras.Model) -> keras.Model:
    """A clone that computes the same, in which no batch norm after a convolution or dense layer has a negative gamma,
    and none will get one in training.

    Kernel, bias, gamma and moving mean of such a channel are negated. The converter folds gamma into the kernel, and
    channels of both signs would double the int8 codes of a clustered kernel.
    """
    followed = {norm.name: layer for layer in model.layers for norm in _norms(layer)}

    def positive(layer: keras.layers.Layer) -> keras.layers.Layer:
        held = {"gamma_constraint": Positive()} if layer.name in followed else {}
        return layer.__class__.from_config(layer.get_config() | held)

    copy = keras.models.clone_model(model, clone_function=positive)
    copy.set_weights(model.get_weights())
    for name, layer in followed.items():
        _turn_over(copy.get_layer(layer.name), copy.get_layer(name))
    return copy


def has_negative_gamma(model: keras.Model) -> bool:
    """Whether a batch norm after a convolution or dense layer turns the signs of a channel over."""
    return any((norm.gamma.numpy() < 0).any() for layer in model.layers for norm in _norms(layer))


def _norms(layer: keras.layers.Layer) -> list[keras.layers.Layer]:
    """The batch norm that is all that follows a linear convolution or dense layer, or nothing."""
    after = [node.outbound_layer for node in layer.outbound_nodes]
    linear = is_eligible(layer) and layer.activation is keras.activations.linear
    return [norm for norm in after if linear and len(after) == 1 and _scales(norm)]


def _scales(layer: keras.layers.Layer) -> bool:
    return isinstance(layer, keras.layers.BatchNormalization) and layer.scale


def _turn_over(layer: keras.layers.Layer, norm: keras.layers.BatchNormalization) -> None:
    sign = np.where(norm.gamma.numpy() < 0, -1, 1).astype(np.float32)
    for variable in (layer.kernel, layer.bias, norm.gamma, norm.moving_mean):
        if variable is not None:
            variable.assign(variable * sign)


def get_kind(layer: keras.layers.Layer) -> str | None:
    """`conv2d` or `dense`, which are pruned and clustered; `depthwise`, which is not; None without a kernel."""
    if isinstance(layer, keras.layers.DepthwiseConv2D):
        return "depthwise"
    return {True: "dense", False: "conv2d"}[isinstance(layer, keras.layers.Dense)] if is_eligible(layer) else None


def read_kernels(model: keras.Model) -> dict[str, np.ndarray]:
    """The kernels of a plain model by layer name, depthwise ones included, float32."""
    return {layer.name: read_kernel(layer) for layer in model.layers if get_kind(layer)}


def read_kernel(layer: keras.layers.Layer) -> np.ndarray:
    """The kernel of a convolution, depthwise convolution or dense layer."""
    return (layer.depthwise_kernel if get_kind(layer) == "depthwise" else layer.kernel).numpy()


def read_kinds(model: keras.Model) -> dict[str, str]:
    """The kind of each layer that has a kernel, by name."""
    return {layer.name: get_kind(layer) for layer in model.layers if get_kind(layer)}
