"""Data sets of `tf.data`, read into arrays."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from collabopt.datasets.dataset import DatasetError, Mistakes
from collabopt.runtime.tensorflow import tf

LARGEST_BYTES = 4 << 30
SPLITS = ("train", "validation", "test")
_BATCH = 256


def has_streams(given: Mapping[str, Any]) -> bool:
    """Return whether a function returned `tf.data` instead of arrays in `given`."""
    return any(isinstance(given.get(split), tf.data.Dataset) for split in SPLITS)


def read(given: Mapping[str, Any], source: str) -> dict[str, Any]:
    """Read data sets of `tf.data` into arrays.

    Args:
        given: Finite data sets `train`, `test` and perhaps `validation`, and other keys, such as `classes`. Elements
            are pairs (x, y), or x alone, single or in batches without `drop_remainder`; x may be a dict by input name.
        source: Origin of the data sets, for errors.

    Returns:
        The arrays x_train, y_train, … and the other keys.

    Raises:
        DatasetError: One line per data set that is missing, infinite or too large, or has other elements.
    """
    mistakes = Mistakes(
        f"{source}: no {split}; expected a tf.data.Dataset" for split in ("train", "test") if split not in given
    )
    arrays = {key: values for key, values in given.items() if key not in SPLITS}
    for split in SPLITS:
        if split not in given:
            continue
        with mistakes.collect():
            x, y = _read_stream(given[split], f"{source}: {split}")
            arrays[f"x_{split}"] = x
            if y is not None:
                arrays[f"y_{split}"] = y
    mistakes.raise_any()
    return arrays


def _read_stream(stream: Any, name: str) -> tuple[Any, np.ndarray | None]:
    if not isinstance(stream, tf.data.Dataset):
        raise DatasetError(f"{name} is {type(stream).__name__}; expected a tf.data.Dataset, as the other splits are")
    if stream.cardinality() == tf.data.INFINITE_CARDINALITY:
        raise DatasetError(f"{name} is infinite; expected a finite data set, without repeat()")
    leaves = tf.nest.flatten(stream.element_spec)
    if not all(isinstance(spec, tf.TensorSpec) for spec in leaves):
        raise DatasetError(f"{name} has elements {stream.element_spec}; expected dense tensors")
    is_batched = all(spec.shape.rank and spec.shape[0] is None for spec in leaves)
    pieces, size = [], 0
    try:
        for element in (stream if is_batched else stream.batch(_BATCH)).as_numpy_iterator():
            pieces.append(tf.nest.flatten(element))
            size += sum(array.nbytes for array in pieces[-1])
            if size > LARGEST_BYTES:
                raise DatasetError(
                    f"{name} holds more than {LARGEST_BYTES >> 30} GiB, or has no end; take() fewer examples, store "
                    "uint8 instead of float32, or use a folder of pictures (dataset.path), which is read by batch"
                )
    except tf.errors.InvalidArgumentError as error:
        reason = error.message.splitlines()[0]
        raise DatasetError(f"{name}: elements cannot be batched ({reason}); make their shapes equal") from error
    if not pieces:
        raise DatasetError(f"{name} has no elements; expected at least one")
    arrays = [np.concatenate(parts) for parts in zip(*pieces, strict=True)]
    return _split_pair(tf.nest.pack_sequence_as(stream.element_spec, arrays), name)


def _split_pair(element: Any, name: str) -> tuple[Any, np.ndarray | None]:
    """Return examples and labels of an element; a dict or an array alone are examples."""
    if not isinstance(element, tuple):
        return element, None
    if len(element) != 2 or isinstance(element[1], dict | tuple):
        raise DatasetError(f"{name} has elements of {len(element)} parts; expected pairs (x, y) with one array y")
    return element
