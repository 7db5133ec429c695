"""Weight clustering, with and without preserved sparsity. Plain Keras models go in and come out.

Ours fits the centroids to the weights that are not zero, says the granularity and holds what it is told to; TFMOT's is
here to be compared with.
"""

import dataclasses

from tensorflow_model_optimization.python.core.clustering.keras.experimental import cluster as experimental

from collabopt.config.experiment import Experiment, Training
from collabopt.config.stages import Stage
from collabopt.datasets import Data
from collabopt.runtime import progress
from collabopt.runtime.tensorflow import drop_log_records, keras, tfmot
from collabopt.techniques import kmeans, layers, preserving_scheme, training
from collabopt.techniques.checkpoints import NO_CHECKPOINT, Checkpoint
from collabopt.techniques.layers import is_eligible as clusterable


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
    checkpoint: Checkpoint = NO_CHECKPOINT,
) -> tuple[keras.Model, training.Fit]:
    """Cluster the kernels of a clone of `model` and train their values. scheme: `collabopt`, ours, or `tfmot`."""
    clock = progress.Clock()
    wrapped = _wrapped(model, clusters, seed) if scheme == "collabopt" else _wrapped_by_tfmot(model, clusters)
    with drop_log_records("Gradients do not exist for variables"):  # centroids stand in the place of the kernels
        fit = training.fit(wrapped, data, how, seed, stage, clock, checkpoint=checkpoint)
    if scheme == "collabopt":
        return _released(wrapped, model), fit
    return layers.clone_model(model, tfmot.clustering.keras.strip_clustering(wrapped).get_weights()), fit


def _wrapped(model: keras.Model, clusters: Clusters, seed: int) -> keras.Model:
    start = layers.make_gammas_positive(model)
    for layer in filter(clusters.is_eligible, start.layers):
        kernel = kmeans.cluster_kernel(
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
        return preserving_scheme.PreservingLayer(
            layer, clusters.preserve_sparsity, "channel" if clusters.by_channel(layer) else "tensor"
        )

    return keras.models.clone_model(start, clone_function=wrap)


def _released(wrapped: keras.Model, model: keras.Model) -> keras.Model:
    """A plain model like `model` with the weights that `wrapped` was trained to."""
    plain_again = layers.clone_model(model)
    for layer in wrapped.layers:
        inner = getattr(layer, "layer", layer)
        if isinstance(layer, preserving_scheme.PreservingLayer):
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
    return keras.models.clone_model(layers.clone_model(model), clone_function=wrap)
