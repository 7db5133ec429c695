"""Clusters in training: weights move between them until they settle, zeros of the parent stay, and k values stay k."""

import itertools

import numpy as np
import pytest

from collabopt.analysis import audit
from collabopt.config.experiment import compute_rate
from collabopt.config.sections import Training
from collabopt.datasets import Data
from collabopt.runtime.tensorflow import keras, run_eagerly, tf
from collabopt.techniques import clustering, fisher, kernel_state, layers, quantization, settling
from collabopt.techniques.checkpoints import NO_CHECKPOINT, Checkpoint
from collabopt.techniques.kernel_state import Clusters

K = 5
SECTION = Training(epochs=2, batch_size=64, optimizer="adam", learning_rate=0.01)


def prune(model: keras.Model) -> keras.Model:
    """The model with the smaller half of each eligible kernel zero."""
    for layer in filter(layers.is_eligible, model.layers):
        kernel = layer.kernel.numpy()
        layer.kernel.assign(np.where(np.abs(kernel) < np.median(np.abs(kernel)), 0, kernel))
    return model


def cluster(
    parent: keras.Model, data: Data, settings: clustering.Settings, checkpoint: Checkpoint = NO_CHECKPOINT
) -> keras.Model:
    with run_eagerly():  # tracing takes longer than the steps
        return clustering.fine_tune(parent, data, settings, SECTION, checkpoint=checkpoint)[0]


def read_eligible(model: keras.Model) -> dict[str, np.ndarray]:
    kernels = quantization.read_kernels(model) if quantization.is_wrapped(model) else layers.read_kernels(model)
    return {name: kernel for name, kernel in kernels.items() if name != "dw"}


def find_partitions(model: keras.Model) -> dict[str, np.ndarray]:
    """The rank of each weight's value among the values of its kernel."""
    return {name: np.unique(kernel, return_inverse=True)[1] for name, kernel in read_eligible(model).items()}


@pytest.fixture(scope="module", params=[(True, 0.0), (False, 0.1)], ids=str)
def chain(request, few_data, small_cnn):
    """Whether assignments move, and a pruned network, the same clustered, and that after cluster-preserving QAT."""
    moving, rate = request.param
    parent, clusters = prune(small_cnn()), Clusters("tensor", moving)
    settings = clustering.Settings(K, True, clusters, rate=rate)
    clustered = cluster(parent, few_data, settings)
    preservation = quantization.Preservation(True, clusters)
    with run_eagerly():
        wrapped, _ = quantization.fine_tune(clustered, few_data, SECTION, preservation=preservation)
    return moving, parent, clustered, wrapped


def test_no_zero_is_lost_and_k_values_stay_k(chain):
    _, *models = chain
    for before, after in itertools.pairwise(models):
        zeros = read_eligible(before)
        for name, kernel in read_eligible(after).items():
            assert not kernel[zeros[name] == 0].any()
            assert audit.count_unique(kernel) <= K


def test_weights_change_their_cluster_only_if_assignments_move(chain):
    moving, _, clustered, wrapped = chain
    before, after = find_partitions(clustered), find_partitions(wrapped)
    # Fixed centroids can cross each other, which changes ranks but not the number of different pairs.
    pairs = {name: len(set(zip(before[name].flat, after[name].flat, strict=True))) for name in before}
    assert (max(pairs.values()) > K) == moving, pairs


def test_a_price_on_bits_shortens_the_code(few_data, small_cnn):
    parent, bits = small_cnn(), []
    for rate in (0.0, 0.2, 1.0):
        model = cluster(parent, few_data, clustering.Settings(K, rate=rate))
        shares = [np.unique(one, return_counts=True)[1] / one.size for one in read_eligible(model).values()]
        sizes = [one.size for one in read_eligible(model).values()]
        bits.append(np.average([-np.sum(share * np.log2(share)) for share in shares], weights=sizes))
    assert bits[0] > bits[1] > bits[2]


def test_a_stopped_clustering_ends_like_an_uninterrupted_one(few_data, small_cnn, tmp_path):
    settings = clustering.Settings(K, True, rate=0.1)

    class Stopping(Checkpoint):
        def save(self, model, record):
            super().save(model, record)
            raise InterruptedError

    def train(checkpoint: Checkpoint) -> keras.Model:
        return cluster(prune(small_cnn()), few_data, settings, checkpoint)

    expected = train(NO_CHECKPOINT).get_weights()
    with pytest.raises(InterruptedError):
        train(Stopping(tmp_path / "epoch.npz"))
    for one, other in zip(expected, train(Checkpoint(tmp_path / "epoch.npz")).get_weights(), strict=True):
        np.testing.assert_array_equal(one, other)


def test_assignments_freeze_and_the_learning_rate_falls_in_the_last_fifth():
    model = keras.Sequential([keras.Input((1,)), keras.layers.Dense(1)])
    model.compile(keras.optimizers.Adam(1.0))
    reassigns = model.add_weight("kernel_reassigns", (), tf.bool, keras.initializers.Constant(False), trainable=False)
    callback, seen = settling.Settling(SECTION), []
    callback.set_model(model)
    callback.set_params({"steps": 10, "epochs": 2})
    callback.on_train_begin()
    for epoch in range(2):
        callback.on_epoch_begin(epoch)
        for batch in range(10):
            callback.on_train_batch_begin(batch)
            seen.append(bool(reassigns))
    assert seen == [True] * 16 + [False] * 4
    rates = [float(model.optimizer._learning_rate(tf.constant(step))) for step in (0, 16, 18, 20)]
    np.testing.assert_allclose(rates, [0.01, 0.01, 0.005, 0], atol=1e-8)


@pytest.mark.parametrize("granularity", ["tensor", "channel"])
def test_the_lookup_of_uneven_rows_gives_the_kernel_back(granularity):
    kernel = np.random.default_rng(0).integers(-2, 3, (3, 3, 2, 4)).astype(np.float32)
    kernel[..., 1], kernel[..., 2] = 0, 7
    values, indices = kernel_state.make_lookup(kernel, granularity)
    np.testing.assert_array_equal(values.ravel()[indices], kernel)
    assert values.shape == ((1, 6) if granularity == "tensor" else (4, 5))


# What errors cost.


def test_the_importance_is_that_of_the_gradients(tiny_data):
    inputs = keras.Input(tiny_data.input_shape)
    model = keras.Model(inputs, keras.layers.Dense(10, name="fc")(keras.layers.Flatten()(inputs)))
    importance = fisher.compute_importance(model, tiny_data, 0)["fc"]
    assert importance.shape == (64, 10) and np.all(importance > 0)
    # A pixel that is always black has no gradient, and its weights have the least importance.
    black = ~np.any(tiny_data.train.examples.reshape(len(tiny_data.train), -1), axis=0)
    assert black.any()
    np.testing.assert_allclose(importance[black], importance.min(), rtol=1e-5)
    weights = model.get_layer("fc").kernel.numpy()
    assert np.mean(importance * weights**2) == pytest.approx(1, rel=1e-3)
    layer = model.get_layer("fc")
    cheaper = clustering.Settings(K, rate=0.5).price(layer, {"fc": importance})["fc"]
    np.testing.assert_allclose(cheaper, 2 * importance, rtol=1e-4)
    assert not clustering.Settings(K, rate=0.0).price(layer, {"fc": importance})
    assert not clustering.Settings(K, rate={"default": 0.5, "fc": 0}).price(layer, {"fc": importance})


def test_kernels_that_the_loss_does_not_depend_on_change_nothing_for_others(tiny_data):
    inputs = keras.Input(tiny_data.input_shape)
    x = keras.layers.Flatten()(inputs)
    dead, zero, cut = (keras.layers.Dense(10, name=name) for name in ("dead", "zero", "cut"))
    outputs = keras.layers.Dense(10, name="fc")(x)
    alone = fisher.compute_importance(keras.Model(inputs, outputs), tiny_data, 0)
    sum_ = keras.layers.Add()([outputs, keras.layers.ReLU()(dead(x)), zero(x), tf.stop_gradient(cut(x))])
    model = keras.Model(inputs, sum_)
    dead.bias.assign(dead.bias - 1000)
    zero.kernel.assign(zero.kernel * 0)
    for layer in (dead, zero, cut):
        layer.bias.assign(layer.bias * (layer is dead))
    cut.kernel.assign(cut.kernel * 0)
    found = fisher.compute_importance(model, tiny_data, 0)
    assert found.keys() == {"fc"}
    np.testing.assert_allclose(found["fc"], alone["fc"], rtol=1e-5)


@pytest.mark.parametrize("rate", [None, 0.03])
def test_the_price_of_bits_leaves_more_clusters_their_smaller_error(tiny_data, small_cnn, rate):
    model = small_cnn()
    layer, errors = model.get_layer("fc"), []
    kernel, importance = layers.read_layer_kernels(layer)["fc"], fisher.compute_importance(model, tiny_data, 0)
    for number in (8, 32, 128):
        settings = clustering.Settings(number, rate=rate or compute_rate(number))
        clustered = settings.cluster(layer, 0, settings.price(layer, importance))["fc"]
        errors.append(np.sum(importance["fc"] * (clustered - kernel) ** 2))
    ratios = [after / before for before, after in itertools.pairwise(errors)]
    assert max(ratios) < 0.25 if rate is None else min(ratios) > 0.5, ratios
