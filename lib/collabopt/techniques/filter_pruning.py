"""Filter pruning: whole output channels are removed, and the smaller network is trained to make up for them.

The result is an ordinary network, faster on every host. Filters are ranked across the network by their L2 norm relative
to the mean of their layer (He et al. 2019, arXiv:1811.00250, and Li et al. 2017, arXiv:1608.08710, compare such
criteria). Channels that additions tie are removed together. `channels` follows them through the network.
"""

import dataclasses
import math

import numpy as np

from collabopt.config.experiment import Experiment
from collabopt.config.stages import Stage
from collabopt.datasets import Data
from collabopt.models import weights
from collabopt.runtime import progress
from collabopt.runtime.tensorflow import keras
from collabopt.techniques import channels, layers, training
from collabopt.techniques.checkpoints import Checkpoint
from collabopt.techniques.replacement import Replacement, copy_layer, replace_layers

_LEAST_SHARE, _LEAST = 0.1, 2
"""Every layer keeps this share of its filters, and this number."""


@dataclasses.dataclass(frozen=True)
class Filters:
    """The filters of a network that can be removed.

    Attributes:
        by_layer: Channel of each filter (out,), by name of the layer; 0 for one that stays.
        norms: L2 norm of each filter relative to the mean of its layer (out,), by name of the layer.
    """

    channels: channels.Channels
    by_layer: dict[str, np.ndarray]
    norms: dict[str, np.ndarray]

    @property
    def count(self) -> int:
        """Number of the filters that can be removed."""
        return sum(np.count_nonzero(one) for one in self.by_layer.values())


def train(
    stage: Stage, parent: keras.Model, data: Data, experiment: Experiment, checkpoint: Checkpoint
) -> tuple[keras.Model, training.Fit]:
    """Remove filters of a stage's parent. Return the smaller plain model with the record of its training.

    A trainer (`registry.find_trainer`) by the settings of `experiment`, from `checkpoint` on. `parent` stays as it is.
    """
    section, clock = experiment.training(stage.name), progress.Clock()
    filters = find_filters(parent, experiment.exclude.pruning)
    removed = choose(filters, experiment.filter_sparsity)
    for line in describe(filters, removed):
        progress.log(f"{stage.name}: {line}", about=stage.name)
    model = remove(parent, filters.channels, removed)
    return model, training.fit(model, data, section, experiment.seed, stage.name, clock, checkpoint=checkpoint)


def find_filters(model: keras.Model, exclude: tuple[str, ...] = ()) -> Filters:
    """Return the filters of a plain `model` that can be removed; layers of `exclude` keep all."""
    followed = channels.follow(model)
    found = [layer for layer in model.layers if layer.name in followed.outputs and layers.is_eligible(layer)]
    for layer in found:
        if layer.name in exclude:
            followed.fix(followed.outputs[layer.name])
    by_layer, norms = {}, {}
    for layer in found:
        (kernel,) = layers.read_layer_kernels(layer).values()
        norm = np.linalg.norm(kernel.reshape(-1, kernel.shape[-1]), axis=0)
        by_layer[layer.name] = followed.find(followed.outputs[layer.name])
        norms[layer.name] = norm / max(norm.mean(), np.finfo(np.float32).tiny)
    return Filters(followed, by_layer, norms)


def choose(filters: Filters, sparsity: float) -> set[int]:
    """Return the channels to remove, those with the smallest filters first.

    Args:
        filters: The filters of the network.
        sparsity: Fraction of the removable filters to remove, in [0, 1). Where too few can go, because every layer
            keeps some, fewer are removed.
    """
    members = {}
    for layer, numbers in filters.by_layer.items():
        for number, norm in zip(numbers, filters.norms[layer], strict=True):
            members.setdefault(number, []).append((layer, norm))
    members.pop(0, None)
    kept = {layer: len(numbers) for layer, numbers in filters.by_layer.items()}
    least = {layer: min(size, max(_LEAST, math.ceil(_LEAST_SHARE * size))) for layer, size in kept.items()}
    wanted, removed, count = round(sparsity * filters.count), set(), 0
    for number in sorted(members, key=lambda one: np.mean([norm for _, norm in members[one]])):
        names = [layer for layer, _ in members[number]]
        fits = all(kept[name] - names.count(name) >= least[name] for name in names)
        if fits and count + len(names) <= wanted:
            removed.add(int(number))
            count += len(names)
            for name in names:
                kept[name] -= 1
    return removed


def describe(filters: Filters, removed: set[int]) -> list[str]:
    """Return lines on what is `removed` of the `filters`, and what could not be followed."""
    sizes, count = [], 0
    for layer, numbers in filters.by_layer.items():
        gone = int(np.isin(numbers, list(removed)).sum())
        count += gone
        sizes += [f"{layer} {len(numbers)} → {len(numbers) - gone}"] if gone else []
    lines = [f"{count} of {filters.count} filters removed: {', '.join(sizes) or 'none'}"]
    unknown = ", ".join(f"{name} ({kind})" for name, kind in filters.channels.unknown.items())
    return [*lines, *([f"cannot follow {unknown}; the channels there stay"] if unknown else [])]


def remove(model: keras.Model, followed: channels.Channels, removed: set[int]) -> keras.Model:
    """Remove channels from a model. Return the smaller plain model, with the same names of layers.

    Args:
        model: A plain model; it stays as it is.
        followed: Its channels.
        removed: The channels to remove.
    """

    def keep(numbers: np.ndarray) -> np.ndarray:
        return ~np.isin(followed.find(numbers), list(removed))

    arrays = {}
    for layer in model.layers:
        name = layer.name
        if name not in followed.outputs:
            arrays[name] = layer.get_weights()
            continue
        taken, kept = keep(followed.inputs[name]), keep(followed.outputs[name])
        arrays[name] = [_select(layer, array, taken, kept) for array in layer.get_weights()]
    return _resize(model, arrays)


def restore(parent: keras.Model, arrays: dict[str, np.ndarray]) -> keras.Model:
    """Return the model of a stage that removed filters.

    Args:
        parent: The parent's plain model.
        arrays: Arrays of the stage by layer/variable. Their shapes decide the sizes of layers.
    """
    keys = {id(variable): key for key, variable in weights.get_variables(parent).items()}
    by_layer = {layer.name: [arrays[keys[id(one)]] for one in layer.weights] for layer in parent.layers}
    return _resize(parent, by_layer)


class _Reshape(Replacement):
    """A reshape whose last axis follows the number of channels of its input."""

    def __init__(self, layer: keras.layers.Reshape) -> None:
        self.layer, self.fitting = layer, None

    def __call__(self, inputs):
        before, now = self.layer.input_shape[-1], inputs.shape[-1]
        *others, last = self.layer.target_shape
        last = last if now == before else self.layer.output_shape[-1] // before * now
        self.fitting = self.fitting or copy_layer(self.layer, target_shape=(*others, last))
        return self.fitting(inputs)


def _resize(model: keras.Model, arrays: dict[str, list[np.ndarray]]) -> keras.Model:
    """A model with arrays of other sizes, by name of the layer."""

    def find_replacement(layer: keras.layers.Layer) -> Replacement | None:
        if isinstance(layer, keras.layers.Reshape):
            return _Reshape(layer)
        if not layer.weights:
            return None
        size = {"dense": "units", "conv2d": "filters", "conv2d_transpose": "filters"}.get(layers.get_kind(layer))
        kernel = arrays[layer.name][0]
        changes = {size: kernel.shape[layers.get_channel_axis(layer)]} if size else {}
        return Replacement([(copy_layer(layer, **changes), arrays[layer.name])])

    smaller = replace_layers(model, find_replacement)
    return keras.Model(smaller.inputs, smaller.outputs, name=model.name)


def _select(layer: keras.layers.Layer, array: np.ndarray, taken: np.ndarray, kept: np.ndarray) -> np.ndarray:
    """The part of an array of a layer that remains with some of its inputs and outputs."""
    kind = layers.get_kind(layer)
    if array.ndim == 1 or kind is None:  # bias, batch norm, or the slopes of PReLU, which may be shared on the axis
        return array if array.shape[-1] == 1 != len(kept) else array[..., kept]
    if kind == "depthwise":
        return array[:, :, taken]
    if kind == "conv2d_transpose":
        return array[:, :, kept][..., taken]
    return array[..., taken, :][..., kept]
