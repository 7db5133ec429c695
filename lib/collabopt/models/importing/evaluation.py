"""Computes the outputs of a model of Keras 2 or 3, as a whole and layer by layer.

Like `extraction`, it imports neither TensorFlow nor the rest of the library.
"""

import dataclasses
from collections.abc import Callable

import numpy as np

from collabopt.models.importing.extraction import Reference, Walk, flatten, get_history, get_key, map_leaves

OUTPUT_ACTIVATIONS = ("softmax", "sigmoid")  # those that are taken off the outputs
EXAMPLES = 32  # random inputs on which two models are compared
FREE_SIZE = 32  # size of an axis that the model leaves open
_BATCH_VALUES = 1_300_000  # numbers in a batch, to bound the memory that activations take


@dataclasses.dataclass
class Outputs:
    """What a model computes: inputs, outputs, and outputs without softmax or sigmoid, one array each."""

    inputs: list[np.ndarray]
    given: list[np.ndarray]
    logits: list[np.ndarray]


@dataclasses.dataclass
class Original:
    """The model to be imported.

    Attributes:
        data: What `extraction.extract` returned.
        compute_outputs: Computes the outputs on "random" inputs and, if given, on "examples".
        compute_intermediates: Computes the output of each layer for the first two random inputs, by name.
        lines: One line per thing that was done while it was opened.
    """

    data: dict
    compute_outputs: Callable[[], dict[str, Outputs]]
    compute_intermediates: Callable[[], dict[str, np.ndarray]]
    lines: list[str] = dataclasses.field(default_factory=list)


def draw_inputs(data: dict, seed: int = 0) -> list[np.ndarray]:
    """Return random inputs (32, …) for `data` of `extract` by `seed`: half standard normal, half uniform in [0, 255].

    Embeddings get valid indices.
    """
    generator = np.random.default_rng(seed)
    drawn = []
    for entry in (entry for entry in data["layers"] if entry["kind"] == "InputLayer"):
        shape = (EXAMPLES, *(FREE_SIZE if size is None else size for size in entry["shape"][1:]))
        limits = [
            user["config"]["input_dim"]
            for user in data["layers"]
            if user["kind"] == "Embedding" and entry["name"] in user["inputs"]
        ]
        if limits or "int" in entry["config"]["dtype"]:
            values = generator.integers(0, min([*limits, 256]), shape)
        else:
            values = generator.standard_normal(shape, np.float32)
            values[EXAMPLES // 2 :] = generator.uniform(0, 255, values[EXAMPLES // 2 :].shape)
        drawn.append(values.astype(entry["config"]["dtype"]))
    return drawn


def compute_outputs(model, inputs: list[np.ndarray]) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """Compute a model's outputs for inference.

    Args:
        model: The model.
        inputs: One array per input.

    Returns:
        One float32 array per output; and the same before the last activation, where this is an attribute of the layer
        and among `OUTPUT_ACTIVATIONS`.
    """
    last = [_get_last_layer(tensor) for tensor in model.outputs]
    names = {layer: getattr(getattr(layer, "activation", None), "__name__", "") for layer in last}
    found = [layer for layer, name in names.items() if name in OUTPUT_ACTIVATIONS]
    kept = {layer: layer.activation for layer in found}
    seen: dict = {}

    def watch(layer):
        def activation(x):
            seen[layer] = x
            return kept[layer](x)

        return activation

    def predict(batch: list[np.ndarray]) -> list[np.ndarray]:
        outputs = flatten(model(arrange(model, batch), training=False))
        plain = [seen.get(layer, output) for layer, output in zip(last, outputs, strict=True)]
        return [np.asarray(array, np.float32) for array in outputs + plain]

    try:
        for layer in found:
            layer.activation = watch(layer)
        arrays = map_batches(predict, inputs)
    finally:
        for layer, activation in kept.items():
            layer.activation = activation
    return arrays[: len(last)], arrays[len(last) :]


def arrange(model, arrays: list[np.ndarray]):
    """Arrange `arrays`, one per input, as the `model` takes them: alone, in a list or in a dict."""
    if len(arrays) == 1:
        return arrays[0]
    structure = model._inputs_struct if hasattr(model, "_inputs_struct") else model._nested_inputs
    inputs = dict(zip(map(get_key, model.inputs), arrays, strict=True))
    return map_leaves(structure, lambda tensor: inputs[get_key(tensor)])


def map_batches(predict: Callable, inputs: list[np.ndarray]) -> list[np.ndarray]:
    """Return the arrays of `predict` over `inputs` (an array each), in batches, small ones for large examples."""
    values = sum(array[0].size for array in inputs)
    size = max(1, min(EXAMPLES, _BATCH_VALUES // values))
    results = [predict([array[start : start + size] for array in inputs]) for start in range(0, len(inputs[0]), size)]
    return [np.concatenate(parts) for parts in zip(*results, strict=True)]


def compute_intermediates(model, inputs: list[np.ndarray]) -> dict[str, np.ndarray]:
    """Return the first output (float32) of each layer of `model` that `extract` lists, by name, for `inputs`."""
    walk = Walk()
    names = [walk.add_input(tensor) for tensor in model.inputs]
    walk.add_model(model, names)
    values = dict(zip(names, inputs, strict=True))
    for name, operation, (args, kwargs) in walk.calls:
        kwargs = {key: value for key, value in kwargs.items() if key not in ("training", "name")}
        outputs = flatten(operation(*_fill(args, values), **_fill(kwargs, values)))
        values |= {f"{name}:{index}" if index else name: output for index, output in enumerate(outputs)}
    return {name: np.asarray(value, np.float32) for name, value in values.items() if ":" not in name}


def _fill(arguments, values: dict):
    return map_leaves(arguments, lambda leaf: values[leaf.name] if isinstance(leaf, Reference) else leaf)


def _get_last_layer(tensor):
    """The layer that computes an output, also where it ends a nested model."""
    layer, _, index = get_history(tensor)
    return _get_last_layer(layer.outputs[index]) if hasattr(layer, "layers") and hasattr(layer, "outputs") else layer
