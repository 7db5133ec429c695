"""A scheme for quantization-aware training that preserves zeros and clusters, on TFMOT's extension points.

`kernel_state` holds the zeros and clusters of each kernel. TFMOT's own schemes guess the granularity of clusters, share
one quantizer among layers, and leave out a convolution before a ReLU without batch norm. Here the granularity is a
setting, each kernel has its own quantizer, and no eligible layer is left out.
"""

import copy
import dataclasses
from collections.abc import Mapping

import numpy as np

from collabopt.config import per_layer
from collabopt.runtime.tensorflow import keras, tf, tfmot
from collabopt.techniques.kernel_state import Clusters, add_state, apply_state
from collabopt.techniques.layers import (
    find_kernels,
    get_channel_axis,
    get_kind,
    is_convolution,
    is_eligible,
    pass_masks,
)
from collabopt.techniques.quantize_configs import KernelConfig


class PreservingLayer(keras.layers.Wrapper):
    """A layer whose kernels keep their zeros and clusters during training in float32.

    Attributes:
        zeros: Whether zeros stay zero.
        clusters: How clusters are trained; None preserves none.
        clustered: The clustered kernels, in the order of `layers.find_kernels`. The layer's own are latent weights.
        importance: What errors cost, of the same shapes (`kernel_state.add_state`); None where only errors count.
    """

    def __init__(
        self,
        layer: keras.layers.Layer,
        zeros: bool,
        clusters: Clusters | None,
        clustered: list[np.ndarray],
        importance: list[np.ndarray | None],
        **kwargs,
    ) -> None:
        super().__init__(layer, name=f"held_{layer.name}", **kwargs)
        self.zeros, self.clusters, self.clustered = zeros, clusters, clustered
        self.importance = importance
        pass_masks(self, layer)

    def build(self, input_shape) -> None:
        """Build the layer, and record the zeros and clusters of its kernels."""
        super().build(input_shape)
        places = find_kernels(self.layer).values()
        self.kernels = [getattr(owner, attribute) for owner, attribute in places]
        self.states = [
            add_state(self, self.zeros, self.clusters, place, *one)
            for place, one in enumerate(zip(self.clustered, self.importance, strict=True))
        ]

    def call(self, inputs, training=None, mask=None):
        """Call the layer with its zeros and clusters applied.

        Args:
            inputs: The layer's inputs.
            training: Whether weights are assigned again, and a recurrent layer drops out.
            mask: Which steps a recurrent layer skips.
        """
        for (owner, attribute), kernel in zip(find_kernels(self.layer).values(), self._apply(training), strict=True):
            setattr(owner, attribute, kernel)
        arguments = {"training": training, "mask": mask} if get_kind(self.layer) == "recurrent" else {}
        return self.layer.call(inputs, **arguments)

    def release(self) -> dict[str, np.ndarray]:
        """Return the trained kernels by name, as `layers.read_layer_kernels` does."""
        axis, kernels = get_channel_axis(self.layer), self._apply()
        names = find_kernels(self.layer)
        return {name: np.moveaxis(kernel.numpy(), axis, -1) for name, kernel in zip(names, kernels, strict=True)}

    def _apply(self, training: bool = False) -> list[tf.Tensor]:
        return [apply_state(kernel, state, training) for kernel, state in zip(self.kernels, self.states, strict=True)]


class KernelQuantizer(tfmot.quantization.keras.quantizers.Quantizer):
    """Fake-quantizes one kernel to symmetric integers and preserves its zeros and clusters.

    Attributes:
        zeros: Whether zeros stay zero.
        clusters: How clusters are trained; None preserves none.
        per_channel: Whether each output channel has its own range, as for convolutions in `.tflite` files. A kernel
            clustered per tensor gives all channels the range of its largest centroid, so that it has as many int8
            values as centroids.
        bits: Bits per weight, 8 or 4. The converter stores 4-bit values of convolutions and dense layers as INT4.
    """

    def __init__(self, zeros: bool, clusters: Clusters | None, per_channel: bool, bits: int = 8) -> None:
        self.zeros, self.clusters, self.per_channel, self.bits = zeros, clusters, per_channel, bits

    def build(self, tensor_shape, name, layer):
        """Create the range, and record the zeros and clusters of the kernel of the wrapped layer."""
        range_shape = (tensor_shape[-1],) if self.per_channel else ()
        bounds = {
            bound: layer.add_weight(f"{name}_{bound}", range_shape, initializer="zeros", trainable=False)
            for bound in ("min", "max")
        }
        return bounds | add_state(layer, self.zeros, self.clusters)

    def __call__(self, inputs, training, weights, **kwargs):  # noqa: ARG002
        kernel = apply_state(inputs, weights, training)
        low, high = weights["min"], weights["max"]
        if training:
            reach = self._reach(tf.stop_gradient(kernel))
            low, high = low.assign(-reach), high.assign(reach)
        fake_quantize = (
            tf.quantization.fake_quant_with_min_max_vars_per_channel
            if self.per_channel
            else tf.quantization.fake_quant_with_min_max_vars
        )
        return fake_quantize(kernel, low, high, num_bits=self.bits, narrow_range=True)

    def _reach(self, kernel: tf.Tensor) -> tf.Tensor:
        """The largest magnitude: a scalar, or (out,) with `per_channel`."""
        magnitude = tf.abs(kernel)
        if not self.per_channel:
            return tf.reduce_max(magnitude)
        if self.clusters and self.clusters.granularity == "tensor":
            return tf.fill([kernel.shape[-1]], tf.reduce_max(magnitude))
        return tf.reduce_max(magnitude, axis=list(range(kernel.shape.rank - 1)))

    def get_config(self):
        """Return the arguments of the constructor."""
        return {"zeros": self.zeros, "clusters": self.clusters, "per_channel": self.per_channel, "bits": self.bits}


class _Layout:
    """TFMOT's layout, with a quantizer for every kernel: ours for eligible kernels that preserve something."""

    def __init__(self, scheme: "PreservingScheme") -> None:
        self.scheme = scheme

    def apply(self, model: keras.Model, layer_quantize_map: dict) -> tuple[keras.Model, dict]:
        given = {name: entry.get("quantize_config") for name, entry in layer_quantize_map.items()}
        model, quantize_map = (
            super(PreservingScheme, self.scheme).get_layout_transformer().apply(model, layer_quantize_map)
        )
        registry, preserves = self.scheme.get_quantize_registry(), self.scheme.is_ours
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
        clusters: How the model was clustered, and how clusters are trained; None preserves none.
        unclustered: Names of layers that clustering left out.
        bits: Bits per weight, or bits by layer (`per_layer`).
    """

    def __init__(
        self,
        zeros: bool,
        clusters: Clusters | None,
        unclustered: tuple[str, ...] = (),
        bits: int | Mapping[str, int] = 8,
    ) -> None:
        super().__init__()
        self.zeros, self.clusters, self.unclustered, self.bits = zeros, clusters, unclustered, bits

    @property
    def is_ours(self) -> bool:
        """Whether eligible kernels have our quantizer; TFMOT's would do where nothing is preserved in 8 bits."""
        return bool(self.zeros or self.clusters or self.bits != 8)

    def quantizer(self, layer: keras.layers.Layer) -> KernelQuantizer:
        """Return a new quantizer for the kernel of an eligible `layer`."""
        # Only convolutions are clustered per channel; other kernels are clustered as a whole.
        clusters = self.clusters
        if clusters and not is_convolution(layer):
            clusters = dataclasses.replace(clusters, granularity="tensor")
        preserved = None if layer.name in self.unclustered else clusters
        bits = per_layer.get_value(self.bits, layer.name)
        return KernelQuantizer(self.zeros, preserved, get_kind(layer) == "conv2d", bits)

    def get_layout_transformer(self):
        """Return TFMOT's layout with our quantizers."""
        return _Layout(self)
