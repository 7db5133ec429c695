"""Custom data sets: an .npz file, or a function that returns a dict of arrays; see `arrays.make_parts`.

Examples reach the model as float32 with their values unchanged, such as 0 to 255 for uint8. Scale them beforehand, or
begin the model with a layer that scales.
"""

import inspect
from collections.abc import Mapping
from pathlib import Path

from collabopt.config.tasks import TASKS, Task
from collabopt.datasets.arrays import NEEDED, make_parts, read_npz
from collabopt.datasets.dataset import DatasetError, Parts
from collabopt.runtime import user_modules


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
        name: "module:function". The module is found as in `user_modules`.
        data_directory: Folder of the data sets, passed to the function if it has a parameter `data_directory`.
        task: The task, which decides the form of the labels.

    Returns:
        The data set.

    Raises:
        DatasetError: The function does not exist, it returns something else, or an array is wrong.
    """
    try:
        function = user_modules.import_object(name)
    except user_modules.UserModuleError as error:
        raise DatasetError(f"dataset.function={name}: {error}") from error
    takes_directory = "data_directory" in inspect.signature(function).parameters
    with user_modules.allow_imports():
        arrays = function(data_directory=data_directory) if takes_directory else function()
    if not isinstance(arrays, Mapping):
        raise DatasetError(
            f"dataset.function={name}: returned {type(arrays).__name__}; expected a dict of the arrays "
            f"{', '.join(NEEDED)}"
        )
    return make_parts(arrays, f"dataset.function={name}", task)
