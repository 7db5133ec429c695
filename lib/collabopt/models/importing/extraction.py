"""Reads a Keras model, of Keras 2 or 3, into plain data: a flat list of layers in the order of their calls.

This module imports neither TensorFlow nor the library, because the worker process runs it beside Keras 3. Models inside
models are replaced by their layers. Each call is one entry:

    {"name": "conv2d_3", "kind": "Conv2D", "config": {...}, "weights": [arrays], "inputs": ["input_1"],
     "call": None, "shape": [None, 8, 8, 16]}

An operation of Keras 3 that is no layer has the kind "op:Add". An input is the name of a layer, followed by ":1" for
its second output. `call` is None for `layer(x)` and `layer([x, y])`; otherwise it holds the call's arguments with
{"$": i} in the place of input i.
"""

import dataclasses
import json
from collections.abc import Iterator

import numpy as np

_MASKS = ("mask", "query_mask", "key_mask", "value_mask")


class ExtractionError(ValueError):
    """A model cannot be read. Its arguments are the reason and the remedy."""


def extract(model) -> dict:
    """Read a model into data.

    Args:
        model: A functional or Sequential model of Keras 2 or 3.

    Returns:
        {"keras": 2 or 3, "layers": [entries], "outputs": [tensors], "output_names": [names], "nested": [names]}.

    Raises:
        ExtractionError: The model is no graph of layers, or calls a layer with weights twice.
    """
    check_graph(model)
    walk = Walk()
    inputs = [walk.add_input(tensor) for tensor in model.inputs]
    outputs = walk.add_model(model, inputs)
    return {
        "keras": _get_keras_version(model),
        "layers": walk.layers,
        "outputs": outputs,
        "output_names": [get_history(tensor)[0].name for tensor in model.outputs],
        "nested": walk.nested,
    }


def _get_keras_version(model) -> int:
    """The major version of the Keras that a model or layer belongs to."""
    return 2 if any(kind.__module__.startswith("tf_keras.") for kind in type(model).__mro__) else 3


class Walk:
    """Collects the entries of a model and of the models inside it.

    Attributes:
        layers: The entries.
        nested: Names of models inside.
        calls: Name, layer and arguments of each call, with a `Reference` in the place of each tensor.
    """

    def __init__(self) -> None:
        self.layers: list[dict] = []
        self.calls: list[tuple] = []
        self.nested: list[str] = []
        self._used: set[int] = set()  # variables
        self._names: set[str] = set()

    def add_input(self, tensor) -> str:
        """Add an input `tensor` of the model, and return its name."""
        dtype = getattr(tensor.dtype, "name", tensor.dtype)
        return self._append(get_history(tensor)[0].name, "InputLayer", {"dtype": dtype}, [], [], None, tensor.shape)

    def add_model(self, model, inputs: list[str]) -> list[str]:
        """Add the layers of a `model` that is called on the tensors `inputs`, and return the names of its outputs."""
        check_graph(model)
        known = dict(zip(map(get_key, model.inputs), inputs, strict=True))
        for node in _order(model):
            operation, (args, kwargs) = _get_operation(node), _get_arguments(node)
            tensors: list[str] = []
            call = _encode((args, kwargs), known, tensors)
            if hasattr(operation, "layers") and hasattr(operation, "inputs"):
                self.nested.append(operation.name)
                outputs = self.add_model(operation, tensors)
            else:
                outputs = self._add_call(operation, tensors, call, flatten(node.outputs))
                self.calls.append((outputs[0], operation, _replace((args, kwargs), known)))
            known.update(zip(map(get_key, flatten(node.outputs)), outputs, strict=True))
        return [known[get_key(tensor)] for tensor in model.outputs]

    def _add_call(self, operation, tensors: list[str], call: list, outputs: list) -> list[str]:
        variables = {id(variable) for variable in getattr(operation, "weights", ())}
        if self._used & variables:
            raise ExtractionError(
                f"layer {operation.name} is called more than once with the same weights, or shares them with a layer",
                "Give each call its own layer, or export the part of the model that is to be deployed.",
            )
        self._used |= variables
        is_layer = hasattr(operation, "get_weights")
        weights = [np.asarray(weight, np.float32) for weight in (operation.get_weights() if is_layer else ())]
        kind = type(operation).__name__ if is_layer else f"op:{type(operation).__name__}"
        config = _get_config(operation)
        name = self._append(operation.name, kind, config, weights, tensors, _simplify(call), outputs[0].shape)
        return [name, *(f"{name}:{index}" for index in range(1, len(outputs)))]

    def _append(self, name: str, kind: str, config: dict, weights: list, inputs: list, call, shape) -> str:
        unique, count = name, 1
        while unique in self._names:
            count += 1
            unique = f"{name}_{count}"
        self._names.add(unique)
        entry = {"name": unique, "kind": kind, "config": config, "weights": weights}
        self.layers.append(entry | {"inputs": inputs, "call": call, "shape": list(shape)})
        return unique


def check_graph(model) -> None:
    """Check that a `model` of Keras 2 or 3 is a graph of layers, not a class with a `call` of its own.

    Raises:
        ExtractionError: It is not.
    """
    kind = type(model)
    standard = kind.__module__.startswith(("keras.", "tf_keras."))
    if not standard or kind.__name__ not in ("Functional", "Sequential", "Model"):
        raise ExtractionError(
            f"model {model.name} is the subclassed model {kind.__name__}, whose layers cannot be read",
            "Write it with the functional API, keras.Model(inputs, outputs), and save it again.",
        )
    if not getattr(model, "inputs", None) or not getattr(model, "outputs", None):
        raise ExtractionError(
            f"model {model.name} has no input shape yet", "Begin it with keras.Input(shape) and save it again."
        )


def _order(model) -> Iterator:
    """Yield the calls inside a model, each after the calls that it depends on, in an order fixed by the graph."""
    done = set(map(get_key, model.inputs))
    stack = [(tensor, False) for tensor in reversed(model.outputs)]
    while stack:
        tensor, ready = stack.pop()
        if get_key(tensor) in done:
            continue
        operation, index, _ = get_history(tensor)
        node = operation._inbound_nodes[index]
        if ready:
            done.update(map(get_key, flatten(node.outputs)))
            yield node
            continue
        stack.append((tensor, True))
        stack += [(tensor, False) for tensor in reversed(flatten(_get_arguments(node))) if _is_symbolic(tensor)]


def _get_operation(node):
    return node.operation if hasattr(node, "operation") else node.layer


def _get_arguments(node) -> tuple[tuple, dict]:
    """The arguments of a call without masks: Keras 2 passes these on by itself, Keras 3 writes them as arguments."""
    call = node.arguments if hasattr(node, "arguments") else None
    args, kwargs = (call.args, call.kwargs) if call else (node.call_args, node.call_kwargs)
    return args, {name: value for name, value in kwargs.items() if name not in _MASKS}


def _is_symbolic(value) -> bool:
    return hasattr(value, "_keras_history")


def get_history(tensor):
    """Find where a symbolic `tensor` comes from: its layer, the layer's call, and the output of the call."""
    return tensor._keras_history


def get_key(tensor) -> tuple[int, int, int]:
    """Return what identifies a symbolic `tensor`."""
    layer, node, index = get_history(tensor)
    return id(layer), node, index


def flatten(structure) -> list:
    """Return the leaves of a `structure` of nested dicts, lists and tuples, in the order of Keras: dicts by key."""
    if isinstance(structure, dict):
        return [leaf for key in sorted(structure) for leaf in flatten(structure[key])]
    if isinstance(structure, list | tuple):
        return [leaf for part in structure for leaf in flatten(part)]
    return [structure]


@dataclasses.dataclass(frozen=True)
class Reference:
    """The place of a tensor in stored arguments."""

    name: str


def map_leaves(structure, function):
    """Apply a `function` to each leaf of a `structure` of nested dicts, lists and tuples."""
    if isinstance(structure, dict):
        return {key: map_leaves(value, function) for key, value in structure.items()}
    if isinstance(structure, list | tuple):
        return type(structure)(map_leaves(part, function) for part in structure)
    return function(structure)


def _replace(arguments, known: dict):
    return map_leaves(arguments, lambda leaf: Reference(known[get_key(leaf)]) if _is_symbolic(leaf) else leaf)


def _get_config(operation) -> dict:
    """The configuration of a layer, or the attributes of an operation, as JSON data."""
    if hasattr(operation, "get_weights"):
        config = operation.get_config()
    else:
        config = {name: value for name, value in vars(operation).items() if not name.startswith("_")}
    return _encode(config, {}, [])


def _encode(value, known: dict, tensors: list[str]):
    """Turn arguments into JSON data; symbolic tensors become {"$": i} and are appended to `tensors` by name."""
    if _is_symbolic(value):
        tensors.append(known[get_key(value)])
        return {"$": len(tensors) - 1}
    if isinstance(value, dict):
        return {str(key): _encode(value[key], known, tensors) for key in sorted(value, key=str)}
    if isinstance(value, list | tuple):
        return [_encode(part, known, tensors) for part in value]
    if isinstance(value, slice):
        return {"start": value.start, "stop": value.stop, "step": value.step}
    if value is Ellipsis:
        return {"ellipsis": True}
    if hasattr(value, "numpy") or isinstance(value, np.ndarray | np.generic):
        return np.asarray(value).tolist()
    try:
        json.dumps(value)
    except TypeError:
        return getattr(value, "__name__", None) or getattr(value, "name", None) or str(value)
    return value


def _simplify(call: list) -> list | None:
    """None for a plain call on one tensor, or on a list of tensors, for inference."""
    args, kwargs = call
    kwargs = {key: kwargs[key] for key in kwargs if key not in ("training", "name")}
    plain = len(args) == 1 and not kwargs and all("$" in part for part in _flatten_data(args))
    return None if plain else [args, kwargs]


def _flatten_data(value) -> list[dict]:
    """The dicts {"$": i} in encoded arguments, and an empty dict for each other leaf."""
    if isinstance(value, dict):
        return [value] if "$" in value else [leaf for part in value.values() for leaf in _flatten_data(part)]
    if isinstance(value, list):
        return [leaf for part in value for leaf in _flatten_data(part)]
    return [{}]
