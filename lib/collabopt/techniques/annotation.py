"""Which quantize configuration each layer gets: ours where TFMOT has none, or one whose form the converter rejects."""

import functools
from collections.abc import Callable, Sequence

from collabopt.runtime.tensorflow import keras, tf, tfmot
from collabopt.techniques import int8_layers, layers
from collabopt.techniques.kernel_state import Clusters, add_state, apply_state
from collabopt.techniques.preserving_scheme import KernelQuantizer, PreservingScheme
from collabopt.techniques.quantize_configs import KernelConfig, OutputConfig


class ChannelQuantizer(KernelQuantizer):
    """Fake-quantizes a kernel to symmetric 8 bits per output channel, for layers whose kernel the converter transposes.

    The converter fails to transpose or reshape a kernel with a range per channel. In inference this quantizer therefore
    rounds by plain arithmetic. The converter folds it into a constant, folds a batch norm into that, and quantizes the
    result with each channel's largest magnitude, which gives the same int8 values.
    """

    def __init__(self, zeros: bool, clusters: Clusters | None) -> None:
        super().__init__(zeros, clusters, per_channel=True)

    def build(self, tensor_shape, name, layer):
        """Create the largest magnitudes, and record the zeros and clusters of the kernel of the wrapped layer."""
        axis = layers.get_channel_axis(layer.layer)
        shape = [1] * len(tensor_shape)
        shape[axis] = tensor_shape[axis]
        reach = layer.add_weight(f"{name}_reach", shape, initializer="zeros", trainable=False)
        return {"reach": reach} | add_state(layer, self.zeros, self.clusters)

    def __call__(self, inputs, training, weights, **kwargs):  # noqa: ARG002
        kernel, reach = apply_state(inputs, weights, training), weights["reach"]
        if training:
            axes = [axis for axis, size in enumerate(reach.shape) if size == 1]
            reach = reach.assign(tf.reduce_max(tf.abs(tf.stop_gradient(kernel)), axes, keepdims=True))
        rounded = tf.round(tf.math.divide_no_nan(kernel, reach / 127)) * (reach / 127)
        return kernel + tf.stop_gradient(rounded - kernel) if training else rounded

    def get_config(self):
        """Return the arguments of the constructor."""
        return {"zeros": self.zeros, "clusters": self.clusters}


class KernelHolder(KernelQuantizer):
    """Preserves zeros and clusters of a kernel that stays in float32.

    Attributes:
        place: Which of the layer's kernels (`layers.find_kernels`).
    """

    def __init__(self, zeros: bool, clusters: Clusters | None, place: int) -> None:
        super().__init__(zeros, clusters, per_channel=False)
        self.place = place

    def build(self, tensor_shape, name, layer):  # noqa: ARG002
        """Record the zeros and clusters of the kernel of the wrapped layer."""
        return add_state(layer, self.zeros, self.clusters, self.place)

    def __call__(self, inputs, training, weights, **kwargs):  # noqa: ARG002
        return apply_state(inputs, weights, training)

    def get_config(self):
        """Return the arguments of the constructor."""
        return {"zeros": self.zeros, "clusters": self.clusters, "place": self.place}


class HeldConfig(OutputConfig):
    """Preserves zeros and clusters of the kernels of a layer that stays in float32."""

    def __init__(self, zeros: bool, clusters: Clusters | None) -> None:
        super().__init__(quantize_output=False)
        self.zeros, self.clusters = zeros, clusters

    def get_weights_and_quantizers(self, layer):
        """Return the kernels, each with what preserves it."""
        places = enumerate(layers.find_kernels(layer).values())
        return [(getattr(*where), KernelHolder(self.zeros, self.clusters, place)) for place, where in places]

    def set_quantize_weights(self, layer, quantize_weights):
        """Set the preserved kernels."""
        for (owner, attribute), kernel in zip(layers.find_kernels(layer).values(), quantize_weights, strict=True):
            setattr(owner, attribute, kernel)

    def get_config(self):
        """Return the arguments of the constructor."""
        return {"zeros": self.zeros, "clusters": self.clusters}


def list_custom_objects(model: keras.Model) -> dict[str, type]:
    """Return the classes, by name, that TFMOT needs to copy a plain `model`: those of its layers, and ours."""
    ours = (KernelConfig, OutputConfig, HeldConfig, KernelQuantizer, ChannelQuantizer, KernelHolder)
    return {kind.__name__: kind for kind in (*map(type, model.layers), *ours)}


def annotate(model: keras.Model, scheme: PreservingScheme, unquantized: Sequence[str] = ()) -> keras.Model:
    """Return a model whose quantized layers have their configurations. TFMOT configures the layers that it knows.

    Args:
        model: A rewritten model (`int8_rewrites`). The result takes its layers.
        scheme: Says which zeros and clusters are preserved.
        unquantized: Names of layers that stay in float32 on purpose.
    """
    marks = {layer.name: _make_mark(layer, scheme, layer.name in unquantized) for layer in model.layers}
    return keras.models.clone_model(model, clone_function=lambda layer: marks[layer.name](layer))


def _make_mark(layer: keras.layers.Layer, scheme: PreservingScheme, is_excluded: bool) -> Callable:
    """A function that marks a layer, or returns it where TFMOT must not see it."""
    annotate_layer = tfmot.quantization.keras.quantize_annotate_layer
    is_quantizable = int8_layers.is_quantizable(layer)
    if not is_excluded and is_quantizable:
        return functools.partial(annotate_layer, quantize_config=_make_config(layer, scheme))
    if layers.is_eligible(layer):
        preserved = scheme.quantizer(layer)
        held = HeldConfig(preserved.zeros, preserved.clusters)
        return functools.partial(annotate_layer, quantize_config=held)
    # TFMOT would put a range on such a layer if it knows its kind.
    is_known = is_quantizable or isinstance(layer, keras.layers.Activation)
    return functools.partial(annotate_layer, quantize_config=OutputConfig(False)) if is_known else lambda same: same


def _make_config(layer: keras.layers.Layer, scheme: PreservingScheme) -> tfmot.quantization.keras.QuantizeConfig | None:
    """Our configuration of a layer, or None to take TFMOT's."""
    fuses_relu, following = int8_layers.is_before_relu(layer), int8_layers.get_only_consumer(layer)
    has_norm = following is not None and int8_layers.find_folded_layer(following) is layer
    if _has_constant_kernel(layer, has_norm):
        preserved = scheme.quantizer(layer) if layers.is_eligible(layer) else ChannelQuantizer(False, None)
        preserved.bits = 8
        if not (
            preserved.clusters and preserved.clusters.granularity == "tensor"
        ):  # else one range serves the kernel, and the converter can transpose it
            preserved = ChannelQuantizer(preserved.zeros, preserved.clusters)
        return KernelConfig(preserved, not (fuses_relu or has_norm))
    if _has_constant_kernel(int8_layers.find_folded_layer(layer), True):
        return OutputConfig(not fuses_relu)
    if type(layer) in (*int8_layers.WITH_RANGE, int8_layers.ChannelAffine, int8_layers.FloatOutput):
        clips = isinstance(layer, int8_layers.ChannelAffine) and layer.limit
        return OutputConfig(not (fuses_relu or clips))
    if int8_layers.is_plain_activation(layer):
        return OutputConfig(not fuses_relu)
    return OutputConfig(False) if type(layer) in int8_layers.WITHOUT_RANGE else None


def _has_constant_kernel(layer: keras.layers.Layer | None, has_norm: bool) -> bool:
    """Whether the converter transposes or reshapes a kernel that needs a range per channel."""
    kinds = keras.layers.Conv1D | keras.layers.Conv2DTranspose
    return isinstance(layer, kinds) or (has_norm and isinstance(layer, keras.layers.Dense))
