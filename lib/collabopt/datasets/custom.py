"""Custom data sets: an .npz file, or a function that returns a dict of arrays.

The arrays are x_train, y_train, x_test, y_test and optionally x_validation, y_validation and classes (names). Floating
point examples reach the model unchanged, uint8 examples as float32 in 0 to 255. Scale the latter beforehand, or begin
the model with a layer that scales.
"""

import contextlib
import importlib
import inspect
import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

from collabopt.datasets.arrays import NEEDED, make_parts, read_npz
from collabopt.datasets.dataset import DatasetError, Parts


def read(path: Path) -> Parts:
    """Read a data set from an .npz file.

    Args:
        path: The file.

    Returns:
        The data set.

    Raises:
        DatasetError: The file cannot be read, or an array is wrong.
    """
    return make_parts(read_npz(path), str(path))


def call(name: str, data_directory: Path) -> Parts:
    """Call a function that returns a data set as a dict of arrays.

    Errors that the module or the function raises are passed on.

    Args:
        name: "module:function". The module is installed or in the current directory.
        data_directory: Folder of the data sets, passed to the function if it takes an argument.

    Returns:
        The data set.

    Raises:
        DatasetError: The function does not exist, it returns something else, or an array is wrong.
    """
    with allow_imports_from_current_directory():
        function = _import_function(name)
        arrays = function(data_directory) if _takes_an_argument(function) else function()
    if not isinstance(arrays, Mapping):
        raise DatasetError(
            f"function={name}: returned {type(arrays).__name__}; expected a dict of the arrays {', '.join(NEEDED)}"
        )
    return make_parts(arrays, f"function={name}")


def _import_function(name: str) -> Callable:
    module_name, function_name = name.split(":")
    if module_name.startswith("."):
        raise DatasetError(f"function={name}: the module is relative; expected its full name, such as package.module")
    try:
        module = importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        if error.name is None or not f"{module_name}.".startswith(f"{error.name}."):
            raise  # an import of the module itself failed
        raise DatasetError(
            f"function={name}: no module {error.name}; expected one that is installed or in {Path.cwd()}"
        ) from error
    function = getattr(module, function_name, None)
    if not callable(function):
        found = sorted(key for key, value in vars(module).items() if inspect.isfunction(value))
        raise DatasetError(f"function={name}: no function {function_name} in {module_name}, which has {found}")
    return function


def _takes_an_argument(function: Callable) -> bool:
    kinds = {parameter.kind for parameter in inspect.signature(function).parameters.values()}
    named = inspect.Parameter
    return bool(kinds & {named.POSITIONAL_ONLY, named.POSITIONAL_OR_KEYWORD, named.VAR_POSITIONAL})


@contextlib.contextmanager
def allow_imports_from_current_directory() -> Iterator[None]:
    """Put the current directory first on the import path, for the duration of the block."""
    here = str(Path.cwd())
    sys.path.insert(0, here)
    importlib.invalidate_caches()
    try:
        yield
    finally:
        sys.path.remove(here)
