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

from collabopt import cluster, datasets, models, progress, prune, quantize, training
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
        return cluster.fine_tune(
            parent,
            data,
            plan.number_of_clusters,
            getattr(plan.stages, name),
            preserve_sparsity=preserve_sparsity,
            per_channel=plan.cluster_per_channel,
            centroid_initialization=plan.centroid_initialization,
            exclude=plan.exclude.clustering,
            seed=plan.seed,
            stage=name,
        )

    return train


def _quantizes(name: str) -> Callable:
    def train(parent: keras.Model, data: datasets.Data, plan: Experiment) -> tuple[keras.Model, training.Fit]:
        return quantize.fine_tune(parent, data, getattr(plan.stages, name), plan.seed, name)

    return train


@dataclasses.dataclass(frozen=True)
class Stage:
    """A node of the deployment tree.

    train: (parent's model, data, experiment) -> (model, fit), of `module`. knobs: the experiment's values that it takes
    beside its own section. keeps_zeros, clusters: whether it must keep its parent's zeros, hold k values a kernel.
    scheme: whose it is, where there is more than one.
    """

    name: str
    title: str
    parent: str | None
    train: Callable
    module: ModuleType
    knobs: tuple[str, ...] = ()
    prunes: bool = False
    keeps_zeros: bool = False
    clusters: bool = False
    quantizes: bool = False
    scheme: str = ""


_CLUSTERING = ("number_of_clusters", "cluster_per_channel", "centroid_initialization")

TREE = {
    stage.name: stage
    for stage in (
        Stage("baseline", "Baseline", None, _baseline, training),
        Stage("qat", "QAT", "baseline", _quantizes("qat"), quantize, quantizes=True),
        Stage("pruned", "Pruned", "baseline", _pruned, prune, ("sparsity",), prunes=True),
        Stage("pqat", "PQAT", "pruned", _quantizes("pqat"), quantize, keeps_zeros=True, quantizes=True, scheme="tfmot"),
        Stage(
            "clustered",
            "Clustered",
            "baseline",
            _clusters("clustered", preserve_sparsity=False),
            cluster,
            _CLUSTERING,
            clusters=True,
            scheme="tfmot",
        ),
        Stage("cqat", "CQAT", "clustered", _quantizes("cqat"), quantize, clusters=True, quantizes=True, scheme="tfmot"),
        Stage(
            "sparse_clustered",
            "Sparse clustered",
            "pruned",
            _clusters("sparse_clustered", preserve_sparsity=True),
            cluster,
            _CLUSTERING,
            keeps_zeros=True,
            clusters=True,
            scheme="tfmot",
        ),
        Stage(
            "pcqat",
            "PCQAT",
            "sparse_clustered",
            _quantizes("pcqat"),
            quantize,
            keeps_zeros=True,
            clusters=True,
            quantizes=True,
            scheme="tfmot",
        ),
    )
}
"""Every stage by name, parents first."""


def lineage(name: str) -> list[Stage]:
    """The stage and its ancestors, the baseline first."""
    stage = TREE[name]
    return [*(lineage(stage.parent) if stage.parent else []), stage]


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
        model = quantize.wrap(parent, stage.name)
        model.set_weights([stored[name] for name in sorted(stored)])
        return model
    model = models.build(plan.model, data.input_shape, len(data.classes))
    weights.assign(model, stored)
    return model
