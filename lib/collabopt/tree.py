"""The deployment tree as data: a stage is a row with its parent, its function and what it must keep.

baseline ─┬─ qat
          ├─ pruned ─┬─ pqat
          │          └─ sparse_clustered ── pcqat
          └─ clustered ── cqat
"""

import dataclasses
from collections.abc import Callable
from types import ModuleType

import numpy as np

from collabopt import centroids, cluster, datasets, models, preserve, progress, prune, quantize, training
from collabopt.backend import keras
from collabopt.experiment import DATA, Experiment
from collabopt.models import weights


def _baseline(model: keras.Model, data: datasets.Data, plan: Experiment) -> tuple[keras.Model, training.Fit]:
    clock = progress.Clock()
    return model, training.fit(model, data, plan.baseline_training, plan.seed, "baseline", clock)


def _pruned(parent: keras.Model, data: datasets.Data, plan: Experiment) -> tuple[keras.Model, training.Fit]:
    return prune.fine_tune(parent, data, plan.sparsity, plan.stages.pruned, plan.exclude.pruning, plan.seed)


def _clusters(name: str, preserve_sparsity: bool) -> Callable:
    def train(parent: keras.Model, data: datasets.Data, plan: Experiment) -> tuple[keras.Model, training.Fit]:
        clusters = cluster.Clusters(
            plan.number_of_clusters,
            preserve_sparsity,
            plan.cluster_per_channel,
            plan.centroid_initialization,
            plan.exclude.clustering,
        )
        how = getattr(plan.stages, name)
        return cluster.fine_tune(parent, data, clusters, how, plan.seed, name, plan.scheme)

    return train


def _quantizes(name: str) -> Callable:
    def train(parent: keras.Model, data: datasets.Data, plan: Experiment) -> tuple[keras.Model, training.Fit]:
        return quantize.fine_tune(parent, data, getattr(plan.stages, name), plan.seed, name, kept(TREE[name], plan))

    return train


@dataclasses.dataclass(frozen=True)
class Stage:
    """A node of the deployment tree.

    train: (parent's model, data, experiment) -> (model, fit), of `modules`. knobs: the experiment's values that it
    takes beside its own section. keeps_zeros, clusters: whether it must keep its parent's zeros, hold k values a
    kernel.
    has_schemes: whether there is a scheme of ours beside TFMOT's.
    """

    name: str
    title: str
    parent: str | None
    train: Callable
    modules: tuple[ModuleType, ...]
    knobs: tuple[str, ...] = ()
    prunes: bool = False
    keeps_zeros: bool = False
    clusters: bool = False
    quantizes: bool = False
    has_schemes: bool = False


_QUANTIZING = (quantize, preserve)
_CLUSTERING = ("number_of_clusters", "cluster_per_channel", "centroid_initialization")

TREE = {
    stage.name: stage
    for stage in (
        Stage("baseline", "Baseline", None, _baseline, (training,)),
        Stage("qat", "QAT", "baseline", _quantizes("qat"), _QUANTIZING, quantizes=True),
        Stage("pruned", "Pruned", "baseline", _pruned, (prune,), ("sparsity",), prunes=True),
        Stage(
            "pqat",
            "PQAT",
            "pruned",
            _quantizes("pqat"),
            _QUANTIZING,
            keeps_zeros=True,
            quantizes=True,
            has_schemes=True,
        ),
        Stage(
            "clustered",
            "Clustered",
            "baseline",
            _clusters("clustered", preserve_sparsity=False),
            (cluster, centroids, preserve),
            _CLUSTERING,
            clusters=True,
            has_schemes=True,
        ),
        Stage(
            "cqat",
            "CQAT",
            "clustered",
            _quantizes("cqat"),
            _QUANTIZING,
            ("cluster_per_channel",),
            clusters=True,
            quantizes=True,
            has_schemes=True,
        ),
        Stage(
            "sparse_clustered",
            "Sparse clustered",
            "pruned",
            _clusters("sparse_clustered", preserve_sparsity=True),
            (cluster, centroids, preserve),
            _CLUSTERING,
            keeps_zeros=True,
            clusters=True,
            has_schemes=True,
        ),
        Stage(
            "pcqat",
            "PCQAT",
            "sparse_clustered",
            _quantizes("pcqat"),
            _QUANTIZING,
            ("cluster_per_channel",),
            keeps_zeros=True,
            clusters=True,
            quantizes=True,
            has_schemes=True,
        ),
    )
}
"""Every stage by name, parents first."""


def lineage(name: str) -> list[Stage]:
    """The stage and its ancestors, the baseline first."""
    stage = TREE[name]
    return [*(lineage(stage.parent) if stage.parent else []), stage]


def kept(stage: Stage, plan: Experiment) -> quantize.Keep:
    """What a stage's quantization-aware training must keep."""
    clusters = ("channel" if plan.cluster_per_channel else "tensor") if stage.clusters else None
    return quantize.Keep(stage.keeps_zeros, clusters, plan.exclude.clustering, plan.scheme)


def initial_model(plan: Experiment, data: datasets.Data) -> keras.Model:
    """The model that the baseline starts from: initialised by the global seed, or with the given weights."""
    model = models.build(plan.model, data.input_shape, len(data.classes))
    if plan.initial_weights:
        weights.assign(model, weights.read(datasets.located(plan.initial_weights.path, DATA)))
    return model


def arrays(model: keras.Model) -> dict[str, np.ndarray]:
    """All variables of a model: by layer/variable of a plain one, by position of a quantize-wrapped one."""
    if quantize.is_wrapped(model):
        return {f"{index:05d}": array for index, array in enumerate(model.get_weights())}
    return weights.arrays(model)


def restore(
    stage: Stage, stored: dict[str, np.ndarray], parent: keras.Model | None, plan: Experiment, data: datasets.Data
) -> keras.Model:
    """The model of a stage from its `arrays`: plain, or of a QAT stage `parent` wrapped again by its scheme."""
    if stage.quantizes:
        model = quantize.wrap(parent, stage.name, kept(stage, plan))
        model.set_weights([stored[name] for name in sorted(stored)])
        return model
    model = models.build(plan.model, data.input_shape, len(data.classes))
    weights.assign(model, stored)
    return model
