"""Weight clustering by TFMOT, with and without preserved sparsity. Plain Keras models go in and come out."""

# TFMOT exports preserve_sparsity and cluster_per_channel from this module only.
from tensorflow_model_optimization.python.core.clustering.keras.experimental import cluster as experimental

from collabopt import plain, progress, training
from collabopt.backend import keras, tfmot
from collabopt.datasets import Data
from collabopt.experiment import Training
from collabopt.prune import prunable as clusterable

__all__ = ["clusterable", "fine_tune"]


def fine_tune(
    model: keras.Model,
    data: Data,
    number_of_clusters: int,
    how: Training,
    preserve_sparsity: bool = False,
    per_channel: bool = False,
    centroid_initialization: str = "kmeans_plus_plus",
    exclude: tuple[str, ...] = (),
    seed: int = 0,
    stage: str = "clustered",
) -> tuple[keras.Model, training.Fit]:
    """Train a clone of `model` whose kernels hold at most `number_of_clusters` values, the zero among them.

    The values are shared in a kernel, or in each of its output channels with `per_channel`. With `preserve_sparsity`
    zeros stay zero (TFMOT's sparsity-preserving clustering). Layers in `exclude` are left alone.
    """
    clock = progress.Clock()

    def wrap(layer: keras.layers.Layer) -> keras.layers.Layer:
        if not clusterable(layer) or layer.name in exclude:
            return layer
        return experimental.cluster_weights(
            layer,
            number_of_clusters=number_of_clusters,
            cluster_centroids_init=tfmot.clustering.keras.CentroidInitialization[centroid_initialization.upper()],
            preserve_sparsity=preserve_sparsity,
            cluster_per_channel=per_channel,
        )

    # Wrapping keeps the layers it is given, so it is given a clone; the kernels must be there before centroids are.
    wrapped = keras.models.clone_model(plain.clone(model), clone_function=wrap)
    fit = training.fit(wrapped, data, how, seed, stage, clock)
    return plain.clone(model, tfmot.clustering.keras.strip_clustering(wrapped).get_weights()), fit
