"""Models: built-in ones by name, custom ones by function or file. All return logits.

model = models.build(digits.model, input_shape=(8, 8, 1), classes=10)
"""

from types import ModuleType

from collabopt.config import experiment
from collabopt.models import custom, ds_cnn, importing, mobilenet, small, weights
from collabopt.models.check import ModelError, check
from collabopt.runtime.tensorflow import keras
from collabopt.storage import atomic
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
"""Module of each built-in model, whose function has the model's name."""


def build(section: experiment.Model, input_shape: tuple[int, ...], outputs: tuple[int, ...] | None) -> keras.Model:
    """Build the model of an experiment.

    Fresh weights are drawn from the global seed, which the caller sets. A saved model keeps its weights.

    Args:
        section: The model section of the experiment.
        input_shape: Shape of one input, without batch.
        outputs: Shape of one output, without batch; None takes any. A function receives the number of outputs.

    Returns:
        A Keras 2 model, a flat graph of layers, from float32 (None, *input_shape) to float32 (None, *outputs).

    Raises:
        ModelError: The model cannot be found, is not of this form, or its input is too small.
    """
    count = outputs[-1] if outputs else 0
    if section.path:
        origin, model = f"path={section.path}", custom.load(section.path)
    elif section.function:
        origin, model = f"function={section.function}", custom.call(section.function, input_shape, count)
    else:
        origin, model = f"name={section.name}", _build_by_name(section.name, input_shape, count)
    check(origin, model, input_shape, outputs)
    return model


def compute_code_digest(section: experiment.Model) -> str:
    """Compute a digest of what decides a model, for the keys of stored stages.

    That is the code of a built-in model, the module of a custom function (not what it imports), or the saved file.

    Args:
        section: The model section of the experiment.

    Returns:
        Hex digits.

    Raises:
        ModelError: A file is missing.
    """
    if section.path:
        code = compute_digest(importing.import_model)
        return f"{atomic.compute_sha256(custom.find_saved_model(section.path))} {code}"
    if section.function:
        return compute_module_digest(custom.find_source(section.function))
    return compute_digest(getattr(FAMILIES[section.name], section.name))


def _build_by_name(name: str, input_shape: tuple[int, ...], classes: int) -> keras.Model:
    if len(input_shape) != 3:
        raise ModelError(f"name={name}, input_shape={input_shape}: expected (height, width, channels)")
    try:
        return getattr(FAMILIES[name], name)(input_shape, classes)
    except ModelError:
        raise
    except ValueError as error:  # a feature map of size zero
        raise ModelError(f"name={name}, input_shape={input_shape}: {' '.join(str(error).split())}") from error
