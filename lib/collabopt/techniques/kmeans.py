"""k-means over the weights of a kernel: initial centroids and Lloyd's algorithm.

Every function works on rows, one per tensor or output channel: `weights` (rows, n), and `mask` (rows, n) bool, which
marks the weights that take part. The others are zeros to preserve.
"""

import numpy as np

from collabopt.runtime.tensorflow import tf
from collabopt.techniques import assignment

_MAX_ITERATIONS = 50
_CODE_ITERATIONS = 10
"""More shorten a kernel's codes by less than 0.5 %, and training assigns weights again."""


def make_rows(kernel: np.ndarray, per_channel: bool) -> np.ndarray:
    """Return a `kernel` (..., out) as rows of weights (1, n), or (out, n) if `per_channel`."""
    return np.ascontiguousarray(kernel.reshape(-1, kernel.shape[-1]).T) if per_channel else kernel.reshape(1, -1)


def make_kernel(weights: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """Return the kernel of `shape` (..., out) whose rows `make_rows` made, from `weights` (rows, n)."""
    return weights.T.reshape(shape) if len(weights) > 1 else weights.reshape(shape)


def fit_centroids(
    weights: np.ndarray, mask: np.ndarray, centroids: np.ndarray, is_free: np.ndarray | bool = True
) -> np.ndarray:
    """Fit centroids to each row by Lloyd's algorithm (1982), until none moves.

    In one dimension, a cluster is a range of the sorted weights, so each iteration needs only its ends.

    Args:
        weights: Weights (rows, n).
        mask: Weights that take part (rows, n) bool.
        centroids: Initial centroids (rows, k), in any order.
        is_free: Which centroids move (k,) bool.

    Returns:
        Centroids (rows, k). One without members stays where it is.
    """
    filled = np.where(mask, weights, np.inf)
    order = np.argsort(filled, axis=1)
    ordered = np.take_along_axis(filled, order, axis=1)
    sums, counts = (
        np.pad(np.cumsum(np.take_along_axis(values, order, axis=1), axis=1, dtype=np.float64), ((0, 0), (1, 0)))
        for values in (np.where(mask, weights, 0), mask)
    )
    ends = None
    for _ in range(_MAX_ITERATIONS):
        ascending = np.argsort(centroids, axis=1, kind="stable")
        values = np.take_along_axis(centroids, ascending, axis=1)
        between = ((values[:, 1:] + values[:, :-1]) / 2).astype(ordered.dtype)
        found = np.pad(tf.searchsorted(ordered, between).numpy(), ((0, 0), (1, 1)))
        found[:, -1] = mask.sum(axis=1)
        if ends is not None and np.array_equal(found, ends):
            break
        ends = found
        total, members = (np.diff(np.take_along_axis(one, ends, axis=1), axis=1) for one in (sums, counts))
        moves = (members > 0) & np.broadcast_to(is_free, centroids.shape)[0][ascending]
        values = np.where(moves, total / np.maximum(members, 1), values)
        centroids = np.take_along_axis(values, np.argsort(ascending, axis=1), axis=1)
    return centroids.astype(weights.dtype)


def shorten_codes(
    weights: np.ndarray,
    mask: np.ndarray,
    centroids: np.ndarray,
    importance: np.ndarray,
    is_free: np.ndarray | bool = True,
) -> tuple[np.ndarray, np.ndarray]:
    """Trade errors for shorter codes: assign weights and move centroids in turn (Chou, Lookabaugh and Gray 1989).

    Args:
        weights: Weights (rows, n).
        mask: Weights that take part (rows, n) bool; the others are zeros, and belong to the first centroid.
        centroids: Centroids (rows, k) that fit the weights.
        importance: What the squared error of each weight costs, in bits (rows, n).
        is_free: Which centroids move (k,) bool.

    Returns:
        Centroids (rows, k), and each weight's place among them (rows, n).
    """
    rows, k = centroids.shape
    first, counts = k * np.arange(rows)[:, np.newaxis], mask * importance
    places = np.where(mask, assignment.assign(weights, centroids), 0)
    for _ in range(_CODE_ITERATIONS):
        means = _compute_means(weights, counts, places, centroids)
        centroids = np.where(is_free, means, centroids).astype(weights.dtype)
        length = assignment.compute_code_length(places + first, rows, k)
        places = np.where(mask, assignment.assign(weights, centroids, importance, length), 0)
    return centroids, places


def _compute_means(weights: np.ndarray, counts: np.ndarray, places: np.ndarray, centroids: np.ndarray) -> np.ndarray:
    """The weighted mean of each centroid's members (rows, k). A centroid without members stays where it is."""
    cluster = (places + centroids.shape[1] * np.arange(len(weights))[:, None]).ravel()
    sums, members = (
        np.bincount(cluster, values.ravel(), centroids.size).reshape(centroids.shape)
        for values in (counts.astype(np.float64) * weights, counts)
    )
    return np.where(members > 0, sums / np.where(members > 0, members, 1), centroids)


def _kmeans_plus_plus(weights, mask, k, generator):
    """Weights drawn one by one, each in proportion to its squared distance from the nearest drawn so far (Arthur and
    Vassilvitskii 2007)."""
    centroids = np.empty((len(weights), k))
    distance = mask.astype(np.float64)
    for index in range(k):
        cumulative = np.cumsum(distance, axis=1)
        pick = (cumulative <= generator.random((len(weights), 1)) * cumulative[:, -1:]).sum(axis=1)
        centroids[:, index] = np.take_along_axis(weights, np.minimum(pick, weights.shape[1] - 1)[:, None], axis=1)[:, 0]
        to_latest = np.where(mask, (weights - centroids[:, index : index + 1]) ** 2, 0.0)
        distance = to_latest if index == 0 else np.minimum(distance, to_latest)
    return centroids


def _linear(weights, mask, k, generator):  # noqa: ARG001
    """Evenly spaced from the smallest to the largest weight."""
    return np.linspace(*_find_range(weights, mask), k, axis=1)


def _density_based(weights, mask, k, generator):  # noqa: ARG001
    """Evenly spaced quantiles, with equally many weights between neighbours."""
    quantiles = (np.arange(k) + 0.5) / k
    return np.stack([np.quantile(row[selected], quantiles) for row, selected in zip(weights, mask, strict=True)])


def _random(weights, mask, k, generator):
    """Uniform between the smallest and the largest weight."""
    low, high = _find_range(weights, mask)
    return low[:, None] + (high - low)[:, None] * generator.random((len(weights), k))


def _find_range(weights: np.ndarray, mask: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    return np.where(mask, weights, np.inf).min(axis=1), np.where(mask, weights, -np.inf).max(axis=1)


INITIALIZATIONS = {
    "kmeans_plus_plus": _kmeans_plus_plus,
    "linear": _linear,
    "density_based": _density_based,
    "random": _random,
}
"""Initial centroids by name: (weights, mask, k, generator) -> centroids (rows, k), in any order."""


def cluster_symmetrically(kernel: np.ndarray, k: int, per_channel: bool = False) -> np.ndarray:
    """Return a kernel (..., out) of −α and α, or −α, 0 and α, with the α of least squared error.

    Binary: α is the mean magnitude (Rastegari et al. 2016, arXiv:1603.05279). Ternary: Lloyd's algorithm, from the
    threshold of Li et al. 2016 (arXiv:1605.04711). Zeros stay zero in ternary kernels.

    Args:
        kernel: Kernel (..., out).
        k: 2 for binary weights, 3 for ternary ones.
        per_channel: Whether each output channel has its own α.
    """
    weights = make_rows(kernel, per_channel)
    magnitude = np.abs(weights)
    signs, alpha = np.where(weights > 0, 1, -1), magnitude.mean(axis=1, keepdims=True)
    if k == 3:
        before, alpha = None, 1.4 * alpha  # weights above α / 2 are not zero
        for _ in range(_MAX_ITERATIONS):
            if np.array_equal(before, alpha):
                break
            before, is_large = alpha, magnitude > alpha / 2
            members = np.maximum(is_large.sum(axis=1, keepdims=True), 1)
            alpha = (magnitude * is_large).sum(axis=1, keepdims=True) / members
        signs = np.sign(weights) * is_large
    return make_kernel((signs * alpha).astype(kernel.dtype), kernel.shape)


def cluster_kernel(
    kernel: np.ndarray,
    k: int,
    per_channel: bool = False,
    preserve_zeros: bool = False,
    initialization: str = "kmeans_plus_plus",
    seed: int = 0,
    importance: np.ndarray | None = None,
) -> np.ndarray:
    """Return a kernel (..., out) with each weight replaced by its centroid.

    Args:
        kernel: Kernel (..., out).
        k: Most values per tensor, or per output channel.
        per_channel: Whether each output channel has its own centroids.
        preserve_zeros: Whether exact zeros stay. Zero then is one of the k values, and weights near it may become zero.
            A row without zeros gets k centroids and no zero.
        initialization: A key of `INITIALIZATIONS`.
        seed: Seed of the random initializations.
        importance: What the squared error of each weight costs, in bits, of the kernel's shape. Weights then prefer
            centroids with a short code. None counts errors only.
    """
    weights = make_rows(kernel, per_channel)
    importance = None if importance is None else make_rows(importance, per_channel)
    mask = weights != 0 if preserve_zeros else np.ones_like(weights, bool)
    generator = np.random.default_rng(seed)
    clustered = np.zeros_like(weights)
    # In rows with zeros, zero takes the place of one centroid. Rows of zeros only have nothing to cluster.
    for rows, zeros in ((~mask.all(axis=1) & mask.any(axis=1), 1), (mask.all(axis=1), 0)):
        if rows.any():
            selected, part = weights[rows], mask[rows]
            centroids = INITIALIZATIONS[initialization](selected, part, k - zeros, generator)
            centroids = np.hstack([np.zeros((len(selected), zeros)), centroids])
            is_free = np.arange(k) >= zeros
            centroids = fit_centroids(selected, part, centroids, is_free)
            if importance is None:
                places = np.where(part, assignment.assign(selected, centroids), 0)
            else:
                centroids, places = shorten_codes(selected, part, centroids, importance[rows], is_free)
            clustered[rows] = np.take_along_axis(centroids, places, axis=1)
    return make_kernel(clustered, kernel.shape)
