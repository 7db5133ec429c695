"""Low rank: a layer becomes two or three smaller ones that compute nearly the same with fewer multiplications.

The kernel of a dense layer or 1×1 convolution is split in two by a truncated singular value decomposition. That of a
k×k convolution is split in three, a 1×1, a k×k and a 1×1 convolution, by the Tucker-2 decomposition (Kim et al. 2016,
arXiv:1511.06530), here from the singular vectors of its unfoldings. Only layers that save multiplications are split.
"""

import dataclasses

import numpy as np

from collabopt.config import per_layer
from collabopt.config.experiment import Experiment
from collabopt.config.stages import Stage
from collabopt.datasets import Data
from collabopt.models import weights as model_weights
from collabopt.runtime import progress
from collabopt.runtime.tensorflow import keras
from collabopt.techniques import layers, training
from collabopt.techniques.checkpoints import Checkpoint
from collabopt.techniques.multiplications import count_multiplications, count_positions
from collabopt.techniques.replacement import Replacement, copy_layer, replace_layers

_HALVINGS = 30


@dataclasses.dataclass(frozen=True)
class Spectra:
    """What decides the ranks of a kernel.

    Attributes:
        squares: Squared singular values, the largest first, of the kernel as a matrix, or of both unfoldings (in, out).
        cost: Multiplications of the layer.
    """

    layer: keras.layers.Layer
    squares: tuple[np.ndarray, ...]
    cost: int

    def choose(self, energy: float) -> tuple[int, ...]:
        """Return the smallest ranks that keep a share `energy`, in [0, 1], of the squared singular values."""
        shares = [np.cumsum(one) / max(one.sum(), np.finfo(float).tiny) for one in self.squares]
        return tuple(min(1 + int(np.searchsorted(one, energy - 1e-12)), len(one)) for one in shares)

    def count(self, ranks: tuple[int, ...]) -> int:
        """Return the multiplications of the layer split at one rank, or two `ranks` of inputs and outputs."""
        kernel, (before, after) = self.layer.kernel.shape, count_positions(self.layer)
        taken, made = kernel[-2], kernel[-1]
        if len(ranks) == 1:
            return after * ranks[0] * (taken + made)
        area = kernel[0] * kernel[1]
        return before * taken * ranks[0] + after * (area * ranks[0] * ranks[1] + ranks[1] * made)


def train(
    stage: Stage, parent: keras.Model, data: Data, experiment: Experiment, checkpoint: Checkpoint
) -> tuple[keras.Model, training.Fit]:
    """Split layers of a stage's parent. Return the plain model with the record of its training.

    A trainer (`registry.find_trainer`) by the settings of `experiment`, from `checkpoint` on. `parent` stays as it is.
    """
    section, clock = experiment.training(stage.name), progress.Clock()
    ranks = choose_ranks(parent, experiment)
    parts = ", ".join(f"{name} at rank {' and '.join(map(str, of_layer))}" for name, of_layer in ranks.items())
    progress.log(f"{stage.name}: {parts or 'no layer'} split", about=stage.name)
    model = factorize(parent, ranks)
    return model, training.fit(model, data, section, experiment.seed, stage.name, clock, checkpoint=checkpoint)


def find_spectra(model: keras.Model, exclude: tuple[str, ...] = ()) -> dict[str, Spectra]:
    """Return the singular values of layers of a plain `model` to split, by name; those of `exclude` stay whole."""
    found = {}
    for layer in model.layers:
        is_kind = layers.get_kind(layer) in ("dense", "conv2d") and getattr(layer, "groups", 1) == 1
        if not is_kind or not layer.trainable or layer.name in exclude or None in count_positions(layer):
            continue
        kernel, cost = layer.kernel.numpy(), count_multiplications(layer)
        squares = tuple(np.linalg.svd(one, compute_uv=False) ** 2 for one in _unfold(kernel))
        found[layer.name] = Spectra(layer, squares, cost)
    return found


def list_excluded(experiment: Experiment) -> tuple[str, ...]:
    """Return the layers that stay whole, because `exclude` or a setting per layer names them."""
    excluded = {name for names in experiment.exclude.model_dump().values() for name in names}
    own = [per_layer.list_layers(setting) for setting in (experiment.sparsity, experiment.number_of_clusters)]
    return tuple(excluded.union(*own))


def choose_ranks(model: keras.Model, experiment: Experiment) -> dict[str, tuple[int, ...]]:
    """Choose the ranks of the layers to split.

    Args:
        model: A plain model.
        experiment: Gives `rank_energy`, the share of squared singular values to keep in each layer, and `max_flops`,
            the share of the model's multiplications that may remain. The share kept is lowered to meet it.

    Returns:
        Ranks by name of the layer: one of a dense layer or 1×1 convolution, else those of inputs and outputs.

    Raises:
        ValueError: More multiplications remain at rank 1.
    """
    spectra = find_spectra(model, list_excluded(experiment))
    total, limit = sum(map(count_multiplications, model.layers)), experiment.max_flops

    def choose(energy: float) -> tuple[dict[str, tuple[int, ...]], float]:
        ranks = {name: one.choose(energy) for name, one in spectra.items()}
        ranks = {name: one for name, one in ranks.items() if spectra[name].count(one) < spectra[name].cost}
        saved = sum(spectra[name].cost - spectra[name].count(one) for name, one in ranks.items())
        return ranks, (total - saved) / total

    low, high = 0.0, experiment.rank_energy or 1.0
    chosen, share = choose(high)
    if limit is None or share <= limit:
        return chosen
    chosen, share = choose(low)
    if share > limit:
        raise ValueError(f"max_flops={limit}: {share:.3f} of the multiplications remain at rank 1; raise max_flops")
    for _ in range(_HALVINGS):
        middle = (low + high) / 2
        ranks, share = choose(middle)
        if share <= limit:
            low, chosen = middle, ranks
        else:
            high = middle
    return chosen


def factorize(model: keras.Model, ranks: dict[str, tuple[int, ...]]) -> keras.Model:
    """Return a plain `model` with layers split at `ranks`, by name: `conv` into `conv_1`, `conv_2` (and `conv_3`)."""
    kernels = {name: _decompose(model.get_layer(name).kernel.numpy(), one) for name, one in ranks.items()}
    return _split(model, {name: (parts, model.get_layer(name).bias) for name, parts in kernels.items()})


def restore(parent: keras.Model, arrays: dict[str, np.ndarray]) -> keras.Model:
    """Return the model of a stage that split layers.

    Args:
        parent: The parent's plain model.
        arrays: Arrays of the stage by layer/variable. Their names and shapes say how layers were split.
    """
    split = {}
    for layer in parent.layers:
        base = _name_parts(parent, layer)
        kernels = [arrays[key] for number in (1, 2, 3) if (key := f"{base}_{number}/kernel") in arrays]
        if kernels and layers.get_kind(layer) in ("dense", "conv2d"):
            split[layer.name] = kernels, layer.bias
    model = _split(parent, split)
    model_weights.assign(model, arrays)
    return model


def _unfold(kernel: np.ndarray) -> list[np.ndarray]:
    """The kernel as matrices: (in, out) of a dense or 1×1 kernel, else its unfoldings (in, ·) and (out, ·)."""
    if kernel.ndim == 2 or kernel.shape[:2] == (1, 1):
        return [kernel.reshape(kernel.shape[-2:])]
    return [np.moveaxis(kernel, axis, 0).reshape(kernel.shape[axis], -1) for axis in (2, 3)]


def _decompose(kernel: np.ndarray, ranks: tuple[int, ...]) -> list[np.ndarray]:
    if len(ranks) == 1:
        left, values, right = np.linalg.svd(_unfold(kernel)[0], full_matrices=False)
        root, (rank,) = np.sqrt(values[: ranks[0]]), ranks
        parts = [left[:, :rank] * root, root[:, None] * right[:rank]]
        return [part if kernel.ndim == 2 else part[None, None] for part in parts]
    bases = [
        np.linalg.svd(one, full_matrices=False)[0][:, :rank] for one, rank in zip(_unfold(kernel), ranks, strict=True)
    ]
    taken, made = bases
    core = np.einsum("hwio,ir,os->hwrs", kernel, taken, made)
    return [taken[None, None], core, made.T[None, None]]


def _split(model: keras.Model, split: dict[str, tuple[list[np.ndarray], object]]) -> keras.Model:
    """A model in which layers, by name, are chains of layers with these kernels, and the bias at the end."""

    def find_replacement(layer: keras.layers.Layer) -> Replacement | None:
        if layer.name not in split:
            return None
        kernels, bias = split[layer.name]
        base, plain = _name_parts(model, layer), {"use_bias": False, "activation": "linear"}
        sizes = ["units" if layers.get_kind(layer) == "dense" else "filters"] * len(kernels)
        changes = [{size: one.shape[-1]} | plain for size, one in zip(sizes, kernels, strict=True)]
        changes[-1] = {}
        if sizes[0] == "filters":
            point = {"kernel_size": 1, "strides": 1, "padding": "valid", "dilation_rate": 1}
            changes[-1] = point
            changes[0] |= point if len(kernels) == 3 else {}
        chain = []
        for number, (change, kernel) in enumerate(zip(changes, kernels, strict=True), 1):
            weights = [kernel, *([bias.numpy()] if number == len(kernels) and bias is not None else [])]
            chain.append((copy_layer(layer, name=f"{base}_{number}", **change), weights))
        return Replacement(chain)

    found = replace_layers(model, find_replacement)
    return keras.Model(found.inputs, found.outputs, name=model.name) if split else layers.clone_model(model)


def _name_parts(model: keras.Model, layer: keras.layers.Layer) -> str:
    """What the names of the parts of a layer begin with: its name, longer where a part would be named like a layer."""
    names, base = {one.name for one in model.layers}, layer.name
    while any(f"{base}_{number}" in names for number in (1, 2, 3)):
        base += "_part"
    return base
