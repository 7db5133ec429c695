"""Custom data sets: an .npz file, or a function that returns a dict of arrays; see `arrays.make_parts`.

Examples reach the model as float32 with their values unchanged, such as 0 to 255 for uint8. Scale them beforehand, or
begin the model with a layer that scales.
"""

import contextlib
import importlib
import inspect
import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

from collabopt.config.tasks import TASKS, Task
from collabopt.datasets.arrays import NEEDED, make_parts, read_npz
from collabopt.datasets.dataset import DatasetError, Parts


def read(path: Path, task: Task = TASKS["classification"]) -> Parts:
    """Read a data set from an .npz file.

    Args:
        path: The file.
        task: The task, which decides the form of the labels.

    Returns:
        The data set.

    Raises:
        DatasetError: The file cannot be read, or an array is wrong.
    """
    return make_parts(read_npz(path), str(path), task)


def call(name: str, data_directory: Path, task: Task = TASKS["classification"]) -> Parts:
    """Call a function that returns a data set as a dict of arrays.

    Errors that the module or the function raises are passed on.

    Args:
        name: "module:function". The module is installed or in the current directory.
        data_directory: Folder of the data sets, passed to the function if it has a parameter `data_directory`.
        task: The task, which decides the form of the labels.

    Returns:
        The data set.

    Raises:
        DatasetError: The function does not exist, it returns something else, or an array is wrong.
    """
    with allow_imports_from_current_directory():
        function = _import_function(name)
        takes_directory = "data_directory" in inspect.signature(function).parameters
        arrays = function(data_directory=data_directory) if takes_directory else function()
    if not isinstance(arrays, Mapping):
        raise DatasetError(
            f"function={name}: returned {type(arrays).__name__}; expected a dict of the arrays {', '.join(NEEDED)}"
        )
    return make_parts(arrays, f"function={name}", task)


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
