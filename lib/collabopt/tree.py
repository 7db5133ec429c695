"""How each stage of the deployment tree (`stages`) is trained, and how its model is stored and had again."""

from collections.abc import Callable
from types import ModuleType

import numpy as np

from collabopt import centroids, cluster, datasets, models, preserve, progress, prune, quantize, training
from collabopt.backend import keras
from collabopt.checkpoints import Checkpoint
from collabopt.experiment import DATA, Experiment
from collabopt.models import weights
from collabopt.stages import TREE, Stage

_Trained = tuple[keras.Model, training.Fit]


def _baseline(model: keras.Model, data: datasets.Data, plan: Experiment, checkpoint: Checkpoint) -> _Trained:
    how, clock = plan.baseline_training, progress.Clock()
    return model, training.fit(model, data, how, plan.seed, "baseline", clock, checkpoint=checkpoint)


def _pruned(parent: keras.Model, data: datasets.Data, plan: Experiment, checkpoint: Checkpoint) -> _Trained:
    how, exclude = plan.stages.pruned, plan.exclude.pruning
    return prune.fine_tune(parent, data, plan.sparsity, how, exclude, plan.seed, checkpoint=checkpoint)


def _clusters(name: str, preserve_sparsity: bool) -> Callable[..., _Trained]:
    def train(parent: keras.Model, data: datasets.Data, plan: Experiment, checkpoint: Checkpoint) -> _Trained:
        clusters = cluster.Clusters(
            plan.number_of_clusters,
            preserve_sparsity,
            plan.cluster_per_channel,
            plan.centroid_initialization,
            plan.exclude.clustering,
        )
        how = getattr(plan.stages, name)
        return cluster.fine_tune(parent, data, clusters, how, plan.seed, name, plan.scheme, checkpoint)

    return train


def _quantizes(name: str) -> Callable[..., _Trained]:
    def train(parent: keras.Model, data: datasets.Data, plan: Experiment, checkpoint: Checkpoint) -> _Trained:
        how, keep = getattr(plan.stages, name), kept(TREE[name], plan)
        return quantize.fine_tune(parent, data, how, plan.seed, name, keep, checkpoint)

    return train


_QUANTIZING = (quantize, preserve)
_CLUSTERING = (cluster, centroids, preserve)

TRAINING: dict[str, tuple[Callable[..., _Trained], tuple[ModuleType, ...]]] = {
    "baseline": (_baseline, (training,)),
    "qat": (_quantizes("qat"), _QUANTIZING),
    "pruned": (_pruned, (prune,)),
    "pqat": (_quantizes("pqat"), _QUANTIZING),
    "clustered": (_clusters("clustered", preserve_sparsity=False), _CLUSTERING),
    "cqat": (_quantizes("cqat"), _QUANTIZING),
    "sparse_clustered": (_clusters("sparse_clustered", preserve_sparsity=True), _CLUSTERING),
    "pcqat": (_quantizes("pcqat"), _QUANTIZING),
}
"""What trains a stage, (parent's model, data, experiment, checkpoint) -> (model, fit), and the modules it is of."""


def kept(stage: Stage, plan: Experiment) -> quantize.Keep:
    """What a stage's quantization-aware training must keep."""
    clusters = ("channel" if plan.cluster_per_channel else "tensor") if stage.clusters else None
    return quantize.Keep(stage.keeps_zeros, clusters, plan.exclude.clustering, plan.scheme)


def initial_model(plan: Experiment, data: datasets.Data) -> keras.Model:
    """The model that the baseline starts from: initialised by the global seed, or with the given weights."""
    model = models.build(plan.model, data.input_shape, len(data.classes))
    if plan.initial_weights:
        weights.assign(model, weights.read(datasets.locate(plan.initial_weights.path, DATA)))
    return model


def arrays(model: keras.Model) -> dict[str, np.ndarray]:
    """All variables of a model: by layer/variable of a plain one, by position of a quantize-wrapped one."""
    if quantize.is_wrapped(model):
        return {f"{index:05d}": array for index, array in enumerate(model.get_weights())}
    return weights.get_arrays(model)


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
