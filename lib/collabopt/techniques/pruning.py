"""Magnitude pruning: the smallest weights of each kernel become zero, and the others are trained to make up for them.

A kernel with many zeros compresses well, and often costs no accuracy (Han et al. 2015, arXiv:1506.02626). TFMOT holds
one mask per kernel and renews it while the sparsity rises or is held (Zhu and Gupta 2017, arXiv:1710.01878). Its
wrappers stay inside this module: plain Keras models go in and come out.
"""

import functools
import math
from collections.abc import Mapping

import numpy as np

from collabopt.config import per_layer
from collabopt.config.experiment import Experiment
from collabopt.config.sections import Pruning
from collabopt.config.stages import Stage
from collabopt.datasets import Data
from collabopt.runtime import progress
from collabopt.runtime.tensorflow import keras, tfmot
from collabopt.techniques import layers, patterns, training
from collabopt.techniques.checkpoints import NO_CHECKPOINT, Checkpoint
from collabopt.techniques.layers import is_eligible


def train(
    stage: Stage, parent: keras.Model, data: Data, experiment: Experiment, checkpoint: Checkpoint
) -> tuple[keras.Model, training.Fit]:
    """Prune a clone of a stage's parent while training it. Return it with the record of its training.

    A trainer (`registry.find_trainer`) by the settings of `experiment`, from `checkpoint` on. `parent` stays as it is.
    """
    section, exclude = experiment.training(stage.name), patterns.exclude_skipped(experiment, parent).exclude.pruning
    for name, reason in patterns.find_misfits(parent, experiment).items():
        progress.log(f"{stage.name}: layer {name} is not pruned: {reason}", about=stage.name)
    options = exclude, experiment.seed, stage.name, checkpoint, experiment.sparsity_pattern
    return fine_tune(parent, data, experiment.sparsity, section, *options)


def make_schedule(sparsity: float, section: Pruning, steps_per_epoch: int):
    """Return TFMOT's schedule of sparsity by training step (Zhu and Gupta 2017, arXiv:1710.01878).

    Steps count from 1. The mask is renewed at begin, begin + frequency, and so on up to the end. A short training must
    reach its target too, so the schedule begins at a step that exists and ends at one that renews the mask.

    Args:
        sparsity: Target fraction of zeros in [0, 1).
        section: The schedule's kind, its epochs and the steps between two masks.
        steps_per_epoch: Training steps per epoch.
    """
    begin = round(section.begin_epoch * steps_per_epoch)
    if section.sparsity_schedule == "constant":
        return tfmot.sparsity.keras.ConstantSparsity(sparsity, begin_step=max(1, begin), frequency=section.frequency)
    span = max(1, round(section.end_epoch * steps_per_epoch) - begin)
    frequency = min(section.frequency, span)
    return tfmot.sparsity.keras.PolynomialDecay(
        min(section.initial_sparsity, sparsity),
        sparsity,
        begin_step=begin,
        end_step=begin + span // frequency * frequency,
        frequency=frequency,
    )


def fine_tune(
    model: keras.Model,
    data: Data,
    sparsity: float | Mapping[str, float],
    section: Pruning,
    exclude: tuple[str, ...] = (),
    seed: int = 0,
    stage: str = "pruned",
    checkpoint: Checkpoint = NO_CHECKPOINT,
    pattern: str = "unstructured",
) -> tuple[keras.Model, training.Fit]:
    """Prune a clone of a model while training it. Return it with the record of its training.

    Args:
        model: A plain model; it stays as it is.
        data: Training and validation splits.
        sparsity: Fraction of zeros that each eligible kernel reaches, in [0, 1), or fractions by layer.
        section: How to train, and the sparsity schedule.
        exclude: Names of layers that are not pruned.
        seed: Decides the order of examples and their augmentation.
        stage: Name of the stage in progress lines.
        checkpoint: Where training continues from and saves its state.
        pattern: "unstructured", or that of `patterns`. It must fit every layer that is pruned.

    Raises:
        RuntimeError: A kernel ends without its pattern, or with fewer zeros than asked for.
    """
    clock = progress.Clock()
    steps = math.ceil(len(data.train) / section.batch_size)

    def wrap(layer: keras.layers.Layer) -> keras.layers.Layer:
        clone = layer.__class__.from_config(layer.get_config())
        if not is_eligible(layer) or layer.name in exclude:
            return clone
        schedule = make_schedule(per_layer.get_value(sparsity, layer.name), section, steps)
        clone.get_prunable_weights = functools.partial(_list_kernels, clone)
        if pattern == "unstructured":
            wrapper = tfmot.sparsity.keras.prune_low_magnitude(clone, pruning_schedule=schedule)
        else:
            wrapper = patterns.PatternLayer(clone, pattern, pruning_schedule=schedule)
        layers.pass_masks(wrapper, clone)
        return wrapper

    wrapped = keras.models.clone_model(model, clone_function=wrap)
    for before, after in zip(model.layers, wrapped.layers, strict=True):
        getattr(after, "layer", after).set_weights(before.get_weights())
    fit = training.fit(
        wrapped, data, section, seed, stage, clock, [tfmot.sparsity.keras.UpdatePruningStep()], checkpoint
    )
    pruned = layers.clone_model(model, tfmot.sparsity.keras.strip_pruning(wrapped).get_weights())
    _check_sparsity(pruned, model, sparsity, exclude, pattern)
    return pruned, fit


def _list_kernels(layer: keras.layers.Layer) -> list:
    """The variables that TFMOT prunes. It knows transposed, recurrent and bidirectional layers only in part."""
    return [getattr(owner, attribute) for owner, attribute in layers.find_kernels(layer).values()]


def _check_sparsity(
    pruned: keras.Model,
    parent: keras.Model,
    setting: float | Mapping[str, float],
    exclude: tuple[str, ...],
    pattern: str,
) -> None:
    for layer, before in zip(pruned.layers, parent.layers, strict=True):
        sparsity = per_layer.get_value(setting, layer.name)
        pruned_kernels = layers.read_layer_kernels(layer) if is_eligible(layer) and layer.name not in exclude else {}
        for name, kernel in pruned_kernels.items():
            if pattern != "unstructured" and (defect := patterns.find_defect(kernel, pattern, sparsity)):
                raise RuntimeError(
                    f"pruned: layer {name}: {defect}; give pruning more epochs or an earlier begin_epoch"
                )
            # A small kernel cannot hold every fraction of zeros. TFMOT keeps all weights that equal the threshold, and
            # in a parent that was quantized these are many. Zeros of the parent must stay.
            magnitudes = np.abs(layers.read_layer_kernels(before)[name])
            threshold = np.quantile(magnitudes, sparsity, method="lower")
            smallest = np.mean((magnitudes < threshold) | (magnitudes == 0))
            if np.mean(kernel == 0) < min(sparsity, smallest) - max(0.01, 1 / kernel.size):
                raise RuntimeError(
                    f"pruned: layer {name} reached sparsity {np.mean(kernel == 0):.3f} instead of {sparsity}; "
                    "give pruning more epochs, an earlier begin_epoch or a lower frequency"
                )
