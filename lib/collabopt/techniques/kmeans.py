"""k-means over the weights of a kernel: initial centroids, Lloyd's algorithm, and each weight's nearest centroid.

Weights are scalars, so a search among the midpoints of sorted centroids finds the nearest one. A kernel is clustered
as a whole or per output channel. Every function therefore works on rows: `weights` (rows, n) holds one row per tensor
or channel, and `mask` (rows, n) bool marks the weights that take part; the others are zeros to preserve.
"""

import numpy as np

_MAX_ITERATIONS = 50


def make_rows(kernel: np.ndarray, per_channel: bool) -> np.ndarray:
    """Arrange a kernel as rows of weights.

    Args:
        kernel: Kernel (..., out).
        per_channel: Whether to make one row per output channel.

    Returns:
        Weights (1, n), or (out, n) per channel.
    """
    return np.ascontiguousarray(kernel.reshape(-1, kernel.shape[-1]).T) if per_channel else kernel.reshape(1, -1)


def make_kernel(weights: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """Arrange rows of weights as the kernel that `make_rows` made them of.

    Args:
        weights: Weights (rows, n).
        shape: Shape (..., out) of the kernel.

    Returns:
        The kernel (..., out).
    """
    return weights.T.reshape(shape) if len(weights) > 1 else weights.reshape(shape)


def fit_centroids(
    weights: np.ndarray, mask: np.ndarray, k: int, initialization: str, generator: np.random.Generator
) -> np.ndarray:
    """Fit k centroids to each row by Lloyd's algorithm (1982), until none moves.

    Args:
        weights: Weights (rows, n).
        mask: Weights that take part (rows, n) bool; at least one per row.
        k: Number of centroids per row.
        initialization: A key of `INITIALIZATIONS`.
        generator: Source of the random initializations.

    Returns:
        Centroids (rows, k) in ascending order. A row of fewer than k distinct weights has duplicates; initializations
        other than k-means++ may then merge weights.
    """
    centroids = np.sort(INITIALIZATIONS[initialization](weights, mask, k, generator), axis=1)
    for _ in range(_MAX_ITERATIONS):
        updated = _compute_means(weights, mask, find_nearest(weights, centroids), centroids)
        if np.array_equal(updated, centroids):
            break
        centroids = updated
    return centroids.astype(weights.dtype)


def find_nearest(weights: np.ndarray, centroids: np.ndarray) -> np.ndarray:
    """Find each weight's nearest centroid.

    Args:
        weights: Weights (rows, n).
        centroids: Centroids (rows, k) in ascending order.

    Returns:
        Indices (rows, n) into the row's centroids.
    """
    midpoints = (centroids[:, 1:] + centroids[:, :-1]) / 2
    return np.stack([np.searchsorted(borders, row) for borders, row in zip(midpoints, weights, strict=True)])


def _compute_means(weights: np.ndarray, mask: np.ndarray, nearest: np.ndarray, centroids: np.ndarray) -> np.ndarray:
    """The mean of each centroid's members (rows, k). A centroid without members stays where it is."""
    k = centroids.shape[1]
    cluster = (nearest + k * np.arange(len(weights))[:, None])[mask]
    sums = np.bincount(cluster, weights[mask].astype(np.float64), centroids.size).reshape(centroids.shape)
    members = np.bincount(cluster, minlength=centroids.size).reshape(centroids.shape)
    return np.where(members > 0, sums / np.maximum(members, 1), centroids)


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


def cluster_kernel(
    kernel: np.ndarray,
    k: int,
    per_channel: bool = False,
    preserve_zeros: bool = False,
    initialization: str = "kmeans_plus_plus",
    seed: int = 0,
) -> np.ndarray:
    """Replace each weight of a kernel by its centroid.

    Args:
        kernel: Kernel (..., out).
        k: Most values per tensor, or per output channel.
        per_channel: Whether each output channel has its own centroids.
        preserve_zeros: Whether exact zeros stay. Zero then is one of the k values, and the other centroids are fitted
            to the non-zero weights. A row without zeros gets k centroids and no zero.
        initialization: A key of `INITIALIZATIONS`.
        seed: Seed of the random initializations.

    Returns:
        The clustered kernel (..., out).
    """
    weights = make_rows(kernel, per_channel)
    mask = weights != 0 if preserve_zeros else np.ones_like(weights, bool)
    generator = np.random.default_rng(seed)
    clustered = np.zeros_like(weights)
    # In rows with zeros, zero takes the place of one centroid. Rows of zeros only have nothing to cluster.
    for rows, count in ((~mask.all(axis=1) & mask.any(axis=1), k - 1), (mask.all(axis=1), k)):
        if rows.any():
            centroids = fit_centroids(weights[rows], mask[rows], count, initialization, generator)
            nearest = np.take_along_axis(centroids, find_nearest(weights[rows], centroids), axis=1)
            if preserve_zeros:  # a mean of weights that cancel out is zero, and would prune them
                nearest[nearest == 0] = np.finfo(nearest.dtype).tiny
            clustered[rows] = np.where(mask[rows], nearest, 0)
    return make_kernel(clustered, kernel.shape)
