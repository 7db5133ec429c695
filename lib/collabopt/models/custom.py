"""Custom models: what a function of a module returns, or a saved file. Both are imported (`importing`)."""

from __future__ import annotations

import dataclasses
import functools
import inspect
import platform
from collections.abc import Callable
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING

from collabopt.config.loading import DATA
from collabopt.config.sections import Model
from collabopt.datasets import locate
from collabopt.models.check import ModelError, Shape, Shapes, find_inputs
from collabopt.runtime import tensorflow, user_modules
from collabopt.runtime.tensorflow import keras
from collabopt.storage import atomic, store
from collabopt.storage.source_digest import compute_digest, compute_module_digest, compute_package_digest

if TYPE_CHECKING:
    from collabopt.models import importing


def call(function: str, input_shape: Shapes, outputs: Shape | None) -> object:
    """Call a function that builds a model. Its errors are passed on.

    Args:
        function: "module:function". The module is found as in `user_modules`. The function gets the shape of an input
            and the number of outputs if it has parameters without a default, or if its first is `input_shape`. A
            number that the task leaves open is that of the function's default.
        input_shape: Shape of one input, without batch.
        outputs: Shape of one output, without batch; None if the task leaves it open.

    Returns:
        The result. A Sequential model is built for the shape.

    Raises:
        ModelError: There is no such function, it has other parameters, or its file changed after its import.
    """
    try:
        build = user_modules.import_object(function)
    except user_modules.UserModuleError as error:
        raise ModelError(f"function={function}: {error}") from error
    arguments = _choose_arguments(build, input_shape, outputs[-1] if outputs else None)
    try:
        inspect.signature(build).bind(*arguments)
    except TypeError as error:
        expected = "two parameters without a default, for the shape of an input and the number of outputs, or none"
        if not outputs:
            expected = "a default for the number of outputs, which a task of your own leaves open"
        raise ModelError(f"function={function}: takes {inspect.signature(build)}; expected {expected}") from error
    with user_modules.allow_imports():
        model = build(*arguments)
    if type(model).__name__ == "Sequential" and not getattr(model, "built", True) and not isinstance(input_shape, dict):
        model.build((None, *input_shape))
    return model


def _choose_arguments(function: Callable, input_shape: Shapes, outputs: int | None) -> tuple:
    """Shape and number of outputs for a function that wants them; settings with a default keep it."""
    parameters = [one for one in inspect.signature(function).parameters.values() if one.kind is not one.VAR_KEYWORD]
    names, is_required = [one.name for one in parameters], [one.default is one.empty for one in parameters]
    if not any(is_required) and names[:1] != ["input_shape"]:
        return ()
    return (input_shape, outputs) if outputs else (input_shape,)


def find_file(path: str, key: str = "path") -> Path:
    """Return the file or SavedModel folder at `path`, relative as in `datasets.locate`; `key` is for errors.

    Raises:
        ModelError: There is no such file.
    """
    file = locate(path, DATA)
    if not file.exists():
        raise ModelError(f"{key}={path}: no such file; expected one that Keras saved (.keras, .h5 or .hdf5)")
    if file.is_dir() and not (file / "saved_model.pb").is_file():
        raise ModelError(f"{key}={path}: a folder without a SavedModel; expected a file that Keras saved (.keras, .h5)")
    return file


def compute_digests(section: Model) -> str:
    """Return digests of what decides the user's model of a `section`: its files and modules, and the import.

    Raises:
        ModelError: A file or module is missing, or a module changed after its import.
    """
    return " ".join([*_compute_own_digests(section), compute_digest("collabopt.models.importing:import_model")])


def _compute_own_digests(section: Model) -> list[str]:
    """Digests of the files and modules that the section names."""
    files = [find_file(section.path)] if section.path else []
    files += [find_file(section.weights, "weights")] if section.weights else []
    return [_compute_file_digest(file) for file in files] + [
        compute_module_digest(source) for source in _list_modules(section)
    ]


def _list_modules(section: Model) -> list[Path]:
    """The files of the function and the classes that the section names, with what they import from the user."""
    places = [("function", section.function)] if section.function else []
    places += [("custom_objects", place) for _, place in sorted(section.custom_objects.items())]
    sources = []
    for key, place in places:
        try:
            sources += user_modules.list_sources(place)
        except user_modules.UserModuleError as error:
            raise ModelError(f"{key}={place}: {error}") from error
    return sources


def _compute_file_digest(file: Path) -> str:
    if file.is_file():
        return atomic.compute_sha256(file)
    return atomic.compute_files_digest(sorted(part for part in file.rglob("*") if part.is_file()))


STORE = DATA / "stages"
"""The store of imports from files."""

IMPORTING = Path(__file__).parent / "importing"
"""The package whose code decides an import."""

_KEPT: dict[tuple, importing.Imported] = {}
"""The last import of this process, by all that decides it but the weights that a function draws."""


def get_imported(
    section: Model, input_shape: Shapes, outputs: Shape | None, takes_logits: bool = True
) -> importing.Imported | None:
    """Return the imported model of an experiment, from an earlier import of this process if there is one.

    Args:
        section: The model section of the experiment.
        input_shape: Shape of one input, without batch; by name if there are several.
        outputs: Shape of one output, without batch; None if the task leaves it open.
        takes_logits: Whether a softmax or sigmoid at the end is taken off.

    Returns:
        The imported model, with its rewrites, output activations and augmentation; None for a built-in model. Copy the
        model before it is changed.

    Raises:
        ModelError: As in `import_again`.
    """
    if section.name:
        return None
    _list_modules(section)  # refuses those that changed
    key = _make_key(section, input_shape, outputs, takes_logits)
    if key not in _KEPT:
        return import_again(section, input_shape, outputs, takes_logits)
    return _close_axes(_KEPT[key], input_shape)


def import_again(
    section: Model, input_shape: Shapes, outputs: Shape | None, takes_logits: bool = True
) -> importing.Imported:
    """Import the model of an experiment: a file from the store, if an earlier process has imported it.

    A function is called again, and draws fresh weights from the global seed.

    Args:
        section: The model section, with a function or path.
        input_shape: Shape of one input, without batch; by name if there are several.
        outputs: Shape of one output, without batch; None if the task leaves it open.
        takes_logits: Whether a softmax or sigmoid at the end is taken off.

    Returns:
        The imported model. Axes that the user's model leaves open have the sizes of the shape.

    Raises:
        ModelError: A file or function cannot be found, or the model cannot be imported.
    """
    from collabopt.models import importing

    key = _make_key(section, input_shape, outputs, takes_logits)
    origin = f"path={section.path}" if section.path else f"function={section.function}"
    try:
        with user_modules.allow_imports():
            if section.path:
                imported = _import_file(section, takes_logits)
            else:
                imported = importing.import_model(
                    functools.partial(call, section.function, input_shape, outputs),
                    takes_logits=takes_logits,
                    custom_objects=section.custom_objects,
                    weights=find_file(section.weights, "weights") if section.weights else None,
                )
            imported = imported.select(section.head) if section.head else imported
    except importing.ImportRefused as error:
        raise ModelError(f"{origin}: {error}") from error
    _KEPT.clear()
    _KEPT[key] = imported
    return _close_axes(imported, input_shape)


def _import_file(section: Model, takes_logits: bool) -> importing.Imported:
    from collabopt.models import importing

    file, made = find_file(section.path), []

    def make(directory: Path) -> None:
        imported = importing.import_model(
            file, trust_code=section.trust_code, takes_logits=takes_logits, custom_objects=section.custom_objects
        )
        importing.write_import(imported, directory)
        made.append(imported)

    material = {
        "sources": _compute_own_digests(section),
        "custom_objects": section.custom_objects,
        "trust_code": section.trust_code,
        "takes_logits": takes_logits,
        "versions": tensorflow.read_versions() | {"keras": metadata.version("keras")},
        "python": platform.python_version(),  # the bytecode of a Lambda differs between versions
        "code": compute_package_digest(IMPORTING),
    }
    entry = store.get_or_make(STORE, "imported", material, make)
    return made[0] if made else importing.read_import(entry, section.custom_objects)


def copy(model: keras.Model) -> keras.Model:
    """Return a copy of a model with layers and variables of its own, and the same names and weights."""
    clone = keras.models.clone_model(model)
    clone.set_weights(model.get_weights())
    return clone


def _make_key(section: Model, input_shape: Shapes, outputs: Shape | None, takes_logits: bool) -> tuple:
    files = [find_file(path, key) for key in ("path", "weights") if (path := getattr(section, key))]
    times = [(file, file.stat().st_mtime_ns) for file in files]
    arguments = () if section.path else (str(input_shape), outputs)
    return section.model_dump_json(exclude={"output"}), *arguments, takes_logits, *times


def _close_axes(imported: importing.Imported, input_shape: Shapes) -> importing.Imported:
    """Give the open axes of the inputs the sizes of the data, where the known ones agree."""
    model = imported.model
    shapes = find_inputs(model)
    wanted = input_shape if isinstance(input_shape, dict) else dict.fromkeys(shapes, tuple(input_shape))
    is_open = any(None in shape for shape in shapes.values())
    if not is_open or not all(_agree(shape, wanted.get(name, ())) for name, shape in shapes.items()):
        return imported
    inputs = [
        keras.Input(wanted[name], name=name, dtype=tensor.dtype)
        for name, tensor in zip(shapes, model.inputs, strict=True)
    ]
    closed = keras.models.clone_model(model, input_tensors=inputs if len(inputs) > 1 else inputs[0])
    closed.set_weights(model.get_weights())
    return dataclasses.replace(imported, model=closed)


def _agree(shape: tuple, wanted: tuple) -> bool:
    return len(shape) == len(wanted) and all(size in (None, other) for size, other in zip(shape, wanted, strict=True))
