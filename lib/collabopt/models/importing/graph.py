"""A model as data: a flat list of layers in the order of their calls, which rewrites change before it is rebuilt."""

import dataclasses
import itertools
import re
from collections.abc import Callable, Iterable
from typing import Any

import numpy as np


class ImportRefused(ValueError):
    """A model cannot be imported.

    Attributes:
        reason: One line, what stands in the way.
        remedy: One line, what to do about it.
    """

    def __init__(self, reason: str, remedy: str) -> None:
        super().__init__(f"{reason}. {remedy}")
        self.reason, self.remedy = reason, remedy


@dataclasses.dataclass
class Layer:
    """One layer and its call.

    Attributes:
        name: Name, unique in the graph. It also names the layer's first output; ":1" is appended for the second.
        kind: Class name, as in Keras 2, or the name of an operation.
        config: Constructor arguments without name, data type, initializers and regularizers.
        weights: Arrays in the order of Keras.
        inputs: Names of the tensors that the layer is called on.
        call: None for `layer(x)` and `layer([x, y])`; else (args, kwargs) with {"$": i} in the place of input i.
        shape: Shape of the first output; the batch and open axes are None.
        equals: Name of the original layer with the same output, if there is one.
    """

    name: str
    kind: str
    config: dict[str, Any]
    weights: list[np.ndarray] = dataclasses.field(default_factory=list)
    inputs: list[str] = dataclasses.field(default_factory=list)
    call: list | None = None
    shape: tuple[int | None, ...] = ()
    equals: str | None = None


@dataclasses.dataclass
class Graph:
    """Layers in the order of their calls.

    Attributes:
        layers: The layers.
        outputs: Names of the tensors that the model returns.
        output_names: Names of these outputs, as the user knows them.
        augmentation: Layers that change the inputs in training, in the order of their calls.
    """

    layers: list[Layer]
    outputs: list[str]
    output_names: list[str]
    augmentation: list[Layer] = dataclasses.field(default_factory=list)

    def get(self, tensor: str) -> Layer:
        """Return the layer that computes a `tensor`, given by name."""
        name = tensor.partition(":")[0]
        return next(layer for layer in self.layers if layer.name == name)

    def find_users(self, layer: Layer) -> list[Layer]:
        """Return the layers that are called on a layer's outputs, in the order of their calls."""
        return [user for user in self.layers if any(_is_output_of(tensor, layer) for tensor in user.inputs)]

    def has_one_user(self, layer: Layer) -> bool:
        """Return whether exactly one layer, and no output of the model, uses a layer's output, once."""
        uses = sum(tensor == layer.name for user in self.layers for tensor in user.inputs)
        return uses == 1 and not any(_is_output_of(tensor, layer) for tensor in self.outputs)

    def replace(self, layer: Layer, chain: list[Layer]) -> None:
        """Put a `chain` of layers in the place of `layer`; an empty one connects its users with its only input."""
        position = next(index for index, other in enumerate(self.layers) if other is layer)
        self.layers[position : position + 1] = chain
        output = chain[-1].name if chain else layer.inputs[0]
        if output != layer.name:
            self._redirect(layer.name, output, except_for=chain)

    def _redirect(self, old: str, new: str, except_for: Iterable[Layer]) -> None:
        spared = set(map(id, except_for))
        for user in self.layers:
            if id(user) not in spared:
                user.inputs = [new if tensor == old else tensor for tensor in user.inputs]
        self.outputs = [new if tensor == old else tensor for tensor in self.outputs]


def make_chain(layer: Layer, *steps: Layer) -> list[Layer]:
    """Connect `steps` in a row that takes the place of `layer`, and return them, changed in place."""
    steps[0].inputs = list(layer.inputs)
    for previous, following in itertools.pairwise(steps):
        following.inputs = [previous.name]
    steps[-1].equals = layer.equals
    return list(steps)


def make_reshape(name: str, shape: tuple[int | None, ...]) -> Layer:
    """Return an unconnected layer `name` with outputs of `shape`: batch included, at most one other axis None."""
    sizes = [-1 if size is None else size for size in shape[1:]]
    return Layer(name, "Reshape", {"target_shape": sizes}, shape=shape)


def rename(graph: Graph) -> None:
    """Replace automatic names in `graph` by our own, numbered in the order of the calls, so that two builds agree.

    Names that a user chose stay.
    """
    chosen = {layer.name for layer in graph.layers}
    automatic = {layer.name for layer in graph.layers if _is_automatic(layer, chosen)}
    taken, counts, names = chosen - automatic, {}, {}
    for layer in graph.layers:
        name = re.sub(r"[^A-Za-z0-9_.-]", "_", layer.name)
        if layer.name in automatic:
            base = _to_snake_case(layer.kind)
            name = base
            while name == base or name in taken:
                counts[base] = counts.get(base, 0) + 1
                name = f"{base}_{counts[base]}"
        names[layer.name] = name
    for layer in graph.layers:
        layer.name = names[layer.name]
        layer.inputs = [_rename_tensor(tensor, names) for tensor in layer.inputs]
    graph.outputs = [_rename_tensor(tensor, names) for tensor in graph.outputs]


def list_names(layers: Iterable[Layer], limit: int = 4) -> str:
    """Return the names of the first `limit` of `layers`, with commas, and how many follow."""
    names = [layer.name for layer in layers]
    rest = f" and {len(names) - limit} more" if len(names) > limit else ""
    return ", ".join(names[:limit]) + rest


def select(graph: Graph, *kinds: str, where: Callable[[Layer], bool] = lambda _: True) -> list[Layer]:
    """Return the layers of `graph` of these `kinds` that meet the condition `where`, in the order of their calls."""
    return [layer for layer in graph.layers if layer.kind in kinds and where(layer)]


def _is_output_of(tensor: str, layer: Layer) -> bool:
    return tensor.partition(":")[0] == layer.name


def _rename_tensor(tensor: str, names: dict[str, str]) -> str:
    name, colon, index = tensor.partition(":")
    return f"{names[name]}{colon}{index}"


def _is_automatic(layer: Layer, names: set[str]) -> bool:
    """Whether Keras made the name, from the class or the operation and a number."""
    if layer.kind == "InputLayer" and (layer.name.startswith("input") or layer.name.removesuffix("_input") in names):
        return bool(re.fullmatch(r"input(_layer)?(_\d+)*|.+_input", layer.name))
    stem = re.sub(r"(_\d+)+$", "", layer.name)
    return layer.kind.startswith("op:") or stem in (_to_snake_case(layer.kind), layer.kind.lower())


def _to_snake_case(kind: str) -> str:
    """Follow Keras: "Conv2DTranspose" becomes "conv2d_transpose"."""
    name = re.sub(r"(.)([A-Z][a-z0-9]+)", r"\1_\2", re.sub(r"\W", "", kind.removeprefix("op:")))
    return re.sub(r"([a-z])([A-Z])", r"\1_\2", name).lower()
