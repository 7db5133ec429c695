"""Channels through a network: which positions of the layers' last axes carry the same channel.

Every position of a tensor's last axis has the number of its channel. A convolution or dense layer makes new channels.
Additions tie channels, concatenations join them, a depthwise convolution repeats them, and flattening repeats them once
per pixel. Channels of inputs, outputs, and layers that are not known here are number 0: they cannot be removed.
"""

import dataclasses

import numpy as np

from collabopt.runtime.tensorflow import keras, tf
from collabopt.techniques import layers
from collabopt.techniques.replacement import list_nodes

_LAYERS = keras.layers
_SAME = (
    *(_LAYERS.BatchNormalization, _LAYERS.ReLU, _LAYERS.LeakyReLU, _LAYERS.ELU, _LAYERS.ThresholdedReLU, _LAYERS.PReLU),
    *(_LAYERS.Dropout, _LAYERS.SpatialDropout2D, _LAYERS.GaussianNoise, _LAYERS.GaussianDropout, _LAYERS.Identity),
    *(_LAYERS.MaxPooling2D, _LAYERS.AveragePooling2D, _LAYERS.GlobalMaxPooling2D, _LAYERS.GlobalAveragePooling2D),
    *(_LAYERS.UpSampling2D, _LAYERS.ZeroPadding2D, _LAYERS.Cropping2D),
)
"""Layers that keep the channels of their input apart."""
_TYING = (_LAYERS.Add, _LAYERS.Subtract, _LAYERS.Multiply, _LAYERS.Average, _LAYERS.Maximum, _LAYERS.Minimum)
_ACROSS_CHANNELS = ("softmax", "log_softmax")
_FIXED = 0


@dataclasses.dataclass
class Channels:
    """The channels of a network, as numbers that are equal for tied channels.

    Attributes:
        inputs: Channels of the input (in,) by name of each followed layer with weights.
        outputs: Channels of the output (out,) of the same layers.
        unknown: Layers that could not be followed, whose inputs therefore keep their channels: their class by name.
    """

    inputs: dict[str, np.ndarray] = dataclasses.field(default_factory=dict)
    outputs: dict[str, np.ndarray] = dataclasses.field(default_factory=dict)
    unknown: dict[str, str] = dataclasses.field(default_factory=dict)
    _leaders: list[int] = dataclasses.field(default_factory=lambda: [_FIXED])

    def find(self, channels: np.ndarray) -> np.ndarray:
        """Return the numbers of `channels` (n,) as they are after all ties, 0 for those that cannot be removed."""
        return np.array([self._find(channel) for channel in channels], int)

    def make(self, count: int) -> np.ndarray:
        """Return `count` new channels."""
        first = len(self._leaders)
        self._leaders += range(first, first + count)
        return np.arange(first, first + count)

    def tie(self, channels: np.ndarray, others: np.ndarray | int) -> None:
        """Tie `channels` (n,) to `others`, (n,) or one, one by one."""
        for one, other in zip(channels, np.broadcast_to(others, len(channels)), strict=True):
            low, high = sorted((self._find(one), self._find(other)))
            self._leaders[high] = low

    def fix(self, channels: np.ndarray) -> None:
        """Keep `channels` (n,)."""
        self.tie(channels, _FIXED)

    def _find(self, channel: int) -> int:
        while self._leaders[channel] != channel:
            self._leaders[channel] = channel = self._leaders[self._leaders[channel]]
        return channel


def follow(model: keras.Model) -> Channels:
    """Return the channels of a plain `model`. Those of inputs, outputs and frozen layers are fixed."""
    found, at = Channels(), {}
    for node in list_nodes(model):
        inputs = [at[id(tensor)] for tensor in node.keras_inputs]
        outputs = tf.nest.flatten(node.outputs)
        after = None if node.is_input else _follow_layer(node.layer, inputs, outputs, found)
        if after is None:
            if any(found.find(one).any() for one in inputs):
                found.unknown[node.layer.name] = type(node.layer).__name__
            for one in inputs:
                found.fix(one)
        for tensor in outputs:
            size = tensor.shape[-1] if tensor.shape.rank else None
            at[id(tensor)] = np.zeros(size or 1, int) if after is None else after
    for tensor in model.outputs:
        found.fix(at[id(tensor)])
    for layer in model.layers:
        if layer.name in found.inputs and not layer.trainable:
            found.fix(found.inputs[layer.name])
            found.fix(found.outputs[layer.name])
    return found


def _follow_layer(layer: keras.layers.Layer, inputs: list, outputs: list, found: Channels) -> np.ndarray | None:
    """The channels of a layer's output; None if they are not known."""
    is_last = getattr(layer, "data_format", None) in (None, "channels_last")
    sizes = [tensor.shape[-1] for tensor in tf.nest.flatten(layer.get_input_at(0))]
    if not is_last or len(outputs) > 1 or None in (*sizes, outputs[0].shape[-1]):
        return None
    if layers.get_kind(layer) or layer.weights:
        return _follow_weights(layer, inputs, outputs[0], found)
    if isinstance(layer, _TYING):
        return _tie(inputs, found)
    if isinstance(layer, _LAYERS.Concatenate):
        is_joined = layer.axis in (-1, len(outputs[0].shape) - 1)
        return np.concatenate(inputs) if is_joined else _tie(inputs, found)
    if isinstance(layer, _LAYERS.Flatten | _LAYERS.Reshape):
        repeats, rest = divmod(outputs[0].shape[-1], len(inputs[0]))
        return None if rest else np.tile(inputs[0], repeats)
    if isinstance(layer, _LAYERS.Activation):
        return inputs[0] if _is_by_channel(layer) else None
    return inputs[0] if isinstance(layer, _SAME) else None


def _follow_weights(layer: keras.layers.Layer, inputs: list, output, found: Channels) -> np.ndarray | None:
    kind = layers.get_kind(layer)
    if getattr(layer, "groups", 1) != 1 and kind != "depthwise":
        return None
    if isinstance(layer, _LAYERS.BatchNormalization | _LAYERS.PReLU):
        if (np.ravel(getattr(layer, "axis", -1)) % output.shape.rank != output.shape.rank - 1).any():
            return None
        after = inputs[0]
    elif kind == "depthwise":
        after = np.repeat(inputs[0], layer.depth_multiplier)
    elif kind in ("conv2d", "conv2d_transpose", "dense"):
        after = found.outputs.get(layer.name)
        after = found.make(output.shape[-1]) if after is None else after
    else:
        return None
    if layer.name in found.inputs:  # called more than once
        found.tie(inputs[0], found.inputs[layer.name])
    found.inputs[layer.name], found.outputs[layer.name] = inputs[0], after
    if not _is_by_channel(layer):
        found.fix(after)
    return after


def _tie(inputs: list, found: Channels) -> np.ndarray | None:
    """Tie the channels of merged tensors. A single channel that is broadcast to many stays."""
    widest = max(inputs, key=len)
    if any(len(one) not in (1, len(widest)) for one in inputs):
        return None
    for one in inputs:
        if len(one) == len(widest):
            found.tie(one, widest)
        else:
            found.fix(one)
    return widest


def _is_by_channel(layer: keras.layers.Layer) -> bool:
    """Whether the activation of a layer is a known one that computes each channel by itself."""
    activation = getattr(layer, "activation", None)
    known = [value for value in vars(keras.activations).values() if callable(value)]
    name = getattr(activation, "__name__", "")
    return activation is None or (activation in known and name not in _ACROSS_CHANNELS)
