"""Requirements of TFMOT and of the workbook on a model."""

import itertools
from collections import Counter

from collabopt.runtime.tensorflow import keras


class ModelError(ValueError):
    """A model or its weights cannot be used. The message names the parameter, its value, and what would be right."""


def check(origin: str, model: object, input_shape: tuple[int, ...], outputs: tuple[int, ...] | None) -> None:
    """Check that a model is a flat Keras 2 graph from (None, *input_shape) to (None, *outputs).

    Args:
        origin: Parameter and value that the model comes from, such as "function=mine:net", for errors.
        model: The model.
        input_shape: Expected shape of one input, without batch.
        outputs: Expected shape of one output, without batch; None takes any.

    Raises:
        ModelError: The model does not meet a requirement.
    """
    # Each check assumes that the previous ones passed.
    for find in (_not_a_graph, _not_flat, _shared, _wrong_ends, _not_logits):
        if mistake := find(model, input_shape, outputs):
            raise ModelError(f"{origin}: {mistake}")


def _not_a_graph(model: object, *_: object) -> str | None:
    if not isinstance(model, keras.Model):
        kind = f"{type(model).__module__}.{type(model).__name__}"
        if kind.startswith("keras."):
            return "found a Keras 3 model; build it with Keras 2 (from collabopt.runtime.tensorflow import keras)"
        return f"found {kind}; expected a keras.Model of Keras 2"
    if type(model) is keras.Sequential and not model.built:
        return "the Sequential model is not built; begin it with keras.Input(input_shape)"
    # TFMOT reads the same private flag, because only graphs of layers can be cloned and wrapped.
    if not getattr(model, "_is_graph_network", False) or not type(model).__module__.startswith(("keras.", "tf_keras.")):
        return f"found the subclassed model {type(model).__name__}; expected a functional or Sequential model"
    return None


def _not_flat(model: keras.Model, *_: object) -> str | None:
    for layer in model.layers:
        if isinstance(layer, keras.Model):
            return f"layer {layer.name} is itself a model, which TFMOT cannot wrap; call its layers one by one instead"
    twice = [name for name, count in Counter(layer.name for layer in model.layers).items() if count > 1]
    return f"two layers are named {twice[0]}; expected names of their own" if twice else None


def _shared(model: keras.Model, *_: object) -> str | None:
    if type(model) is not keras.Sequential:
        # The nodes of the layer object would include its calls in other models.
        for layer in model.get_config()["layers"]:
            if len(layer["inbound_nodes"]) > 1:
                return (
                    f"layer {layer['name']} is called {len(layer['inbound_nodes'])} times; give each call its own layer"
                )
    for one, other in itertools.combinations([layer for layer in model.layers if layer.weights], 2):
        if {id(weight) for weight in one.weights} & {id(weight) for weight in other.weights}:
            return f"layers {one.name} and {other.name} share weights; give each its own"
    return None


def _wrong_ends(model: keras.Model, input_shape: tuple[int, ...], outputs: tuple[int, ...] | None) -> str | None:
    for end, tensors, expected in (
        ("input", model.inputs, (None, *input_shape)),
        ("output", model.outputs, outputs and (None, *outputs)),
    ):
        if len(tensors) != 1:
            return f"found {len(tensors)} {end}s; expected one"
        if expected and tuple(tensors[0].shape) != expected:
            return f"{end} shape={tuple(tensors[0].shape)}: expected {expected}"
        if tensors[0].dtype != "float32":
            return f"{end} dtype={tensors[0].dtype.name}: expected float32"
    return None


def _not_logits(model: keras.Model, *_: object) -> str | None:
    last = model.layers[-1] if type(model) is keras.Sequential else model.get_layer(model.output_names[0])
    # A call such as tf.nn.softmax(x) becomes a layer with the attribute `function`.
    function = getattr(last, "activation", None) or getattr(last, "function", None)
    name = "softmax" if isinstance(last, keras.layers.Softmax) else getattr(function, "__name__", "")
    if name.startswith(("softmax", "sigmoid")):
        return f"logits are expected: the last layer is a {name.split('_')[0]}; take it off"
    return None
