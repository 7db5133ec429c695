"""Binary and ternary weights: {−α, α} or {−α, 0, α} in Keras and in every int8 file, with a trained α."""

import shutil

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from collabopt.analysis import audit, trial
from collabopt.config import loading
from collabopt.config.sections import Training
from collabopt.config.stages import STAGES
from collabopt.run import Run
from collabopt.runtime.tensorflow import run_eagerly
from collabopt.techniques import clustering, kernel_state, kmeans, layers
from collabopt.techniques.kernel_state import Clusters

kernels = st.builds(
    lambda shape, seed: np.random.default_rng(seed).normal(size=shape).astype(np.float32),
    st.lists(st.integers(1, 6), min_size=2, max_size=4),
    st.integers(0, 99),
)


@settings(deadline=None)
@given(kernel=kernels, k=st.sampled_from((2, 3)), per_channel=st.booleans())
def test_clustering_gives_opposite_values_with_the_mean_magnitude_of_their_members(kernel, k, per_channel):
    clustered = kmeans.cluster_symmetrically(kernel, k, per_channel)
    assert clustered.dtype == kernel.dtype
    assert audit.compute_asymmetry(clustered, k, per_channel) == 0
    columns = (array.reshape(-1, kernel.shape[-1]) for array in (kernel, clustered))
    for weights, values in zip(*(one.T if per_channel else [one] for one in columns), strict=True):
        members = values != 0
        assert (np.sign(values) == np.where(members, np.sign(weights), 0)).all()
        alpha = np.abs(values).max()
        np.testing.assert_allclose(alpha, np.abs(weights[members]).mean(), rtol=1e-5)
        if k == 3:  # each weight has the nearest value
            assert (np.abs(weights[members]) >= alpha / 2 * (1 - 1e-5)).all()
            assert (np.abs(weights[~members]) <= alpha / 2 * (1 + 1e-5)).all()


@settings(deadline=None)
@given(kernel=kernels, k=st.sampled_from((2, 3)), granularity=st.sampled_from(("tensor", "channel")))
def test_the_lookup_returns_the_kernel_in_any_row(kernel, k, granularity):
    clustered = kmeans.cluster_symmetrically(kernel, k, granularity == "channel")
    values, indices = kernel_state.make_symmetric_lookup(clustered, Clusters(granularity, symmetric=k))
    assert values.shape[1] == k
    np.testing.assert_array_equal(values, -values[:, ::-1])
    np.testing.assert_array_equal(values.ravel()[indices], clustered)


def test_zeros_stay_in_ternary_kernels():
    kernel = np.random.default_rng(0).normal(size=(8, 8)).astype(np.float32)
    kernel[::2] = 0
    assert not kmeans.cluster_symmetrically(kernel, 3)[::2].any()


def test_wrong_weights_are_counted():
    kernel = np.array([[-1, 1], [1, 0], [1, 1], [0.5, 1]])
    assert audit.compute_asymmetry(kernel, 3, per_channel=False) == 1 / 8
    assert audit.compute_asymmetry(kernel, 2, per_channel=False) == 2 / 8
    assert audit.compute_asymmetry(np.array([[-127, 3], [127, -3]], np.int8), 2, per_channel=True) == 0
    assert audit.compute_asymmetry(np.array([[-127, 3], [127, -3]], np.int8), 2, per_channel=False) == 0.5


SLOW = pytest.mark.slow


@pytest.mark.parametrize(
    ("k", "per_channel", "leaf"),
    [
        (2, False, "cqat"),
        (3, True, "pcqat"),
        *(pytest.param(*case, marks=SLOW) for case in ((2, True, "cqat"), (3, True, "cqat"), (3, False, "cqat"))),
        pytest.param(3, False, "pcqat", marks=SLOW),
    ],
)
def test_every_stage_and_file_has_k_symmetric_values(small, trained_small, tmp_path, k, per_channel, leaf):
    shutil.copytree(trained_small / "stages", tmp_path / "stages")
    settings = {"symmetric": True, "number_of_clusters": k, "cluster_per_channel": per_channel, "strict": True}
    run = Run(loading.load(str(small), **settings), None, small, tmp_path / "stages")
    for name in (STAGES[leaf].parent, leaf):
        finished = run.stage(name)
        assert finished.result["preserved"] is True
        float_kernels, int8_kernels = finished.kernels(), finished.int8_values()
        for layer in finished.eligible_layers():
            of_channel = per_channel and layer != "fc"
            for values in (float_kernels[layer], int8_kernels[layer]):
                assert audit.compute_asymmetry(values, k, of_channel) == 0, (name, layer)
            assert set(np.unique(int8_kernels[layer])) <= {-127, 0, 127}
        assert finished.result["lookup_bits"] == pytest.approx(np.log2(k))
        assert 0 < finished.result["entropy_bits"] <= np.log2(k)


@pytest.mark.parametrize("k", [2, 3])
def test_alpha_and_the_assignment_are_trained(few_data, small_cnn, k):
    parent = small_cnn()
    settings = clustering.Settings(k, clusters=Clusters("tensor", symmetric=k))
    section = Training(epochs=2, batch_size=16, optimizer="adam", learning_rate=0.01)
    with run_eagerly():  # tracing takes longer than the steps
        model, _ = clustering.fine_tune(parent, few_data, settings, section)
    trained = layers.read_kernels(model)["pw"]
    start = kmeans.cluster_symmetrically(layers.read_kernels(parent)["pw"], k)
    assert audit.compute_asymmetry(trained, k, per_channel=False) == 0
    assert np.abs(start).max() != np.abs(trained).max()
    assert (np.sign(start) != np.sign(trained)).any()


def test_binary_weights_keep_no_zeros(small, trained_small, tmp_path):
    shutil.copytree(trained_small / "stages", tmp_path / "stages")
    experiment = loading.load(str(small), symmetric=True, number_of_clusters=2)
    run = Run(experiment, None, small, tmp_path / "stages")
    assert run.stage("pcqat").unavailable == "binary weights have no zero to preserve; set number_of_clusters to 3"
    assert {stage.name for stage in trial._choose_stages(experiment)} == {
        "baseline",
        "pruned",
        "pqat",
        "clustered",
        "cqat",
    }
