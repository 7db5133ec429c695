"""Models of the user's own: a function of a module, or a saved file."""

import contextlib
import functools
import importlib
import importlib.util
import json
import sys
import zipfile
from collections.abc import Iterator
from pathlib import Path

import h5py

from collabopt.config.loading import DATA
from collabopt.datasets import located
from collabopt.models.check import ModelError
from collabopt.runtime.tensorflow import keras


def source_of(function: str) -> Path:
    """The file of the module of "module:function". Raises ModelError when there is none."""
    name = function.partition(":")[0]
    with _current_directory_on_the_path():
        try:
            spec = importlib.util.find_spec(name)
        except ModuleNotFoundError as error:
            if error.name is None or not f"{name}.".startswith(f"{error.name}."):
                raise  # something that the package itself imports
            spec = None
        except ValueError:  # __main__: a notebook has no file to import
            spec = None
    if spec is None or not spec.origin or not Path(spec.origin).is_file():
        raise ModelError(f"function={function}: no module {name} in the current directory or installed")
    return Path(spec.origin)


def call(function: str, input_shape: tuple[int, ...], classes: int) -> object:
    """What "module:function" returns for `input_shape` and `classes`; errors of its own pass through.

    Raises ModelError when there is no such function, or when its file changed after it was imported.
    """
    source, (module_name, _, name) = source_of(function), function.partition(":")
    # Results are stored under the source's hash, and Python would go on with the module it has.
    if source.read_bytes() != _first_read(source):
        raise ModelError(f"function={function}: {source.name} changed after it was imported; restart the kernel")
    with _current_directory_on_the_path():
        module = importlib.import_module(module_name)
        if not callable(getattr(module, name, None)):
            raise ModelError(f"function={function}: {source.name} has no function {name}")
        return getattr(module, name)(input_shape, classes)


def saved_at(path: str) -> Path:
    """The file of an experiment's `path`, which is relative as those of data sets are.

    Raises ModelError when there is no such file.
    """
    file = located(path, DATA)
    if not file.is_file():
        raise ModelError(f"path={path}: no such file; expected a model saved by Keras 2 (.keras or .h5)")
    return file


def load(path: str) -> keras.Model:
    """The model saved at `path` (.keras or .h5), with its weights, not compiled.

    Raises ModelError when there is none, and for files that Keras 3 wrote or that cannot be loaded.
    """
    file = saved_at(path)
    try:
        version = _keras_version(file)
        if version.startswith("3"):
            raise ModelError(f"path={path}: saved by Keras {version}; save it from Keras 2 (tf_keras)")
        return keras.models.load_model(file, compile=False)
    except ModelError:
        raise
    except Exception as error:  # damaged files, unknown layers and refused lambdas raise anything
        raise ModelError(f"path={path}: Keras 2 cannot load it: {' '.join(str(error).split())}") from error


def _keras_version(file: Path) -> str:
    if file.suffix == ".keras":
        with zipfile.ZipFile(file) as archive:
            return json.loads(archive.read("metadata.json"))["keras_version"]
    with h5py.File(file) as archive:
        version = archive.attrs.get("keras_version", "")
        return version.decode() if isinstance(version, bytes) else version


@functools.cache
def _first_read(source: Path) -> bytes:
    return source.read_bytes()


@contextlib.contextmanager
def _current_directory_on_the_path() -> Iterator[None]:
    directory = str(Path.cwd())
    sys.path.insert(0, directory)
    importlib.invalidate_caches()
    try:
        yield
    finally:
        sys.path.remove(directory)
