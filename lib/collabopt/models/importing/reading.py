"""Looks into a saved model without running any of the code that it may hold."""

import dataclasses
import json
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import h5py
from tf_keras.protobuf import saved_metadata_pb2

from collabopt.models.importing import operations
from collabopt.models.importing.graph import ImportRefused
from collabopt.runtime.tensorflow import keras

_WRAPPERS = {
    "PruneLowMagnitude": "pruning",
    "ClusterWeights": "clustering",
    "QuantizeWrapper": "quantization",
    "QuantizeWrapperV2": "quantization",
    "QuantizeLayer": "quantization",
}
_OTHER_FORMATS = {
    ".tflite": "a TensorFlow Lite file",
    ".onnx": "an ONNX file",
    ".pt": "a PyTorch file",
    ".pth": "a PyTorch file",
    ".pb": "a frozen TensorFlow graph",
    ".npz": "an archive of arrays",
}
_MODELS = ("Functional", "Sequential", "Model")
_CODE_KINDS = ("Lambda", "__lambda__")
_CHECKED_FUNCTIONS = ("TFOpLambda", "SlicingOpLambda")
_UNCHECKED_OPERATIONS = ("TensorFlowOpLayer", "ClassMethod", "InstanceMethod", "InstanceProperty")
_TRUST = (
    "If you trust the author of the file, set trust_code: true in the section model, or pass --trust-code "
    "(TRUST_CODE=1 to make shrink)."
)
_STANDARD_MODULES = ("keras", "tf_keras", "builtins", "tensorflow_model_optimization")


@dataclasses.dataclass(frozen=True)
class SavedModel:
    """A saved model, as its file describes it.

    Attributes:
        path: File or folder.
        format: "keras", "h5" or "savedmodel".
        keras_version: Such as "2.4.0"; 2.x and older of unknown version are "2".
        config: Configuration of the model.
        wrappers: What wrapped the layers: "pruning", "clustering", "quantization".
        is_mixed: Whether layers compute in half precision.
    """

    path: Path
    format: str
    keras_version: str
    config: dict[str, Any]
    wrappers: tuple[str, ...]
    is_mixed: bool


def read(path: Path, trust_code: bool = False, custom_objects: tuple[str, ...] = ()) -> SavedModel:
    """Read the configuration of a saved model and check that it can be opened safely.

    Args:
        path: .keras, .h5 or .hdf5 file, or the folder of a SavedModel.
        trust_code: Whether code inside the file may run.
        custom_objects: Names of the user's own classes that are provided.

    Returns:
        The saved model.

    Raises:
        ImportRefused: The file is missing or no Keras model, holds code, or needs a class that is not provided.
    """
    kind, version, config = _read_config(path)
    for part in _iterate(config):
        _check(path, part, trust_code, custom_objects)
        if kind != "keras" and not version.startswith("3"):
            _check_known(path, part, custom_objects)
    wrappers = {_WRAPPERS[part["class_name"]] for part in _iterate(config) if part.get("class_name") in _WRAPPERS}
    return SavedModel(path, kind, version, config, tuple(sorted(wrappers)), is_mixed(config))


def is_mixed(config: dict) -> bool:
    """Return whether a layer of the model with this `config` computes in half precision."""
    return any("float16" in json.dumps(part.get("dtype"), default=str) for part in _iterate(config))


def _read_config(path: Path) -> tuple[str, str, dict]:
    """Read format, Keras version and configuration."""
    if not path.exists():
        raise ImportRefused(f"{path}: no such file", "Give the path of a .keras, .h5 or .hdf5 file.")
    if path.is_dir():
        return "savedmodel", "2", _read_saved_model(path)
    try:
        if zipfile.is_zipfile(path) and path.suffix != ".npz":
            with zipfile.ZipFile(path) as archive:
                version = json.loads(archive.read("metadata.json"))["keras_version"]
                return "keras", version, json.loads(archive.read("config.json"))
        if h5py.is_hdf5(path):
            return _read_hdf5(path)
    except ImportRefused:
        raise
    except (OSError, KeyError, ValueError) as error:
        raise ImportRefused(
            f"{path.name} is damaged or no Keras model: {error}", "Save the model again, with model.save(path)."
        ) from error
    found = _OTHER_FORMATS.get(path.suffix, "neither a .keras nor an HDF5 file")
    raise ImportRefused(f"{path.name} is {found}", "Save the trained Keras model with model.save('model.keras').")


def _read_hdf5(path: Path) -> tuple[str, str, dict]:
    with h5py.File(path) as archive:
        version = _decode(archive.attrs.get("keras_version", "2"))
        if "model_config" not in archive.attrs:
            raise ImportRefused(
                f"{path.name} holds weights without the architecture",
                "Save the whole model with model.save('model.keras'), or give the function that builds it "
                "(function: module:function) and this file as its weights.",
            )
        return "h5", version, json.loads(_decode(archive.attrs["model_config"]))


def _read_saved_model(path: Path) -> dict:
    """Read the configuration that Keras 2 keeps beside a SavedModel's graph."""
    metadata = path / "keras_metadata.pb"
    if not metadata.exists():
        raise ImportRefused(
            f"the folder {path.name} holds a graph without Keras layers",
            "Save the Keras model itself, with model.save('model.keras'), not with export.",
        )
    content = saved_metadata_pb2.SavedMetadata.FromString(metadata.read_bytes())
    found = (node.metadata for node in content.nodes if node.node_path == "root")
    root = json.loads(
        next(found, "{}"), object_hook=lambda part: part.get("items", part)
    )  # a tuple is {"items": [...]}
    if root.get("class_name") not in _MODELS:
        raise ImportRefused(
            f"the folder {path.name} holds a subclassed model, {root.get('class_name')}, whose layers cannot be read",
            "Write it with the functional API, keras.Model(inputs, outputs), and save it again.",
        )
    return {"class_name": root["class_name"], "config": root["config"]}


def _decode(value: bytes | str) -> str:
    return value.decode() if isinstance(value, bytes) else value


def _iterate(value: Any) -> Iterator[dict]:
    """Yield every dict inside a configuration."""
    if isinstance(value, dict):
        yield value
        for part in value.values():
            yield from _iterate(part)
    elif isinstance(value, list | tuple):
        for part in value:
            yield from _iterate(part)


def _check(path: Path, part: dict, trust_code: bool, custom_objects: tuple[str, ...]) -> None:
    """Check one object of a configuration."""
    kind, config = part.get("class_name"), part.get("config")
    name = config.get("name", kind) if isinstance(config, dict) else kind
    if kind in _CODE_KINDS and not trust_code:
        raise ImportRefused(
            f"{path.name} holds Python code, in layer {name} ({kind}), which would run on this computer",
            f"Replace the Lambda by layers. {_TRUST}",
        )
    if kind in _UNCHECKED_OPERATIONS and not trust_code:
        raise ImportRefused(
            f"{path.name} calls TensorFlow in layer {name} ({kind}) in a way that cannot be checked",
            f"Write this part with layers. {_TRUST}",
        )
    if kind in _CHECKED_FUNCTIONS and not operations.is_known(config["function"]):
        raise ImportRefused(
            f"layer {name} applies the function tf.{config['function']}, which has no layer",
            "Write this part of the model with layers, or take it off and compute it outside the model.",
        )
    _check_class(path, part, name, custom_objects)


def _check_class(path: Path, part: dict, name: str, custom_objects: tuple[str, ...]) -> None:
    """Check that an object that says its module comes from Keras or is provided."""
    module, registered, kind = part.get("module"), part.get("registered_name"), part.get("class_name")
    if not isinstance(kind, str) or kind in custom_objects or kind in _WRAPPERS:
        return
    own = isinstance(registered, str) and ">" in registered and registered.split(">")[0] not in _STANDARD_MODULES
    foreign = isinstance(module, str) and module.partition(".")[0] not in _STANDARD_MODULES
    unnamed = "module" in part and module is None and registered is not None
    if own or foreign or unnamed:
        raise _refuse_class(path, kind, name)


def _check_known(path: Path, part: dict, custom_objects: tuple[str, ...]) -> None:
    """Check the layers of a model whose configuration names classes without their modules."""
    layers = part.get("layers")
    if layers is None and part.get("class_name") == "Sequential":  # as Keras before 2.2.3 wrote it
        layers = part.get("config")
    for layer in layers if isinstance(layers, list) else []:
        kind = layer.get("class_name", "")
        known = hasattr(keras.layers, kind) or kind in (*_MODELS, *_WRAPPERS, *_CHECKED_FUNCTIONS, *custom_objects)
        if not known and kind not in _UNCHECKED_OPERATIONS:
            raise _refuse_class(path, kind, layer.get("config", {}).get("name", kind))


def _refuse_class(path: Path, kind: str, name: str) -> ImportRefused:
    return ImportRefused(
        f"{path.name} uses the class {kind}, in {name}, which is not part of Keras",
        "Give the module that defines it: custom_objects: [module:{0}] in the section model, or --custom-object "
        "module:{0} (CUSTOM_OBJECTS=module:{0} to make shrink). Or write the model with the layers of Keras.".format(
            kind.rpartition(">")[2]
        ),
    )
