"""Opens the original model, in this process or (files of Keras 3) in one of its own."""

import contextlib
import json
import os
import shutil
import sys
import tempfile
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from collabopt.models.importing import evaluation, extraction, keras_3, opening, stripping
from collabopt.models.importing.evaluation import Original, Outputs
from collabopt.models.importing.graph import ImportRefused
from collabopt.models.importing.reading import SavedModel, is_mixed
from collabopt.runtime import user_modules
from collabopt.runtime.tensorflow import drop_native_notices, keras, tfmot

_HALF_PRECISION = "Half precision became float32"


@contextlib.contextmanager
def open_saved(
    saved: SavedModel,
    examples: list[np.ndarray] | None,
    trust_code: bool,
    custom_objects: dict[str, Any],
    in_process: bool,
) -> Iterator[Original]:
    """Open a saved model for the time of the block.

    Args:
        saved: The saved model, checked.
        examples: One array of real inputs per input, or None.
        trust_code: Whether code inside the file may run.
        custom_objects: Classes by name, or "module:Class".
        in_process: Whether Keras 3 may be loaded in this process, too.

    Yields:
        The original.

    Raises:
        ImportRefused: Keras cannot load it.
    """
    with contextlib.ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        path = _copy_as_float32(saved, folder) if saved.is_mixed else saved.path
        lines = []
        if saved.keras_version.startswith("3") and in_process:
            original = _open_with_keras_3(path, examples, trust_code, import_classes(custom_objects))
        elif saved.keras_version.startswith("3"):
            original = stack.enter_context(keras_3.open_file(path, examples, trust_code, custom_objects))
        else:
            model, lines = _load_with_keras_2(saved, path, trust_code, import_classes(custom_objects))
            original = open_model(model, examples)
        original.lines[:0] = [*([_HALF_PRECISION] if saved.is_mixed else []), *lines]
        yield original


def _open_with_keras_3(path: Path, examples: list | None, trust_code: bool, classes: dict[str, type]) -> Original:
    os.environ.setdefault("KERAS_BACKEND", "tensorflow")
    try:
        return open_model(opening.load(str(path), classes, trust_code), examples)
    except extraction.ExtractionError as error:
        raise ImportRefused(*error.args) from error


def open_model(model: Any, examples: list[np.ndarray] | None) -> Original:
    """Return a `model` of Keras 2 or 3, opened in this process, with real inputs as `examples`, or None.

    Raises:
        ImportRefused: The model is no graph of layers.
    """
    lines = []
    if not hasattr(model, "get_config") or not hasattr(model, "layers"):
        raise ImportRefused(f"found {type(model).__name__} instead of a model", "Return a keras.Model.")
    try:
        extraction.check_graph(model)
        config = model.get_config()
        if is_mixed(config):
            weights, model = model.get_weights(), type(model).from_config(_as_float32(config))
            model.set_weights(weights)
            lines.append(_HALF_PRECISION)
        data = extraction.extract(model)
    except extraction.ExtractionError as error:
        raise ImportRefused(*error.args) from error
    groups = {"random": evaluation.draw_inputs(data)} | ({} if examples is None else {"examples": examples})

    def compute_outputs() -> dict[str, Outputs]:
        return {group: Outputs(inputs, *evaluation.compute_outputs(model, inputs)) for group, inputs in groups.items()}

    def compute_intermediates() -> dict[str, np.ndarray]:
        return evaluation.compute_intermediates(model, [array[:2] for array in groups["random"]])

    return Original(data, compute_outputs, compute_intermediates, lines)


def load_weights(model: Any, file: Path) -> None:
    """Load weights, or those of a whole model, from a `file` that Keras saved into a `model`.

    Raises:
        ImportRefused: The file is missing, or does not fit the model.
    """
    if not file.exists():
        raise ImportRefused(f"weights={file}: no such file", "Give the path of a file that save_weights has written.")
    try:
        model.load_weights(str(file))
    except Exception as error:  # damaged and unsuitable files raise various types
        raise ImportRefused(
            f"weights={file}: they do not fit the model: {' '.join(str(error).split())[:300]}",
            "Let the function build the model that these weights were saved from, in the same version of Keras.",
        ) from error


def import_classes(custom_objects: dict[str, Any]) -> dict[str, type]:
    """Return `custom_objects`, classes by name or "module:Class", as classes by name."""
    return {name: import_object(place) if isinstance(place, str) else place for name, place in custom_objects.items()}


def import_object(place: str) -> Any:
    """Return the object at a `place`, "module:name", found as in `user_modules`.

    Raises:
        ImportRefused: There is no such module, or nothing of that name in it.
    """
    try:
        return user_modules.import_object(place)
    except user_modules.UserModuleError as error:
        raise ImportRefused(
            f"{place}: {error}", "Give module:name, of a module that is installed or in the current directory."
        ) from error


@contextlib.contextmanager
def keep_global_policy() -> Iterator[None]:
    """Restore the global precision policy after the block; that of Keras 3, if loaded, becomes the same."""
    policy = keras.mixed_precision.global_policy()
    try:
        yield
    finally:
        keras.mixed_precision.set_global_policy(policy)
        if hasattr(sys.modules.get("keras"), "dtype_policies"):
            sys.modules["keras"].mixed_precision.set_global_policy(policy.name)


def _load_with_keras_2(
    saved: SavedModel, path: Path, trust_code: bool, classes: dict[str, type]
) -> tuple[keras.Model, list[str]]:
    """Load a file of Keras 2, without the wrappers of TFMOT."""
    try:
        with contextlib.ExitStack() as stack:
            stack.enter_context(drop_native_notices())
            stack.enter_context(keras.utils.custom_object_scope(classes))
            if saved.wrappers:
                for scope in (
                    tfmot.sparsity.keras.prune_scope,
                    tfmot.clustering.keras.cluster_scope,
                    tfmot.quantization.keras.quantize_scope,
                ):
                    stack.enter_context(scope())
            if saved.format == "savedmodel":
                model = keras.Sequential if saved.config["class_name"] == "Sequential" else keras.Model
                model = model.from_config(saved.config["config"])
                model.load_weights(path / "variables" / "variables").assert_existing_objects_matched()
            elif saved.format == "keras":
                model = keras.models.load_model(path, compile=False, safe_mode=not trust_code)
            else:
                model = keras.models.load_model(path, compile=False)
            return stripping.strip(model, saved.wrappers) if saved.wrappers else (model, [])
    except ImportRefused:
        raise
    except Exception as error:  # damaged files and unknown layers raise various types
        raise ImportRefused(
            f"Keras 2 cannot load {saved.path.name}: {' '.join(str(error).split())[:300]}",
            "Open it with keras.models.load_model in your own environment, and save it again.",
        ) from error


def _copy_as_float32(saved: SavedModel, folder: Path) -> Path:
    """Copy a file, with float32 in the place of half precision."""
    copy = folder / saved.path.name
    config = json.dumps(_as_float32(saved.config))
    if saved.format == "h5":
        shutil.copyfile(saved.path, copy)
        with h5py.File(copy, "r+") as archive:
            archive.attrs["model_config"] = config
    elif saved.format == "keras":
        with zipfile.ZipFile(saved.path) as source, zipfile.ZipFile(copy, "w") as target:
            for name in source.namelist():
                target.writestr(name, config if name == "config.json" else source.read(name))
    else:
        saved.config.update(json.loads(config))
        return saved.path
    return copy


def _as_float32(value: Any) -> Any:
    """Replace precision policies in a configuration by float32."""
    if isinstance(value, dict):
        return {
            name: "float32" if name == "dtype" and "float16" in json.dumps(part, default=str) else _as_float32(part)
            for name, part in value.items()
        }
    return [_as_float32(part) for part in value] if isinstance(value, list | tuple) else value
