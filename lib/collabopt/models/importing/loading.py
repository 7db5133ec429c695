"""Opens the original model, in this process or (files of Keras 3) in one of its own, and computes its outputs."""

import contextlib
import dataclasses
import importlib
import json
import shutil
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from collabopt.models.importing import evaluation, extraction, stripping
from collabopt.models.importing.graph import ImportRefused
from collabopt.models.importing.reading import SavedModel
from collabopt.models.importing.rewrites import OUTPUT_ACTIVATIONS
from collabopt.runtime.tensorflow import drop_native_notices, keras, tfmot

_SECONDS = 600  # that loading a file with Keras 3 may take


@dataclasses.dataclass
class Outputs:
    """What the original computes: inputs, outputs, and outputs without softmax or sigmoid, one array each."""

    inputs: list[np.ndarray]
    given: list[np.ndarray]
    logits: list[np.ndarray]


@dataclasses.dataclass
class Original:
    """The model to be imported.

    Attributes:
        data: What `extraction.extract` returned.
        outputs: Outputs on "random" inputs and, if given, on "examples".
        compute_intermediates: Computes the output of each layer for the first two random inputs, by name.
        lines: One line per thing that was done while it was opened.
    """

    data: dict
    outputs: dict[str, Outputs]
    compute_intermediates: Callable[[], dict[str, np.ndarray]]
    lines: list[str] = dataclasses.field(default_factory=list)


def open_saved(
    saved: SavedModel, examples: list[np.ndarray] | None, trust_code: bool, custom_objects: dict[str, Any]
) -> Original:
    """Open a saved model and compute its outputs.

    Args:
        saved: The saved model, checked.
        examples: One array of real inputs per input, or None.
        trust_code: Whether code inside the file may run.
        custom_objects: Classes by name, or "module:Class".

    Raises:
        ImportRefused: Keras cannot load it.
    """
    lines = ["Half precision (mixed_float16 or mixed_bfloat16) became float32"] if saved.is_mixed else []
    with tempfile.TemporaryDirectory() as folder:
        path = _copy_as_float32(saved, Path(folder)) if saved.is_mixed else saved.path
        if saved.keras_version.startswith("3"):
            original = _open_with_keras_3(path, examples, trust_code, custom_objects)
        else:
            model, more = _load_with_keras_2(saved, path, trust_code, import_classes(custom_objects))
            original = open_model(model, examples)
            lines += more
    original.lines[:0] = lines
    return original


def open_model(model: Any, examples: list[np.ndarray] | None) -> Original:
    """Read a model of Keras 2 or 3 in this process, and compute its outputs.

    Args:
        model: The model.
        examples: One array of real inputs per input, or None.

    Raises:
        ImportRefused: The model is no graph of layers.
    """
    lines = []
    with _refusing():
        if not hasattr(model, "get_config") or not hasattr(model, "layers"):
            raise ImportRefused(f"found {type(model).__name__} instead of a model", "Return a keras.Model.")
        extraction.check_graph(model)
        config = model.get_config()
        if "mixed_" in json.dumps(config, default=str):
            weights, model = model.get_weights(), type(model).from_config(_as_float32(config))
            model.set_weights(weights)
            lines.append("Half precision (mixed_float16 or mixed_bfloat16) became float32")
        data = extraction.extract(model)
        random = evaluation.draw_inputs(data)
        outputs = {"random": _compute(model, random)}
        if examples is not None:
            outputs["examples"] = _compute(model, examples)
    first = [array[:2] for array in random]
    return Original(data, outputs, lambda: evaluation.compute_intermediates(model, first), lines)


def import_classes(custom_objects: dict[str, Any]) -> dict[str, type]:
    """Import the classes that are given as "module:Class"."""
    return {name: import_object(place) if isinstance(place, str) else place for name, place in custom_objects.items()}


def import_object(place: str) -> Any:
    """Import "module:name"; the module is installed or in the current directory."""
    module, _, name = place.partition(":")
    added = str(Path.cwd()) not in sys.path
    if added:
        sys.path.insert(0, str(Path.cwd()))
    try:
        return getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError) as error:
        raise ImportRefused(
            f"{place}: {error}", "Give module:name, of a module that is installed or in the current directory."
        ) from error
    finally:
        if added:
            sys.path.remove(str(Path.cwd()))


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


@contextlib.contextmanager
def _refusing() -> Iterator[None]:
    try:
        yield
    except extraction.ExtractionError as error:
        raise ImportRefused(*error.args) from error


def _compute(model: Any, inputs: list[np.ndarray]) -> Outputs:
    return Outputs(inputs, *evaluation.compute_outputs(model, inputs, OUTPUT_ACTIVATIONS))


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


def _open_with_keras_3(
    path: Path, examples: list[np.ndarray] | None, trust_code: bool, custom_objects: dict[str, Any]
) -> Original:
    """Have a process of its own load a file with Keras 3."""
    places = {name: _get_place(thing) for name, thing in custom_objects.items()}

    def ask(folder: Path, intermediates: bool) -> dict[str, np.ndarray]:
        if examples is not None:
            np.savez(folder / "examples.npz", *examples)
        request = {
            "file": str(path.resolve()),
            "folder": str(folder),
            "trust_code": trust_code,
            "custom_objects": places,
            "activation_names": OUTPUT_ACTIVATIONS,
            "examples": str(folder / "examples.npz") if examples is not None else None,
            "intermediates": intermediates,
        }
        (folder / "request.json").write_text(json.dumps(request))
        _run_worker(folder)
        with np.load(folder / "arrays.npz") as archive:
            return {name: archive[name] for name in archive.files}

    def compute_intermediates() -> dict[str, np.ndarray]:
        with tempfile.TemporaryDirectory() as folder:
            arrays = ask(Path(folder), intermediates=True)
        return {name.removeprefix("tensor/"): array for name, array in arrays.items() if name.startswith("tensor/")}

    with tempfile.TemporaryDirectory() as folder:
        arrays = ask(Path(folder), intermediates=False)
        data = json.loads((Path(folder) / "model.json").read_text())
    for index, entry in enumerate(data["layers"]):
        entry["weights"] = [arrays[f"weight/{index}/{number}"] for number in range(entry["weights"])]
    inputs = {"random": evaluation.draw_inputs(data)} | ({} if examples is None else {"examples": examples})
    outputs = {
        group: Outputs(drawn, _collect(arrays, f"{group}/given/"), _collect(arrays, f"{group}/logits/"))
        for group, drawn in inputs.items()
    }
    return Original(data, outputs, compute_intermediates)


def _run_worker(folder: Path) -> None:
    worker = Path(__file__).with_name("worker.py")
    done = subprocess.run(
        [sys.executable, str(worker), str(folder / "request.json")],
        capture_output=True,
        text=True,
        timeout=_SECONDS,
        check=False,
    )
    refusal = folder / "refusal.json"
    if refusal.exists():
        raise ImportRefused(*json.loads(refusal.read_text()))
    if done.returncode:
        last = (done.stderr.strip().splitlines() or [f"exit status {done.returncode}"])[-1]
        raise ImportRefused(f"reading the model with Keras 3 failed: {last}", "Check that the file opens in Keras 3.")


def _collect(arrays: dict[str, np.ndarray], prefix: str) -> list[np.ndarray]:
    count = sum(name.startswith(prefix) for name in arrays)
    return [arrays[f"{prefix}{index}"] for index in range(count)]


def _get_place(thing: Any) -> str:
    return thing if isinstance(thing, str) else f"{thing.__module__}:{thing.__qualname__}"


def _copy_as_float32(saved: SavedModel, folder: Path) -> Path:
    """Copy a file, with float32 in the place of mixed precision."""
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
            name: "float32" if name == "dtype" and "mixed_" in json.dumps(part, default=str) else _as_float32(part)
            for name, part in value.items()
        }
    return [_as_float32(part) for part in value] if isinstance(value, list | tuple) else value
