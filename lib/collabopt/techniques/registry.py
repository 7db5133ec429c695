"""The trainer of a stage, the key of its stored weights, and its model from them.

The deployment tree itself is data (`config.stages`): each row names the function of this package that trains it.
"""

from __future__ import annotations

import dataclasses
import importlib
import importlib.util
from collections.abc import Callable
from types import ModuleType
from typing import Any

import numpy as np

from collabopt import datasets, models
from collabopt.config import defaults
from collabopt.config.experiment import Experiment
from collabopt.config.loading import DATA
from collabopt.config.stages import BASELINE, Stage, get_lineage
from collabopt.config.tasks import Task
from collabopt.datasets.dataset import Shapes
from collabopt.models import weights
from collabopt.runtime import tensorflow, user_modules
from collabopt.runtime.tensorflow import keras
from collabopt.storage import atomic
from collabopt.storage.function_digest import compute_function_digest
from collabopt.storage.source_digest import compute_digest, compute_module_digest

_CHECKPOINT = "collabopt.techniques.checkpoints:Checkpoint"


def suggest_defaults(experiment: Experiment) -> dict[str, Any]:
    """Return `defaults.suggest` for an `experiment` that does not say how its stages are trained."""
    data = fit_to_model(datasets.load(experiment), experiment)
    model = build_initial_model(experiment, data)
    is_trained = bool(experiment.model.is_trained or experiment.initial_weights)
    suggested = defaults.suggest(model.count_params(), len(data.train), is_trained)
    return suggested | ({"sparsity": 0.5} if experiment.sparsity_pattern == "2:4" else {})


def find_trainer(stage: Stage) -> Callable:
    """Return a trainer, (stage, parent model, data, experiment, checkpoint) -> (model, fit): the `trainer` of `stage`,
    "module:function", with a module of this package or any other.
    """
    return getattr(_import_module(stage), stage.trainer.partition(":")[2])


def _locate_trainer(stage: Stage) -> Callable | str:
    """The trainer as a root of `compute_digest`, which need not import a module of this package."""
    name, _, function = stage.trainer.partition(":")
    return f"{__package__}.{name}:{function}" if _is_ours(name) else find_trainer(stage)


def _is_ours(name: str) -> bool:
    return importlib.util.find_spec(f"{__package__}.{name}") is not None


def _import_module(stage: Stage) -> ModuleType:
    name = stage.trainer.partition(":")[0]
    return importlib.import_module(f"{__package__}.{name}" if _is_ours(name) else name)


def fit_to_model(data: datasets.Data | Shapes, experiment: Experiment) -> datasets.Data | Shapes:
    """Return `data` with a channel axis for images (height, width) and sounds (samples,) where the model has one."""
    by_name = data.input_shape if isinstance(data.input_shape, dict) else {"": data.input_shape}
    flat = {name: shape for name, shape in by_name.items() if len(shape) in (1, 2)}
    if not flat:
        return data
    imported = models.get_imported(experiment.model, *get_ends(data))
    if not imported:  # built-in models take images
        return data.with_channel_axis() if len(data.input_shape) == 2 else data
    taken = models.find_inputs(imported.model)
    shapes = taken if isinstance(data.input_shape, dict) else {"": next(iter(taken.values()))}
    lacking = [name for name, shape in flat.items() if shapes.get(name) == (*shape, 1)]
    return data.with_channel_axis(*filter(None, lacking)) if lacking else data


def get_ends(data: datasets.Data | Shapes) -> tuple[Any, tuple[int, ...] | None, bool]:
    """Return what the `data` asks of a model: shapes of inputs and of the output, and whether its loss takes logits."""
    return data.input_shape, data.outputs, data.task.takes_logits


def get_output_activations(experiment: Experiment, data: datasets.Data | Shapes) -> list[str | None]:
    """Return the file's activation of each output of `data`, "softmax", "sigmoid" or None; empty if none."""
    if experiment.model.output == "logits":
        return []
    imported = models.get_imported(experiment.model, *get_ends(data))
    activations = list(imported.output_activations.values()) if imported else []
    return activations if any(activations) else []


def build_initial_model(experiment: Experiment, data: datasets.Data) -> keras.Model:
    """Return the model that the baseline starts from, initialized from the global seed or with its initial weights."""
    model = models.build(experiment.model, *get_ends(data))
    if experiment.initial_weights:
        weights.assign(model, weights.read(datasets.locate(experiment.initial_weights.path, DATA)))
    return model


def add_augmentation(data: datasets.Data, experiment: Experiment) -> datasets.Data:
    """Return data with the augmentation layers that the user's model begins with, if there are any."""
    imported = models.get_imported(experiment.model, *get_ends(data))
    return dataclasses.replace(data, augmentation=imported.augmentation if imported else None)


def add_teacher(
    data: datasets.Data, stage: Stage, experiment: Experiment, get_model: Callable[[str], keras.Model]
) -> datasets.Data:
    """Return data whose teacher is the baseline, as `get_model` returns it, of a stage with `distill`."""
    is_taught = experiment.training(stage.name).distill is not None
    return dataclasses.replace(data, teacher=get_model(BASELINE)) if is_taught else data


def read_arrays(model: keras.Model) -> dict[str, np.ndarray]:
    """Return all variables of a `model`: by "layer/variable" if it is plain, by position if it is fake-quantized."""
    from collabopt.techniques import quantization

    if quantization.is_wrapped(model):
        return {f"{index:05d}": array for index, array in enumerate(model.get_weights())}
    return weights.get_arrays(model)


def needs_parent(stage: Stage, experiment: Experiment) -> bool:
    """Return whether `restore_model` needs the parent's model."""
    lineage = get_lineage(stage.name, experiment.tree)
    return stage.quantizes or any(one.reshapes or one.function for one in lineage)


def restore_model(
    stage: Stage, stored: dict[str, np.ndarray], parent: keras.Model | None, experiment: Experiment, data: datasets.Data
) -> keras.Model:
    """Return the model of a stage from its stored variables, fake-quantized if the stage is quantization-aware.

    Args:
        stored: What `read_arrays` returned for the trained model.
        parent: The parent's model, which a quantization-aware stage wraps again. Other stages need it only if they or
            an ancestor reshape the network.
        experiment: Names the model and the scheme.
        data: Gives the shape of an input and the number of classes.
    """
    from collabopt.techniques import layers, quantization

    if stage.quantizes:
        model = quantization.wrap(parent, quantization.get_preservation(stage, experiment))
        model.set_weights([stored[name] for name in sorted(stored)])
        return model
    if stage.reshapes or stage.function:
        return _import_module(stage).restore(parent, stored)
    if parent:  # of another shape than the experiment's model
        model = layers.clone_model(parent)
        weights.assign(model, stored)
        return model
    return models.restore(experiment.model, stored, *get_ends(data))


def describe_training(
    stage: Stage, parent: str | None, experiment: Experiment, data: datasets.Data
) -> dict[str, object]:
    """Return what decides the weights of a stage, as the key of the store; `parent` names the parent's entry."""
    settings = {name: getattr(experiment, name) for name in ("seed", "threads", *stage.settings)}
    if experiment.weight_bits == 8:
        settings.pop("weight_bits", None)  # stored stages of 8 bits are older than the setting
    material = {
        "stage": stage.name,
        "parent": parent,
        "training": experiment.training(stage.name).model_dump(),
        "settings": settings,
        "task": describe_task(data.task),
        "data": [data.fingerprint, data.train.fingerprint(), data.validation.fingerprint()],
        "input_shape": data.input_shape,
        "versions": tensorflow.read_versions(),
        "deterministic": tensorflow.is_deterministic(),
        "code": compute_code_digests(experiment, data, _locate_trainer(stage), _CHECKPOINT),
    }
    if experiment.devices > 1:
        material["devices"] = experiment.devices
    exclude = experiment.exclude.model_dump(mode="json")
    unquantized = exclude.pop("quantization")
    if stage.prunes or stage.clusters or stage.reshapes:
        material["exclude"] = exclude
    if stage.name == "factorized":
        from collabopt.techniques import low_rank

        material["whole"] = low_rank.list_excluded(experiment)
    if stage.quantizes and unquantized:
        material["unquantized"] = unquantized
    if stage.quantizes:
        material["calibration"] = experiment.calibration
    if stage.function:
        material["function"] = compute_function_digest(stage.function)
    if stage.has_schemes:
        material["scheme"] = experiment.scheme
    if not parent:
        material["model"] = experiment.model.model_dump(include={"name", "function", "path", "head", "custom_objects"})
        if experiment.initial_weights:
            file = datasets.locate(experiment.initial_weights.path, DATA)
            material["initial_weights"] = atomic.compute_files_digest([file])
    return material


def describe_task(task: Task) -> list[str]:
    """Return what decides loss and score of a task: its name, the code of its own modules, and the better direction."""
    functions = filter(None, (task.loss, task.metric))
    parts = [f"{name} {compute_module_digest(one)}" for name in functions for one in user_modules.list_sources(name)]
    return [task.name, *parts, *["lower is better"] * task.score.lower_is_better]


def compute_code_digests(experiment: Experiment, data: datasets.Data, *roots: Callable) -> list[str]:
    """Return digests of the code of a result: the functions `roots`, those of model inputs, and the model."""
    inputs = (tensorflow.seed_everything, datasets.Split, *data.train.code())
    return [compute_digest(*roots, *inputs), models.compute_code_digest(experiment.model)]
