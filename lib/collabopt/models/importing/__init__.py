"""Imports a user's trained model: a flat Keras 2 graph of layers that the techniques support, proved equal.

    imported = importing.import_model("mine.keras")
    imported.model, imported.output_activation, imported.rewrites

Nothing is believed: the outputs of the imported model are compared with those of the original.
"""

import contextlib
import dataclasses
import json
import math
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from collabopt.models.importing import (
    evaluation,
    loading,
    proof,
    reading,
    rebuilding,
    rewrites,
    stored,
    translation,
)
from collabopt.models.importing.augmentation import Augmentation
from collabopt.models.importing.graph import Graph, ImportRefused
from collabopt.runtime.tensorflow import keras

__all__ = ["ImportRefused", "Imported", "import_model", "print_import", "read_import", "write_import"]


@dataclasses.dataclass(frozen=True)
class Imported:
    """An imported model.

    Attributes:
        model: Functional model of Keras 2 in float32; it returns logits.
        output_activations: What was taken off each output, by the output's name: "softmax", "sigmoid" or None.
        rewrites: One line per rewrite.
        largest_difference: Of the outputs to the original's, relative to the largest of them.
        augmentation: The augmentation layers at the start, which act in training only; None if there are none.
        graph: The model as data.
    """

    model: keras.Model
    output_activations: dict[str, str | None]
    rewrites: list[str]
    largest_difference: float
    augmentation: Augmentation | None = None
    graph: Graph | None = None

    @property
    def output_activation(self) -> str | None:
        """What was taken off a model with one output; None where outputs differ in it."""
        found = set(self.output_activations.values())
        return found.pop() if len(found) == 1 else None

    def select(self, head: str) -> "Imported":
        """Return the model of the output `head`, without the layers that only other outputs need.

        Raises:
            ImportRefused: There is no such output.
        """
        names = list(self.output_activations)
        if head not in names:
            raise ImportRefused(f"head={head}: the model has no such output", f"Expected one of {', '.join(names)}.")
        kept = keras.Model(self.model.inputs, self.model.outputs[names.index(head)], name=self.model.name)
        return dataclasses.replace(
            self,
            model=kept,
            output_activations={head: self.output_activations[head]},
            rewrites=[*self.rewrites, *([f"only the output {head} is kept"] if len(names) > 1 else [])],
        )


def import_model(
    source: str | Path | Callable[[], Any],
    examples: np.ndarray | list[np.ndarray] | None = None,
    trust_code: bool = False,
    custom_objects: dict[str, Any] | list[str] | None = None,
    weights: str | Path | None = None,
    takes_logits: bool = True,
) -> Imported:
    """Import a trained model and prove that it computes the same.

    Args:
        source: Path of a .keras, .h5 or .hdf5 file or of the folder of a SavedModel; or a function without arguments
            that returns a model of Keras 2 or 3, also as "module:function".
        examples: Real inputs to compare on besides random ones, as one array, or one per input.
        trust_code: Whether code inside the file may run.
        custom_objects: Classes of the user's own layers by name, as a class or as "module:Class"; or a list of
            "module:Class".
        weights: File of weights for the model that a function returns.
        takes_logits: Whether a softmax or sigmoid at the end is taken off.

    Returns:
        The imported model.

    Raises:
        ImportRefused: The model cannot be imported, or its outputs differ.
    """
    return _import(source, examples, trust_code, custom_objects, weights, takes_logits, in_process=False)


def write_import(imported: Imported, directory: Path) -> None:
    """Write what was `imported` to a `directory`, so that a process can read it without original and proof."""
    stored.write(
        directory,
        imported.graph,
        {
            "output_activations": imported.output_activations,
            "rewrites": imported.rewrites,
            "largest_difference": imported.largest_difference,
        },
    )


def read_import(directory: Path, custom_objects: dict[str, Any]) -> Imported:
    """Return what `write_import` wrote to `directory`, with `custom_objects` as in `import_model`.

    Raises:
        ImportRefused: A class cannot be imported.
    """
    graph, about = stored.read(directory)
    return _build(graph, loading.import_classes(custom_objects), **about)


def print_import(source: str, weights: str | None, trust_code: bool, custom_objects: list[str]) -> int:
    """Import a model, and print the result as one line of JSON.

    The process is there for this import alone, so that Keras 3 is loaded in it, which takes half as long.

    Args:
        source: As in `import_model`.
        weights: File of weights for the model that a function returns.
        trust_code: Whether code inside the file may run.
        custom_objects: Classes of the user's own layers, each "module:Class".

    Returns:
        The exit status: 0 if the model is accepted, 3 if it is refused.
    """
    try:
        imported = _import(source, None, trust_code, custom_objects, weights, True, in_process=True)
    except ImportRefused as error:
        print(json.dumps({"accepted": False, "reason": error.reason, "remedy": error.remedy}))
        return 3
    result = {
        "accepted": True,
        "largest_difference": imported.largest_difference,
        "rewrites": imported.rewrites,
        "output_activation": imported.output_activation,
    }
    print(json.dumps(result))
    return 0


def _import(
    source: Any,
    examples: Any,
    trust_code: bool,
    custom_objects: Any,
    weights: str | Path | None,
    takes_logits: bool,
    in_process: bool,
) -> Imported:
    if not isinstance(custom_objects, dict):
        custom_objects = {place.partition(":")[2]: place for place in custom_objects or ()}
    if examples is not None and not isinstance(examples, list):
        examples = [examples]
    with (
        loading.keep_global_policy(),
        _open(source, examples, trust_code, custom_objects, weights, in_process) as original,
    ):
        return _convert(original, loading.import_classes(custom_objects), takes_logits)


@contextlib.contextmanager
def _open(
    source: Any, examples: list | None, trust_code: bool, custom_objects: dict, weights: Any, in_process: bool
) -> Iterator[evaluation.Original]:
    if not callable(source) and (Path(source).exists() or ":" not in str(source)):
        saved = reading.read(Path(source), trust_code, tuple(custom_objects))
        with loading.open_saved(saved, examples, trust_code, custom_objects, in_process) as original:
            yield original
        return
    model = (source if callable(source) else loading.import_object(str(source)))()
    if weights is not None:
        loading.load_weights(model, Path(weights))
    yield loading.open_model(model, examples)


def _convert(original: evaluation.Original, classes: dict[str, type], takes_logits: bool) -> Imported:
    graph, lines = translation.to_graph(original.data, classes)
    activations = rewrites.remove_output_activations(graph) if takes_logits else [None] * len(graph.outputs)
    lines = original.lines + lines
    lines += [f"{name} was taken off the output" for name in dict.fromkeys(filter(None, activations))]
    lines += rewrites.rewrite(graph)
    graph = stored.decode(*stored.encode(graph))  # so that what is proved is what can be stored
    names = dict(zip(graph.output_names, activations, strict=True))
    imported = _build(graph, classes, names, lines)
    expected = original.compute_outputs()
    difference = max(proof.compare(imported.model, activations, outputs) for outputs in expected.values())
    if not difference <= proof.TOLERANCE:
        first = [array[:2] for array in expected["random"].inputs]
        where = proof.find_first_difference(graph, first, original.compute_intermediates(), classes)
        raise proof.make_refusal(where, difference)
    return dataclasses.replace(imported, largest_difference=difference)


def _build(
    graph: Graph,
    classes: dict[str, type],
    output_activations: dict[str, str | None],
    rewrites: list[str],
    largest_difference: float = math.inf,
) -> Imported:
    """Build the model of a graph, with what is known about it."""
    return Imported(
        rebuilding.build(graph, custom_objects=classes),
        output_activations,
        rewrites,
        largest_difference,
        rebuilding.build_augmentation(graph),
        graph,
    )
