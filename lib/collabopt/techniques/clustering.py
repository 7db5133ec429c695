"""Weight clustering: the weights of a kernel share a few values, the centroids, which are then trained.

A kernel of k values needs log2(k) bits per weight, and a general compressor exploits that (Han et al. 2016, Deep
Compression, arXiv:1510.00149). Our scheme takes the granularity (per tensor or per channel) as a setting, moves weights
between clusters while it trains, and prefers clusters with a short code. TFMOT's scheme is here for comparison. Plain
Keras models go in and come out.
"""

import dataclasses
from collections.abc import Mapping
from types import MappingProxyType

import numpy as np
from tensorflow_model_optimization.python.core.clustering.keras.experimental import cluster as experimental

from collabopt.config import per_layer
from collabopt.config.experiment import Experiment
from collabopt.config.sections import Training
from collabopt.config.stages import Stage
from collabopt.datasets import Data
from collabopt.runtime import progress
from collabopt.runtime.tensorflow import drop_log_records, keras, tfmot
from collabopt.techniques import fisher, kernel_state, kmeans, layers, preserving_scheme, training
from collabopt.techniques.checkpoints import NO_CHECKPOINT, Checkpoint
from collabopt.techniques.kernel_state import Clusters
from collabopt.techniques.settling import Settling


@dataclasses.dataclass(frozen=True)
class Settings:
    """How kernels are clustered.

    Attributes:
        number: Values that a kernel may hold, zero included; or each output channel of a convolution (`clusters`). They
            may differ by layer (`per_layer`).
        preserve_sparsity: Whether zeros stay zero.
        clusters: Granularity of convolutions, and how clusters are trained. Dense kernels are clustered as a whole.
        initialization: Name of the initial centroids (`kmeans.INITIALIZATIONS`).
        exclude: Names of layers that are not clustered.
        rate: What one bit costs beside errors (`price`); 0 assigns each weight to the nearest centroid. It may differ
            by layer.
    """

    number: int | Mapping[str, int]
    preserve_sparsity: bool = False
    clusters: Clusters = kernel_state.PER_TENSOR
    initialization: str = "kmeans_plus_plus"
    exclude: tuple[str, ...] = ()
    rate: float | Mapping[str, float] = 0.0

    def is_eligible(self, layer: keras.layers.Layer) -> bool:
        """Return whether a layer is clustered."""
        return layers.is_eligible(layer) and layer.name not in self.exclude

    def cluster(
        self, layer: keras.layers.Layer, seed: int, bits: Mapping[str, np.ndarray] = MappingProxyType({})
    ) -> dict[str, np.ndarray]:
        """Return the clustered kernels of a layer by name, as `layers.read_layer_kernels` does, without training.

        Args:
            layer: An eligible layer; it stays as it is.
            seed: Decides the initial centroids.
            bits: What the squared error of each weight costs, by kernel (`price`); errors alone count in others.
        """
        clusters = self.get_clusters(layer)
        kernels, per_channel = layers.read_layer_kernels(layer).items(), clusters.granularity == "channel"
        number = per_layer.get_value(self.number, layer.name)
        if clusters.symmetric:
            return {name: kmeans.cluster_symmetrically(kernel, number, per_channel) for name, kernel in kernels}
        options = per_channel, self.preserve_sparsity, self.initialization, seed
        return {name: kmeans.cluster_kernel(kernel, number, *options, bits.get(name)) for name, kernel in kernels}

    def compute_importance(self, model: keras.Model, data: Data, seed: int) -> dict[str, np.ndarray]:
        """Return `fisher.compute_importance` of a plain `model`, `data` and `seed`; nothing if no bit has a price."""
        return fisher.compute_importance(model, data, seed) if any(per_layer.list_values(self.rate)) else {}

    def price(self, layer: keras.layers.Layer, importance: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Return what the squared error of each weight of a `layer` costs in bits: float32 by kernel of `importance`.

        It is empty if a bit has no price.
        """
        rate = per_layer.get_value(self.rate, layer.name)
        names = layers.find_kernels(layer).keys() & importance.keys() if rate else ()
        return {name: (importance[name] / rate).astype(np.float32) for name in names}

    def get_clusters(self, layer: keras.layers.Layer) -> Clusters:
        """Return how the clusters of an eligible `layer` are trained."""
        granularity = self.clusters.granularity if layers.is_convolution(layer) else "tensor"
        return dataclasses.replace(self.clusters, granularity=granularity)


def make_settings(experiment: Experiment, preserve_sparsity: bool) -> Settings:
    """Return how an `experiment` clusters kernels. `preserve_sparsity` tells whether zeros stay zero."""
    has_price = experiment.scheme == "collabopt" and not experiment.symmetric
    return Settings(
        experiment.number_of_clusters,
        preserve_sparsity,
        kernel_state.make_clusters(experiment),
        experiment.centroid_initialization,
        experiment.exclude.clustering,
        experiment.cluster_rate if has_price else 0.0,
    )


def train(
    stage: Stage, parent: keras.Model, data: Data, experiment: Experiment, checkpoint: Checkpoint
) -> tuple[keras.Model, training.Fit]:
    """Cluster a clone of a stage's parent. Return it with the record of its training.

    A trainer (`registry.find_trainer`) by the settings of `experiment`, from `checkpoint` on. `parent` stays as it is.
    """
    settings = make_settings(layers.exclude_frozen(experiment, parent), stage.keeps_zeros)
    section = experiment.training(stage.name)
    return fine_tune(parent, data, settings, section, experiment.seed, stage.name, experiment.scheme, checkpoint)


def fine_tune(
    model: keras.Model,
    data: Data,
    settings: Settings,
    section: Training,
    seed: int = 0,
    stage: str = "clustered",
    scheme: str = "collabopt",
    checkpoint: Checkpoint = NO_CHECKPOINT,
) -> tuple[keras.Model, training.Fit]:
    """Cluster the kernels of a clone of a model and train the centroids. Return it with the record of its training.

    Args:
        model: A plain model; it stays as it is.
        data: Training and validation splits.
        settings: How kernels are clustered.
        section: How to train.
        seed: Decides the initial centroids, the order of examples and their augmentation.
        stage: Name of the stage in progress lines.
        scheme: "collabopt" (ours) or "tfmot".
        checkpoint: Where training continues from and saves its state.
    """
    clock = progress.Clock()
    progress.advance("clustering the weights", stage)
    importance = settings.compute_importance(model, data, seed)
    wrapped = _wrap(model, settings, seed, importance) if scheme == "collabopt" else _wrap_with_tfmot(model, settings)
    callbacks = [Settling(section)] if scheme == "collabopt" and settings.clusters.moving else []
    with drop_log_records("Gradients do not exist for variables"):  # centroids are trained in place of the kernels
        fit = training.fit(wrapped, data, section, seed, stage, clock, callbacks, checkpoint)
    if scheme == "collabopt":
        return _unwrap(wrapped, model), fit
    return layers.clone_model(model, tfmot.clustering.keras.strip_clustering(wrapped).get_weights()), fit


def _wrap(model: keras.Model, settings: Settings, seed: int, importance: dict[str, np.ndarray]) -> keras.Model:
    start = layers.make_gammas_positive(model)

    def wrap(layer: keras.layers.Layer) -> keras.layers.Layer:
        if not settings.is_eligible(layer):
            return layer
        clusters, bits = settings.get_clusters(layer), settings.price(layer, importance)
        clustered = settings.cluster(layer, seed, bits)
        costs = [bits.get(name) for name in clustered]
        return preserving_scheme.PreservingLayer(
            layer, settings.preserve_sparsity, clusters, [*clustered.values()], costs
        )

    return keras.models.clone_model(start, clone_function=wrap)


def _unwrap(wrapped: keras.Model, model: keras.Model) -> keras.Model:
    """A plain model like `model` with the trained weights of `wrapped`."""
    plain = layers.clone_model(model)
    for layer in wrapped.layers:
        inner = getattr(layer, "layer", layer)
        if isinstance(layer, preserving_scheme.PreservingLayer):
            layers.assign_kernels(plain.get_layer(inner.name), layer.release())
            layers.copy_biases(inner, plain.get_layer(inner.name))
        else:
            plain.get_layer(inner.name).set_weights(layer.get_weights())
    return plain


def _wrap_with_tfmot(model: keras.Model, settings: Settings) -> keras.Model:
    initialization = tfmot.clustering.keras.CentroidInitialization[settings.initialization.upper()]

    def wrap(layer: keras.layers.Layer) -> keras.layers.Layer:
        if not settings.is_eligible(layer):
            return layer
        return experimental.cluster_weights(
            layer,
            number_of_clusters=per_layer.get_value(settings.number, layer.name),
            cluster_centroids_init=initialization,
            preserve_sparsity=settings.preserve_sparsity,
            cluster_per_channel=settings.clusters.granularity == "channel",
        )

    # Wrapping keeps the layer objects, so the model is cloned first. Centroids are fitted to weights that must exist.
    return keras.models.clone_model(layers.clone_model(model), clone_function=wrap)
