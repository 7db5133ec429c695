"""Rewrites that let int8 operators run a model, applied before quantization-aware training.

Fake quantization gives ranges to the outputs of layers. Tensors inside a layer of several operators get no range, and
the converter leaves these operators in float32. Each rewrite replaces such a layer by layers of one operator each that
compute the same. A layer without a rewrite stays in float32, and its output gets a range.
"""

from collections.abc import Sequence

import numpy as np

from collabopt.runtime.tensorflow import keras
from collabopt.techniques.int8_layers import (
    FUSED_ACTIVATIONS,
    WITH_ACTIVATION,
    ChannelAffine,
    FloatOutput,
    describe,
    find_folded_layer,
    get_activation,
    is_quantizable,
)
from collabopt.techniques.layers import is_channel_norm
from collabopt.techniques.replacement import Replacement, copy_layer, replace_layers


def find_layers_without_qat(model: keras.Model) -> dict[str, str]:
    """Return what of a plain `model` has no int8 operator (class or activation), by layer: float32 after QAT."""
    names = [layer.name for layer in model.layers]
    found = [layer for layer in _rewrite(model, False, ()).layers if not is_quantizable(layer)]
    # An activation inside a layer has become the layer "layer_activation".
    return {max((name for name in names if layer.name.startswith(name)), key=len): describe(layer) for layer in found}


def make_quantizable(model: keras.Model, keeps_clusters: bool, unquantized: Sequence[str] = ()) -> keras.Model:
    """Return a model that computes the same with layers that int8 operators run; the given one if it needs no rewrite.

    Args:
        model: A plain model; it stays as it is.
        keeps_clusters: Whether clusters are preserved. The range they share in a dense or transposed kernel keeps a
            batch norm from being folded into it.
        unquantized: Names of layers that stay in float32 on purpose.
    """
    rewritten = _rewrite(model, keeps_clusters, unquantized)
    floats = {layer.name for layer in rewritten.layers if layer.name in unquantized or not is_quantizable(layer)}

    def add_range(layer: keras.layers.Layer) -> Replacement | None:
        consumers = {node.outbound_layer.name for node in layer.outbound_nodes}
        if layer.name not in floats or (consumers and consumers <= floats):
            return None
        return Replacement([(copy_layer(layer), layer.get_weights()), (FloatOutput(name=f"{layer.name}_output"), [])])

    return replace_layers(rewritten, add_range)


def _rewrite(model: keras.Model, keeps_clusters: bool, unquantized: Sequence[str]) -> keras.Model:
    def find_replacement(layer: keras.layers.Layer) -> Replacement | None:
        if layer.name in unquantized:
            return None
        if isinstance(layer, keras.layers.BatchNormalization):
            folded = find_folded_layer(layer)
            shares_range = keeps_clusters and isinstance(folded, keras.layers.Dense | keras.layers.Conv2DTranspose)
            if folded and folded.name not in unquantized and not shares_range:
                return None
        return next(filter(None, (rewrite(layer) for rewrite in _REWRITES)), None)

    return replace_layers(model, find_replacement)


def _make_affine(layer: keras.layers.Layer, scale, offset, trainable=False, limit=None) -> tuple:
    """The affine layer of this name, with its weights."""
    weights = [np.broadcast_to(np.ravel(one), layer.input_shape[-1:]).astype(np.float32) for one in (scale, offset)]
    return ChannelAffine(limit, name=layer.name, trainable=trainable), weights


def _rewrite_norm(layer: keras.layers.Layer) -> Replacement | None:
    """A batch norm that cannot be folded: its statistics stay, and scale and offset are trained."""
    if not is_channel_norm(layer):
        return None
    scale = 1 / np.sqrt(layer.moving_variance.numpy() + layer.epsilon)
    scale = scale * layer.gamma.numpy() if layer.scale else scale
    offset = -layer.moving_mean.numpy() * scale + (layer.beta.numpy() if layer.center else 0)
    return Replacement([_make_affine(layer, scale, offset, trainable=layer.trainable)])


def _rewrite_preprocessing(layer: keras.layers.Layer) -> Replacement | None:
    if isinstance(layer, keras.layers.Rescaling):
        return Replacement([_make_affine(layer, layer.scale, layer.offset)])
    is_norm = isinstance(layer, keras.layers.Normalization) and not layer.invert
    if is_norm and (np.size(layer.mean) == 1 or layer.axis in ((-1,), (len(layer.input_shape) - 1,))):
        deviation = np.maximum(np.sqrt(layer.variance), keras.backend.epsilon())
        return Replacement([_make_affine(layer, 1 / deviation, -np.asarray(layer.mean) / deviation)])
    return None


def _rewrite_merge(layer: keras.layers.Layer) -> Replacement | None:
    """A merge of more than two inputs, or an average."""
    kinds = (keras.layers.Add, keras.layers.Multiply, keras.layers.Maximum, keras.layers.Minimum)
    is_average = isinstance(layer, keras.layers.Average)
    if not (is_average or (isinstance(layer, kinds) and len(layer.input) > 2)):
        return None
    kind, count = keras.layers.Add if is_average else type(layer), len(layer.input)
    names = [f"{layer.name}_{place}" for place in range(1, count)]
    if is_average:
        affine = ChannelAffine(name=layer.name, trainable=False)
        factors = [np.full(layer.output_shape[-1:], value, np.float32) for value in (1 / count, 0)]
        return Replacement([(affine, factors)], [kind(name=name) for name in names])
    return Replacement(merges=[kind(name=name) for name in [*names[:-1], layer.name]])


def _rewrite_activation(layer: keras.layers.Layer) -> Replacement | None:
    """An activation inside a layer becomes a layer, and an activation of several operators one of a single operator."""
    name = get_activation(layer)
    if isinstance(layer, WITH_ACTIVATION) and name not in FUSED_ACTIVATIONS:
        linear = copy_layer(layer, activation="linear")
        activation = keras.layers.Activation(layer.activation, name=f"{layer.name}_{name}")
        return Replacement([(linear, layer.get_weights()), (_simplify(activation) or activation, [])])
    simple = _simplify(layer)
    if simple is None and name == "hard_sigmoid":
        return Replacement([_make_affine(layer, 0.2, 0.5, limit=1.0)])
    if isinstance(layer, keras.layers.ReLU) and layer.max_value not in (None, 6) and not layer.threshold:
        return None if layer.negative_slope else Replacement([_make_affine(layer, 1, 0, limit=float(layer.max_value))])
    return Replacement([(simple, [])]) if simple else None


def _simplify(layer: keras.layers.Layer) -> keras.layers.Layer | None:
    """The layer of one operator without weights that computes the same, or None."""
    if isinstance(layer, keras.layers.ReLU):
        is_leaky = layer.negative_slope and layer.max_value is None and not layer.threshold
        return keras.layers.LeakyReLU(float(layer.negative_slope), name=layer.name) if is_leaky else None
    match get_activation(layer) if isinstance(layer, keras.layers.Activation) else None:
        case "relu6":
            return keras.layers.ReLU(6.0, name=layer.name)
        case "leaky_relu":
            return keras.layers.LeakyReLU(0.2, name=layer.name)
    return None


_REWRITES = (_rewrite_norm, _rewrite_preprocessing, _rewrite_merge, _rewrite_activation)
