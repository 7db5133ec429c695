"""Custom data sets: a file or folder, or a function.

| source | keys of the experiment's `dataset` |
| --- | --- |
| .npz file of arrays (`arrays`) | |
| table (.csv, .tsv, .parquet), or folder of tables train and test (`tables`) | target, features, group, test_fraction |
| folder of pictures (`pictures`) | image_size, channels, pixel_range, group, test_fraction |
| folder of WAV files (`sounds`) | audio, seconds, group, test_fraction |
| function that returns a dict of arrays (`arrays`) or of `tf.data` (`streams`) | |

Examples reach the model as float32 with their values unchanged, such as 0 to 255 for uint8. Scale them beforehand, or
begin the model with a layer that scales.
"""

from __future__ import annotations

import inspect
import os
import random
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np

from collabopt.config.sections import Dataset
from collabopt.config.tasks import TASKS, Task
from collabopt.datasets import pictures, sounds, streams, tables
from collabopt.datasets.arrays import NEEDED, make_parts, read_npz
from collabopt.datasets.dataset import DatasetError, Mistakes, Parts
from collabopt.runtime import user_modules
from collabopt.runtime.tensorflow import tf

KEYS = {
    "imagenet": ("directory", "image_size"),
    "tables": ("target", "features", "group", "test_fraction"),
    "folders of pictures": ("image_size", "channels", "pixel_range", "group", "test_fraction"),
    "folders of WAV files": ("audio", "seconds", "group", "test_fraction"),
}
"""The keys that each source takes besides name, path or function."""


def check_keys(dataset: Dataset, source: str) -> None:
    """Check that every key of a `dataset` section has an effect for a `source`, a key of `KEYS` or another.

    Raises:
        DatasetError: One line per key without effect.
    """
    given = dataset.model_dump(exclude_none=True, exclude={"name", "path", "function"})
    lines = []
    for key in sorted(given.keys() - set(KEYS.get(source, ()))):
        takers = " and ".join(taker for taker, keys in KEYS.items() if key in keys)
        lines.append(f"dataset.{key}={given[key]}: only {takers} take it; leave it out")
    if lines:
        raise DatasetError("\n".join(lines))


def read(path: Path, dataset: Dataset, task: Task = TASKS["classification"]) -> Parts:
    """Return the data set in the file or folder at `path`.

    Raises:
        DatasetError: The file cannot be read, or an array is wrong.
    """
    source, function = _find_source(path)
    mistakes = Mistakes()
    with mistakes.collect():
        parts = function(path, dataset, task)
        mistakes.shapes = parts.get_shapes(task)
    with mistakes.collect():
        check_keys(dataset, source)
    mistakes.raise_any()
    return parts


def has_pictures(path: Path) -> bool:
    """Return whether the data set at `path` is a folder of pictures.

    Raises:
        DatasetError: It is no data set.
    """
    return _find_source(path)[1] is pictures.read


def _find_source(path: Path) -> tuple[str, Callable[[Path, Dataset, Task], Parts]]:
    """Return the kind of a file or folder, and the function that reads it."""
    if path.suffix.lower() in tables.ENDINGS and path.is_file():
        return "tables", tables.read
    if path.is_dir() and tables.has_tables(path):
        return "tables", tables.read
    if path.is_dir():
        kinds = {"folders of pictures": pictures, "folders of WAV files": sounds}
        for _, _, files in os.walk(path, followlinks=True):
            for source, module in kinds.items():
                if any(name.lower().endswith(module.ENDINGS) for name in files):
                    return source, module.read
    if path.suffix == ".npz" or path.is_file():
        return "arrays", lambda path, dataset, task: make_parts(read_npz(path), str(path), task)  # noqa: ARG005
    found = "no data in this folder" if path.is_dir() else "no such file"
    raise DatasetError(
        f"dataset.path={path}: {found}. Expected an .npz file with the arrays {', '.join(NEEDED)}, a .csv, .tsv or "
        ".parquet table, or a folder with one folder of pictures (JPEG, PNG) or WAV files per class"
    )


def call(name: str, data_directory: Path, task: Task = TASKS["classification"]) -> Parts:
    """Call a function that returns a data set as a dict, of arrays or of `tf.data`.

    Errors that the module or the function raises are passed on.

    Args:
        name: "module:function". The module is found as in `user_modules`.
        data_directory: Folder of the data sets, passed to the function if it has a parameter `data_directory`.
        task: The task, which decides the form of the labels.

    Returns:
        The data set.

    Raises:
        DatasetError: The function does not exist, needs or returns something else, or an array is wrong.
    """
    try:
        function = user_modules.import_object(name)
    except user_modules.UserModuleError as error:
        raise DatasetError(f"dataset.function={name}: {error}") from error
    signature = inspect.signature(function)
    arguments = {"data_directory": data_directory} if "data_directory" in signature.parameters else {}
    try:
        signature.bind(**arguments)
    except TypeError as error:
        raise DatasetError(
            f"dataset.function={name}: takes {signature}; expected defaults for all parameters but data_directory, "
            "which gets the folder of the data sets"
        ) from error
    with user_modules.allow_imports():
        # So that each process gets the same split.
        random.seed(0)
        np.random.seed(0)  # noqa: NPY002, the generator that functions of users share
        tf.random.set_seed(0)
        arrays = function(**arguments)
    if not isinstance(arrays, Mapping):
        raise DatasetError(
            f"dataset.function={name}: returned {type(arrays).__name__}; expected a dict of the arrays "
            f"{', '.join(NEEDED)}"
        )
    if streams.has_streams(arrays):
        arrays = streams.read(arrays, f"dataset.function={name}")
    return make_parts(arrays, f"dataset.function={name}", task)
