"""Weights of a model as arrays keyed layer/variable, such as "conv_1/kernel"."""

import zipfile
from pathlib import Path

import numpy as np

from collabopt.models.check import ModelError
from collabopt.runtime.tensorflow import keras, tf


def read(path: str | Path) -> dict[str, np.ndarray]:
    """The arrays of an .npz file. Raises ModelError when there is none or when it does not hold plain arrays."""
    path = Path(path)
    if not path.is_file():
        raise ModelError(f"path={path}: no such file; expected an .npz keyed layer/variable")
    try:
        with np.load(path, allow_pickle=False) as file:
            return {key: file[key] for key in file.files}
    except (ValueError, OSError, EOFError, AttributeError, TypeError, zipfile.BadZipFile) as error:
        raise ModelError(f"path={path}: not an .npz of plain arrays keyed layer/variable ({error})") from error


def variables(model: keras.Model) -> dict[str, tf.Variable]:
    """The variables of a plain (not wrapped) model, trainable or not, in the order of the layers.

    Raises ModelError where two variables get one key.
    """
    found: dict[str, tf.Variable] = {}
    for layer in model.layers:
        for variable in layer.weights:
            key = f"{layer.name}/{variable.name.split(':')[0].removeprefix(layer.name + '/')}"
            if key in found:
                raise ModelError(f"model={model.name}: two variables are named {key}; expected names of their own")
            found[key] = variable
    return found


def arrays(model: keras.Model) -> dict[str, np.ndarray]:
    """Copies of the values of `variables(model)`."""
    return {key: variable.numpy() for key, variable in variables(model).items()}


def assign(model: keras.Model, arrays: dict[str, np.ndarray]) -> None:
    """Set every variable of `model`.

    Raises ModelError with a line for every array that is missing, unexpected or of the wrong shape; then none is set.
    """
    held = variables(model)
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
