"""Custom models: a function of a module, or a saved file."""

import functools
import importlib
import importlib.util
from pathlib import Path

from collabopt.config.loading import DATA
from collabopt.datasets import locate
from collabopt.datasets.custom import allow_imports_from_current_directory
from collabopt.models import importing
from collabopt.models.check import ModelError
from collabopt.runtime import progress
from collabopt.runtime.tensorflow import keras


def find_source(function: str) -> Path:
    """Find the file of a function's module.

    Args:
        function: "module:function". The module is installed or in the current directory.

    Returns:
        The file.

    Raises:
        ModelError: There is no such module.
    """
    name = function.partition(":")[0]
    with allow_imports_from_current_directory():
        try:
            spec = importlib.util.find_spec(name)
        except ModuleNotFoundError as error:
            if error.name is None or not f"{name}.".startswith(f"{error.name}."):
                raise  # an import of the package itself failed
            spec = None
        except ValueError:  # __main__ in a notebook, which has no file
            spec = None
    if spec is None or not spec.origin or not Path(spec.origin).is_file():
        raise ModelError(f"function={function}: no module {name}; expected one that is installed or in {Path.cwd()}")
    return Path(spec.origin)


def call(function: str, input_shape: tuple[int, ...], classes: int) -> object:
    """Call a function that builds a model. Its errors are passed on.

    Args:
        function: "module:function". The module is installed or in the current directory.
        input_shape: Shape of one input, without batch.
        classes: Number of classes.

    Returns:
        The result, unchecked.

    Raises:
        ModelError: There is no such function, or its file changed after its import.
    """
    source, (module_name, _, name) = find_source(function), function.partition(":")
    # Results are stored under the source's hash, but Python keeps the imported module.
    if source.read_bytes() != _read_once(source):
        raise ModelError(f"function={function}: {source.name} changed after it was imported; restart the kernel")
    with allow_imports_from_current_directory():
        module = importlib.import_module(module_name)
        if not callable(getattr(module, name, None)):
            raise ModelError(f"function={function}: {source.name} has no function {name}")
        return getattr(module, name)(input_shape, classes)


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
