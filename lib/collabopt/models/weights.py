"""Weights of a model as arrays, with keys of the form layer/variable, such as "conv_1/kernel"."""

from __future__ import annotations

import itertools
import re
import zipfile
from pathlib import Path

import numpy as np

from collabopt.models.check import ModelError
from collabopt.runtime.tensorflow import keras, tf

_COUNTER = r"_\d+(?=/)"
"""What Keras appends to the names of layers inside a layer, such as gru_cell_1; it differs between builds."""


def read(path: str | Path) -> dict[str, np.ndarray]:
    """Return the weights in an .npz file by layer/variable.

    Args:
        path: The file.

    Raises:
        ModelError: The file is missing, or is not an .npz of plain arrays.
    """
    path = Path(path)
    if not path.is_file():
        raise ModelError(f"path={path}: no such file; expected an .npz keyed layer/variable")
    try:
        with np.load(path, allow_pickle=False) as file:
            return {key: file[key] for key in file.files}
    except (ValueError, OSError, EOFError, AttributeError, TypeError, zipfile.BadZipFile) as error:
        raise ModelError(f"path={path}: not an .npz of plain arrays keyed layer/variable ({error})") from error


def get_variables(model: keras.Model) -> dict[str, tf.Variable]:
    """Return the variables of a model, trainable or not.

    Args:
        model: A plain model, without wrappers.

    Returns:
        Variables by layer/variable, in the order of the layers. Inside a recurrent or wrapping layer, a variable also
        has the names of inner layers, without the numbers by which Keras counts these. Of keys that would be equal,
        the second ends in _2, and so on.
    """
    found: dict[str, tf.Variable] = {}
    for layer in model.layers:
        for variable in layer.weights:
            path = variable.name.split(":")[0].removeprefix(f"{layer.name}/")
            key = f"{layer.name}/{re.sub(_COUNTER, '', path)}"
            numbered = (f"{key}_{number}" for number in itertools.count(2))
            found[next(one for one in itertools.chain([key], numbered) if one not in found)] = variable
    return found


def get_arrays(model: keras.Model) -> dict[str, np.ndarray]:
    """Return copies of the weights of a plain `model` by layer/variable, in the order of the layers."""
    return {key: variable.numpy() for key, variable in get_variables(model).items()}


def assign(model: keras.Model, arrays: dict[str, np.ndarray]) -> None:
    """Set all variables of a plain `model` to `arrays` by layer/variable.

    Raises:
        ModelError: Arrays are missing, unexpected or of a wrong shape. The message has one line for each, and no
            variable is set.
    """
    held = get_variables(model)
    mistakes = [f"{key}: missing; expected an array of shape {tuple(held[key].shape)}" for key in held.keys() - arrays]
    mistakes += [f"{key}: unexpected; the model has no such variable" for key in arrays.keys() - held]
    for key in held.keys() & arrays:
        expected, value = tuple(held[key].shape), np.asarray(arrays[key])
        if value.shape != expected:
            mistakes.append(f"{key}: shape={value.shape}: expected {expected}")
        elif value.dtype.kind not in "fiu":
            mistakes.append(f"{key}: dtype={value.dtype}: expected real numbers")
    if mistakes:
        raise ModelError(f"weights do not fit model={model.name}:\n" + "\n".join(sorted(mistakes)))
    for key, variable in held.items():
        variable.assign(np.asarray(arrays[key], variable.dtype.as_numpy_dtype))
