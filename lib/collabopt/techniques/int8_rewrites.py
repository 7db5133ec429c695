"""Rewrites that let int8 operators run a model, applied before quantization-aware training.

Fake quantization gives ranges to the outputs of layers. Tensors inside a layer of several operators get no range, and
the converter leaves these operators in float32. Each rewrite replaces such a layer by layers of one operator each that
compute the same. A layer without a rewrite stays in float32, and its output gets a range.
"""

import dataclasses
from collections.abc import Callable, Sequence

import numpy as np

from collabopt.runtime.tensorflow import keras, tf
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


@dataclasses.dataclass
class _Replacement:
    """Layers that replace one layer.

    Attributes:
        chain: The layers, each called with the output of the one before, with their weights.
        merges: Layers that each merge one more input, called before the chain.
    """

    chain: Sequence[tuple[keras.layers.Layer, list[np.ndarray]]] = ()
    merges: Sequence[keras.layers.Layer] = ()

    def __call__(self, *args, **kwargs):
        chain = [layer for layer, _ in self.chain]
        if self.merges:
            output, *others = args[0]
            for merge, other in zip(self.merges, others, strict=True):
                output = merge([output, other])
        else:
            output = chain.pop(0)(*args, **kwargs)
        for layer in chain:
            output = tf.nest.map_structure(layer, output)
        return output

    def set_weights(self) -> None:
        for layer, weights in self.chain:
            layer.set_weights(weights)


def find_layers_without_qat(model: keras.Model) -> dict[str, str]:
    """Find the layers that stay in float32 in quantization-aware training.

    Args:
        model: A plain model.

    Returns:
        What has no int8 operator by name of the layer, in the model's order: the layer's class, or an activation.
    """
    names = [layer.name for layer in model.layers]
    found = [layer for layer in _rewrite(model, False, ()).layers if not is_quantizable(layer)]
    # An activation inside a layer has become the layer "layer_activation".
    return {max((name for name in names if layer.name.startswith(name)), key=len): describe(layer) for layer in found}


def make_quantizable(model: keras.Model, keeps_clusters: bool, unquantized: Sequence[str] = ()) -> keras.Model:
    """Rewrite a model so that int8 operators can run its layers.

    Args:
        model: A plain model; it stays as it is.
        keeps_clusters: Whether clusters are preserved. The range they share in a dense or transposed kernel keeps a
            batch norm from being folded into it.
        unquantized: Names of layers that stay in float32 on purpose.

    Returns:
        A model that computes the same; the given one if it needs no rewrite.
    """
    rewritten = _rewrite(model, keeps_clusters, unquantized)
    floats = {layer.name for layer in rewritten.layers if layer.name in unquantized or not is_quantizable(layer)}

    def add_range(layer: keras.layers.Layer) -> _Replacement | None:
        consumers = {node.outbound_layer.name for node in layer.outbound_nodes}
        if layer.name not in floats or (consumers and consumers <= floats):
            return None
        return _Replacement([(_copy(layer), layer.get_weights()), (FloatOutput(name=f"{layer.name}_output"), [])])

    return _replace(rewritten, add_range)


def _rewrite(model: keras.Model, keeps_clusters: bool, unquantized: Sequence[str]) -> keras.Model:
    def find_replacement(layer: keras.layers.Layer) -> _Replacement | None:
        if layer.name in unquantized:
            return None
        if isinstance(layer, keras.layers.BatchNormalization):
            folded = find_folded_layer(layer)
            shares_range = keeps_clusters and isinstance(folded, keras.layers.Dense | keras.layers.Conv2DTranspose)
            if folded and folded.name not in unquantized and not shares_range:
                return None
        return next(filter(None, (rewrite(layer) for rewrite in _REWRITES)), None)

    return _replace(model, find_replacement)


def _replace(model: keras.Model, find_replacement: Callable) -> keras.Model:
    """Replace layers by `find_replacement(layer)`; None keeps one. The given model comes back if nothing changes."""
    found = {layer.name: find_replacement(layer) for layer in model.layers}
    if not any(found.values()):
        return model
    calls = {
        layer.name: found[layer.name] or _Replacement([(_copy(layer), layer.get_weights())]) for layer in model.layers
    }
    inputs = [
        keras.Input(batch_shape=old.shape, dtype=old.dtype, name=name)
        for old, name in zip(model.inputs, model.input_names, strict=True)
    ]
    tensors = {id(old): new for old, new in zip(model.inputs, inputs, strict=True)}
    nodes = [node for depth in sorted(model._nodes_by_depth, reverse=True) for node in model._nodes_by_depth[depth]]
    for node in nodes:
        if not node.is_input:
            used = {str(id(tensor)): [tensors[id(tensor)]] * 99 for tensor in node.keras_inputs}
            args, kwargs = node.map_arguments(used)
            outputs = calls[node.layer.name](*args, **kwargs)
            olds, news = tf.nest.flatten(node.outputs), tf.nest.flatten(outputs)
            tensors |= {id(old): new for old, new in zip(olds, news, strict=True)}
    for layer in model.layers:
        if not isinstance(layer, keras.layers.InputLayer):
            calls[layer.name].set_weights()
    outputs = [tensors[id(old)] for old in model.outputs]
    return keras.Model(inputs if len(inputs) > 1 else inputs[0], outputs if len(outputs) > 1 else outputs[0])


def _copy(layer: keras.layers.Layer, **changes) -> keras.layers.Layer:
    return type(layer).from_config(layer.get_config() | changes)


def _make_affine(layer: keras.layers.Layer, scale, offset, trainable=False, limit=None) -> tuple:
    """The affine layer of this name, with its weights."""
    weights = [np.broadcast_to(np.ravel(one), layer.input_shape[-1:]).astype(np.float32) for one in (scale, offset)]
    return ChannelAffine(limit, name=layer.name, trainable=trainable), weights


def _rewrite_norm(layer: keras.layers.Layer) -> _Replacement | None:
    """A batch norm that cannot be folded: its statistics stay, and scale and offset are trained."""
    if not isinstance(layer, keras.layers.BatchNormalization):
        return None
    scale = 1 / np.sqrt(layer.moving_variance.numpy() + layer.epsilon)
    scale = scale * layer.gamma.numpy() if layer.scale else scale
    offset = -layer.moving_mean.numpy() * scale + (layer.beta.numpy() if layer.center else 0)
    return _Replacement([_make_affine(layer, scale, offset, trainable=layer.trainable)])


def _rewrite_preprocessing(layer: keras.layers.Layer) -> _Replacement | None:
    if isinstance(layer, keras.layers.Rescaling):
        return _Replacement([_make_affine(layer, layer.scale, layer.offset)])
    if isinstance(layer, keras.layers.Normalization) and not layer.invert:
        deviation = np.maximum(np.sqrt(layer.variance), keras.backend.epsilon())
        return _Replacement([_make_affine(layer, 1 / deviation, -np.asarray(layer.mean) / deviation)])
    return None


def _rewrite_merge(layer: keras.layers.Layer) -> _Replacement | None:
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
        return _Replacement([(affine, factors)], [kind(name=name) for name in names])
    return _Replacement(merges=[kind(name=name) for name in [*names[:-1], layer.name]])


def _rewrite_activation(layer: keras.layers.Layer) -> _Replacement | None:
    """An activation inside a layer becomes a layer, and an activation of several operators one of a single operator."""
    name = get_activation(layer)
    if isinstance(layer, WITH_ACTIVATION) and name not in FUSED_ACTIVATIONS:
        linear = _copy(layer, activation="linear")
        activation = keras.layers.Activation(layer.activation, name=f"{layer.name}_{name}")
        return _Replacement([(linear, layer.get_weights()), (_simplify(activation) or activation, [])])
    simple = _simplify(layer)
    if simple is None and name == "hard_sigmoid":
        return _Replacement([_make_affine(layer, 0.2, 0.5, limit=1.0)])
    if isinstance(layer, keras.layers.ReLU) and layer.max_value not in (None, 6) and not layer.threshold:
        return None if layer.negative_slope else _Replacement([_make_affine(layer, 1, 0, limit=float(layer.max_value))])
    return _Replacement([(simple, [])]) if simple else None


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
