"""Turns the data of a Keras 2 or 3 model into a graph of Keras 2 layers: class names, configurations, activations."""

import inspect
from typing import Any

from collabopt.models.importing import layers as own_layers
from collabopt.models.importing import operations
from collabopt.models.importing.graph import Graph, ImportRefused, Layer, rename
from collabopt.runtime.tensorflow import keras

_IGNORED = ("name", "dtype", "trainable", "activity_regularizer", "seed", "batch_input_shape", "batch_shape")
_IGNORED_ENDINGS = ("_initializer", "_regularizer", "_constraint")
_RENAMED = {"LeakyReLU": {"negative_slope": "alpha"}}
_AUGMENTATION = (
    "AugMix", "CutMix", "MixUp", "RandAugment", "RandomBrightness", "RandomColorDegeneration", "RandomColorJitter",
    "RandomContrast", "RandomElasticTransform", "RandomErasing", "RandomFlip", "RandomGaussianBlur", "RandomGrayscale",
    "RandomHue", "RandomInvert", "RandomPerspective", "RandomPosterization", "RandomRotation", "RandomSaturation",
    "RandomSharpness", "RandomShear", "RandomTranslation", "RandomZoom",
)  # fmt: skip


def to_graph(data: dict, custom_objects: dict[str, type] | None = None) -> tuple[Graph, list[str]]:
    """Turn extracted data into a graph of Keras 2 layers with names of our own.

    Args:
        data: What `extraction.extract` returned.
        custom_objects: Classes of the user's own layers, by name.

    Returns:
        The graph, and one line per kind of layer that was exchanged or dropped.

    Raises:
        ImportRefused: A layer or operation has no equivalent.
    """
    layers = [
        Layer(
            name=entry["name"],
            kind=entry["kind"],
            config=dict(entry["config"]),
            weights=list(entry["weights"]),
            inputs=list(entry["inputs"]),
            call=entry["call"],
            shape=tuple(entry["shape"]),
            equals=entry["name"],
        )
        for entry in data["layers"]
    ]
    graph = Graph(layers, list(data["outputs"]), list(data["output_names"]))
    operations.mark(graph)
    rename(graph)
    lines = operations.convert_to_layers(graph)
    lines += _drop(graph, "augmentation layers, which are active in training only", _AUGMENTATION)
    lines += _drop(graph, "layers without effect", ("Identity", "ActivityRegularization"))
    for layer in graph.layers:
        _translate(layer, data["keras"], custom_objects or {})
    return graph, lines


def find_class(kind: str, custom_objects: dict[str, type] | None = None) -> type | None:
    """Find the class of a layer: the user's, ours, or Keras 2's."""
    own = {**own_layers.CLASSES, **(custom_objects or {})}
    return own.get(kind) or getattr(keras.layers, kind, None)


def _drop(graph: Graph, title: str, kinds: tuple[str, ...]) -> list[str]:
    found = [layer for layer in graph.layers if layer.kind in kinds]
    for layer in found:
        graph.replace(layer, [])
    return [f"Dropped {title}: {', '.join(layer.name for layer in found)}"] if found else []


def _translate(layer: Layer, version: int, custom_objects: dict[str, type]) -> None:
    """Make a layer's configuration one of Keras 2."""
    if layer.kind == "InputLayer" or layer.kind.startswith("op:"):
        return
    cls = find_class(layer.kind, custom_objects)
    if cls is None:
        raise ImportRefused(
            f"layer {layer.name} has the class {layer.kind}, which Keras 2 does not have",
            "Replace it by layers that Keras 2 (tf_keras) has, or give its class as custom_objects: module:Class.",
        )
    if not issubclass(cls, keras.layers.Layer):
        raise ImportRefused(
            f"layer {layer.name} has the class {layer.kind}, which is a layer of Keras 3 alone",
            "Replace it by the layers of Keras, or write the class for Keras 2 (tf_keras), too.",
        )
    if layer.kind == "Lambda":
        layer.config = {name: value for name, value in layer.config.items() if name not in _IGNORED}
        return
    layer.config = _clean(cls, layer.kind, layer.config)
    if layer.kind == "BatchNormalization" and isinstance(layer.config.get("axis"), list):
        layer.config["axis"] = layer.config["axis"][0]
    if layer.kind == "Normalization":
        _fix_statistics(layer)
    if version == 3 and layer.config.get("activation") == "hard_sigmoid":
        layer.config["activation"] = "hard_sigmoid_3"


def _clean(cls: type, kind: str, config: dict[str, Any]) -> dict[str, Any]:
    """Keep the arguments that the class of Keras 2 takes, without those that only matter before training."""
    known = _list_parameters(cls)
    config = {_RENAMED.get(kind, {}).get(name, name): value for name, value in config.items()}
    return {
        name: _clean_value(value)
        for name, value in config.items()
        if name in known and name not in _IGNORED and not name.endswith(_IGNORED_ENDINGS)
    }


def _clean_value(value: Any) -> Any:
    """Clean the configuration of a layer inside a layer; turn a serialized activation into its name."""
    if not isinstance(value, dict) or "class_name" not in value:
        return value
    if value["class_name"] == "function":
        return _clean_value(value["config"])
    cls = find_class(value["class_name"])
    if cls is None or not isinstance(value.get("config"), dict):
        return value
    config = _clean(cls, value["class_name"], value["config"])
    name = {"name": value["config"]["name"]} if "name" in value["config"] else {}
    return {"class_name": value["class_name"], "config": config | name}


def _list_parameters(cls: type) -> set[str]:
    """The names of a layer's constructor arguments, those of its base classes included."""
    found: set[str] = set()
    for base in cls.__mro__:
        if base is keras.layers.Layer:
            break
        if "__init__" in vars(base):
            found |= set(inspect.signature(base.__init__).parameters)
    return found


def _fix_statistics(layer: Layer) -> None:
    """Move the mean and variance of a Normalization layer from its weights to its configuration."""
    if layer.weights:
        layer.config |= {"mean": layer.weights[0].tolist(), "variance": layer.weights[1].tolist()}
        layer.weights = []
