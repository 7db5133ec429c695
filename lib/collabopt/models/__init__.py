"""Models: those of the workbook by name, and the user's own by function or file. All return logits.

model = models.build(digits.model, input_shape=(8, 8, 1), classes=10)
"""

from types import ModuleType

from collabopt.config import experiment
from collabopt.models import ds_cnn, mobilenet, own, small, weights
from collabopt.models.check import ModelError, check
from collabopt.runtime.tensorflow import keras
from collabopt.storage.atomic import compute_sha256
from collabopt.storage.source_digest import compute_digest, compute_module_digest

__all__ = ["FAMILIES", "ModelError", "build", "compute_code_digest", "weights"]

FAMILIES: dict[str, ModuleType] = {
    "digits_cnn": small,
    "mnist_cnn": small,
    "ds_cnn_s": ds_cnn,
    "ds_cnn_m": ds_cnn,
    "ds_cnn_l": ds_cnn,
    "mobilenet_v1": mobilenet,
    "mobilenet_v2": mobilenet,
}
"""The module that holds the function of each name."""


def build(section: experiment.Model, input_shape: tuple[int, ...], classes: int) -> keras.Model:
    """A Keras 2 model from float32 (None, *input_shape) to float32 logits (None, classes), a flat graph of layers.

    Fresh weights are drawn from the global seed, which is the caller's to set; a model from a file has its own.
    Raises ModelError for a model that is none of this and for an input too small for it.
    """
    if section.path:
        given, model = f"path={section.path}", own.load(section.path)
    elif section.function:
        given, model = f"function={section.function}", own.call(section.function, input_shape, classes)
    else:
        given, model = f"name={section.name}", _named(section.name, input_shape, classes)
    check(given, model, input_shape, classes)
    return model


def compute_code_digest(section: experiment.Model) -> str:
    """Compute a digest of what decides the model.

    That is the code of a named model, the module of the user's function (not what it imports), or the saved file.

    Raises:
        ModelError: A file is missing.
    """
    if section.path:
        return compute_sha256(own.saved_at(section.path))
    if section.function:
        return compute_module_digest(own.source_of(section.function))
    return compute_digest(getattr(FAMILIES[section.name], section.name))


def _named(name: str, input_shape: tuple[int, ...], classes: int) -> keras.Model:
    if len(input_shape) != 3:
        raise ModelError(f"name={name}, input_shape={input_shape}: expected (height, width, channels)")
    try:
        return getattr(FAMILIES[name], name)(input_shape, classes)
    except ModelError:
        raise
    except ValueError as error:  # a map that shrinks to nothing
        raise ModelError(f"name={name}, input_shape={input_shape}: {' '.join(str(error).split())}") from error
