"""Quantize configurations for the layers that TFMOT does not know, or that it quantizes in a form the converter rejects."""

from collections.abc import Sequence

from collabopt.runtime.tensorflow import keras, tf, tfmot
from collabopt.techniques import int8_layers
from collabopt.techniques.preserving_scheme import KernelConfig, KernelQuantizer, _add_state, apply_state


class ChannelQuantizer(KernelQuantizer):
    """Fake-quantizes a kernel to symmetric 8 bits per output channel, for layers whose kernel the converter transposes.

    The converter fails to transpose or reshape a kernel with a range per channel. In inference this quantizer therefore
    rounds by plain arithmetic. The converter folds it into a constant, folds a batch norm into that, and quantizes the
    result with each channel's largest magnitude, which gives the same int8 values.

    Attributes:
        zeros: Whether zeros stay zero.
        axis: The axis of output channels.
    """

    def __init__(self, zeros: bool, axis: int) -> None:
        super().__init__(zeros, None, per_channel=True)
        self.axis = axis

    def build(self, tensor_shape, name, layer):
        """Create the largest magnitudes, and record the zeros of the kernel of the wrapped layer."""
        shape = [1] * len(tensor_shape)
        shape[self.axis] = tensor_shape[self.axis]
        reach = layer.add_weight(f"{name}_reach", shape, initializer="zeros", trainable=False)
        return {"reach": reach} | _add_state(layer, getattr(layer.layer, name).numpy(), self.zeros, None)

    def __call__(self, inputs, training, weights, **kwargs):  # noqa: ARG002
        kernel, reach = apply_state(inputs, weights), weights["reach"]
        if training:
            axes = [axis for axis in range(kernel.shape.rank) if axis != self.axis % kernel.shape.rank]
            reach = reach.assign(tf.reduce_max(tf.abs(tf.stop_gradient(kernel)), axes, keepdims=True))
        rounded = tf.round(tf.math.divide_no_nan(kernel, reach / 127)) * (reach / 127)
        return kernel + tf.stop_gradient(rounded - kernel) if training else rounded

    def get_config(self):
        """Return the arguments of the constructor."""
        return {"zeros": self.zeros, "axis": self.axis}


class OutputConfig(tfmot.quantization.keras.QuantizeConfig):
    """At most a range on a layer's output.

    Attributes:
        quantize_output: Whether the output gets a range. TFMOT unsets it before a concatenation.
    """

    def __init__(self, quantize_output: bool) -> None:
        self.quantize_output = quantize_output

    def get_weights_and_quantizers(self, layer):  # noqa: ARG002
        """Return nothing: weights are not quantized."""
        return []

    def get_activations_and_quantizers(self, layer):  # noqa: ARG002
        """Return nothing: activations are not quantized."""
        return []

    def set_quantize_weights(self, layer, quantize_weights):  # noqa: ARG002
        """Set nothing."""
        assert not quantize_weights

    def set_quantize_activations(self, layer, quantize_activations):  # noqa: ARG002
        """Set nothing."""
        assert not quantize_activations

    def get_output_quantizers(self, layer):  # noqa: ARG002
        """Return the quantizer of the output."""
        quantizer = tfmot.quantization.keras.quantizers.MovingAverageQuantizer(
            num_bits=8, per_axis=False, symmetric=False, narrow_range=False
        )
        return [quantizer] if self.quantize_output else []

    def get_config(self):
        """Return the arguments of the constructor."""
        return {"quantize_output": self.quantize_output}


def list_custom_objects(model: keras.Model) -> dict[str, type]:
    """List the classes that TFMOT needs to copy an annotated model.

    Args:
        model: The annotated model's plain model.

    Returns:
        Classes by name: those of the model's layers, and our configurations and quantizers.
    """
    ours = (KernelConfig, KernelQuantizer, ChannelQuantizer, OutputConfig)
    return {kind.__name__: kind for kind in (*map(type, model.layers), *ours)}


def annotate(model: keras.Model, zeros: bool, unquantized: Sequence[str] = ()) -> keras.Model:
    """Mark the layers of a model that are quantized, each with its configuration.

    Args:
        model: A rewritten model (`int8_rewrites`). The result takes its layers.
        zeros: Whether zeros are preserved.
        unquantized: Names of layers that stay in float32 on purpose.

    Returns:
        The annotated model. TFMOT configures the layers that it knows.
    """
    floats = [layer.name for layer in model.layers if not int8_layers.is_quantizable(layer)]
    configs = {layer.name: _make_config(layer, zeros) for layer in model.layers}

    def annotate_layer(layer: keras.layers.Layer) -> keras.layers.Layer:
        if layer.name in (*floats, *unquantized):
            return layer
        return tfmot.quantization.keras.quantize_annotate_layer(layer, configs[layer.name])

    return keras.models.clone_model(model, clone_function=annotate_layer)


def _make_config(layer: keras.layers.Layer, zeros: bool) -> tfmot.quantization.keras.QuantizeConfig | None:
    """Our configuration of a layer, or None to take TFMOT's."""
    fuses_relu = int8_layers.is_before_relu(layer)
    if _is_transposed(layer, norm := int8_layers.get_only_consumer(layer)):
        axis = 2 if isinstance(layer, keras.layers.Conv2DTranspose) else -1
        keeps_zeros = zeros and isinstance(layer, keras.layers.Dense)
        has_norm = int8_layers.find_folded_layer(norm) is layer if norm else False
        return KernelConfig(ChannelQuantizer(keeps_zeros, axis), not (fuses_relu or has_norm))
    if _is_transposed(int8_layers.find_folded_layer(layer), layer):
        return OutputConfig(not fuses_relu)
    if type(layer) in (*int8_layers.WITH_RANGE, int8_layers.ChannelAffine, int8_layers.FloatOutput):
        clips = isinstance(layer, int8_layers.ChannelAffine) and layer.limits
        return OutputConfig(not (fuses_relu or clips))
    return OutputConfig(False) if type(layer) in int8_layers.WITHOUT_RANGE else None


def _is_transposed(layer: keras.layers.Layer | None, following: keras.layers.Layer | None) -> bool:
    """Whether the converter transposes or reshapes a kernel that needs a range per channel."""
    if isinstance(layer, keras.layers.Dense):
        return following is not None and int8_layers.find_folded_layer(following) is layer
    return isinstance(layer, keras.layers.Conv1D | keras.layers.Conv2DTranspose)
