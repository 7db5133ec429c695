"""Labels in the form of a task, from every form in which they come.

| task | labels | forms that are accepted |
| --- | --- | --- |
| classification | int64 (n,) | indices, also as floating point or (n, 1); one-hot rows (n, classes); names |
| binary | int64 (n,) | the same, of two classes |
| multilabel | float32 (n, labels) | 0 and 1, or truth values |
| regression | float32 (n, outputs) | numbers (n,) or (n, outputs) |
| reconstruction | int64 (n,) | 1 for anomalies, 0 for normal examples; none if all are normal |
| segmentation | int64 (n, height, width) | the forms of classification, per pixel |
| custom | float32 or int64 (n, ...) | numbers, used as they are |
"""

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from collabopt.config.tasks import Task
from collabopt.datasets.dataset import DatasetError, Mistakes, Shape

LARGEST = float(np.finfo(np.float32).max)


def convert(task: Task, given: Mapping[str, Any], classes: Any = None) -> tuple[dict[str, np.ndarray], tuple[str, ...]]:
    """Convert the labels of all splits to the form of a task.

    Args:
        given: Labels by the name of their array, such as "data.npz: y_train"; those of train first.
        classes: Names of all classes. By default they are the sorted names of train, or its indices.

    Returns:
        The labels under the same names, and the names of the classes, which are empty for tasks without classes.

    Raises:
        DatasetError: One line per array with a wrong type, shape or value.
    """
    mistakes, arrays = Mistakes(), {}
    for name, values in given.items():
        with mistakes.collect():
            arrays[name] = check_finite(make_array(values, name), name)
    mistakes.raise_any()
    if task.has_classes:
        names = None if classes is None else tuple(str(name) for name in np.ravel(classes))
        return _convert_classes(task, arrays, names)
    converted = {}
    for name, array in arrays.items():
        with mistakes.collect():
            converted[name] = _CONVERTERS[task.name](array, name)
    mistakes.raise_any()
    shapes = {array.shape[1:] for array in converted.values()}
    if len(shapes) > 1:
        found = ", ".join(f"{name} {array.shape}" for name, array in converted.items())
        raise DatasetError(f"{found}: expected the same shapes except for the first dimension")
    return converted, ()


def get_outputs(task: Task, labels: np.ndarray, classes: tuple[str, ...], input_shape: Any) -> Shape | None:
    """Return the shape of one model output.

    Args:
        labels: Labels in the form of the task.
        classes: Names of the classes.
        input_shape: Shape of one model input, which a reconstruction has too.

    Returns:
        The shape without batch; None for a custom task, and for the reconstruction of several inputs.
    """
    match task.name:
        case "classification":
            return (len(classes),)
        case "binary":
            return (1,)
        case "multilabel" | "regression":
            return labels.shape[1:]
        case "segmentation":
            return (*labels.shape[1:], len(classes))
        case "reconstruction":
            return None if isinstance(input_shape, dict) else tuple(input_shape)
    return None


def make_array(values: Any, name: str) -> np.ndarray:
    """Return `values`, an array or nested lists, as an array; `name` is for errors.

    Raises:
        DatasetError: The rows differ in length.
    """
    try:
        return np.asarray(values)
    except ValueError as error:
        raise DatasetError(f"{name}: cannot be converted to an array ({error}); expected rows of one length") from error


def check_finite(array: np.ndarray, name: str) -> np.ndarray:
    """Return an `array` (n, ...) that float32 can hold; `name` is for errors.

    Raises:
        DatasetError: A floating point value is NaN or infinite, or larger than the largest float32.
    """
    if array.dtype.kind != "f" or not array.size:
        return array
    axes = tuple(range(1, array.ndim))
    bad = np.flatnonzero(~np.isfinite(array).all(axis=axes))
    if len(bad):
        raise DatasetError(f"{name} has NaN or infinity in {len(bad)} examples, first in number {bad[0]}; remove them")
    if array.dtype.itemsize > 4 and max(array.max(), -array.min()) > LARGEST:
        bad = np.flatnonzero((np.abs(array) > LARGEST).any(axis=axes))
        raise DatasetError(
            f"{name} has values beyond ±{LARGEST:.3g}, the range of float32, in {len(bad)} examples, first in number "
            f"{bad[0]}; scale them"
        )
    return array


def _convert_classes(
    task: Task, arrays: dict[str, np.ndarray], classes: tuple[str, ...] | None
) -> tuple[dict[str, np.ndarray], tuple[str, ...]]:
    train, mistakes, indices = next(iter(arrays)), Mistakes(), {}
    if classes is None and arrays[train].dtype.kind in "USO":
        classes = tuple(np.unique(arrays[train].astype(str)).tolist())
    width = len(classes) if classes else None
    for name, array in arrays.items():
        with mistakes.collect():
            array, one_hot_width = _convert_to_indices(task, array, classes, name)
            if one_hot_width:
                width = width or one_hot_width
            indices[name] = array
    if train in indices:
        with mistakes.collect():
            classes = classes or _name_by_index(task, indices[train], width, train)
            _check_number(task, classes, train)
    for name, array in indices.items():
        if classes and array.size and array.max() >= len(classes):
            mistakes.append(
                f"{name} has the label {array.max()}; expected 0 to {len(classes) - 1}, as there are {len(classes)} "
                "classes"
            )
    mistakes.raise_any()
    return indices, classes


def _convert_to_indices(
    task: Task, array: np.ndarray, classes: tuple[str, ...] | None, name: str
) -> tuple[np.ndarray, int | None]:
    """Return class indices, and the number of classes of one-hot labels."""
    dimensions = 3 if task.name == "segmentation" else 1
    width = None
    if array.dtype.kind in "USO":
        array = _find_names(array.astype(str), classes, name)
    if array.dtype.kind not in "fiub":
        raise DatasetError(f"{name} is of type {array.dtype}; expected {task.labels}")
    if array.ndim == dimensions + 1 and array.shape[-1] == 1:
        array = array[..., 0]
    elif array.ndim == dimensions + 1 and array.shape[-1]:
        array, width = _read_one_hot(array, name), array.shape[-1]
    if array.ndim != dimensions:
        raise DatasetError(f"{name} is {array.dtype} of shape {array.shape}; expected {task.labels}")
    wrong = array[array % 1 != 0] if array.dtype.kind == "f" else ()
    if len(wrong):
        raise DatasetError(f"{name} has the label {wrong[0]}; expected {task.labels}, or another task than {task.name}")
    if array.size and array.min() < 0:
        raise DatasetError(f"{name} has the label {array.min():g}; expected 0 to number of classes - 1")
    return array.astype(np.int64), width


def _find_names(array: np.ndarray, classes: tuple[str, ...] | None, name: str) -> np.ndarray:
    if classes is None:
        raise DatasetError(
            f"{name} holds names, such as {str(array.flat[0])!r}, but train holds numbers; use one of them"
        )
    found, positions = np.unique(array, return_inverse=True)
    unknown = [one for one in found.tolist() if one not in classes]
    if unknown:
        raise DatasetError(f"{name} has the label {unknown[0]!r}; expected one of {_list(classes)}")
    index = {one: number for number, one in enumerate(classes)}
    return np.array([index[one] for one in found.tolist()], np.int64)[positions].reshape(array.shape)


def _read_one_hot(array: np.ndarray, name: str) -> np.ndarray:
    wrong = np.argwhere(((array != 0) & (array != 1)).any(axis=-1) | (array.sum(axis=-1) != 1))
    if len(wrong):
        row = array[tuple(wrong[0])]
        raise DatasetError(
            f"{name} of shape {array.shape} has the row {np.array2string(row, threshold=8)} (number {wrong[0][0]}); "
            "expected one-hot rows with a single 1, or use the task multilabel or regression"
        )
    return array.argmax(axis=-1)


def _name_by_index(task: Task, train: np.ndarray, width: int | None, name: str) -> tuple[str, ...]:
    """Name the classes by their indices. Without one-hot rows or names, train must have every class."""
    if width is None:
        present = np.unique(train)
        count = max(int(present[-1]) + 1 if len(present) else 0, 2 if task.name == "binary" else 0)
        gaps = np.setdiff1d(np.arange(count), present)
        if len(gaps) and task.name != "segmentation":
            raise DatasetError(
                f"{name} has labels {present[0]} to {present[-1]} but no {gaps[0]}; expected 0 to number of classes - 1"
                ". If a class has no examples, add an array `classes` with the names of all. Else renumber the labels "
                "(np.unique(y, return_inverse=True)[1]), or choose another task than classification"
            )
        width = count
    return tuple(str(index) for index in range(width))


def _check_number(task: Task, classes: tuple[str, ...], name: str) -> None:
    if len(set(classes)) < len(classes):
        repeated = next(one for one in classes if classes.count(one) > 1)
        raise DatasetError(f"classes of {name}: {repeated!r} is given twice; give each class its own name")
    if len(classes) < 2:
        raise DatasetError(f"{name} has {len(classes)} class; expected at least two")
    if task.name == "binary" and len(classes) > 2:
        raise DatasetError(f"{name} has {len(classes)} classes; task=binary needs two, so use task: classification")


def _read_numbers(array: np.ndarray, name: str, expected: str) -> np.ndarray:
    if array.dtype.kind not in "fiub":
        raise DatasetError(f"{name} is of type {array.dtype}; expected {expected}")
    return array.astype(np.float32)


def _convert_multilabel(array: np.ndarray, name: str) -> np.ndarray:
    expected = "0 and 1 of shape (n, labels)"
    labels = _read_numbers(array, name, expected)
    if labels.ndim != 2 or not labels.shape[1]:
        raise DatasetError(f"{name} is {array.dtype} of shape {array.shape}; expected {expected}")
    wrong = labels[(labels != 0) & (labels != 1)]
    if len(wrong):
        raise DatasetError(f"{name} has the label {wrong[0]:g}; expected {expected}")
    return labels


def _convert_regression(array: np.ndarray, name: str) -> np.ndarray:
    expected = "numbers of shape (n,) or (n, outputs)"
    labels = _read_numbers(array, name, expected)
    labels = labels[:, np.newaxis] if labels.ndim == 1 else labels
    if labels.ndim != 2 or not labels.shape[1]:
        raise DatasetError(
            f"{name} is {array.dtype} of shape {array.shape}; expected {expected}. "
            "y.reshape(len(y), -1) makes rows; images as targets need a custom task"
        )
    return labels


def _convert_anomalies(array: np.ndarray, name: str) -> np.ndarray:
    expected = "0 (normal) and 1 (anomaly) of shape (n,), or no such array"
    labels = _read_numbers(array, name, expected)
    labels = labels[:, 0] if labels.ndim == 2 and labels.shape[1] == 1 else labels
    if labels.ndim != 1:
        raise DatasetError(f"{name} is {array.dtype} of shape {array.shape}; expected {expected}")
    wrong = labels[(labels != 0) & (labels != 1)]
    if len(wrong):
        raise DatasetError(f"{name} has the label {wrong[0]:g}; expected {expected}")
    return labels.astype(np.int64)


def _keep_numbers(array: np.ndarray, name: str) -> np.ndarray:
    if array.ndim < 1:
        raise DatasetError(f"{name} has shape {array.shape}; expected numbers of shape (n, ...)")
    numbers = _read_numbers(array, name, "numbers of shape (n, ...)")
    return numbers if array.dtype.kind == "f" else array.astype(np.int64)


def _list(names: tuple[str, ...]) -> str:
    return ", ".join(names[:10]) + (", …" if len(names) > 10 else "")


_CONVERTERS: dict[str, Callable[[np.ndarray, str], np.ndarray]] = {
    "multilabel": _convert_multilabel,
    "regression": _convert_regression,
    "reconstruction": _convert_anomalies,
    "custom": _keep_numbers,
}
