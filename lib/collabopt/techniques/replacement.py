"""Replacing layers of a network by others, in a copy of its graph."""

import dataclasses
from collections.abc import Callable, Sequence

import numpy as np

from collabopt.runtime.tensorflow import keras, tf


@dataclasses.dataclass
class Replacement:
    """Layers that replace one layer. It is called like that layer.

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
        """Give the layers of the chain their weights, after the call."""
        for layer, weights in self.chain:
            layer.set_weights(weights)


def replace_layers(model: keras.Model, find_replacement: Callable) -> keras.Model:
    """Return `model` with layers replaced by what `find_replacement` returns, or itself if that is None for all."""
    found = {layer.name: find_replacement(layer) for layer in model.layers}
    if not any(found.values()):
        return model
    calls = {
        layer.name: found[layer.name] or Replacement([(copy_layer(layer), layer.get_weights())])
        for layer in model.layers
    }
    inputs = [
        keras.Input(batch_shape=old.shape, dtype=old.dtype, name=name)
        for old, name in zip(model.inputs, model.input_names, strict=True)
    ]
    tensors = {id(old): new for old, new in zip(model.inputs, inputs, strict=True)}
    for node in list_nodes(model):
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


def list_nodes(model: keras.Model) -> list:
    """Return the calls of the layers of `model` as Keras's nodes, from the inputs to the outputs."""
    return [node for depth in sorted(model._nodes_by_depth, reverse=True) for node in model._nodes_by_depth[depth]]


def copy_layer(layer: keras.layers.Layer, **changes) -> keras.layers.Layer:
    """Return a layer like `layer`, without its weights, and with `changes` of its constructor's arguments."""
    return type(layer).from_config(layer.get_config() | changes)
