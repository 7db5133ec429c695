"""The training of a stage, and what of it is stored."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np

from collabopt import datasets
from collabopt.config.experiment import Experiment
from collabopt.config.stages import Stage
from collabopt.runtime import devices, tensorflow
from collabopt.runtime.tensorflow import keras
from collabopt.techniques import registry, user_stage
from collabopt.techniques.checkpoints import Checkpoint


def write_trained(
    directory: Path,
    stage: Stage,
    build_start: Callable[[], keras.Model],
    data: datasets.Data,
    experiment: Experiment,
    checkpoint: Path,
    get_model: Callable[[str], keras.Model],
) -> keras.Model:
    """Train a stage from what `build_start` returns or a `checkpoint`, write weights.npz, history.csv and fit.json to a
    `directory`, and return the model. `get_model` returns that of a finished stage.
    """
    tensorflow.seed_everything(experiment.seed)
    with devices.make_scope(experiment.devices):
        train, start = registry.find_trainer(stage), build_start()
        data = registry.add_augmentation(registry.add_teacher(data, stage, experiment, get_model), experiment)
        model, fit = train(stage, start, data, experiment, Checkpoint(checkpoint))
    architecture = user_stage.describe_architecture(model) if stage.function else {}
    np.savez(directory / "weights.npz", **registry.read_arrays(model), **architecture)
    fit.history.to_csv(directory / "history.csv", index=False)
    record = {"setup_seconds": fit.setup_seconds, "fit_seconds": fit.fit_seconds, "epochs": len(fit.history)}
    (directory / "fit.json").write_text(json.dumps(record | fit.details))
    return model
