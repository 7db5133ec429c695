"""Centroids: at most k values a row, zeros kept and counted, none made, and never a worse fit than the start."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from collabopt.analysis import audit
from collabopt.techniques import kmeans

INITIALIZATIONS = sorted(kmeans.INITIALIZATIONS)
# Many zeros and repeats, and pairs that cancel out, so that a mean can be zero; and weights as of a real kernel.
FEW = st.sampled_from([-1.5, -0.5, -0.25, 0.0, 0.25, 0.5, 3.0])
ANY = st.floats(-2, 2, width=32, allow_subnormal=False)
KERNELS = st.sampled_from([FEW, ANY]).flatmap(
    lambda elements: arrays.arrays(
        np.float32, arrays.array_shapes(min_dims=2, max_dims=4, max_side=5), elements=elements
    )
)
EVERY = {
    "kernel": KERNELS,
    "k": st.integers(3, 8),  # what an experiment allows
    "per_channel": st.booleans(),
    "initialization": st.sampled_from(INITIALIZATIONS),
}


def normal(shape: tuple[int, ...], sparsity: float = 0.0, seed: int = 0) -> np.ndarray:
    """A kernel of normally distributed weights, that fraction of them zero."""
    draw = np.random.default_rng(seed)
    return (draw.normal(size=shape) * (draw.random(shape) >= sparsity)).astype(np.float32)


def values(kernel: np.ndarray, per_channel: bool) -> int:
    return audit.count_unique_per_channel(kernel) if per_channel else audit.count_unique(kernel)


def error(weights: np.ndarray, counted: np.ndarray, found: np.ndarray) -> np.ndarray:
    """Squared error (rows,) of weights that are given their nearest centroid."""
    near = np.take_along_axis(found, kmeans.find_nearest(weights, found), axis=1)
    return np.sum(np.where(counted, weights.astype(np.float64) - near, 0) ** 2, axis=1)


@given(preserve_zeros=st.booleans(), **EVERY)
def test_a_row_holds_at_most_k_values(kernel, k, per_channel, initialization, preserve_zeros):
    found = kmeans.cluster_kernel(kernel, k, per_channel, preserve_zeros, initialization)
    assert found.shape == kernel.shape
    assert found.dtype == kernel.dtype
    assert np.all(np.isfinite(found))
    assert values(found, per_channel) <= k  # the zero among them


@given(**EVERY)
def test_zeros_stay_and_none_are_made(kernel, k, per_channel, initialization):
    # Also where the mean of what a centroid stands for is zero, as of -0.5 and 0.5.
    found = kmeans.cluster_kernel(kernel, k, per_channel, True, initialization)
    np.testing.assert_array_equal(found == 0, kernel == 0)


@given(kernel=KERNELS, k=st.integers(3, 8), per_channel=st.booleans(), preserve_zeros=st.booleans())
def test_a_row_of_no_more_than_k_values_is_left_as_it_is(kernel, k, per_channel, preserve_zeros):
    # kmeans_plus_plus, the default, draws every value before it draws one twice.
    rows = kmeans.make_rows(kernel, per_channel)
    found = kmeans.make_rows(kmeans.cluster_kernel(kernel, k, per_channel, preserve_zeros), per_channel)
    for before, after in zip(rows, found, strict=True):
        if audit.count_unique(before) <= k:
            np.testing.assert_array_equal(before, after)


@pytest.mark.parametrize("per_channel", [False, True])
@pytest.mark.parametrize("initialization", INITIALIZATIONS)
def test_all_k_values_are_used_for_a_kernel_of_many(initialization, per_channel):
    # The zero is one of the k; a kernel without zeros gives all k to its weights.
    for sparsity in (0.0, 0.5):
        kernel = normal((3, 3, 8, 4), sparsity)
        found = kmeans.cluster_kernel(kernel, 6, per_channel, True, initialization)
        assert values(found, per_channel) >= (3 if initialization == "random" else 6)
        np.testing.assert_array_equal(found == 0, kernel == 0)


@given(
    weights=arrays.arrays(np.float32, (3, 20), elements=ANY),
    found=arrays.arrays(np.float32, (3, 5), elements=ANY).map(lambda drawn: np.sort(drawn, axis=1)),
)
def test_nearest_is_what_a_search_of_all_centroids_finds(weights, found):
    near = np.take_along_axis(found, kmeans.find_nearest(weights, found), axis=1)
    distances = np.abs(weights[:, :, None].astype(np.float64) - found[:, None, :])
    # By distance, since two centroids can be as near as each other; in float32 a border is rounded.
    np.testing.assert_allclose(np.abs(weights.astype(np.float64) - near), distances.min(axis=2), atol=1e-6)


@given(
    weights=arrays.arrays(np.float32, (2, 40), elements=FEW | ANY),
    k=st.integers(2, 8),
    initialization=st.sampled_from(INITIALIZATIONS),
    preserve_zeros=st.booleans(),
)
def test_lloyd_never_fits_worse_than_its_initialization(weights, k, initialization, preserve_zeros):
    counted = weights != 0 if preserve_zeros else np.ones_like(weights, bool)
    weights, counted = weights[counted.any(axis=1)], counted[counted.any(axis=1)]
    if not len(weights):
        return
    start = kmeans.INITIALIZATIONS[initialization](weights, counted, k, np.random.default_rng(0))
    found = kmeans.fit_centroids(weights, counted, k, initialization, np.random.default_rng(0))
    assert np.all(np.diff(found, axis=1) >= 0)
    assert np.all(error(weights, counted, found) <= error(weights, counted, np.sort(start, axis=1)) * (1 + 1e-5) + 1e-9)


@pytest.mark.parametrize("initialization", INITIALIZATIONS)
def test_lloyd_rests_where_each_centroid_is_the_mean_of_its_members(initialization):
    weights = kmeans.make_rows(normal((200, 1)), per_channel=False)
    found = kmeans.fit_centroids(weights, np.ones_like(weights, bool), 4, initialization, np.random.default_rng(0))
    index = kmeans.find_nearest(weights, found)
    for one in np.unique(index):
        assert found[0, one] == pytest.approx(weights[index == one].mean(), abs=1e-5)


@pytest.mark.parametrize("preserve_zeros", [False, True])
@pytest.mark.parametrize("initialization", ["linear", "density_based"])  # the others draw, from one generator
def test_a_channel_is_clustered_as_it_is_alone(initialization, preserve_zeros):
    kernel = normal((3, 3, 4, 6), 0.4)
    kernel[..., 1] = normal((3, 3, 4), seed=1)  # without a zero
    kernel[..., 2] = 0
    together = kmeans.cluster_kernel(kernel, 5, True, preserve_zeros, initialization)
    for channel in range(kernel.shape[-1]):
        alone = kmeans.cluster_kernel(kernel[..., channel : channel + 1], 5, True, preserve_zeros, initialization)
        np.testing.assert_array_equal(together[..., channel : channel + 1], alone)


@pytest.mark.parametrize("initialization", INITIALIZATIONS)
def test_a_change_in_one_channel_leaves_the_others(initialization):
    kernel = normal((3, 3, 4, 6), 0.4)
    changed = kernel.copy()
    changed[..., 0] *= 1.7
    before, after = (kmeans.cluster_kernel(one, 5, True, True, initialization) for one in (kernel, changed))
    np.testing.assert_array_equal(before[..., 1:], after[..., 1:])
    assert np.any(before[..., 0] != after[..., 0])


@pytest.mark.parametrize("per_channel", [False, True])
@pytest.mark.parametrize("preserve_zeros", [False, True])
@pytest.mark.parametrize("initialization", INITIALIZATIONS)
def test_a_row_all_zeros_stays(initialization, preserve_zeros, per_channel):
    kernel = normal((3, 3, 2, 4))
    kernel[..., 2] = 0
    found = kmeans.cluster_kernel(kernel, 4, per_channel, preserve_zeros, initialization)
    if preserve_zeros or per_channel:
        assert not found[..., 2].any()
    assert not kmeans.cluster_kernel(np.zeros_like(kernel), 4, per_channel, preserve_zeros, initialization).any()


@pytest.mark.parametrize("initialization", INITIALIZATIONS)
def test_equal_seeds_cluster_equally(initialization):
    kernel = normal((3, 3, 8, 4), 0.5)
    first, again = (kmeans.cluster_kernel(kernel, 4, True, True, initialization, seed=3) for _ in range(2))
    np.testing.assert_array_equal(first, again)


@pytest.mark.parametrize("initialization", ["kmeans_plus_plus", "random"])
def test_another_seed_starts_elsewhere(initialization):
    weights, every = normal((1, 300)), np.ones((1, 300), bool)
    first, other = (
        kmeans.INITIALIZATIONS[initialization](weights, every, 4, np.random.default_rng(seed)) for seed in (0, 1)
    )
    assert np.any(first != other)


@given(kernel=KERNELS, per_channel=st.booleans())
def test_rows_are_put_back_as_they_were(kernel, per_channel):
    rows = kmeans.make_rows(kernel, per_channel)
    assert rows.shape == ((kernel.shape[-1], kernel.size // kernel.shape[-1]) if per_channel else (1, kernel.size))
    np.testing.assert_array_equal(kmeans.make_kernel(rows, kernel.shape), kernel)
