"""Custom models: a function of a module, or a saved file."""

import functools
from pathlib import Path

from collabopt.config.loading import DATA
from collabopt.datasets import locate
from collabopt.models import importing
from collabopt.models.check import ModelError
from collabopt.runtime import progress, user_modules
from collabopt.runtime.tensorflow import keras


def find_source(function: str) -> Path:
    """Find the file of a function's module.

    Args:
        function: "module:function". The module is found as in `user_modules`.

    Returns:
        The file.

    Raises:
        ModelError: There is no such module.
    """
    try:
        return user_modules.find_source(function)
    except user_modules.UserModuleError as error:
        raise ModelError(f"function={function}: {error}") from error


def call(function: str, input_shape: tuple[int, ...], classes: int) -> object:
    """Call a function that builds a model. Its errors are passed on.

    Args:
        function: "module:function". The module is found as in `user_modules`.
        input_shape: Shape of one input, without batch.
        classes: Number of classes.

    Returns:
        The result, unchecked.

    Raises:
        ModelError: There is no such function, or its file changed after its import.
    """
    source = find_source(function)
    # Results are stored under the source's hash, but Python keeps the imported module.
    if source.read_bytes() != _read_once(source):
        raise ModelError(f"function={function}: {source.name} changed after it was imported; restart the kernel")
    try:
        build = user_modules.import_object(function)
    except user_modules.UserModuleError as error:
        raise ModelError(f"function={function}: {error}") from error
    with user_modules.allow_imports():
        return build(input_shape, classes)


def find_saved_model(path: str) -> Path:
    """Find a saved model.

    Args:
        path: Path of an experiment, relative as in `datasets.locate`.

    Returns:
        The file.

    Raises:
        ModelError: There is no such file.
    """
    file = locate(path, DATA)
    if not file.is_file():
        raise ModelError(f"path={path}: no such file; expected a model that Keras saved (.keras, .h5 or .hdf5)")
    return file


def load(path: str) -> keras.Model:
    """Import a saved model of Keras 2 or 3. Its rewrites are logged.

    Args:
        path: File of an experiment, relative as in `datasets.locate`.

    Returns:
        A fresh copy of the imported model with its weights. It returns logits.

    Raises:
        ModelError: There is no such file, or the model cannot be imported.
    """
    file = find_saved_model(path)
    try:
        imported = _import(file, file.stat().st_mtime_ns)
    except importing.ImportRefused as error:
        raise ModelError(f"path={path}: {error.reason}; {error.remedy}") from error
    model = keras.models.clone_model(imported)
    model.set_weights(imported.get_weights())
    return model


@functools.lru_cache(maxsize=4)
def _import(file: Path, modified: int) -> keras.Model:  # noqa: ARG001 - a file that changed is imported again
    imported = importing.import_model(file)
    for line in imported.rewrites:
        progress.log(f"{file.name}: {line}")
    return imported.model


@functools.cache
def _read_once(source: Path) -> bytes:
    return source.read_bytes()
