"""A fake-quantized model as a plain Keras model that computes the same.

Keras cannot load a saved fake-quantized model: it builds a wrapper, whose variables follow the trained kernel, before
it has that kernel. In inference, however, a wrapper is its layer with a rounded kernel, and a range is one operation.
The plain model needs no class of TFMOT, and trains no further.
"""

import dataclasses
from collections.abc import Callable
from typing import Any

import numpy as np

from collabopt.runtime.tensorflow import keras, tf, tfmot
from collabopt.techniques import layers, quantization
from collabopt.techniques.int8_layers import FloatOutput
from collabopt.techniques.replacement import Replacement, copy_layer, replace_layers


def make_plain(wrapped: keras.Model) -> keras.Model:
    """Return a copy of a fake-quantized model `wrapped` with plain layers and operations instead of wrappers.

    Returns:
        A model with the same outputs in inference. Its kernels are rounded to the int8 grid, and ranges of activations
        are operations `tf.quantization.fake_quant_with_min_max_vars`.
    """
    plain, kernels = replace_layers(wrapped, _find_replacement), _read_rounded_kernels(wrapped)
    for wrapper in wrapped.layers:
        if not hasattr(wrapper, "quantize_config") or isinstance(wrapper.layer, FloatOutput):
            continue
        source, target = wrapper.layer, plain.get_layer(wrapper.layer.name)
        if layers.get_kind(source):
            layers.assign_kernels(target, kernels)
            layers.copy_biases(source, target)
        else:
            target.set_weights(source.get_weights())
    return plain


def _read_rounded_kernels(wrapped: keras.Model) -> dict[str, np.ndarray]:
    """The kernels with which layers compute in inference, as `layers.read_layer_kernels` returns them."""
    kernels = {}
    for name, (layer, quantized) in quantization.find_kernels(wrapped).items():
        if quantized is None:
            kernels[name] = layers.read_layer_kernels(layer)[name]
        else:
            values, quantizer, state = quantized
            rounded = quantizer(values, False, weights=state).numpy()
            kernels[name] = np.moveaxis(rounded, layers.get_channel_axis(layer), -1)
    return kernels


@dataclasses.dataclass
class _Call:
    """A function in a chain of layers."""

    function: Callable

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self.function(*args, **kwargs)

    def set_weights(self, weights: list[np.ndarray]) -> None:
        """Set nothing: layers get their weights by name."""


def _find_replacement(layer: keras.layers.Layer) -> Replacement | None:
    if hasattr(layer, "quantizer_vars"):  # of an input
        return _make_chain([_make_range(layer.quantizer, layer.quantizer_vars)])
    if not hasattr(layer, "quantize_config"):
        return None
    inner, calls = layer.layer, []
    if not isinstance(inner, FloatOutput):
        calls.append(copy_layer(inner, activation="linear") if layer._quantize_activations else copy_layer(inner))
    for one in layer._quantize_activations:
        ranges = [getattr(one, f"_{place}_activation_vars", None) for place in ("pre", "post")]
        before, after = ([_make_range(one.quantizer, found)] if found else [] for found in ranges)
        calls += [*before, one.activation, *after] if one.activation is not keras.activations.linear else after
    calls += [_make_range(one, layer._output_quantizer_vars) for one in layer._output_quantizers]
    return _make_chain(calls)


def _make_chain(functions: list[Callable]) -> Replacement:
    return Replacement([(_Call(function), []) for function in functions])


def _make_range(
    quantizer: tfmot.quantization.keras.quantizers.Quantizer, state: dict[str, tf.Variable]
) -> Callable[[tf.Tensor], tf.Tensor]:
    """The fake quantization of an activation with a fixed range."""
    low, high = (float(state[name].numpy()) for name in ("min_var", "max_var"))
    settings = {"num_bits": quantizer.num_bits, "narrow_range": quantizer.narrow_range}

    def quantize(values: tf.Tensor) -> tf.Tensor:
        # As in training. `fake_quant_with_min_max_args` rounds values in the middle of two steps otherwise.
        return tf.quantization.fake_quant_with_min_max_vars(values, min=low, max=high, **settings)

    return quantize
