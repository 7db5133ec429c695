"""Quantize configurations: what of a layer TFMOT fake-quantizes."""

from collabopt.runtime.tensorflow import tfmot


def _make_range() -> tfmot.quantization.keras.quantizers.Quantizer:
    """TFMOT's quantizer of activations: one range per tensor, which follows the data."""
    return tfmot.quantization.keras.quantizers.MovingAverageQuantizer(
        num_bits=8, per_axis=False, symmetric=False, narrow_range=False
    )


class KernelConfig(tfmot.quantization.keras.QuantizeConfig):
    """A quantizer for a layer's kernel, and TFMOT's for its activation if it has one.

    Attributes:
        activation: Whether the activation gets a range.
    """

    def __init__(self, quantizer: tfmot.quantization.keras.quantizers.Quantizer, activation: bool) -> None:
        self.quantizer, self.activation = quantizer, activation

    def get_weights_and_quantizers(self, layer):
        """Return the kernel with its quantizer."""
        return [(layer.kernel, self.quantizer)]

    def get_activations_and_quantizers(self, layer):
        """Return the activation with its quantizer."""
        return [(layer.activation, _make_range())] if self.activation else []

    def set_quantize_weights(self, layer, quantize_weights):
        """Set the fake-quantized kernel."""
        (layer.kernel,) = quantize_weights

    def set_quantize_activations(self, layer, quantize_activations):
        """Set the fake-quantized activation."""
        if self.activation:
            (layer.activation,) = quantize_activations

    def get_output_quantizers(self, layer):  # noqa: ARG002
        """Return nothing: the range is on the activation."""
        return []

    def get_config(self):
        """Return the arguments of the constructor."""
        return {"quantizer": self.quantizer, "activation": self.activation}


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
        return [_make_range()] if self.quantize_output else []

    def get_config(self):
        """Return the arguments of the constructor."""
        return {"quantize_output": self.quantize_output}
