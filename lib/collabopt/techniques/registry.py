"""How each stage of the deployment tree (`stages`) is trained, and how its model is stored and had again."""

import importlib
from collections.abc import Callable

import numpy as np

from collabopt import datasets, models
from collabopt.config.experiment import Experiment
from collabopt.config.loading import DATA
from collabopt.config.stages import Stage
from collabopt.models import weights
from collabopt.runtime.tensorflow import keras
from collabopt.techniques import quantization


def find_trainer(stage: Stage) -> Callable:
    """What trains a stage: (stage, parent's model, data, experiment, checkpoint) -> (model, fit)."""
    module, _, name = stage.trainer.partition(":")
    return getattr(importlib.import_module(f"collabopt.techniques.{module}"), name)


def build_initial_model(plan: Experiment, data: datasets.Data) -> keras.Model:
    """The model that the baseline starts from: initialised by the global seed, or with the given weights."""
    model = models.build(plan.model, data.input_shape, len(data.classes))
    if plan.initial_weights:
        weights.assign(model, weights.read(datasets.locate(plan.initial_weights.path, DATA)))
    return model


def read_arrays(model: keras.Model) -> dict[str, np.ndarray]:
    """All variables of a model: by layer/variable of a plain one, by position of a quantize-wrapped one."""
    if quantization.is_wrapped(model):
        return {f"{index:05d}": array for index, array in enumerate(model.get_weights())}
    return weights.get_arrays(model)


def restore_model(
    stage: Stage, stored: dict[str, np.ndarray], parent: keras.Model | None, plan: Experiment, data: datasets.Data
) -> keras.Model:
    """The model of a stage from its `arrays`: plain, or of a QAT stage `parent` wrapped again by its scheme."""
    if stage.quantizes:
        model = quantization.wrap(parent, quantization.get_preservation(stage, plan))
        model.set_weights([stored[name] for name in sorted(stored)])
        return model
    model = models.build(plan.model, data.input_shape, len(data.classes))
    weights.assign(model, stored)
    return model
