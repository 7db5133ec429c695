"""A proved import on disk: its graph is built again without the Keras that wrote the file, and without the proof."""

import json
from pathlib import Path
from typing import Any

import numpy as np

from collabopt.models.importing.graph import Graph, Layer

_LISTS = ("layers", "augmentation")


def encode(graph: Graph) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """Return a rewritten `graph` as JSON data, and its weights by "layer/number"."""
    arrays: dict[str, np.ndarray] = {}
    data = vars(graph) | {key: [_encode_layer(layer, arrays) for layer in getattr(graph, key)] for key in _LISTS}
    return json.loads(json.dumps(data, default=lambda value: np.asarray(value).tolist())), arrays


def decode(data: dict[str, Any], arrays: dict[str, np.ndarray]) -> Graph:
    """Return the graph of JSON `data` of `encode`, with its weights `arrays`."""
    return Graph(**data | {key: [_decode_layer(entry, arrays) for entry in data[key]] for key in _LISTS})


def write(directory: Path, graph: Graph, about: dict[str, Any]) -> None:
    """Write a `graph`, with JSON values `about` it, to an existing `directory`."""
    data, arrays = encode(graph)
    (directory / "graph.json").write_text(json.dumps({"graph": data, "about": about}))
    np.savez(directory / "weights.npz", **arrays)


def read(directory: Path) -> tuple[Graph, dict[str, Any]]:
    """Return the graph that `write` wrote to `directory`, and the values that were kept with it."""
    stored = json.loads((directory / "graph.json").read_text())
    with np.load(directory / "weights.npz") as arrays:
        return decode(stored["graph"], dict(arrays)), stored["about"]


def _encode_layer(layer: Layer, arrays: dict[str, np.ndarray]) -> dict[str, Any]:
    arrays |= {f"{layer.name}/{number}": weight for number, weight in enumerate(layer.weights)}
    return vars(layer) | {"weights": len(layer.weights)}


def _decode_layer(entry: dict[str, Any], arrays: dict[str, np.ndarray]) -> Layer:
    weights = [arrays[f"{entry['name']}/{number}"] for number in range(entry["weights"])]
    return Layer(**entry | {"weights": weights, "shape": tuple(entry["shape"])})
