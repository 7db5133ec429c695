"""Turns Python arithmetic on tensors, and functions called on them, into layers."""

from collections.abc import Callable
from typing import Any

from collabopt.models.importing.graph import Graph, ImportRefused, Layer, list_names, make_chain

_NAMES = {
    "__operators__.add": "add", "math.add": "add", "math.subtract": "subtract", "math.multiply": "multiply",
    "math.truediv": "divide", "math.divide": "divide", "truedivide": "divide", "math.negative": "negative",
    "math.maximum": "maximum", "math.minimum": "minimum", "math.square": "square", "clip_by_value": "clip",
    "nn.relu": "relu", "nn.relu6": "relu6", "nn.leaky_relu": "leakyrelu", "nn.elu": "elu", "nn.selu": "selu",
    "nn.silu": "silu", "nn.swish": "silu", "nn.gelu": "gelu", "math.sigmoid": "sigmoid", "nn.sigmoid": "sigmoid",
    "math.tanh": "tanh", "nn.tanh": "tanh", "nn.softmax": "softmax", "nn.softplus": "softplus",
    "math.softplus": "softplus", "concat": "concatenate", "math.reduce_mean": "mean", "math.reduce_max": "max",
    "math.reduce_sum": "sum", "expand_dims": "reshape", "squeeze": "reshape", "expanddims": "reshape",
    "compat.v1.transpose": "transpose", "__operators__.getitem": "getitem", "math.exp": "exp", "math.log": "log",
    "math.abs": "abs", "absolute": "abs", "math.sqrt": "sqrt", "math.rsqrt": "rsqrt", "stop_gradient": "identity",
    "stopgradient": "identity",
    "keras.activations.relu": "relu", "keras.activations.swish": "silu", "keras.activations.sigmoid": "sigmoid",
    "keras.activations.softmax": "softmax", "keras.activations.tanh": "tanh",
}  # fmt: skip
"""Our name of each function of TensorFlow and of each operation of Keras 3, in lower case, where they differ."""

_ACTIVATIONS = {"sigmoid", "tanh", "softmax", "softplus", "selu", "gelu", "elu"}


def mark(graph: Graph) -> None:
    """Give operations in `graph` of both versions of Keras the same kinds, "op:add" for example."""
    for layer in graph.layers:
        if layer.kind.startswith("op:"):
            function = layer.kind.removeprefix("op:").lower()
        elif layer.kind in ("TFOpLambda", "SlicingOpLambda"):
            function = layer.config["function"]
        else:
            continue
        layer.kind = f"op:{_NAMES.get(function, function)}"


def convert_to_layers(graph: Graph) -> list[str]:
    """Replace the marked operations of `graph` by layers. Return a line per kind of operation.

    Raises:
        ImportRefused: An operation has no layer.
    """
    found: dict[str, list[Layer]] = {}
    for layer in list(graph.layers):
        if not layer.kind.startswith("op:"):
            continue
        name = layer.kind.removeprefix("op:")
        found.setdefault(name, []).append(layer)
        graph.replace(layer, _make_layers(name, layer, graph) if name != "identity" else [])
    return [f"{name} on tensors became layers: {list_names(layers)}" for name, layers in found.items()]


def is_known(function: str) -> bool:
    """Return whether a `function` of TensorFlow, such as "math.add", can be turned into a layer."""
    return _NAMES.get(function, function) in _MAKERS or _NAMES.get(function) == "identity"


def _make_layers(name: str, layer: Layer, graph: Graph) -> list[Layer]:
    maker = _MAKERS.get(name)
    steps = maker(_Call(layer, graph)) if maker else None
    if steps is None:
        raise ImportRefused(
            f"layer {layer.name} applies the function {name} in a way that has no layer",
            "Write this part of the model with layers, or take it off and compute it outside the model.",
        )
    for index, step in enumerate(steps, start=1):
        step.name = layer.name if index == len(steps) else f"{layer.name}_{index}"
        step.shape = step.shape or layer.shape
    return make_chain(layer, *steps)


class _Call:
    """The arguments of an operation's call."""

    def __init__(self, layer: Layer, graph: Graph) -> None:
        self.layer = layer
        args, kwargs = layer.call or [[{"$": index} for index in range(len(layer.inputs))], {}]
        self.args, self.named = args, {**layer.config, **kwargs}
        self.input_shape = graph.get(layer.inputs[0]).shape

    def get(self, position: int | None, *names: str, default: Any = None) -> Any:
        """Return an argument by its position or by one of its names."""
        if position is not None and position < len(self.args):
            return self.args[position]
        return next((self.named[name] for name in names if name in self.named), default)

    def get_pair(self) -> tuple[Any, Any]:
        """Return the operands of a binary operation; None in the place of a tensor."""
        operands = self.get(0, "x", "x1"), self.get(1, "y", "x2")
        return tuple(None if isinstance(operand, dict) else operand for operand in operands)

    def get_axes(self, position: int | None = 1) -> list[int]:
        """Return the axes of a reduction, counted from the front."""
        axes = self.get(position, "axis")
        axes = list(range(len(self.input_shape))) if axes is None else axes if isinstance(axes, list) else [axes]
        return sorted(axis % len(self.input_shape) for axis in axes)


def _make(kind: str, **config) -> Layer:
    return Layer("", kind, config)


def _add(call: _Call) -> list[Layer]:
    return _combine(call, "Add", lambda value: _scale(1.0, value))


def _subtract(call: _Call) -> list[Layer]:
    x, _ = call.get_pair()
    flip = x is not None
    return _combine(call, "Subtract", lambda value: _scale(-1.0, value) if flip else _scale(1.0, _negate(value)))


def _multiply(call: _Call) -> list[Layer]:
    return _combine(call, "Multiply", lambda value: _scale(value, 0.0))


def _divide(call: _Call) -> list[Layer] | None:
    x, y = call.get_pair()
    if x is None and y is None:
        return [_make("Operation", function="divide")]
    return None if y is None else _scale(_reciprocal(y), 0.0)


def _combine(call: _Call, kind: str, with_constant: Callable[[Any], list[Layer]]) -> list[Layer]:
    x, y = call.get_pair()
    return [_make(kind)] if x is None and y is None else with_constant(y if x is None else x)


def _scale(scale: Any, offset: Any) -> list[Layer]:
    """Layers for x * scale + offset with numbers or nested lists."""
    if not isinstance(scale, list) and not isinstance(offset, list):
        return [_make("Rescaling", scale=scale, offset=offset)]
    steps = []
    if scale != 1:
        steps += [_make("Constant", function="multiply", value=scale)]
    if offset != 0:
        steps += [_make("Constant", function="add", value=offset)]
    return steps


def _negate(value: Any) -> Any:
    return [_negate(part) for part in value] if isinstance(value, list) else -value


def _reciprocal(value: Any) -> Any:
    return [_reciprocal(part) for part in value] if isinstance(value, list) else 1.0 / value


def _extreme(kind: str) -> Callable[[_Call], list[Layer]]:
    return lambda call: _combine(call, kind, lambda value: [_make("Constant", function=kind.lower(), value=value)])


def _clip(call: _Call) -> list[Layer]:
    least = call.get(1, "clip_value_min", "x_min")
    most = call.get(2, "clip_value_max", "x_max")
    if least == 0:
        return [_make("ReLU", max_value=float(most))]
    return [_make("Constant", function="maximum", value=least), _make("Constant", function="minimum", value=most)]


def _relu(call: _Call) -> list[Layer]:
    most = call.get(None, "max_value")
    return [_make("ReLU", max_value=most)] if most else [_make("ReLU")]


def _leaky_relu(call: _Call) -> list[Layer]:
    return [_make("LeakyReLU", alpha=call.get(1, "alpha", "negative_slope", default=0.2))]


def _hard(gate: bool) -> Callable[[_Call], list[Layer]]:
    return lambda _: [_make("Activation", activation="hard_swish" if gate else "hard_sigmoid_3")]


def _reshape(call: _Call) -> list[Layer]:
    shape = [-1 if size is None else size for size in call.layer.shape[1:]]
    return [_make("Reshape", target_shape=shape)] if shape.count(-1) <= 1 else None


def _transpose(call: _Call) -> list[Layer] | None:
    order = call.get(1, "perm", "axes")
    return [_make("Permute", dims=order[1:])] if order and order[0] == 0 else None


def _concatenate(call: _Call) -> list[Layer]:
    return [_make("Concatenate", axis=call.get(1, "axis", default=0))]


def _reduce(kind: str | None, function: str) -> Callable[[_Call], list[Layer]]:
    def make(call: _Call) -> list[Layer] | None:
        axes, rank = call.get_axes(), len(call.input_shape)
        keepdims = bool(call.get(2, "keepdims", default=False))
        if 0 in axes:
            return None
        if kind and rank in (3, 4) and axes == list(range(1, rank - 1)):
            return [_make(f"{kind}{rank - 2}D", keepdims=keepdims)]
        return [_make("Operation", function=function, arguments={"axis": axes, "keepdims": keepdims})]

    return make


def _get_item(call: _Call) -> list[Layer] | None:
    parts = call.get(1, "slice_spec", "key")
    parts = parts if isinstance(parts, list) else [parts]
    marks = [index for index, part in enumerate(parts) if isinstance(part, dict) and part.get("ellipsis")]
    if marks:
        missing = len(call.input_shape) - len(parts) + 1
        parts[marks[0] : marks[0] + 1] = [{"start": None, "stop": None, "step": None}] * missing
    if not all(isinstance(part, dict | int) for part in parts):
        return None
    spans = [_get_span(part) for part in parts]
    taken = _make("Slice", parts=spans)
    if not any(isinstance(part, int) for part in parts):
        return [taken]
    sizes = [-1 if size is None else size for size in call.layer.shape[1:]]
    return [taken, _make("Reshape", target_shape=sizes)] if sizes.count(-1) <= 1 else None


def _get_span(part: dict | int) -> list[int | None]:
    if isinstance(part, int):
        return [part, part + 1 if part != -1 else None, None]
    return [part["start"], part["stop"], part["step"]]


def _square(call: _Call) -> list[Layer]:
    call.layer.inputs *= 2
    return [_make("Multiply")]


def _function(name: str) -> Callable[[_Call], list[Layer]]:
    return lambda _: [_make("Operation", function=name)]


def _activation(name: str) -> Callable[[_Call], list[Layer]]:
    return lambda _: [_make("Activation", activation=name)]


_MAKERS: dict[str, Callable[[_Call], list[Layer] | None]] = {
    "add": _add,
    "subtract": _subtract,
    "multiply": _multiply,
    "divide": _divide,
    "negative": lambda _: _scale(-1.0, 0.0),
    "square": _square,
    "maximum": _extreme("Maximum"),
    "minimum": _extreme("Minimum"),
    "clip": _clip,
    "relu": _relu,
    "relu6": lambda _: [_make("ReLU", max_value=6.0)],
    "leakyrelu": _leaky_relu,
    "silu": _activation("swish"),
    "hardsigmoid": _hard(gate=False),
    "hardsilu": _hard(gate=True),
    "hardswish": _hard(gate=True),
    "reshape": _reshape,
    "transpose": _transpose,
    "concatenate": _concatenate,
    "mean": _reduce("GlobalAveragePooling", "reduce_mean"),
    "max": _reduce("GlobalMaxPooling", "reduce_max"),
    "sum": _reduce(None, "reduce_sum"),
    "getitem": _get_item,
    **{name: _function(name) for name in ("exp", "log", "abs", "sqrt", "rsqrt")},
    **{name: _activation(name) for name in _ACTIVATIONS},
}
"""Maker of the layers of each operation. It returns None where the arguments allow no layer."""
