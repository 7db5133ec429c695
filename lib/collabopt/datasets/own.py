"""A data set of your own: an .npz file, or a function that returns its arrays.

Arrays x_train, y_train, x_test, y_test and optionally x_validation, y_validation and classes (names). Floating point
examples reach the model as they are; uint8 examples reach it as float32 in 0 to 255, so scale them, or begin the model
with a layer that does.
"""

import contextlib
import importlib
import inspect
import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

from collabopt.datasets.arrays import NEEDED, parts_of, read_npz
from collabopt.datasets.parts import DatasetError, Parts


def read(path: Path) -> Parts:
    """The data set in an .npz file. Raises DatasetError when something is wrong with the file or an array."""
    return parts_of(read_npz(path), str(path))


def call(name: str, data_directory: Path) -> Parts:
    """The data set that the function `name` ("module:function") returns as a dict of arrays.

    Modules of the current directory are found. The function is given `data_directory` if it takes an argument.
    Raises DatasetError when there is no such function, or it returns something else, or an array is wrong; what the
    module or the function raises itself passes through.
    """
    with _current_directory_importable():
        function = _function(name)
        arrays = function(data_directory) if _takes_an_argument(function) else function()
    if not isinstance(arrays, Mapping):
        raise DatasetError(
            f"function={name}: returned {type(arrays).__name__}; expected a dict of the arrays {', '.join(NEEDED)}"
        )
    return parts_of(arrays, f"function={name}")


def _function(name: str) -> Callable:
    module_name, function_name = name.split(":")
    if module_name.startswith("."):
        raise DatasetError(f"function={name}: a relative module; expected its whole name, such as package.module")
    try:
        module = importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        if error.name is None or not f"{module_name}.".startswith(f"{error.name}."):
            raise  # something that the module itself imports
        raise DatasetError(
            f"function={name}: no module {error.name}; expected one in {Path.cwd()} or installed"
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
def _current_directory_importable() -> Iterator[None]:
    here = str(Path.cwd())
    sys.path.insert(0, here)
    try:
        yield
    finally:
        sys.path.remove(here)
