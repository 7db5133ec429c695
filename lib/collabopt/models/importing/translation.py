"""Turns the data of a Keras 2 or 3 model into a graph of Keras 2 layers: class names, configurations, activations."""

import inspect
from typing import Any

from collabopt.models.importing import augmentation, operations
from collabopt.models.importing import layers as own_layers
from collabopt.models.importing.graph import Graph, ImportRefused, Layer, list_names, rename
from collabopt.runtime.tensorflow import keras

_IGNORED = ("name", "dtype", "trainable", "activity_regularizer", "seed", "batch_input_shape", "batch_shape")
_IGNORED_ENDINGS = ("_initializer", "_constraint")
_RENAMED = {"LeakyReLU": {"negative_slope": "alpha"}}


def to_graph(data: dict, custom_objects: dict[str, type] | None = None) -> tuple[Graph, list[str]]:
    """Return `data` of `extract` with `custom_objects` as a graph of Keras 2, and a line per kind exchanged or dropped.

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
    nested = ", ".join(data["nested"])
    lines = [f"Models inside the model were replaced by their layers: {nested}"] if nested else []
    lines += operations.convert_to_layers(graph)
    lines += _drop(graph, "layers without effect", ("Identity", "ActivityRegularization"))
    lines += augmentation.take_off(graph)
    lines += _describe_losses(graph) + _keep_frozen(graph)
    for layer in graph.layers + graph.augmentation:
        _translate(layer, data["keras"], custom_objects or {})
    return graph, lines + _take_float32(graph)


def find_class(kind: str, custom_objects: dict[str, type] | None = None) -> type | None:
    """Return the class `kind` of a layer: the user's from `custom_objects`, ours, or that of Keras 2; else None."""
    own = {**own_layers.CLASSES, **(custom_objects or {})}
    return own.get(kind) or getattr(keras.layers, kind, None)


def _drop(graph: Graph, title: str, kinds: tuple[str, ...]) -> list[str]:
    found = [layer for layer in graph.layers if layer.kind in kinds]
    for layer in found:
        graph.replace(layer, [])
    return [f"Dropped {title}: {', '.join(layer.name for layer in found)}"] if found else []


def _describe_losses(graph: Graph) -> list[str]:
    """One line per kind of setting that only matters in training and is not kept."""
    bound = [
        layer
        for layer in graph.layers
        if any(name.endswith("_constraint") and value for name, value in layer.config.items())
    ]
    return [f"Constraints on weights were dropped: {list_names(bound)}"] if bound else []


def _keep_frozen(graph: Graph) -> list[str]:
    """One line about frozen layers, which no stage changes. If all are, none is: there would be nothing to train."""
    with_weights = [layer for layer in graph.layers if layer.weights and layer.kind != "Normalization"]
    frozen = [layer for layer in with_weights if layer.config.get("trainable") is False]
    if len(frozen) < len(with_weights):
        remedy = "set trainable = True to let stages train, prune and cluster them"
        return [f"Frozen layers (trainable=False) stay as they are: {list_names(frozen)}; {remedy}"] if frozen else []
    for layer in frozen:
        layer.config["trainable"] = True
    return ["Every layer was frozen (trainable=False); all are trained"] if frozen else []


def _take_float32(graph: Graph) -> list[str]:
    """Make the inputs float32, which holds every integer of an image. Indices of an embedding stay integers."""
    lines = []
    for layer in (layer for layer in graph.layers if layer.kind == "InputLayer"):
        dtype = layer.config["dtype"]
        if dtype != "float32" and all(user.kind != "Embedding" for user in graph.find_users(layer)):
            layer.config["dtype"] = "float32"
            lines.append(f"Input {layer.name} takes float32 instead of {dtype}")
    return lines


def _translate(layer: Layer, version: int, custom_objects: dict[str, type]) -> None:
    """Make a layer's configuration one of Keras 2."""
    if layer.kind == "InputLayer" or layer.kind.startswith("op:"):
        return
    cls = find_class(layer.kind, custom_objects)
    if cls is None:
        raise ImportRefused(
            f"layer {layer.name} has the class {layer.kind}, which Keras 2 does not have",
            "Replace it by layers that Keras 2 (tf_keras) has, or give a class for Keras 2, custom_objects: "
            f"[module:{layer.kind}] in the section model, or --custom-object module:{layer.kind}.",
        )
    if not issubclass(cls, keras.layers.Layer):
        raise ImportRefused(
            f"layer {layer.name} has the class {layer.kind}, which is a layer of Keras 3 alone",
            "Replace it by the layers of Keras, or write the class for Keras 2 (tf_keras), too.",
        )
    if layer.kind == "Lambda":
        config = {name: value for name, value in layer.config.items() if name not in _IGNORED}
        layer.config = _translate_lambda(config) if version == 3 else config
        return
    is_frozen = layer.weights and layer.config.get("trainable") is False
    layer.config = _clean(cls, layer.kind, layer.config) | ({"trainable": False} if is_frozen else {})
    if layer.kind == "BatchNormalization" and isinstance(layer.config.get("axis"), list):
        layer.config["axis"] = layer.config["axis"][0]
    if layer.kind == "Normalization":
        _fix_statistics(layer)
    if version == 3 and layer.config.get("activation") == "hard_sigmoid":
        layer.config["activation"] = "hard_sigmoid_3"


def _translate_lambda(config: dict[str, Any]) -> dict[str, Any]:
    """Write the function of a Lambda as Keras 2 does."""
    function = config["function"]
    if function["class_name"] == "__lambda__":
        code = function["config"]
        types = {"function": [code["code"], code["defaults"], code["closure"]], "function_type": "lambda"}
    else:
        types = {"function_type": "function"}
    return {"output_shape": None, "output_shape_type": "raw"} | config | types


def _clean(cls: type, kind: str, config: dict[str, Any]) -> dict[str, Any]:
    """Keep the arguments that the class of Keras 2 takes, without those that only matter before training."""
    known = _list_parameters(cls)
    config = {_RENAMED.get(kind, {}).get(name, name): value for name, value in config.items()}
    return {
        name: _clean_regularizer(value) if name.endswith("_regularizer") else _clean_value(value)
        for name, value in config.items()
        if name in known and name not in _IGNORED and not name.endswith(_IGNORED_ENDINGS)
    }


def _clean_regularizer(value: Any) -> dict | None:
    """Keep the regularizers that both versions of Keras have."""
    known = isinstance(value, dict) and value.get("class_name") in ("L1", "L2", "L1L2")
    return {"class_name": value["class_name"], "config": value["config"]} if known else None


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
