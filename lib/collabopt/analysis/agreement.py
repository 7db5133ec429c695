"""Whether an int8 file computes what its Keras model computes, at its outputs and layer by layer.

Fake quantization in Keras and the integer arithmetic of a file round in different places, so outputs usually differ by
a step or two of int8. A larger difference means that the file is not the model that was trained.
"""

import re
from collections.abc import Collection, Iterator
from typing import Any

import numpy as np
import pandas as pd

from collabopt.datasets import Split
from collabopt.runtime.tensorflow import keras, tf
from collabopt.techniques import quantization
from collabopt.techniques.replacement import list_nodes
from collabopt.tflite import flatbuffer, interpreter

EXAMPLES = 64
"""Number of examples that are compared at the outputs."""
_EXAMPLES_BY_LAYER = 8
COLUMNS = ["gap_mean_steps", "gap_largest_steps", "gap_same_class", "int8_faults"]
"""Columns of results.csv."""
MOST_STEPS = 3.0
"""Mean difference, in steps, above which a model and its file disagree."""


def describe_file(
    model: keras.Model, tflite: bytes, split: Split, activation: str | None, floats: Collection[str] = ()
) -> dict[str, Any]:
    """Describe how an int8 file differs from what its model promises.

    Args:
        model: The model of the file; only a fake-quantized one is compared with it.
        tflite: The content of the file.
        split: Examples, of which the first `EXAMPLES` are compared.
        activation: "softmax" or "sigmoid" if the file ends in it and the model does not; else None.
        floats: Layers that stay in float32 on purpose, or have no int8 form.

    Returns:
        The columns of `COLUMNS`. gap_mean_steps and gap_largest_steps: mean and largest difference of the outputs, in
        steps of the file's output; gap_same_class: share of examples with the same largest output; these are None for a
        float model. int8_faults: operators in float32, and where a difference above `MOST_STEPS` starts; empty if
        there is none.
    """
    found = dict.fromkeys(COLUMNS) | {"int8_faults": ""}
    faults = [f"{layer} is in float32 ({operators})" for layer, operators in find_floats(model, tflite, floats).items()]
    if quantization.is_wrapped(model):
        some = split.take(slice(EXAMPLES))
        steps, same = _compare_outputs(model, tflite, some, activation)
        found |= {
            "gap_mean_steps": float(steps.mean()),
            "gap_largest_steps": float(steps.max()),
            "gap_same_class": same,
        }
        if steps.mean() > MOST_STEPS:
            start = _find_start(compare_layers(model, tflite, some))
            faults.append(f"outputs differ from Keras by {steps.mean():.1f} steps, from {start} on")
    return found | {"int8_faults": "; ".join(faults)}


def find_floats(model: keras.Model, tflite: bytes, floats: Collection[str] = ()) -> dict[str, str]:
    """Return the operators that `tflite`, the file of `model`, computes in float32, by layer; `floats` may be so."""
    found: dict[str, list[str]] = {}
    for operator, tensor in flatbuffer.list_float_operators(tflite):
        found.setdefault(find_layer(model, tensor), []).append(operator)
    allowed = [*floats, model.name] if floats else []  # a rewrite names the parts of a layer "layer_part"
    unexpected = [name for name in found if not any(name == one or name.startswith(f"{one}_") for one in allowed)]
    return {name: ", ".join(dict.fromkeys(found[name])) for name in unexpected}


def find_layer(model: keras.Model, text: str) -> str:
    """Return the layer that a message or tensor name `text` is about: the longest name in it, or that of the model."""
    words = {re.sub(r"^(quant|prune_low_magnitude|cluster)_", "", word) for word in re.split(r"[^\w.\-]+", text)}
    names = [layer.name for layer in model.layers if not isinstance(layer, keras.layers.InputLayer)]
    names = [name.removeprefix("quant_") for name in names]
    whole = [name for name in names if name in words]
    # A rewrite names the parts of a layer "layer_part".
    parts = [name for name in names if any(word.startswith(f"{name}_") for word in words)]
    return max(whole or parts or [model.name], key=len)


def _compare_outputs(
    model: keras.Model, tflite: bytes, some: Split, activation: str | None
) -> tuple[np.ndarray, float | None]:
    """Differences of all outputs in steps, and the share of examples with the same class."""
    expected = []
    for inputs, _ in some.batches(EXAMPLES):
        outputs = model(inputs, training=False)
        expected.append((getattr(tf.nn, activation)(outputs) if activation else outputs).numpy())
    expected, found = np.concatenate(expected), interpreter.compute_outputs(tflite, some)
    (details,) = interpreter.open_interpreter(tflite).get_output_details()
    is_class = found.ndim == 2 and found.shape[-1] > 1
    same = float(np.mean(found.argmax(-1) == expected.argmax(-1))) if is_class else None
    return np.abs(found - expected) / (details["quantization"][0] or 1.0), same


def compare_layers(model: keras.Model, tflite: bytes, split: Split) -> pd.DataFrame:
    """Compare the activations of `model` and its int8 file `tflite`, by LiteRT's reference kernels, on a few examples.

    Returns:
        One row per layer whose output the file has, in the order of the file: `layer`, `operator`,
        `mean_steps` and `largest_steps` as in `describe_file`, and `snr_db`, the signal-to-noise ratio in dB.
    """
    some = split.take(slice(_EXAMPLES_BY_LAYER))
    ((inputs, _),) = some.batches(_EXAMPLES_BY_LAYER)
    outputs, consumers = read_graph(model)
    activations = keras.Model(model.inputs, [*outputs.values()])(inputs, training=False)
    arrays = [one.numpy() for one in tf.nest.flatten(activations)]
    by_layer = dict(zip(outputs, arrays, strict=True))
    rows = []
    for operator, tensor, is_last, values, scale in _read_activations(tflite, inputs):
        last = _find_last_layer(tensor, outputs) or (model.output_names[0] if is_last else None)
        candidates = [one for one in _list_fused(consumers, last) if by_layer[one].size == values.size]
        differences = {one: np.abs(by_layer[one].reshape(values.shape) - values) for one in candidates}
        if differences:  # a batch norm and an activation are part of the operator, whose tensor may not name them
            layer = min(differences, key=lambda one: differences[one].mean())
            rows.append(
                {
                    "layer": re.sub("^quant_", "", layer),
                    "operator": operator,
                    "mean_steps": differences[layer].mean() / scale,
                    "largest_steps": differences[layer].max() / scale,
                    "snr_db": compute_snr(by_layer[layer].reshape(values.shape), values),
                }
            )
    table = pd.DataFrame(rows, columns=["layer", "operator", "mean_steps", "largest_steps", "snr_db"])
    return table.drop_duplicates("layer", keep="last", ignore_index=True)  # earlier operators are steps towards it


def compute_snr(exact: np.ndarray, rounded: np.ndarray) -> float:
    """Return the signal-to-noise ratio of `rounded` to `exact` values in dB; infinity without noise or signal."""
    noise, signal = (float(np.mean(np.square(one, dtype=np.float64))) for one in (exact - rounded, exact))
    return 10 * float(np.log10(signal / noise)) if noise and signal else np.inf


def _find_start(rows: pd.DataFrame) -> str:
    """The first layer whose mean difference is above `MOST_STEPS`; else the one with the largest."""
    if rows.empty:
        return "an unknown layer"
    above = rows[rows["mean_steps"] > MOST_STEPS]
    return str(above["layer"].iloc[0] if len(above) else rows.loc[rows["mean_steps"].idxmax(), "layer"])


def _read_activations(tflite: bytes, inputs: Any) -> Iterator[tuple[str, str, bool, np.ndarray, float]]:
    """Operator, name of its output, whether that is the file's, output (n, ...) float32 and scale of each operator."""
    opened = interpreter.open_interpreter(tflite, reference=True)
    details = {one["index"]: one for one in opened.get_tensor_details()}
    operators = [one for one in opened._get_ops_details() if details[one["outputs"][0]]["quantization"][0]]
    (end,) = opened.get_output_details()
    recorded = interpreter.record(opened, inputs, [one["outputs"][0] for one in operators])
    for one, values in zip(operators, recorded, strict=True):
        tensor = details[one["outputs"][0]]
        yield one["op_name"], tensor["name"], tensor["index"] == end["index"], values, tensor["quantization"][0]


def read_graph(model: keras.Model) -> tuple[dict[str, Any], dict[str, list[str]]]:
    """Return the output of each layer of `model` with a single one, in its order, and its consumers by name."""
    nodes = [node for node in list_nodes(model) if not node.is_input and not isinstance(node.outputs, list | dict)]
    consumers: dict[str, list[str]] = {node.layer.name: [] for node in nodes}
    for node in nodes:
        for parent in node.parent_nodes:
            consumers.setdefault(parent.layer.name, []).append(node.layer.name)
    return {node.layer.name: node.outputs for node in nodes}, consumers


def _find_last_layer(tensor: str, outputs: dict[str, Any]) -> str | None:
    """The layer, deepest in the model, that is part of a tensor's name, such as `model/bn/add;model/conv/Conv2D`."""
    parts = {part for path in tensor.split(";") for part in path.split("/")[1:]}
    return next((name for name in reversed(outputs) if name in parts), None)


def _list_fused(consumers: dict[str, list[str]], last: str | None) -> list[str]:
    """A layer and the two that follow it alone, such as batch norm and ReLU."""
    found = [last] if last else []
    while 0 < len(found) < 3 and len(consumers[found[-1]]) == 1:
        found += consumers[found[-1]]
    return found
