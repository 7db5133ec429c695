"""Data sets of arrays.

They are x_train, y_train, x_test, y_test and optionally x_validation, y_validation, groups_train and classes. For
several inputs, x_train is a dict of arrays by input name, or there are arrays x_train/<input>.
"""

import zipfile
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from collabopt.config.tasks import TASKS, Task
from collabopt.datasets import labels
from collabopt.datasets.dataset import DatasetError, Mistakes, Parts, Shape, Shapes, compute_fingerprint
from collabopt.datasets.split import Examples, Split

NEEDED = ("x_train", "y_train", "x_test", "y_test")
UNREADABLE = (OSError, ValueError, EOFError, zipfile.BadZipFile, zlib.error)
"""Errors that NumPy raises for a file that is damaged or not an .npz."""


def read_npz(path: Path) -> dict[str, np.ndarray]:
    """Return all arrays of an .npz file by name.

    Raises:
        DatasetError: The file is missing or damaged, or holds pickled objects.
    """
    if not path.is_file():
        raise DatasetError(f"{path}: no such file; expected an .npz file with the arrays {', '.join(NEEDED)}")
    try:
        with np.load(path, allow_pickle=False) as file:
            return {key: file[key] for key in file.files}
    except (*UNREADABLE, AttributeError, TypeError) as error:  # the last two: a .npy file, which is one array
        why = " ".join(str(error).split()) if zipfile.is_zipfile(path) else "no .npz file, or a damaged one"
        raise DatasetError(
            f"{path}: not readable: {why}. Write it with np.savez(path, x_train=…, y_train=…, x_test=…, y_test=…), of "
            "numbers or text"
        ) from error


def make_parts(
    given: Mapping[str, Any],
    source: str,
    task: Task = TASKS["classification"],
    input_shape: Shape | None = None,
    classes: tuple[str, ...] | None = None,
    **handling: Any,
) -> Parts:
    """Check arrays and make a data set of them.

    Args:
        given: x_train, y_train, x_test, y_test and optionally x_validation, y_validation, groups_train (n,) and
            classes. Examples are (n, ...) of any numeric type, or a dict of such arrays by input name. Labels have one
            of the forms in `labels`; a reconstruction needs none.
        source: Origin of the arrays, for errors.
        task: The task, which decides the form of the labels.
        input_shape: Shape of one model input, without batch. By default the shape of one example.
        classes: Names of the classes. By default those in `given`, else see `labels.convert`.
        **handling: `prepare` and `augment` of every split.

    Returns:
        The data set.

    Raises:
        DatasetError: One line per array that is missing, empty, of a wrong type or shape, not finite, or does not fit
            another.
    """
    given = _group_inputs(given)
    names = [name for name in ("train", "validation", "test") if name != "validation" or _has(given, name)]
    _check_presence(given, names, source, task)
    mistakes, examples = Mistakes(), {}
    for name in names:
        with mistakes.collect():
            examples[name] = _read_examples(given[f"x_{name}"], f"{source}: x_{name}")
            _check_finite(examples[name], f"{source}: x_{name}")
    with mistakes.collect():
        _check_shapes(examples, source)
    train = examples.get("train")
    shape = input_shape or (None if train is None else _get_shape(train))
    named = classes if classes is not None else given.get("classes")
    with mistakes.collect():
        y, classes = _convert_labels(task, given, examples, named, source)
    with mistakes.collect():
        groups = _read_groups(given, examples, source)
    if mistakes:
        mistakes.shapes = _find_shapes(task, given, shape, named, source)
    mistakes.raise_any()
    splits = {name: Split(examples[name], y[name], **handling) for name in names}
    ordered = tuple(splits.get(name) for name in ("train", "validation", "test"))
    outputs = labels.get_outputs(task, y["train"], classes, shape)
    return Parts(*ordered, classes, compute_fingerprint(ordered, classes), shape, outputs, groups)


def check_images(arrays: Mapping[str, np.ndarray], source: Path, shape: tuple[int, ...], dtype: type) -> None:
    """Check that x_train and x_test in `arrays` of a `source` are images of this `shape` and `dtype`.

    Raises:
        DatasetError: x_train or x_test is not (n, *shape) of `dtype`.
    """
    for key in ("x_train", "x_test"):
        if key in arrays and (arrays[key].shape[1:] != shape or arrays[key].dtype != dtype):
            found = f"{arrays[key].dtype} of shape {arrays[key].shape}"
            wanted = f"{np.dtype(dtype)} of shape (n, {', '.join(map(str, shape))})"
            raise DatasetError(f"{source}: {key} is {found}; expected {wanted}. Delete the file to make it again")


def _has(given: Mapping[str, Any], split: str) -> bool:
    return f"x_{split}" in given or f"y_{split}" in given


def _group_inputs(given: Mapping[str, Any]) -> dict[str, Any]:
    """Collect the arrays x_train/<input> of several inputs in a dict x_train."""
    grouped: dict[str, Any] = {}
    for key, values in given.items():
        name, slash, input_name = key.partition("/")
        if slash and name.startswith("x_"):
            grouped.setdefault(name, {})[input_name] = values
        else:
            grouped[key] = values
    return grouped


def _check_presence(given: Mapping[str, Any], splits: list[str], source: str, task: Task) -> None:
    needed = [f"{kind}_{name}" for name in splits for kind in "xy" if kind == "x" or task.name != "reconstruction"]
    missing = [key for key in needed if key not in given]
    if missing:
        raise DatasetError(f"{source}: no {', '.join(missing)}; it has {', '.join(sorted(given)) or 'no arrays'}")


def _read_examples(values: Any, name: str) -> Examples:
    """Check the examples of a split, of one input or several."""
    if not isinstance(values, Mapping):
        return _check_examples(labels.make_array(values, name), name)
    mistakes, arrays = Mistakes(), {}
    for key, one in values.items():
        with mistakes.collect():
            arrays[key] = _check_examples(labels.make_array(one, f"{name}/{key}"), f"{name}/{key}")
    counts = {len(array) for array in arrays.values()}
    if not values or len(counts) > 1:
        found = ", ".join(f"{key} {len(array)}" for key, array in arrays.items()) or "no inputs"
        mistakes.append(f"{name} has {found}; expected an equal number of examples for each input")
    mistakes.raise_any()
    return arrays


def _check_examples(examples: np.ndarray, name: str) -> np.ndarray:
    if examples.dtype.kind not in "fiub":
        raise DatasetError(f"{name} is of type {examples.dtype}; expected floating point, integers or bool")
    if examples.ndim < 2 or not examples.size:
        raise DatasetError(f"{name} has shape {examples.shape}; expected (n, ...) with at least one example")
    return examples


def _check_finite(examples: Examples, name: str) -> None:
    mistakes = Mistakes()
    for key, array in examples.items() if isinstance(examples, dict) else [("", examples)]:
        with mistakes.collect():
            labels.check_finite(array, f"{name}/{key}" if key else name)
    mistakes.raise_any()


def _get_shape(examples: Examples) -> Shape | dict[str, Shape]:
    if isinstance(examples, dict):
        return {name: array.shape[1:] for name, array in examples.items()}
    return examples.shape[1:]


def _count(examples: Examples) -> int:
    return len(next(iter(examples.values())) if isinstance(examples, dict) else examples)


def _check_shapes(examples: dict[str, Examples], source: str) -> None:
    """Check that all splits have the type and shape of train."""
    mistakes = Mistakes()
    by_input = {name: one if isinstance(one, dict) else {"": one} for name, one in examples.items()}
    train = by_input.pop("train", {})
    for name, arrays in by_input.items():
        if train and arrays.keys() != train.keys():
            mistakes.append(
                f"{source}: x_{name} has the inputs {sorted(arrays)}; expected those of x_train, {sorted(train)}"
            )
            continue
        for key, one in train.items():
            other, label = arrays[key], f"/{key}" if key else ""
            if other.shape[1:] != one.shape[1:] or other.dtype != one.dtype:
                mistakes.append(
                    f"{source}: x_{name}{label} is {other.dtype} of shape {other.shape} and x_train{label} {one.dtype} "
                    f"of shape {one.shape}; expected the same except for the first dimension"
                )
    mistakes.raise_any()


def _convert_labels(
    task: Task, given: Mapping[str, Any], examples: dict[str, Examples], classes: Any, source: str
) -> tuple[dict[str, np.ndarray], tuple[str, ...]]:
    """Return the labels of each split, and the classes."""
    keys = {name: f"{source}: y_{name}" for name in ("train", "validation", "test") if _has(given, name)}
    found = {key: given[f"y_{name}"] for name, key in keys.items() if f"y_{name}" in given}
    made, classes = labels.convert(task, found, classes) if found else ({}, ())
    y, mistakes = {}, Mistakes()
    for name, key in keys.items():
        # Without labels, all examples of a reconstruction are normal.
        y[name] = made[key] if key in made else np.zeros(_count(examples.get(name, ())), np.int64)
        count = _count(examples[name]) if name in examples else len(y[name])
        if count != len(y[name]):
            mistakes.append(
                f"{source}: x_{name} has {count} examples and y_{name} {len(y[name])} labels; expected equal numbers"
            )
    mistakes.raise_any()
    return y, classes


def _find_shapes(task: Task, given: Mapping[str, Any], shape: Any, classes: Any, source: str) -> Shapes | None:
    """Return what the arrays of train alone tell, in spite of mistakes elsewhere."""
    if shape is None:
        return None
    labels_of_train = {key: given[key] for key in ("y_train",) if key in given}
    try:
        y, classes = _convert_labels(task, labels_of_train, {}, classes, source)
    except DatasetError:
        return Shapes(shape, None, task)
    return Shapes(shape, labels.get_outputs(task, y.get("train"), classes, shape), task)


def _read_groups(given: Mapping[str, Any], examples: dict[str, Examples], source: str) -> np.ndarray | None:
    key = next((key for key in ("groups_train", "groups") if key in given), None)
    if key is None:
        return None
    groups = labels.make_array(given[key], f"{source}: {key}")
    count = _count(examples["train"]) if "train" in examples else len(groups)
    if groups.shape != (count,):
        raise DatasetError(
            f"{source}: {key} has shape {groups.shape}; expected ({count},), the group of each training example"
        )
    return groups
