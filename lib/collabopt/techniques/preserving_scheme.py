"""An 8-bit scheme for quantization-aware training that preserves zeros and clusters, on TFMOT's extension points.

A mask holds the zeros of a kernel. A fixed assignment of weights to centroids holds its clusters, and the centroids are
trained in place of the weights (Han et al. 2016, arXiv:1510.00149). TFMOT's own schemes guess the granularity of
clusters, share one quantizer among layers, and leave out a convolution before a ReLU without batch norm. Here the
granularity is a setting, each kernel has its own quantizer, and no eligible layer is left out.
"""

import copy
from typing import Literal

import numpy as np

from collabopt.runtime.tensorflow import keras, tf, tfmot
from collabopt.techniques.layers import (
    find_kernels,
    get_channel_axis,
    get_kind,
    is_convolution,
    is_eligible,
    read_layer_kernels,
)
from collabopt.techniques.quantize_configs import KernelConfig

Granularity = Literal["tensor", "channel"]
"""Whether a kernel's clusters are shared by the whole tensor, or each output channel has its own."""


def make_lookup(kernel: np.ndarray, granularity: Granularity) -> tuple[np.ndarray, np.ndarray]:
    """Split a clustered kernel into its values and the place of each weight among them.

    Args:
        kernel: Clustered kernel (..., out).
        granularity: "tensor", or "channel" for values of each output channel, one channel after another.

    Returns:
        The distinct values (n,), and int32 indices (..., out) into them.
    """
    if granularity == "tensor":
        values, indices = np.unique(kernel, return_inverse=True)
        return values, indices.reshape(kernel.shape).astype(np.int32)
    channel = np.broadcast_to(np.arange(kernel.shape[-1]), kernel.shape)
    order = np.lexsort((kernel.ravel(), channel.ravel()))
    values, channels = kernel.ravel()[order], channel.ravel()[order]
    is_new = np.r_[True, (values[1:] != values[:-1]) | (channels[1:] != channels[:-1])]
    indices = np.empty(kernel.size, np.int32)
    indices[order] = np.cumsum(is_new) - 1
    return values[is_new], indices.reshape(kernel.shape)


@tf.custom_gradient
def gather_centroids(centroids: tf.Tensor, indices: tf.Tensor):
    """Look up each weight's centroid. A centroid's gradient is the sum over its members (Han et al. 2016).

    Args:
        centroids: Values (n,).
        indices: int32 indices of a kernel's shape into `centroids`.

    Returns:
        The kernel.
    """

    def gradient(upstream: tf.Tensor):
        flat = tf.reshape(upstream, [-1])
        return tf.math.unsorted_segment_sum(flat, tf.reshape(indices, [-1]), tf.size(centroids)), None

    return tf.gather(centroids, indices), gradient


def add_state(
    wrapper: keras.layers.Wrapper, zeros: bool, clusters: Granularity | None, place: int = 0
) -> dict[str, tf.Variable]:
    """Add variables to a wrapper that hold the zeros and clusters of a kernel of its layer.

    Args:
        wrapper: The wrapper that gets the variables.
        zeros: Whether zeros stay zero.
        clusters: Granularity of the clusters; None preserves none.
        place: Which of the layer's kernels (`layers.find_kernels`).

    Returns:
        The variables by name: `mask` for zeros, `centroids` and `where` for clusters.
    """
    state, axis = {}, get_channel_axis(wrapper.layer)
    name, kernel = f"kernel_{place}" if place else "kernel", [*read_layer_kernels(wrapper.layer).values()][place]
    if zeros:
        mask = np.moveaxis(kernel != 0, -1, axis).astype(np.float32)
        state["mask"] = _add_variable(wrapper, f"{name}_mask", mask)
    if clusters:
        values, indices = make_lookup(kernel, clusters)
        state["centroids"] = _add_variable(wrapper, f"{name}_centroids", values, trainable=True)
        state["where"] = _add_variable(wrapper, f"{name}_where", np.moveaxis(indices, -1, axis))
    return state


def apply_state(kernel: tf.Tensor, state: dict[str, tf.Variable]) -> tf.Tensor:
    """Apply preserved zeros and clusters to a kernel.

    Args:
        kernel: The trained kernel.
        state: Variables of the wrapper: `mask` for zeros, `centroids` and `where` for clusters; each is optional.

    Returns:
        The kernel, made of centroids and multiplied by the mask where the state has them.
    """
    if "centroids" in state:
        # Tensors, because tf.custom_gradient takes no gradient of a variable on several devices.
        kernel = gather_centroids(tf.convert_to_tensor(state["centroids"]), tf.convert_to_tensor(state["where"]))
    return kernel * state["mask"] if "mask" in state else kernel


def _add_variable(layer: keras.layers.Layer, name: str, value: np.ndarray, trainable: bool = False) -> tf.Variable:
    return layer.add_weight(name, value.shape, value.dtype, keras.initializers.Constant(value), trainable=trainable)


class PreservingLayer(keras.layers.Wrapper):
    """A layer whose kernels keep their zeros and clusters during training in float32.

    Attributes:
        zeros: Whether zeros stay zero.
        clusters: Granularity of the clusters; None preserves none.
    """

    def __init__(self, layer: keras.layers.Layer, zeros: bool, clusters: Granularity | None, **kwargs) -> None:
        super().__init__(layer, name=f"held_{layer.name}", **kwargs)
        self.zeros, self.clusters = zeros, clusters

    def build(self, input_shape) -> None:
        """Build the layer, and record the zeros and clusters of its kernels.

        Args:
            input_shape: Shape of the inputs, the batch included.
        """
        super().build(input_shape)
        places = find_kernels(self.layer).values()
        self.kernels = [getattr(owner, attribute) for owner, attribute in places]
        self.states = [add_state(self, self.zeros, self.clusters, place) for place in range(len(places))]

    def call(self, inputs, training=None, mask=None):
        """Call the layer with its zeros and clusters applied.

        Args:
            inputs: The layer's inputs.
            training: Whether a recurrent layer drops out.
            mask: Which steps a recurrent layer skips.
        """
        for (owner, attribute), kernel in zip(find_kernels(self.layer).values(), self._apply(), strict=True):
            setattr(owner, attribute, kernel)
        arguments = {"training": training, "mask": mask} if get_kind(self.layer) == "recurrent" else {}
        return self.layer.call(inputs, **arguments)

    def release(self) -> dict[str, np.ndarray]:
        """Return the trained kernels by name, as `layers.read_layer_kernels` does."""
        axis, kernels = get_channel_axis(self.layer), self._apply()
        names = find_kernels(self.layer)
        return {name: np.moveaxis(kernel.numpy(), axis, -1) for name, kernel in zip(names, kernels, strict=True)}

    def _apply(self) -> list[tf.Tensor]:
        return [apply_state(kernel, state) for kernel, state in zip(self.kernels, self.states, strict=True)]


class KernelQuantizer(tfmot.quantization.keras.quantizers.Quantizer):
    """Fake-quantizes one kernel to symmetric 8 bits and preserves its zeros and clusters.

    Attributes:
        zeros: Whether zeros stay zero.
        clusters: Granularity of the clusters; None preserves none.
        per_channel: Whether each output channel has its own range, as for convolutions in `.tflite` files. A kernel
            clustered per tensor gives all channels the range of its largest centroid, so that it has as many int8
            values as centroids.
    """

    def __init__(self, zeros: bool, clusters: Granularity | None, per_channel: bool) -> None:
        self.zeros, self.clusters, self.per_channel = zeros, clusters, per_channel

    def build(self, tensor_shape, name, layer):
        """Create the range, and record the zeros and clusters of the kernel of the wrapped layer.

        Args:
            tensor_shape: Shape of the kernel.
            name: Attribute of the wrapped layer that holds the kernel.
            layer: The wrapper.
        """
        range_shape = (tensor_shape[-1],) if self.per_channel else ()
        bounds = {
            bound: layer.add_weight(f"{name}_{bound}", range_shape, initializer="zeros", trainable=False)
            for bound in ("min", "max")
        }
        return bounds | add_state(layer, self.zeros, self.clusters)

    def __call__(self, inputs, training, weights, **kwargs):  # noqa: ARG002
        kernel = apply_state(inputs, weights)
        low, high = weights["min"], weights["max"]
        if training:
            reach = self._reach(tf.stop_gradient(kernel))
            low, high = low.assign(-reach), high.assign(reach)
        fake_quantize = (
            tf.quantization.fake_quant_with_min_max_vars_per_channel
            if self.per_channel
            else tf.quantization.fake_quant_with_min_max_vars
        )
        return fake_quantize(kernel, low, high, num_bits=8, narrow_range=True)

    def _reach(self, kernel: tf.Tensor) -> tf.Tensor:
        """The largest magnitude: a scalar, or (out,) with `per_channel`."""
        magnitude = tf.abs(kernel)
        if not self.per_channel:
            return tf.reduce_max(magnitude)
        if self.clusters == "tensor":
            return tf.fill([kernel.shape[-1]], tf.reduce_max(magnitude))
        return tf.reduce_max(magnitude, axis=list(range(kernel.shape.rank - 1)))

    def get_config(self):
        """Return the arguments of the constructor."""
        return {"zeros": self.zeros, "clusters": self.clusters, "per_channel": self.per_channel}


class _Layout:
    """TFMOT's layout, with a quantizer for every kernel: ours for eligible kernels that preserve something."""

    def __init__(self, scheme: "PreservingScheme") -> None:
        self.scheme = scheme

    def apply(self, model: keras.Model, layer_quantize_map: dict) -> tuple[keras.Model, dict]:
        given = {name: entry.get("quantize_config") for name, entry in layer_quantize_map.items()}
        model, quantize_map = (
            super(PreservingScheme, self.scheme).get_layout_transformer().apply(model, layer_quantize_map)
        )
        registry, preserves = self.scheme.get_quantize_registry(), self.scheme.zeros or self.scheme.clusters
        for layer in model.layers:
            entry = quantize_map.get(layer.name, {})
            # TFMOT gives a layer before a ReLU a NoOpQuantizeConfig: no quantizer for its activation, which needs none,
            # and none for its kernel, which needs one.
            before_relu = type(entry.get("quantize_config")).__name__ == "NoOpQuantizeConfig"
            if given.get(layer.name):
                entry["quantize_config"] = given[layer.name]
            elif preserves and is_eligible(layer):
                entry["quantize_config"] = KernelConfig(self.scheme.quantizer(layer), not before_relu)
            elif before_relu and get_kind(layer):
                entry["quantize_config"] = copy.copy(registry.get_quantize_config(layer))
                entry["quantize_config"].activation_attrs = []
        return model, quantize_map


class PreservingScheme(tfmot.quantization.keras.default_8bit.Default8BitQuantizeScheme):
    """TFMOT's default 8-bit scheme, with kernels that keep their zeros, clusters or both.

    Attributes:
        zeros: Whether zeros stay zero.
        clusters: Granularity with which the model was clustered; None preserves no clusters.
        unclustered: Names of layers that clustering left out.
    """

    def __init__(self, zeros: bool, clusters: Granularity | None, unclustered: tuple[str, ...] = ()) -> None:
        super().__init__()
        self.zeros, self.clusters, self.unclustered = zeros, clusters, unclustered

    def quantizer(self, layer: keras.layers.Layer) -> KernelQuantizer:
        """Make the quantizer for the kernel of one layer.

        Args:
            layer: An eligible layer.

        Returns:
            A new quantizer.
        """
        # Only convolutions are clustered per channel; other kernels are clustered as a whole.
        clusters = "tensor" if self.clusters and not is_convolution(layer) else self.clusters
        preserved = None if layer.name in self.unclustered else clusters
        return KernelQuantizer(self.zeros, preserved, per_channel=get_kind(layer) == "conv2d")

    def get_layout_transformer(self):
        """Return TFMOT's layout with our quantizers."""
        return _Layout(self)
