"""A user's own stage: a function from Keras model to Keras model becomes a node of the deployment tree."""

import re
from collections.abc import Callable

import numpy as np

from collabopt.config import mistakes, stages
from collabopt.config.experiment import Experiment, ExperimentError
from collabopt.config.stages import BASELINE, FINE_TUNING, STAGES, Stage
from collabopt.datasets import Data
from collabopt.models import weights
from collabopt.runtime import progress
from collabopt.runtime.tensorflow import keras
from collabopt.storage.function_digest import compute_function_digest
from collabopt.techniques import layers, training
from collabopt.techniques.checkpoints import Checkpoint

_ARCHITECTURE = "architecture"
_COLOURS = ("#117733", "#882255", "#999933", "#332288", "#aa4499", "#44aa99")


def stage(name: str, parent: str = BASELINE, keeps_zeros: bool = False) -> Callable[[Callable], Callable]:
    """Return a decorator that registers a function from Keras model to Keras model as a stage, and leaves it unchanged.

    The function gets a copy of the parent's model, which it may change, and returns a model with the same inputs and
    outputs. `stages.<name>.epochs` in the settings trains the result further; by default nothing does. Before any
    training, the function is tried on an untrained model. The key of the store contains its source and the values that
    it uses, so a changed function runs again. Naming a stage of one's own again replaces it.

    Args:
        name: Name of the stage: lower-case letters, digits and underscores.
        parent: Name of the stage that it starts from, before quantization.
        keeps_zeros: Whether the zeros of the parent must survive.

    Raises:
        ExperimentError: The name, the parent or the function is not suitable.
    """
    if not re.fullmatch(r"[a-z][a-z0-9_]*", str(name)):
        raise ExperimentError(f"stage name={name!r}: expected lower-case letters, digits and underscores, such as mine")
    if name in stages.list_stages() and (name not in STAGES or STAGES[name].function is None):
        raise ExperimentError(f"stage name={name!r}: the workbook has such a stage; choose another name")
    known = [one.name for one in STAGES.values() if not one.quantizes and one.name != name]
    if parent not in known:
        raise ExperimentError(f"stage {name}: parent={parent!r}: no such stage{mistakes.suggest(str(parent), known)}")

    def register(function: Callable) -> Callable:
        try:
            compute_function_digest(function)
        except ValueError as error:
            raise ExperimentError(f"stage {name}: {error}") from None
        earlier = STAGES.pop(name, None)
        mine = sum(one.function is not None for one in STAGES.values())
        colour = earlier.colour if earlier else _COLOURS[mine % len(_COLOURS)]
        row = Stage(
            name, name.replace("_", " "), colour, parent, "user_stage:train", STAGES[parent].notebook,
            training=FINE_TUNING | {"epochs": 0}, keeps_zeros=keeps_zeros, function=function,
        )  # fmt: skip
        stages.register(row)
        return function

    return register


def train(
    stage: Stage, parent: keras.Model, data: Data, experiment: Experiment, checkpoint: Checkpoint
) -> tuple[keras.Model, training.Fit]:
    """Return what a user's function makes of the parent, trained if its section has epochs, and the record.

    A trainer (`registry.find_trainer`) by the settings of `experiment`, from `checkpoint` on. `parent` stays as it is.
    """
    section, clock = experiment.training(stage.name), progress.Clock()
    progress.advance("applying the function", stage.name)
    model = apply(stage, parent)
    return model, training.fit(model, data, section, experiment.seed, stage.name, clock, checkpoint=checkpoint)


def apply(stage: Stage, parent: keras.Model) -> keras.Model:
    """Return what a user's function makes of a copy of the plain model `parent`, checked.

    Raises:
        ExperimentError: The function fails, or returns no model that can take the parent's place.
    """
    try:
        model = stage.function(layers.clone_model(parent))
    except Exception as error:  # a user's function raises any
        text = f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"
        raise ExperimentError(f"stage {stage.name}: its function fails: {text}") from error
    if problem := _find_problem(model, parent, stage.keeps_zeros):
        raise ExperimentError(f"stage {stage.name}: its function returned {problem}")
    return model


def restore(parent: keras.Model, stored: dict[str, np.ndarray]) -> keras.Model:  # noqa: ARG001 - as other stages
    """Return the model of a user's stage from arrays `stored` by `read_arrays`; `parent` is not used."""
    arrays = dict(stored)
    model = keras.models.model_from_json(str(arrays.pop(_ARCHITECTURE)))
    weights.assign(model, arrays)
    return model


def describe_architecture(model: keras.Model) -> dict[str, np.ndarray]:
    """Return an array, by its key, with the layers of a plain `model`, to be stored with its weights."""
    return {_ARCHITECTURE: np.array(model.to_json())}


def _find_problem(model: object, parent: keras.Model, keeps_zeros: bool) -> str:
    """Why a model cannot take its parent's place; empty if it can."""
    if not isinstance(model, keras.Model):
        kind = type(model)
        return f"{kind.__module__}.{kind.__qualname__}; expected a model of tf_keras: end it with `return model`"
    if nested := [layer.name for layer in model.layers if isinstance(layer, keras.Model)]:
        return f"a model with the model {nested[0]} inside; call its layers one by one instead"
    for name in ("input_shape", "output_shape"):
        if (found := getattr(model, name, None)) != (expected := getattr(parent, name)):
            return f"a model with {name}={found}; expected {expected}, as the parent has"
    if not all(np.isfinite(array).all() for array in model.get_weights()):
        return "weights that are not finite"
    kernels, own = ({key: one.shape for key, one in layers.read_kernels(each).items()} for each in (parent, model))
    if keeps_zeros and kernels != own:
        return "kernels of other names or shapes; keeps_zeros=True needs those of the parent"
    try:
        keras.models.model_from_json(model.to_json())
    except Exception as error:  # Keras raises any
        text = " ".join(str(error).split())[:200]
        return (
            f"layers that cannot be stored ({text}); return a functional model without wrappers of TFMOT, and register "
            "own layers by keras.utils.register_keras_serializable"
        )
    return ""
