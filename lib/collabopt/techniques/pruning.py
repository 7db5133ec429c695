"""Magnitude pruning by TFMOT. Wrappers stay in this module: plain Keras models go in and come out."""

import math

import numpy as np

from collabopt.config.experiment import Experiment, Pruning
from collabopt.config.stages import Stage
from collabopt.datasets import Data
from collabopt.runtime import progress
from collabopt.runtime.tensorflow import keras, tfmot
from collabopt.techniques import layers, training
from collabopt.techniques.checkpoints import NO_CHECKPOINT, Checkpoint
from collabopt.techniques.layers import is_eligible


def train(
    stage: Stage, parent: keras.Model, data: Data, experiment: Experiment, checkpoint: Checkpoint
) -> tuple[keras.Model, training.Fit]:
    """Train a stage that prunes its parent."""
    section, exclude = experiment.training(stage.name), experiment.exclude.pruning
    return fine_tune(parent, data, experiment.sparsity, section, exclude, experiment.seed, stage.name, checkpoint)


def make_schedule(sparsity: float, how: Pruning, steps_per_epoch: int):
    """The sparsity to hold or to climb to, by training step (Zhu and Gupta 2017, arXiv:1710.01878).

    Steps count from 1, and a mask is renewed at begin, begin + frequency, ... up to the end; so that a short training
    reaches its target too, it begins at a step that there is and ends on one where the mask is renewed.
    """
    begin = round(how.begin_epoch * steps_per_epoch)
    if how.sparsity_schedule == "constant":
        return tfmot.sparsity.keras.ConstantSparsity(sparsity, begin_step=max(1, begin), frequency=how.frequency)
    span = max(1, round(how.end_epoch * steps_per_epoch) - begin)
    every = min(how.frequency, span)
    return tfmot.sparsity.keras.PolynomialDecay(
        how.initial_sparsity,
        sparsity,
        begin_step=begin,
        end_step=begin + span // every * every,
        frequency=every,
    )


def fine_tune(
    model: keras.Model,
    data: Data,
    sparsity: float,
    how: Pruning,
    exclude: tuple[str, ...] = (),
    seed: int = 0,
    stage: str = "pruned",
    checkpoint: Checkpoint = NO_CHECKPOINT,
) -> tuple[keras.Model, training.Fit]:
    """Train a clone of `model` until a fraction `sparsity` of each kernel is zero, but in the layers of `exclude`.

    Raises RuntimeError when a kernel is not as sparse in the end as was asked.
    """
    clock = progress.Clock()
    steps = make_schedule(sparsity, how, math.ceil(len(data.train) / how.batch_size))

    def wrap(layer: keras.layers.Layer) -> keras.layers.Layer:
        clone = layer.__class__.from_config(layer.get_config())
        if not is_eligible(layer) or layer.name in exclude:
            return clone
        return tfmot.sparsity.keras.prune_low_magnitude(clone, pruning_schedule=steps)

    wrapped = keras.models.clone_model(model, clone_function=wrap)
    for before, after in zip(model.layers, wrapped.layers, strict=True):
        getattr(after, "layer", after).set_weights(before.get_weights())
    fit = training.fit(wrapped, data, how, seed, stage, clock, [tfmot.sparsity.keras.UpdatePruningStep()], checkpoint)
    pruned = layers.clone_model(model, tfmot.sparsity.keras.strip_pruning(wrapped).get_weights())
    _demand(pruned, sparsity, exclude)
    return pruned, fit


def _demand(pruned: keras.Model, sparsity: float, exclude: tuple[str, ...]) -> None:
    for layer in pruned.layers:
        if is_eligible(layer) and layer.name not in exclude:
            kernel = layer.kernel.numpy()
            # A kernel of few weights cannot be cut anywhere; of equal weights at the threshold all are kept.
            if np.mean(kernel == 0) < sparsity - max(0.01, 1 / kernel.size):
                raise RuntimeError(
                    f"pruned: {layer.name} reached sparsity {np.mean(kernel == 0):.3f} instead of {sparsity}; "
                    "give pruning more epochs, an earlier begin_epoch or a lower frequency"
                )
