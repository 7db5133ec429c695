"""Builds the Keras 2 model of a graph."""

from typing import Any

from collabopt.models.importing.augmentation import Augmentation
from collabopt.models.importing.graph import Graph, ImportRefused, Layer
from collabopt.models.importing.translation import find_class
from collabopt.runtime.tensorflow import keras

_ON_LISTS = ("Add", "Subtract", "Multiply", "Average", "Maximum", "Minimum", "Concatenate", "Dot")


def build(graph: Graph, name: str = "model", custom_objects: dict[str, type] | None = None) -> keras.Model:
    """Return the functional model `name` of a `graph` of Keras 2 layers, in float32, with `custom_objects` by name.

    Raises:
        ImportRefused: Keras 2 cannot build a layer.
    """
    tensors, inputs = compute_tensors(graph, custom_objects)
    outputs = [tensors[tensor] for tensor in graph.outputs]
    return keras.Model(inputs, outputs[0] if len(outputs) == 1 else outputs, name=name)


def build_augmentation(graph: Graph) -> Augmentation | None:
    """Return the layers of `graph` that change the inputs in training, or None."""
    layers = [_create(layer, None) for layer in graph.augmentation]
    return Augmentation(layers) if layers else None


def compute_tensors(graph: Graph, custom_objects: dict[str, type] | None = None) -> tuple[dict[str, Any], Any]:
    """Call the layers of a `graph` on symbolic tensors, with `custom_objects` by name.

    Returns:
        The symbolic tensor of each name, and the input or the list of inputs.

    Raises:
        ImportRefused: Keras 2 cannot build a layer.
    """
    tensors: dict[str, Any] = {}
    inputs = []
    for layer in graph.layers:
        if layer.kind == "InputLayer":
            tensors[layer.name] = keras.Input(layer.shape[1:], name=layer.name, dtype=layer.config["dtype"])
            inputs.append(tensors[layer.name])
            continue
        try:
            outputs = _call(layer, [tensors[tensor] for tensor in layer.inputs], custom_objects)
        except ImportRefused:
            raise
        except Exception as error:  # wrong settings and shapes raise various types
            raise ImportRefused(
                f"Keras 2 cannot build layer {layer.name} ({layer.kind}): {' '.join(str(error).split())[:300]}",
                "Replace this layer by one that Keras 2 (tf_keras) has.",
            ) from error
        for index, output in enumerate(outputs if isinstance(outputs, list | tuple) else [outputs]):
            tensors[f"{layer.name}:{index}" if index else layer.name] = output
    return tensors, inputs[0] if len(inputs) == 1 else inputs


def _call(layer: Layer, inputs: list, custom_objects: dict[str, type] | None) -> Any:
    """Create a layer, call it, and set its weights."""
    instance = _create(layer, custom_objects)
    if layer.call is not None:
        args, kwargs = _fill(layer.call, inputs)
        outputs = instance(*args, **kwargs)
    else:
        outputs = instance(inputs if layer.kind in _ON_LISTS or len(inputs) > 1 else inputs[0])
    if layer.weights:
        instance.set_weights(layer.weights)
    return outputs


def _create(layer: Layer, custom_objects: dict[str, type] | None) -> keras.layers.Layer:
    cls, config = find_class(layer.kind, custom_objects), layer.config | {"name": layer.name, "dtype": "float32"}
    # from_config of attention wants shapes that only a built layer has.
    return cls(**config) if layer.kind == "MultiHeadAttention" else cls.from_config(config)


def _fill(arguments: Any, inputs: list) -> Any:
    """Put tensors in the place of {"$": i}."""
    if isinstance(arguments, dict):
        if "$" in arguments:
            return inputs[arguments["$"]]
        return {name: _fill(value, inputs) for name, value in arguments.items()}
    if isinstance(arguments, list):
        return [_fill(value, inputs) for value in arguments]
    return arguments
