"""k-means: at most k values per row, zeros preserved and none made, and never a worse fit than the start."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from collabopt.analysis import audit
from collabopt.techniques import kmeans

INITIALIZATIONS = sorted(kmeans.INITIALIZATIONS)
# FEW has many zeros, repeats and pairs that cancel out, so that a mean can be zero. ANY resembles a real kernel.
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


def draw_kernel(shape: tuple[int, ...], sparsity: float = 0.0, seed: int = 0) -> np.ndarray:
    """A kernel of normally distributed weights, a fraction of them zero."""
    generator = np.random.default_rng(seed)
    return (generator.normal(size=shape) * (generator.random(shape) >= sparsity)).astype(np.float32)


def count_values(kernel: np.ndarray, per_channel: bool) -> int:
    return audit.count_unique_per_channel(kernel) if per_channel else audit.count_unique(kernel)


def compute_error(weights: np.ndarray, mask: np.ndarray, centroids: np.ndarray) -> np.ndarray:
    """Squared error (rows,) of weights replaced by their nearest centroid."""
    nearest = np.take_along_axis(centroids, kmeans.find_nearest(weights, centroids), axis=1)
    return np.sum(np.where(mask, weights.astype(np.float64) - nearest, 0) ** 2, axis=1)


@given(preserve_zeros=st.booleans(), **EVERY)
def test_a_row_holds_at_most_k_values(kernel, k, per_channel, initialization, preserve_zeros):
    found = kmeans.cluster_kernel(kernel, k, per_channel, preserve_zeros, initialization)
    assert found.shape == kernel.shape
    assert found.dtype == kernel.dtype
    assert np.all(np.isfinite(found))
    assert count_values(found, per_channel) <= k  # zero included


@given(**EVERY)
def test_zeros_stay_and_no_weight_becomes_zero(kernel, k, per_channel, initialization):
    # Also where the mean of a cluster is zero, as of -0.5 and 0.5.
    found = kmeans.cluster_kernel(kernel, k, per_channel, True, initialization)
    np.testing.assert_array_equal(found == 0, kernel == 0)


@given(kernel=KERNELS, k=st.integers(3, 8), per_channel=st.booleans(), preserve_zeros=st.booleans())
def test_a_row_of_at_most_k_values_stays_as_it_is(kernel, k, per_channel, preserve_zeros):
    # kmeans_plus_plus, the default, draws every value before it draws one twice.
    rows = kmeans.make_rows(kernel, per_channel)
    found = kmeans.make_rows(kmeans.cluster_kernel(kernel, k, per_channel, preserve_zeros), per_channel)
    for before, after in zip(rows, found, strict=True):
        if audit.count_unique(before) <= k:
            np.testing.assert_array_equal(before, after)


@pytest.mark.parametrize("per_channel", [False, True])
@pytest.mark.parametrize("initialization", INITIALIZATIONS)
def test_a_kernel_of_many_values_uses_all_k(initialization, per_channel):
    # Zero is one of the k values; a kernel without zeros has k centroids.
    for sparsity in (0.0, 0.5):
        kernel = draw_kernel((3, 3, 8, 4), sparsity)
        found = kmeans.cluster_kernel(kernel, 6, per_channel, True, initialization)
        assert count_values(found, per_channel) >= (3 if initialization == "random" else 6)
        np.testing.assert_array_equal(found == 0, kernel == 0)


@given(
    weights=arrays.arrays(np.float32, (3, 20), elements=ANY),
    found=arrays.arrays(np.float32, (3, 5), elements=ANY).map(lambda drawn: np.sort(drawn, axis=1)),
)
def test_find_nearest_agrees_with_a_search_of_all_centroids(weights, found):
    near = np.take_along_axis(found, kmeans.find_nearest(weights, found), axis=1)
    distances = np.abs(weights[:, :, None].astype(np.float64) - found[:, None, :])
    # Compare distances, because two centroids can be equally near. In float32 a midpoint is rounded.
    np.testing.assert_allclose(np.abs(weights.astype(np.float64) - near), distances.min(axis=2), atol=1e-6)


@given(
    weights=arrays.arrays(np.float32, (2, 40), elements=FEW | ANY),
    k=st.integers(2, 8),
    initialization=st.sampled_from(INITIALIZATIONS),
    preserve_zeros=st.booleans(),
)
def test_lloyds_algorithm_never_fits_worse_than_its_initialization(weights, k, initialization, preserve_zeros):
    mask = weights != 0 if preserve_zeros else np.ones_like(weights, bool)
    weights, mask = weights[mask.any(axis=1)], mask[mask.any(axis=1)]
    if not len(weights):
        return
    start = kmeans.INITIALIZATIONS[initialization](weights, mask, k, np.random.default_rng(0))
    found = kmeans.fit_centroids(weights, mask, k, initialization, np.random.default_rng(0))
    assert np.all(np.diff(found, axis=1) >= 0)
    before, after = (compute_error(weights, mask, one) for one in (np.sort(start, axis=1), found))
    assert np.all(after <= before * (1 + 1e-5) + 1e-9)


@pytest.mark.parametrize("initialization", INITIALIZATIONS)
def test_lloyds_algorithm_ends_where_each_centroid_is_the_mean_of_its_members(initialization):
    weights = kmeans.make_rows(draw_kernel((200, 1)), per_channel=False)
    found = kmeans.fit_centroids(weights, np.ones_like(weights, bool), 4, initialization, np.random.default_rng(0))
    index = kmeans.find_nearest(weights, found)
    for one in np.unique(index):
        assert found[0, one] == pytest.approx(weights[index == one].mean(), abs=1e-5)


@pytest.mark.parametrize("preserve_zeros", [False, True])
@pytest.mark.parametrize("initialization", ["linear", "density_based"])  # the others draw, from one generator
def test_a_channel_is_clustered_as_it_is_alone(initialization, preserve_zeros):
    kernel = draw_kernel((3, 3, 4, 6), 0.4)
    kernel[..., 1] = draw_kernel((3, 3, 4), seed=1)  # without a zero
    kernel[..., 2] = 0
    together = kmeans.cluster_kernel(kernel, 5, True, preserve_zeros, initialization)
    for channel in range(kernel.shape[-1]):
        alone = kmeans.cluster_kernel(kernel[..., channel : channel + 1], 5, True, preserve_zeros, initialization)
        np.testing.assert_array_equal(together[..., channel : channel + 1], alone)


@pytest.mark.parametrize("initialization", INITIALIZATIONS)
def test_a_change_in_one_channel_does_not_affect_the_others(initialization):
    kernel = draw_kernel((3, 3, 4, 6), 0.4)
    changed = kernel.copy()
    changed[..., 0] *= 1.7
    before, after = (kmeans.cluster_kernel(one, 5, True, True, initialization) for one in (kernel, changed))
    np.testing.assert_array_equal(before[..., 1:], after[..., 1:])
    assert np.any(before[..., 0] != after[..., 0])


@pytest.mark.parametrize("per_channel", [False, True])
@pytest.mark.parametrize("preserve_zeros", [False, True])
@pytest.mark.parametrize("initialization", INITIALIZATIONS)
def test_a_row_of_zeros_stays(initialization, preserve_zeros, per_channel):
    kernel = draw_kernel((3, 3, 2, 4))
    kernel[..., 2] = 0
    found = kmeans.cluster_kernel(kernel, 4, per_channel, preserve_zeros, initialization)
    if preserve_zeros or per_channel:
        assert not found[..., 2].any()
    assert not kmeans.cluster_kernel(np.zeros_like(kernel), 4, per_channel, preserve_zeros, initialization).any()


@pytest.mark.parametrize("initialization", INITIALIZATIONS)
def test_the_same_seed_gives_the_same_clusters(initialization):
    kernel = draw_kernel((3, 3, 8, 4), 0.5)
    first, again = (kmeans.cluster_kernel(kernel, 4, True, True, initialization, seed=3) for _ in range(2))
    np.testing.assert_array_equal(first, again)


@pytest.mark.parametrize("initialization", ["kmeans_plus_plus", "random"])
def test_another_seed_gives_other_initial_centroids(initialization):
    weights, mask = draw_kernel((1, 300)), np.ones((1, 300), bool)
    first, other = (
        kmeans.INITIALIZATIONS[initialization](weights, mask, 4, np.random.default_rng(seed)) for seed in (0, 1)
    )
    assert np.any(first != other)


@given(kernel=KERNELS, per_channel=st.booleans())
def test_make_kernel_undoes_make_rows(kernel, per_channel):
    rows = kmeans.make_rows(kernel, per_channel)
    assert rows.shape == ((kernel.shape[-1], kernel.size // kernel.shape[-1]) if per_channel else (1, kernel.size))
    np.testing.assert_array_equal(kmeans.make_kernel(rows, kernel.shape), kernel)
