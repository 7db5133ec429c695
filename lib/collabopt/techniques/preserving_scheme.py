"""An 8-bit scheme for quantization-aware training that keeps zeros and clusters, on TFMOT's extension points.

Where TFMOT's own schemes guess how a kernel was clustered and share one quantizer among layers, here it is said, each
kernel has a quantizer of its own, and a convolution that is followed by a ReLU without batch norm is not left out.
"""

from typing import Literal

import numpy as np

from collabopt.runtime.tensorflow import keras, tf, tfmot
from collabopt.techniques.layers import is_eligible

Clusters = Literal["tensor", "channel"]


def make_lookup(kernel: np.ndarray, clusters: Clusters) -> tuple[np.ndarray, np.ndarray]:
    """The distinct values (n,) of a kernel, of all its channels one after another with `channel`, and where each weight
    finds its own: indices of the kernel's shape."""
    if clusters == "tensor":
        values, where = np.unique(kernel, return_inverse=True)
        return values, where.reshape(kernel.shape).astype(np.int32)
    channel = np.broadcast_to(np.arange(kernel.shape[-1]), kernel.shape)
    order = np.lexsort((kernel.ravel(), channel.ravel()))
    values, of = kernel.ravel()[order], channel.ravel()[order]
    new = np.r_[True, (values[1:] != values[:-1]) | (of[1:] != of[:-1])]
    where = np.empty(kernel.size, np.int32)
    where[order] = np.cumsum(new) - 1
    return values[new], where.reshape(kernel.shape)


@tf.custom_gradient
def gather_centroids(centroids: tf.Tensor, where: tf.Tensor):
    """Each weight's centroid; a centroid's gradient is the sum over its members (Han et al. 2016)."""

    def gradient(upstream: tf.Tensor):
        flat = tf.reshape(upstream, [-1])
        return tf.math.unsorted_segment_sum(flat, tf.reshape(where, [-1]), tf.size(centroids)), None

    return tf.gather(centroids, where), gradient


def add_state(layer: keras.layers.Layer, kernel: np.ndarray, zeros: bool, clusters: Clusters | None) -> dict:
    """Variables of `layer` that hold the zeros and the clusters of `kernel`, for `held`."""
    state = {}
    if zeros:
        state["mask"] = _kept(layer, "kernel_mask", (kernel != 0).astype(np.float32))
    if clusters:
        values, where = make_lookup(kernel, clusters)
        state["centroids"] = _kept(layer, "kernel_centroids", values, trainable=True)
        state["where"] = _kept(layer, "kernel_where", where)
    return state


def apply_state(kernel: tf.Tensor, state: dict[str, tf.Variable]) -> tf.Tensor:
    """The kernel with its zeros and clusters."""
    if "centroids" in state:
        # Tensors: of a variable on several devices tf.custom_gradient takes no gradient.
        kernel = gather_centroids(tf.convert_to_tensor(state["centroids"]), tf.convert_to_tensor(state["where"]))
    return kernel * state["mask"] if "mask" in state else kernel


def _kept(layer: keras.layers.Layer, name: str, value: np.ndarray, trainable: bool = False) -> tf.Variable:
    return layer.add_weight(name, value.shape, value.dtype, keras.initializers.Constant(value), trainable=trainable)


class PreservingLayer(keras.layers.Wrapper):
    """A layer whose kernel keeps zeros and clusters while it is trained in float."""

    def __init__(self, layer: keras.layers.Layer, zeros: bool, clusters: Clusters | None, **kwargs) -> None:
        super().__init__(layer, name=f"held_{layer.name}", **kwargs)
        self.zeros, self.clusters = zeros, clusters

    def build(self, input_shape) -> None:
        super().build(input_shape)
        self.variable = self.layer.kernel
        self.state = add_state(self, self.variable.numpy(), self.zeros, self.clusters)

    def call(self, inputs):
        self.layer.kernel = apply_state(self.variable, self.state)
        return self.layer.call(inputs)

    def release(self) -> np.ndarray:
        """The kernel as trained."""
        return apply_state(self.variable, self.state).numpy()


class KernelQuantizer(tfmot.quantization.keras.quantizers.Quantizer):
    """Fake-quantizes one kernel to symmetric 8 bits and holds what it had won when it was wrapped.

    zeros: hold its zeros. clusters: hold its values, shared in the tensor or in each channel; None holds none.
    per_channel: a range a channel, as convolutions have in `.tflite` files. A kernel clustered as a whole gives every
    channel the range of its largest centroid, so that its int8 codes are as few as its values.
    """

    def __init__(self, zeros: bool, clusters: Clusters | None, per_channel: bool) -> None:
        self.zeros, self.clusters, self.per_channel = zeros, clusters, per_channel

    def build(self, tensor_shape, name, layer):
        range_shape = (tensor_shape[-1],) if self.per_channel else ()
        bounds = {
            bound: layer.add_weight(f"{name}_{bound}", range_shape, initializer="zeros", trainable=False)
            for bound in ("min", "max")
        }
        return bounds | add_state(layer, getattr(layer.layer, name).numpy(), self.zeros, self.clusters)

    def __call__(self, inputs, training, weights, **kwargs):  # noqa: ARG002
        kernel = apply_state(inputs, weights)
        low, high = weights["min"], weights["max"]
        if training:
            reach = self._reach(tf.stop_gradient(kernel))
            low, high = low.assign(-reach), high.assign(reach)
        fake = (
            tf.quantization.fake_quant_with_min_max_vars_per_channel
            if self.per_channel
            else tf.quantization.fake_quant_with_min_max_vars
        )
        return fake(kernel, low, high, num_bits=8, narrow_range=True)

    def _reach(self, kernel: tf.Tensor) -> tf.Tensor:
        size = tf.abs(kernel)
        if not self.per_channel:
            return tf.reduce_max(size)
        if self.clusters == "tensor":
            return tf.fill([kernel.shape[-1]], tf.reduce_max(size))
        return tf.reduce_max(size, axis=list(range(kernel.shape.rank - 1)))

    def get_config(self):
        return {"zeros": self.zeros, "clusters": self.clusters, "per_channel": self.per_channel}


class KernelConfig(tfmot.quantization.keras.QuantizeConfig):
    """A quantizer for the kernel of a convolution or dense layer, and TFMOT's for its activation where it has one."""

    def __init__(self, quantizer: KernelQuantizer, activation: bool) -> None:
        self.quantizer, self.activation = quantizer, activation

    def get_weights_and_quantizers(self, layer):
        return [(layer.kernel, self.quantizer)]

    def get_activations_and_quantizers(self, layer):
        quantizer = tfmot.quantization.keras.quantizers.MovingAverageQuantizer(
            num_bits=8, per_axis=False, symmetric=False, narrow_range=False
        )
        return [(layer.activation, quantizer)] if self.activation else []

    def set_quantize_weights(self, layer, quantize_weights):
        (layer.kernel,) = quantize_weights

    def set_quantize_activations(self, layer, quantize_activations):
        if self.activation:
            (layer.activation,) = quantize_activations

    def get_output_quantizers(self, layer):  # noqa: ARG002
        return []

    def get_config(self):
        return {"quantizer": self.quantizer, "activation": self.activation}


class _Layout:
    """TFMOT's layout, with our quantizer for every kernel that is to be held."""

    def __init__(self, scheme: "PreservingScheme") -> None:
        self.scheme = scheme

    def apply(self, model: keras.Model, layer_quantize_map: dict) -> tuple[keras.Model, dict]:
        model, chosen = (
            tfmot.quantization.keras.default_8bit.Default8BitQuantizeScheme()
            .get_layout_transformer()
            .apply(model, layer_quantize_map)
        )
        for layer in filter(is_eligible, model.layers):
            # TFMOT gives a layer before a ReLU no quantizer at all, kernel included; its activation needs none.
            before_relu = type(chosen[layer.name].get("quantize_config")).__name__ == "NoOpQuantizeConfig"
            chosen[layer.name]["quantize_config"] = KernelConfig(self.scheme.quantizer(layer), not before_relu)
        return model, chosen


class PreservingScheme(tfmot.quantization.keras.default_8bit.Default8BitQuantizeScheme):
    """TFMOT's default 8-bit scheme with kernels that keep zeros, clusters or both.

    clusters: how the model was clustered; None keeps no clusters. unclustered: layers that clustering left out.
    """

    def __init__(self, zeros: bool, clusters: Clusters | None, unclustered: tuple[str, ...] = ()) -> None:
        super().__init__()
        self.zeros, self.clusters, self.unclustered = zeros, clusters, unclustered

    def quantizer(self, layer: keras.layers.Layer) -> KernelQuantizer:
        """A quantizer of its own for a layer."""
        convolution = isinstance(layer, keras.layers.Conv2D)
        # Clustering per channel is for convolutions; a dense kernel is clustered as a whole.
        clusters = "tensor" if self.clusters and not convolution else self.clusters
        held = None if layer.name in self.unclustered else clusters
        return KernelQuantizer(self.zeros, held, per_channel=convolution)

    def get_layout_transformer(self):
        return _Layout(self)
