"""Weight clustering, with and without preserved sparsity. Plain Keras models go in and come out.

Ours fits the centroids to the weights that are not zero, says the granularity and holds what it is told to; TFMOT's is
here to be compared with.
"""

import dataclasses

# TFMOT exports preserve_sparsity and cluster_per_channel from this module only.
from tensorflow_model_optimization.python.core.clustering.keras.experimental import cluster as experimental

from collabopt import centroids, plain, preserve, progress, training
from collabopt.backend import keras, log_dropped, tfmot
from collabopt.checkpoints import NOTHING_KEPT, Checkpoint
from collabopt.datasets import Data
from collabopt.experiment import Experiment, Training
from collabopt.layers import prunable as clusterable
from collabopt.stages import Stage

__all__ = ["Clusters", "clusterable", "fine_tune", "train"]


@dataclasses.dataclass(frozen=True)
class Clusters:
    """How kernels are clustered.

    number: values that a kernel may hold, the zero among them; an output channel of a convolution with `per_channel`.
    preserve_sparsity: zeros stay zero. exclude: layers left alone.
    """

    number: int
    preserve_sparsity: bool = False
    per_channel: bool = False
    initialization: str = "kmeans_plus_plus"
    exclude: tuple[str, ...] = ()

    def is_eligible(self, layer: keras.layers.Layer) -> bool:
        return clusterable(layer) and layer.name not in self.exclude

    def by_channel(self, layer: keras.layers.Layer) -> bool:
        return self.per_channel and isinstance(layer, keras.layers.Conv2D)


def train(
    stage: Stage, parent: keras.Model, data: Data, experiment: Experiment, checkpoint: Checkpoint
) -> tuple[keras.Model, training.Fit]:
    """Train a stage that clusters its parent, and keeps its zeros if the stage must."""
    clusters = Clusters(
        experiment.number_of_clusters,
        stage.keeps_zeros,
        experiment.cluster_per_channel,
        experiment.centroid_initialization,
        experiment.exclude.clustering,
    )
    section = experiment.training(stage.name)
    return fine_tune(parent, data, clusters, section, experiment.seed, stage.name, experiment.scheme, checkpoint)


def fine_tune(
    model: keras.Model,
    data: Data,
    clusters: Clusters,
    how: Training,
    seed: int = 0,
    stage: str = "clustered",
    scheme: str = "collabopt",
    checkpoint: Checkpoint = NOTHING_KEPT,
) -> tuple[keras.Model, training.Fit]:
    """Cluster the kernels of a clone of `model` and train their values. scheme: `collabopt`, ours, or `tfmot`."""
    clock = progress.Clock()
    wrapped = _wrapped(model, clusters, seed) if scheme == "collabopt" else _wrapped_by_tfmot(model, clusters)
    with log_dropped("Gradients do not exist for variables"):  # centroids stand in the place of the kernels
        fit = training.fit(wrapped, data, how, seed, stage, clock, checkpoint=checkpoint)
    if scheme == "collabopt":
        return _released(wrapped, model), fit
    return plain.clone(model, tfmot.clustering.keras.strip_clustering(wrapped).get_weights()), fit


def _wrapped(model: keras.Model, clusters: Clusters, seed: int) -> keras.Model:
    start = plain.with_positive_gammas(model)
    for layer in filter(clusters.is_eligible, start.layers):
        kernel = centroids.clustered(
            layer.kernel.numpy(),
            clusters.number,
            clusters.by_channel(layer),
            clusters.preserve_sparsity,
            clusters.initialization,
            seed,
        )
        layer.kernel.assign(kernel)

    def wrap(layer: keras.layers.Layer) -> keras.layers.Layer:
        if not clusters.is_eligible(layer):
            return layer
        return preserve.Held(layer, clusters.preserve_sparsity, "channel" if clusters.by_channel(layer) else "tensor")

    return keras.models.clone_model(start, clone_function=wrap)


def _released(wrapped: keras.Model, model: keras.Model) -> keras.Model:
    """A plain model like `model` with the weights that `wrapped` was trained to."""
    plain_again = plain.clone(model)
    for layer in wrapped.layers:
        inner = getattr(layer, "layer", layer)
        if isinstance(layer, preserve.Held):
            _, *rest = plain_again.get_layer(inner.name).get_weights()
            bias = [inner.bias.numpy()] if rest else []
            plain_again.get_layer(inner.name).set_weights([layer.release(), *bias])
        else:
            plain_again.get_layer(inner.name).set_weights(layer.get_weights())
    return plain_again


def _wrapped_by_tfmot(model: keras.Model, clusters: Clusters) -> keras.Model:
    how = tfmot.clustering.keras.CentroidInitialization[clusters.initialization.upper()]

    def wrap(layer: keras.layers.Layer) -> keras.layers.Layer:
        if not clusters.is_eligible(layer):
            return layer
        return experimental.cluster_weights(
            layer,
            number_of_clusters=clusters.number,
            cluster_centroids_init=how,
            preserve_sparsity=clusters.preserve_sparsity,
            cluster_per_channel=clusters.per_channel,
        )

    # Wrapping keeps the layers it is given, so it is given a clone; the kernels must be there before centroids are.
    return keras.models.clone_model(plain.clone(model), clone_function=wrap)
