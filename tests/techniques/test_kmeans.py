"""k-means: at most k values per row, zeros preserved, and never a worse fit than the start."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from collabopt.analysis import audit
from collabopt.techniques import assignment, kmeans

UNTIMED = settings(deadline=None, max_examples=40)
INITIALIZATIONS = sorted(kmeans.INITIALIZATIONS)
# FEW has many zeros, repeats and pairs that cancel out, so that a mean can be zero. ANY resembles a real kernel.
FEW = st.sampled_from([-1.5, -0.5, -0.25, 0.0, 0.25, 0.5, 3.0])
ANY = st.floats(-2, 2, width=32).map(lambda weight: weight if abs(weight) > 1e-15 else 0.0)  # squares stay above zero
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


def find_nearest(weights: np.ndarray, centroids: np.ndarray) -> np.ndarray:
    return assignment.assign(weights, centroids.astype(np.float32)).numpy()


def compute_error(weights: np.ndarray, mask: np.ndarray, centroids: np.ndarray) -> np.ndarray:
    """Squared error (rows,) of weights replaced by their nearest centroid."""
    nearest = np.take_along_axis(centroids, find_nearest(weights, centroids), axis=1)
    return np.sum(np.where(mask, weights.astype(np.float64) - nearest, 0) ** 2, axis=1)


def fit(weights: np.ndarray, mask: np.ndarray, k: int, initialization: str) -> np.ndarray:
    """Centroids (rows, k) fitted to the weights that take part."""
    start = kmeans.INITIALIZATIONS[initialization](weights, mask, k, np.random.default_rng(0))
    return kmeans.fit_centroids(weights, mask, start)


@UNTIMED
@given(preserve_zeros=st.booleans(), **EVERY)
def test_a_row_holds_at_most_k_values(kernel, k, per_channel, initialization, preserve_zeros):
    found = kmeans.cluster_kernel(kernel, k, per_channel, preserve_zeros, initialization)
    assert found.shape == kernel.shape
    assert found.dtype == kernel.dtype
    assert np.all(np.isfinite(found))
    assert count_values(found, per_channel) <= k  # zero included


@UNTIMED
@given(**EVERY)
def test_zeros_stay(kernel, k, per_channel, initialization):
    found = kmeans.cluster_kernel(kernel, k, per_channel, True, initialization)
    assert not found[kernel == 0].any()


@UNTIMED
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
        assert not found[kernel == 0].any()


@UNTIMED
@given(
    weights=arrays.arrays(np.float32, (3, 20), elements=ANY),
    found=arrays.arrays(np.float32, (3, 5), elements=FEW | ANY),
    cost=arrays.arrays(np.float32, (3, 5), elements=st.floats(0, 4, width=16)) | st.just(np.zeros((3, 5), np.float32)),
    importance=arrays.arrays(np.float32, (3, 20), elements=st.floats(0, 4, width=16)),
)
def test_the_assignment_agrees_with_a_search_of_all_centroids(weights, found, cost, importance):
    places = assignment.assign(weights, found, importance, cost).numpy()
    every = (weights[:, :, None].astype(np.float64) - found[:, None, :]) ** 2
    every = importance[:, :, None] * every + cost[:, None, :]
    chosen = np.take_along_axis(every, places[..., None], axis=2)[..., 0]
    # Compare costs, because two centroids can be equally good. In float32 they are rounded.
    np.testing.assert_allclose(chosen, every.min(axis=2), atol=2e-5)


@pytest.mark.parametrize("has_costs", [False, True])
@pytest.mark.parametrize(("rows", "n", "k"), [(1, 131_072, 8), (64, 1_024, 16), (1, 16_384, 64), (2, 6_000, 150)])
def test_the_compiled_assignment_of_large_kernels_is_the_same(rows, n, k, has_costs):
    generator = np.random.default_rng(0)
    weights, centroids, cost = (
        generator.standard_normal((rows, size)).astype(np.float32) for size in (n, k, k)
    )  # fmt: skip
    costs = (weights**2, cost**2) if has_costs else ()
    found, expected = (assign(weights, centroids, *costs) for assign in (assignment.assign, assignment._assign))
    np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize("per_channel", [False, True])
@pytest.mark.parametrize("sparsity", [0.0, 0.5])
def test_a_low_importance_trades_error_for_a_shorter_code(sparsity, per_channel):
    kernel, errors, bits = draw_kernel((3, 3, 40, 4), sparsity), [], []
    for importance in (1e6, 20, 5, 1):
        importance = np.full_like(kernel, importance)
        found = kmeans.cluster_kernel(kernel, 8, per_channel, bool(sparsity), importance=importance)
        assert not found[kernel == 0].any() or not sparsity
        errors.append(np.mean((found - kernel) ** 2))
        rows = kmeans.make_rows(found, per_channel)
        shares = [np.unique(row, return_counts=True)[1] / row.size for row in rows]
        bits.append(np.mean([-np.sum(share * np.log2(share)) for share in shares]))
    assert np.all(np.diff(errors) > 0) and np.all(np.diff(bits) < 0)


def test_the_code_length_is_that_of_the_share_of_the_members():
    indices = np.repeat([0, 1, 3], [4000, 2000, 2000]).astype(np.int32)
    np.testing.assert_allclose(
        assignment.compute_code_length(indices, 1, 4).numpy()[0, [0, 1, 3]], [1, 2, 2], atol=0.01
    )


@UNTIMED
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
    before, after = (compute_error(weights, mask, one) for one in (start, fit(weights, mask, k, initialization)))
    assert np.all(after <= before * (1 + 1e-5) + 1e-9)


@pytest.mark.parametrize("initialization", INITIALIZATIONS)
def test_lloyds_algorithm_ends_where_each_centroid_is_the_mean_of_its_members(initialization):
    weights = kmeans.make_rows(draw_kernel((200, 1)), per_channel=False)
    found = fit(weights, np.ones_like(weights, bool), 4, initialization)
    index = find_nearest(weights, found)
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


@UNTIMED
@given(kernel=KERNELS, per_channel=st.booleans())
def test_make_kernel_undoes_make_rows(kernel, per_channel):
    rows = kmeans.make_rows(kernel, per_channel)
    assert rows.shape == ((kernel.shape[-1], kernel.size // kernel.shape[-1]) if per_channel else (1, kernel.size))
    np.testing.assert_array_equal(kmeans.make_kernel(rows, kernel.shape), kernel)
