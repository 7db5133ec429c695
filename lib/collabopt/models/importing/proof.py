"""Compares the outputs of an imported model with those of the original."""

import numpy as np

from collabopt.models.importing import evaluation
from collabopt.models.importing.graph import Graph, ImportRefused
from collabopt.models.importing.rebuilding import compute_tensors
from collabopt.runtime.tensorflow import keras, tf

TOLERANCE = 1e-4  # of the largest output


def _compute_difference(expected: np.ndarray, found: np.ndarray, scale: float = 0.0) -> float:
    """The largest difference relative to the largest expected value, or to `scale` if that is larger.

    Infinity where the shapes differ or one array alone is not finite.
    """
    if expected.shape != found.shape or not np.array_equal(np.isfinite(expected), np.isfinite(found)):
        return float("inf")
    finite = np.isfinite(expected)
    if not finite.any():
        return float("inf")
    largest = max(float(np.abs(expected[finite]).max()), scale, 1e-30)
    return float(np.abs(expected[finite] - found[finite]).max()) / largest


def predict(model: keras.Model, inputs: list[np.ndarray]) -> list[np.ndarray]:
    """Return the outputs of a Keras 2 `model`, one array each, on `inputs`, one array each, in order."""

    def compute(batch: list[np.ndarray]) -> list[np.ndarray]:
        outputs = model(batch[0] if len(batch) == 1 else batch, training=False)
        return [np.asarray(output) for output in (outputs if isinstance(outputs, list | tuple) else [outputs])]

    return evaluation.map_batches(compute, inputs)


def _apply_activation(name: str | None, outputs: np.ndarray) -> np.ndarray:
    """The logits with the activation that was taken off an output: "softmax", "sigmoid" or None."""
    return getattr(tf.nn, name)(outputs).numpy() if name else outputs


def compare(model: keras.Model, activations: list[str | None], expected: evaluation.Outputs) -> float:
    """Return the largest difference of a `model` with logits and the original, with and without `activations`.

    It is relative to the `expected` outputs, or to 1 for probabilities.
    """
    differences = []
    outputs = zip(predict(model, expected.inputs), activations, expected.given, expected.logits, strict=True)
    for found, activation, complete, plain in outputs:
        scale = 1.0 if activation else 0.0
        differences.append(_compute_difference(complete, _apply_activation(activation, found), scale))
        if activation and not np.array_equal(plain, complete):
            differences.append(_compute_difference(plain, found))
    return max(differences)


def find_first_difference(
    graph: Graph,
    inputs: list[np.ndarray],
    expected: dict[str, np.ndarray],
    custom_objects: dict[str, type] | None = None,
) -> str | None:
    """Find the first layer whose output differs from the original's.

    Args:
        graph: The graph of the imported model.
        inputs: One array per input.
        expected: The first output of each original layer, by name.
        custom_objects: Classes of the user's own layers, by name.

    Returns:
        The name of the original layer; None if no single layer can be named.
    """
    layers = [layer for layer in graph.layers if layer.equals in expected and layer.kind != "InputLayer"]
    tensors, symbolic = compute_tensors(graph, custom_objects)
    probe = keras.Model(symbolic, [tensors[layer.name] for layer in layers])
    for layer, found in zip(layers, predict(probe, inputs), strict=True):
        original = expected[layer.equals]
        if _compute_difference(original.reshape(-1), found.reshape(-1)) > TOLERANCE:
            return layer.equals
    return None


def make_refusal(first: str | None, difference: float) -> ImportRefused:
    """Return the refusal, to be raised, of a model that differs by `difference` from layer `first` on, if known."""
    where = f"; the first layer that differs is {first}" if first else ""
    return ImportRefused(
        f"the imported model computes other outputs than yours, by {difference:.2g} of the largest value{where}",
        "Replace this layer by standard ones, or report the model as one that should be supported.",
    )
