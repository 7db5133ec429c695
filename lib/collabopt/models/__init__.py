"""Models: built-in ones by name, custom ones by function or file. All return logits.

model = models.build(digits.model, input_shape=(8, 8, 1), outputs=(10,))
"""

from __future__ import annotations

from types import ModuleType

import numpy as np

from collabopt.config import experiment
from collabopt.models import custom, ds_cnn, mobilenet, small, weights
from collabopt.models.check import ModelError, Shape, Shapes, check, find_inputs
from collabopt.models.custom import get_imported
from collabopt.models.description import Description, describe
from collabopt.runtime.tensorflow import keras
from collabopt.storage.source_digest import compute_digest

__all__ = ["FAMILIES", "Description", "ModelError", "Shapes", "build", "compute_code_digest", "describe", "find_inputs"]
__all__ += ["get_imported", "restore", "weights"]

FAMILIES: dict[str, ModuleType] = {
    "digits_cnn": small,
    "mnist_cnn": small,
    "ds_cnn_s": ds_cnn,
    "ds_cnn_m": ds_cnn,
    "ds_cnn_l": ds_cnn,
    "mobilenet_v1": mobilenet,
    "mobilenet_v2": mobilenet,
}
"""Module of each built-in model, whose function has the model's name."""


def build(
    section: experiment.Model, input_shape: Shapes, outputs: Shape | None, takes_logits: bool = True
) -> keras.Model:
    """Build the model of an experiment.

    Fresh weights are drawn from the global seed, which the caller sets. A saved model keeps its weights.

    Args:
        section: The model section of the experiment.
        input_shape: Shape of one input, without batch; by name if there are several.
        outputs: Shape of the output, without batch; None takes any.
        takes_logits: Whether a softmax or sigmoid at the end of a user's model is taken off.

    Returns:
        A Keras 2 model, a flat graph of layers, from float32 (None, *input_shape) to float32 (None, *outputs).

    Raises:
        ModelError: The model cannot be found or imported, or does not fit the data.
    """
    if section.name:
        origin, model = f"name={section.name}", _build_by_name(section.name, input_shape, outputs)
    else:
        origin = f"path={section.path}" if section.path else f"function={section.function}"
        imports = custom.get_imported if section.path else custom.import_again
        model = custom.copy(imports(section, input_shape, outputs, takes_logits).model)
    check(origin, model, input_shape, outputs)
    return model


def restore(
    section: experiment.Model,
    arrays: dict[str, np.ndarray],
    input_shape: Shapes,
    outputs: Shape | None,
    takes_logits: bool = True,
) -> keras.Model:
    """Build the model of an experiment with given weights.

    Args:
        section: The model section of the experiment.
        arrays: Its weights by layer/variable.
        input_shape: Shape of one input, without batch; by name if there are several.
        outputs: Shape of the output, without batch; None takes any.
        takes_logits: As in `build`.

    Returns:
        The model.

    Raises:
        ModelError: The model cannot be found or imported, or the weights do not fit it.
    """
    if section.name:
        model = _build_by_name(section.name, input_shape, outputs)
    else:
        model = keras.models.clone_model(custom.get_imported(section, input_shape, outputs, takes_logits).model)
    weights.assign(model, arrays)
    return model


def compute_code_digest(section: experiment.Model) -> str:
    """Return a hex digest of what decides the model of a `section`, for the keys of stored stages.

    That is the code of a built-in model. Of a user's model it is the file, the modules of the function and classes with
    what they import from the user's folders, the weights, and the code of the import.

    Raises:
        ModelError: A file is missing.
    """
    if section.name:
        return compute_digest(getattr(FAMILIES[section.name], section.name))
    return custom.compute_digests(section)


def _build_by_name(name: str, input_shape: Shapes, outputs: Shape | None) -> keras.Model:
    if isinstance(input_shape, dict) or len(input_shape) != 3:
        raise ModelError(f"name={name}, input_shape={input_shape}: expected (height, width, channels)")
    try:
        return getattr(FAMILIES[name], name)(input_shape, outputs[-1])
    except ModelError:
        raise
    except ValueError as error:  # a feature map of size zero
        raise ModelError(f"name={name}, input_shape={input_shape}: {' '.join(str(error).split())}") from error
