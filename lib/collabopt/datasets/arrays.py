"""Data sets of arrays: x_train, y_train, x_test, y_test and optionally x_validation, y_validation, classes."""

import zipfile
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from collabopt.datasets.dataset import DatasetError, Parts, compute_fingerprint
from collabopt.datasets.split import Split

NEEDED = ("x_train", "y_train", "x_test", "y_test")
UNREADABLE = (OSError, ValueError, EOFError, zipfile.BadZipFile, zlib.error)
"""Errors that NumPy raises for a file that is damaged or not an .npz."""


def read_npz(path: Path) -> dict[str, np.ndarray]:
    """Read all arrays of an .npz file.

    Args:
        path: The file.

    Returns:
        The arrays by name.

    Raises:
        DatasetError: The file is missing or damaged, or holds pickled objects.
    """
    if not path.is_file():
        raise DatasetError(f"{path}: no such file; expected an .npz file with the arrays {', '.join(NEEDED)}")
    try:
        with np.load(path, allow_pickle=False) as file:
            return {key: file[key] for key in file.files}
    except (*UNREADABLE, AttributeError, TypeError) as error:  # the last two: a .npy file, which is one array
        why = " ".join(str(error).split())
        raise DatasetError(f"{path}: not a readable .npz file ({why}); expected {', '.join(NEEDED)}") from error


def make_parts(
    arrays: Mapping[str, Any],
    source: str,
    input_shape: tuple[int, ...] | None = None,
    classes: tuple[str, ...] | None = None,
    **handling: Any,
) -> Parts:
    """Check arrays and make a data set of them.

    Args:
        arrays: x_train, y_train, x_test, y_test and optionally x_validation, y_validation and classes. Examples are
            (n, ...) uint8 or floating point, labels (n,) or (n, 1) integers.
        source: Origin of the arrays, for errors.
        input_shape: Shape of one model input, without batch. By default the shape of one example.
        classes: Names of the classes. By default those in `arrays`, else the labels themselves.
        **handling: `prepare` and `augment` of every split.

    Returns:
        The data set.

    Raises:
        DatasetError: An array is missing, empty, of a wrong type or shape, not finite, or does not fit another.
    """
    missing = [key for key in NEEDED if key not in arrays]
    if ("x_validation" in arrays) != ("y_validation" in arrays):
        missing += [key for key in ("x_validation", "y_validation") if key not in arrays]
    if missing:
        raise DatasetError(f"{source}: no {', '.join(missing)}; it has {', '.join(sorted(arrays)) or 'no arrays'}")
    names = ("train", "validation", "test") if "x_validation" in arrays else ("train", "test")
    splits = {name: _split(arrays, name, source, handling) for name in names}
    _check_shapes(splits, source)
    classes = _classes(splits, classes or arrays.get("classes"), source)
    train, validation, test = (splits.get(name) for name in ("train", "validation", "test"))
    fingerprint = compute_fingerprint((train, validation, test), classes)
    return Parts(train, validation, test, classes, fingerprint, input_shape or train.examples.shape[1:])


def check_images(arrays: Mapping[str, np.ndarray], source: Path, shape: tuple[int, ...], dtype: type) -> None:
    """Check the images of a known data set.

    Args:
        arrays: Arrays of the data set.
        source: File of the arrays, for errors.
        shape: Expected shape of one image.
        dtype: Expected type.

    Raises:
        DatasetError: x_train or x_test is not (n, *shape) of `dtype`.
    """
    for key in ("x_train", "x_test"):
        if key in arrays and (arrays[key].shape[1:] != shape or arrays[key].dtype != dtype):
            found = f"{arrays[key].dtype} of shape {arrays[key].shape}"
            wanted = f"{np.dtype(dtype)} of shape (n, {', '.join(map(str, shape))})"
            raise DatasetError(f"{source}: {key} is {found}; expected {wanted}. Delete the file to make it again")


def _split(arrays: Mapping[str, Any], name: str, source: str, handling: dict[str, Any]) -> Split:
    x, y = f"x_{name}", f"y_{name}"
    examples = _array(arrays[x], f"{source}: {x}")
    labels = _labels(_array(arrays[y], f"{source}: {y}"), f"{source}: {y}")
    _check_examples(examples, f"{source}: {x}")
    if len(examples) != len(labels):
        raise DatasetError(
            f"{source}: {x} has {len(examples)} examples and {y} {len(labels)} labels; expected equal numbers"
        )
    return Split(examples, labels, **handling)


def _array(values: Any, name: str) -> np.ndarray:
    try:
        return np.asarray(values)
    except ValueError as error:  # rows of different lengths
        raise DatasetError(f"{name}: cannot be converted to an array ({error}); expected rows of one length") from error


def _check_examples(examples: np.ndarray, name: str) -> None:
    if examples.dtype != np.uint8 and not np.issubdtype(examples.dtype, np.floating):
        raise DatasetError(f"{name} is of type {examples.dtype}; expected floating point or uint8")
    if examples.ndim < 2 or not examples.size:
        raise DatasetError(f"{name} has shape {examples.shape}; expected (n, ...) with at least one example")
    if examples.dtype == np.uint8:
        return
    bad = np.flatnonzero(~np.isfinite(examples).all(axis=tuple(range(1, examples.ndim))))
    if len(bad):
        raise DatasetError(f"{name} has NaN or infinity in {len(bad)} examples, first in number {bad[0]}; remove them")


def _labels(labels: np.ndarray, name: str) -> np.ndarray:
    if labels.ndim == 2 and labels.shape[1] == 1:
        labels = labels[:, 0]
    if labels.ndim != 1 or not np.issubdtype(labels.dtype, np.integer):
        raise DatasetError(f"{name} is {labels.dtype} of shape {labels.shape}; expected integers of shape (n,)")
    if len(labels) and labels.min() < 0:
        raise DatasetError(f"{name} has the label {labels.min()}; expected 0 to number of classes - 1")
    return labels


def _check_shapes(splits: dict[str, Split], source: str) -> None:
    train = splits["train"].examples
    for name, split in splits.items():
        if split.examples.shape[1:] != train.shape[1:] or split.examples.dtype != train.dtype:
            raise DatasetError(
                f"{source}: x_{name} is {split.examples.dtype} of shape {split.examples.shape} and x_train "
                f"{train.dtype} of shape {train.shape}; expected the same except for the first dimension"
            )


def _classes(splits: dict[str, Split], names: Any, source: str) -> tuple[str, ...]:
    """Return the names of the classes. Without `names`, the training labels must be 0 to n - 1 without a gap."""
    present = np.unique(splits["train"].labels)
    if names is None:
        gaps = np.setdiff1d(np.arange(present[-1] + 1), present)
        if len(gaps):
            raise DatasetError(
                f"{source}: y_train has labels up to {present[-1]} but no {gaps[0]}; expected 0 to number of "
                "classes - 1, or an array `classes` with the names of all classes"
            )
        names = present
    classes = tuple(str(name) for name in np.asarray(names).ravel())
    for name, split in splits.items():
        if split.labels.max() >= len(classes):
            raise DatasetError(
                f"{source}: y_{name} has the label {split.labels.max()}; expected 0 to {len(classes) - 1}, as there "
                f"are {len(classes)} classes"
            )
    if len(classes) < 2:
        raise DatasetError(f"{source}: y_train has {len(classes)} class; expected at least two")
    return classes
