"""A fake-quantized model whose layers can be in int8 or float32, one by one.

It is traced once: switches turn the rounding of each kernel and tensor on and off. A tensor is int8 unless the layer
that computes it and all layers that read it are in float32. `exclude.quantization` has the same effect.
"""

import dataclasses
from collections.abc import Collection, Sequence

from collabopt.analysis import agreement
from collabopt.runtime.tensorflow import keras, tf
from collabopt.techniques import activation_ranges, quantization

OUTPUT = "(output)"
"""Stands for what reads the outputs of the model."""


@dataclasses.dataclass
class Unit:
    """An input, or a layer with the batch norm, activation or reshape that belong to it.

    Attributes:
        name: Name of the input or of the first layer.
        is_input: Whether it is an input.
        layers: The plain model's layers.
        parts: The fake-quantized model's layers.
        kernels: Kernel, quantizer and its variables of each.
        readers: Names of the units that read its output.
        has_range: Whether its output is rounded.
        kernel_switch: On while its kernels are rounded.
        range_switch: On while its output is rounded.
    """

    name: str
    is_input: bool
    layers: list[str] = dataclasses.field(default_factory=list)
    parts: list[str] = dataclasses.field(default_factory=list)
    kernels: list[tuple] = dataclasses.field(default_factory=list)
    readers: set[str] = dataclasses.field(default_factory=set)
    has_range: bool = False

    @property
    def rounds(self) -> bool:
        """Whether int8 rounds anything of it. A reshape after a branch rounds nothing, for instance."""
        return bool(self.kernels) or self.has_range

    def __post_init__(self) -> None:
        self.kernel_switch, self.range_switch = (tf.Variable(True, trainable=False) for _ in range(2))


class _Switch:
    """Rounds as a quantizer does in inference, or not at all."""

    def __init__(self, quantizer, is_on: tf.Variable) -> None:
        self.quantizer, self.is_on = quantizer, is_on

    def __call__(self, inputs: tf.Tensor, training: bool, weights: dict[str, tf.Variable], **_) -> tf.Tensor:  # noqa: ARG002
        return tf.cond(
            self.is_on,
            lambda: self.quantizer(inputs, False, weights=weights),
            lambda: quantization.get_unrounded(inputs, self.quantizer, weights),
        )


class SwitchedModel:
    """A fake-quantized model, each layer of which can be in int8 or float32. It is traced once.

    Attributes:
        model: The fake-quantized model with switches in place of its quantizers.
        units: Inputs and layers by name, in the model's order.
        everything: All units and `OUTPUT`: the model in float32.
    """

    def __init__(self, wrapped: keras.Model, names: Sequence[str]) -> None:
        """Replace the quantizers of `wrapped`, which has its ranges; `names` are the layers of the plain model."""
        self.model, unit_of = wrapped, _group_layers(wrapped, names)
        self.units = {unit.name: unit for unit in unit_of.values()}

        def make(quantizer: object, layer: keras.layers.Layer, is_kernel: bool) -> _Switch:
            unit = unit_of[layer.name]
            return _Switch(quantizer, unit.kernel_switch if is_kernel else unit.range_switch)

        activation_ranges.replace_quantizers(wrapped, make)
        self.everything = {*self.units, OUTPUT}

    def set_float(self, floats: Collection[str]) -> tuple[str, ...]:
        """Compute the units `floats` (perhaps `OUTPUT`) in float32 and others in int8. Return the layers in float32."""
        floats = set(floats)
        for name, unit in reversed(self.units.items()):
            if not unit.rounds:
                floats = floats | {name} if unit.readers <= floats else floats - {name}
        for name, unit in self.units.items():
            unit.kernel_switch.assign(name not in floats)
            unit.range_switch.assign(name not in floats or not unit.readers <= floats)
        return tuple(layer for name, unit in self.units.items() if name in floats for layer in unit.layers)


def _group_layers(wrapped: keras.Model, names: Sequence[str]) -> dict[str, Unit]:
    """The unit of each layer of the fake-quantized model, in its order.

    A layer without a kernel joins the one before it, if no other layer reads that and one range serves both.
    """
    outputs, readers = agreement.read_graph(wrapped)
    found = {_find_name(layer.name, names) for layer in wrapped.layers}
    split, halves = (name for name in names if name not in found), {}
    unit_of: dict[str, Unit] = {}
    for name in outputs:
        layer, parents = wrapped.get_layer(name), [one for one, others in readers.items() if name in others]
        is_input, kernels = hasattr(layer, "quantizer_vars"), getattr(layer, "_weight_vars", [])
        known = parents[0] if is_input else _find_name(name, names)
        if not known and kernels:  # TFMOT gives both halves of a separable convolution new names
            known = halves.pop(parents[0], None) or next(split)
            halves[name] = known
        original = known or name
        before, has_range = unit_of.get(parents[0]), _has_range(layer)
        joins = before and len(parents) == len(readers[parents[0]]) == 1 and not kernels
        unit = before if joins and not (has_range and before.has_range) else None
        unit = unit or next((one for one in unit_of.values() if original in (one.name, *one.layers)), None)
        unit = unit or Unit(original, is_input)
        unit.layers += [known] if known and known not in unit.layers else []
        unit.parts.append(name)
        unit.kernels += kernels
        unit.has_range |= has_range
        unit_of[name] = unit
    for name, unit in unit_of.items():
        unit.readers |= {unit_of[one].name for one in readers[name]} - {unit.name}
        unit.readers |= {OUTPUT} if name in wrapped.output_names else set()
    return unit_of


def _find_name(name: str, names: Sequence[str]) -> str | None:
    """The plain model's layer of a fake-quantized one. A rewrite names the parts of a layer "layer_part"."""
    name = name.removeprefix("quant_")
    return max((one for one in names if name == one or name.startswith(f"{one}_")), key=len, default=None)


def _has_range(layer: keras.layers.Layer) -> bool:
    names, activations = ("_pre_activation_vars", "_post_activation_vars"), getattr(layer, "_quantize_activations", ())
    inside = any(hasattr(activation, name) for activation in activations for name in names)
    return inside or bool(getattr(layer, "_output_quantizers", None)) or hasattr(layer, "quantizer_vars")
