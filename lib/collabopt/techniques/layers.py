"""Which layers the techniques work on, and how their kernels are read.

Convolutions, dense and recurrent layers can be pruned and clustered. Depthwise kernels hold few weights, and
TFMOT leaves them out as well. Embeddings are looked up and not multiplied, and pruning would remove rare words. A batch
norm with negative gammas, which would double the int8 values of a clustered kernel, is rewritten here.
"""

from collections.abc import Sequence

import numpy as np

from collabopt.config.experiment import Experiment
from collabopt.runtime.tensorflow import keras, tf

_KINDS = {
    "depthwise": keras.layers.DepthwiseConv2D,
    "conv2d_transpose": keras.layers.Conv2DTranspose,
    "conv2d": keras.layers.Conv2D,
    "dense": keras.layers.Dense,
    "recurrent": (keras.layers.GRU, keras.layers.LSTM, keras.layers.SimpleRNN),
}
"""Classes by kind of kernel, subclasses first."""


def is_eligible(layer: keras.layers.Layer) -> bool:
    """Return whether kernels can be pruned and clustered: convolutions (not depthwise), dense and recurrent layers."""
    return get_kind(layer) not in (None, "depthwise")


def find_frozen(model: keras.Model) -> tuple[str, ...]:
    """Return the names of frozen layers of `model` with kernels (`trainable=False`). No stage changes their weights."""
    return tuple(layer.name for layer in list_plain(model) if get_kind(layer) and not layer.trainable)


def list_plain(model: keras.Model) -> list[keras.layers.Layer]:
    """Return the layers of `model`, without the wrappers of fake quantization."""
    return [getattr(layer, "layer", layer) if hasattr(layer, "quantize_config") else layer for layer in model.layers]


def exclude_frozen(experiment: Experiment, model: keras.Model) -> Experiment:
    """Return an experiment that excludes the frozen layers of `model` from pruning and clustering."""
    exclude, frozen = experiment.exclude, find_frozen(model)
    changes = {"pruning": (*exclude.pruning, *frozen), "clustering": (*exclude.clustering, *frozen)}
    return experiment.model_copy(update={"exclude": exclude.model_copy(update=changes)})


def has_groups(model: keras.Model) -> bool:
    """Return whether a `model` has grouped convolutions, whose gradients eager TensorFlow lacks on a CPU."""
    return any(getattr(layer, "groups", 1) > 1 for layer in model.layers)


def is_convolution(layer: keras.layers.Layer) -> bool:
    """Return whether a layer is an eligible convolution, which may have clusters per output channel."""
    return get_kind(layer) in ("conv2d", "conv2d_transpose")


def get_channel_axis(layer: keras.layers.Layer) -> int:
    """Return the axis of output channels in the kernel of `layer`, from the end: before the last if transposed."""
    return -2 if isinstance(layer, keras.layers.Conv2DTranspose) else -1


def find_kernels(layer: keras.layers.Layer) -> dict[str, tuple[keras.layers.Layer, str]]:
    """Find where a `layer` that has a kind (`get_kind`) holds its kernels.

    Returns:
        Owner and attribute by name of the kernel: that of the layer, or "layer:kernel" and "layer:recurrent_kernel" for
        a recurrent layer, whose cell holds two, and one cell for each direction.
    """
    if isinstance(layer, keras.layers.Bidirectional):
        directions = {"forward": layer.forward_layer, "backward": layer.backward_layer}
        return {
            f"{layer.name}:{direction}_{attribute}": (one.cell, attribute)
            for direction, one in directions.items()
            for attribute in ("kernel", "recurrent_kernel")
        }
    if isinstance(layer, keras.layers.RNN):
        return {f"{layer.name}:{attribute}": (layer.cell, attribute) for attribute in ("kernel", "recurrent_kernel")}
    return {layer.name: (layer, "depthwise_kernel" if get_kind(layer) == "depthwise" else "kernel")}


def get_layer_name(kernel: str) -> str:
    """Return the layer of a `kernel`, given by name (`find_kernels`)."""
    return kernel.partition(":")[0]


def clone_model(model: keras.Model, arrays: Sequence[np.ndarray] | None = None) -> keras.Model:
    """Return a copy of a model with layers and variables of its own.

    Args:
        model: The model; it stays as it is.
        arrays: Weights for the copy, in the order of `model.get_weights()`; None copies those of `model`.
    """
    copy = keras.models.clone_model(model)
    copy.set_weights(model.get_weights() if arrays is None else arrays)
    return copy


def pass_masks(wrapper: keras.layers.Layer, layer: keras.layers.Layer) -> None:
    """Let the `wrapper` of a `layer` pass on masks of steps to skip, as the layer does. It drops them otherwise."""
    wrapper.supports_masking, wrapper.compute_mask = layer.supports_masking, layer.compute_mask
    wrapper._call_spec.expects_mask_arg = layer._call_spec.expects_mask_arg


@keras.utils.register_keras_serializable("collabopt")
class PositiveGamma(keras.constraints.Constraint):
    """Keeps the gamma of a batch norm above zero during training."""

    LEAST = 1e-3

    def __call__(self, gamma):
        return tf.maximum(gamma, self.LEAST)


def make_gammas_positive(model: keras.Model) -> keras.Model:
    """Return a copy of `model` that computes the same, and never has a negative gamma after a linear layer.

    The converter folds gamma into the kernel. Channels of both signs would double the int8 values of a clustered
    kernel. Here the kernel, bias, gamma and moving mean of such a channel change sign, and the output stays the same.
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
    """Return whether a batch norm after a linear layer of a plain `model` changes the sign of a channel."""
    return any((norm.gamma.numpy() < 0).any() for layer in model.layers for norm in _find_scaling_norm(layer))


def _find_scaling_norm(layer: keras.layers.Layer) -> list[keras.layers.Layer]:
    """The batch norm with a gamma that alone follows a linear convolution or dense layer, or an empty list. Both are
    trained."""
    following = [node.outbound_layer for node in layer.outbound_nodes]
    kinds = keras.layers.Conv2D | keras.layers.Dense
    is_linear = is_eligible(layer) and isinstance(layer, kinds) and layer.activation is keras.activations.linear
    is_frozen = not all(one.trainable for one in (layer, *following))  # their weights stay as they are
    return [
        norm
        for norm in following
        if is_linear and len(following) == 1 and is_channel_norm(norm) and norm.scale and not is_frozen
    ]


def is_channel_norm(layer: keras.layers.Layer) -> bool:
    """Return whether a `layer` is a batch norm over channels, the last axis."""
    is_norm = isinstance(layer, keras.layers.BatchNormalization)
    return is_norm and list(np.ravel(layer.axis)) in ([len(layer.input_shape) - 1], [-1])


def _flip_negative_channels(layer: keras.layers.Layer, norm: keras.layers.BatchNormalization) -> None:
    sign = np.where(norm.gamma.numpy() < 0, -1, 1).astype(np.float32)
    assign_kernels(layer, {name: kernel * sign for name, kernel in read_layer_kernels(layer).items()})
    for variable in (layer.bias, norm.gamma, norm.moving_mean):
        if variable is not None:
            variable.assign(variable * sign)


def get_kind(layer: keras.layers.Layer) -> str | None:
    """Return "conv2d", "conv2d_transpose", "dense" or "recurrent" of an eligible layer, "depthwise", or None."""
    one = layer.forward_layer if isinstance(layer, keras.layers.Bidirectional) else layer
    return next((kind for kind, classes in _KINDS.items() if isinstance(one, classes)), None)


def read_kernels(model: keras.Model) -> dict[str, np.ndarray]:
    """Return the float32 kernels of a plain `model` by name (`find_kernels`), depthwise ones included."""
    return {
        name: kernel for layer in model.layers if get_kind(layer) for name, kernel in read_layer_kernels(layer).items()
    }


def read_layer_kernels(layer: keras.layers.Layer) -> dict[str, np.ndarray]:
    """Read the kernels of a `layer` that has a kind (`get_kind`).

    Returns:
        float32 kernels by name (`find_kernels`): (height, width, in, out), (height, width, in, multiplier) if
        depthwise, (in, out) if dense or recurrent.
    """
    axis = get_channel_axis(layer)
    places = find_kernels(layer).items()
    return {name: np.moveaxis(getattr(owner, attribute).numpy(), axis, -1) for name, (owner, attribute) in places}


def assign_kernels(layer: keras.layers.Layer, kernels: dict[str, np.ndarray]) -> None:
    """Give an eligible `layer` the `kernels` that `read_layer_kernels` returns."""
    for name, (owner, attribute) in find_kernels(layer).items():
        getattr(owner, attribute).assign(np.moveaxis(kernels[name], -1, get_channel_axis(layer)))


def copy_biases(source: keras.layers.Layer, target: keras.layers.Layer) -> None:
    """Give the layer `target` the biases of `source`, an eligible layer of the same kind."""
    pairs = zip(find_kernels(source).values(), find_kernels(target).values(), strict=True)
    for (owner, _), (other, _) in pairs:
        if owner.bias is not None:
            other.bias.assign(owner.bias)


def read_kinds(model: keras.Model) -> dict[str, str]:
    """Return the kind (`get_kind`) of the kernels of a plain `model` by name."""
    return {name: get_kind(layer) for layer in model.layers if get_kind(layer) for name in find_kernels(layer)}
