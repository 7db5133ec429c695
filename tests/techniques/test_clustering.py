"""Clustering: at most k values per kernel or channel, zeros preserved, and the parent stays as it is."""

import numpy as np
import pytest

from collabopt.analysis import audit
from collabopt.config.sections import Training
from collabopt.datasets import Data
from collabopt.runtime.tensorflow import keras
from collabopt.techniques import clustering, layers
from collabopt.techniques.kernel_state import Clusters

pytestmark = pytest.mark.usefixtures("eagerly")
ONE_EPOCH = Training(epochs=1, batch_size=64, optimizer="adam", learning_rate=0.001)
K = 6


def halve(model: keras.Model) -> keras.Model:
    """A copy of `model` in which the smaller half of each eligible kernel is zero."""
    copy = layers.clone_model(model)
    for layer in filter(layers.is_eligible, copy.layers):
        kernel, *bias = layer.get_weights()
        layer.set_weights([np.where(np.abs(kernel) < np.median(np.abs(kernel)), 0, kernel), *bias])
    return copy


def cluster(parent: keras.Model, data: Data, scheme: str = "collabopt", **settings: object) -> keras.Model:
    """Cluster a parent, which must stay as it is."""
    before = parent.get_weights()
    model, _ = clustering.fine_tune(parent, data, clustering.Settings(K, **settings), ONE_EPOCH, scheme=scheme)
    for old, new in zip(before, parent.get_weights(), strict=True):
        np.testing.assert_array_equal(old, new)
    return model


@pytest.fixture(scope="module", params=["collabopt", "tfmot"])
def clustered_without_conv(request, few_data, small_cnn):
    return cluster(small_cnn(), few_data, exclude=("conv",), scheme=request.param)


@pytest.fixture(scope="module", params=["collabopt", "tfmot"])
def sparse(request, few_data, small_cnn):
    """A network with half of its weights zero, and the same clustered with its zeros preserved."""
    parent = halve(small_cnn())
    return parent, cluster(parent, few_data, preserve_sparsity=True, scheme=request.param)


def test_each_kernel_holds_at_most_k_values(clustered_without_conv):
    kernels = layers.read_kernels(clustered_without_conv)
    assert audit.count_unique(kernels["pw"]) <= K
    assert audit.count_unique(kernels["fc"]) <= K


def test_excluded_and_depthwise_kernels_are_not_clustered(clustered_without_conv):
    kernels = layers.read_kernels(clustered_without_conv)
    assert audit.count_unique(kernels["conv"]) == kernels["conv"].size
    assert audit.count_unique(kernels["dw"]) == kernels["dw"].size


def test_the_result_is_a_plain_model_like_its_parent(clustered_without_conv, small_cnn):
    parent = small_cnn()
    assert [(type(layer), layer.name) for layer in clustered_without_conv.layers] == [
        (type(layer), layer.name) for layer in parent.layers
    ]
    assert [variable.name for variable in clustered_without_conv.weights] == [
        variable.name for variable in parent.weights
    ]


@pytest.mark.parametrize("scheme", ["collabopt", pytest.param("tfmot", marks=pytest.mark.slow)])
@pytest.mark.parametrize("centroid_initialization", ["linear", "density_based", "random"])
def test_every_initialization_gives_at_most_k_values(few_data, small_cnn, centroid_initialization, scheme):
    # The other tests use the default, kmeans_plus_plus.
    model = cluster(
        small_cnn(),
        few_data,
        initialization=centroid_initialization,
        exclude=("conv", "fc"),
        scheme=scheme,
    )
    assert 1 < audit.count_unique(layers.read_kernels(model)["pw"]) <= K


@pytest.mark.parametrize("scheme", ["collabopt", "tfmot"])
def test_clustered_per_channel_each_channel_holds_at_most_k_values(few_data, small_cnn, scheme):
    # With biases, because TFMOT skips convolutions without one (F3).
    kernels = layers.read_kernels(
        cluster(small_cnn(use_bias=True), few_data, clusters=Clusters("channel"), scheme=scheme)
    )
    for name in ("conv", "pw"):
        assert audit.count_unique_per_channel(kernels[name]) <= K
        assert audit.count_unique(kernels[name]) > K
    assert audit.count_unique(kernels["fc"]) <= K


def test_preserving_sparsity_loses_no_zero(sparse):
    parent, model = sparse
    before, after = layers.read_kernels(parent), layers.read_kernels(model)
    for name in ("conv", "pw", "fc"):
        assert audit.compute_sparsity(before[name]) == 0.5
        assert np.all(after[name][before[name] == 0] == 0), name
        assert audit.count_unique(after[name]) <= K


def test_preserving_sparsity_makes_no_zeros_in_depthwise_kernels(sparse):
    _, model = sparse
    assert audit.compute_sparsity(layers.read_kernels(model)["dw"]) == 0


def test_layers_have_numbers_of_clusters_of_their_own(small_cnn):
    numbers = clustering.Settings({"default": 4, "pw": 7})
    clustered = {layer.name: numbers.cluster(layer, 0) for layer in small_cnn().layers if numbers.is_eligible(layer)}
    assert {name: len(np.unique(kernels[name])) for name, kernels in clustered.items()} == {"conv": 4, "pw": 7, "fc": 4}
