"""Centroids of a kernel's weights: where they start, and which weight is nearest to which.

All functions work on rows: `weights` (rows, n), a row a tensor or an output channel, and `counted` (rows, n) bool, the
weights that take part; the others are zeros that are to stay.
"""

import numpy as np

MAX_ITERATIONS = 50


def make_rows(kernel: np.ndarray, per_channel: bool) -> np.ndarray:
    """A kernel (..., out) as rows of weights: one in all, or one an output channel."""
    return np.ascontiguousarray(kernel.reshape(-1, kernel.shape[-1]).T) if per_channel else kernel.reshape(1, -1)


def make_kernel(weights: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """The kernel that `rows` made rows of."""
    return weights.T.reshape(shape) if len(weights) > 1 else weights.reshape(shape)


def fit_centroids(
    weights: np.ndarray, counted: np.ndarray, k: int, initialization: str, generator: np.random.Generator
) -> np.ndarray:
    """k centroids (rows, k) in ascending order: the initialization, moved by Lloyd's algorithm until it rests (1982).

    A row of fewer than k distinct weights has centroids twice; other initializations than k-means++ may merge weights.
    """
    centroids = np.sort(INITIALIZATIONS[initialization](weights, counted, k, generator), axis=1)
    for _ in range(MAX_ITERATIONS):
        moved = _means(weights, counted, find_nearest(weights, centroids), centroids)
        if np.array_equal(moved, centroids):
            break
        centroids = moved
    return centroids.astype(weights.dtype)


def find_nearest(weights: np.ndarray, centroids: np.ndarray) -> np.ndarray:
    """The index (rows, n) of each weight's nearest centroid; `centroids` (rows, k) ascend."""
    borders = (centroids[:, 1:] + centroids[:, :-1]) / 2
    return np.stack([np.searchsorted(border, row) for border, row in zip(borders, weights, strict=True)])


def _means(weights: np.ndarray, counted: np.ndarray, index: np.ndarray, centroids: np.ndarray) -> np.ndarray:
    """The mean of each centroid's members; one without members stays."""
    k = centroids.shape[1]
    flat = (index + k * np.arange(len(weights))[:, None])[counted]
    sums = np.bincount(flat, weights[counted].astype(np.float64), centroids.size).reshape(centroids.shape)
    members = np.bincount(flat, minlength=centroids.size).reshape(centroids.shape)
    return np.where(members > 0, sums / np.maximum(members, 1), centroids)


def _kmeans_plus_plus(weights, counted, k, generator):
    """Weights drawn one after another, the farther from those drawn the likelier (Arthur and Vassilvitskii 2007)."""
    drawn = np.empty((len(weights), k))
    distance = counted.astype(np.float64)
    for index in range(k):
        ladder = np.cumsum(distance, axis=1)
        at = (ladder <= generator.random((len(weights), 1)) * ladder[:, -1:]).sum(axis=1)
        drawn[:, index] = np.take_along_axis(weights, np.minimum(at, weights.shape[1] - 1)[:, None], axis=1)[:, 0]
        far = np.where(counted, (weights - drawn[:, index : index + 1]) ** 2, 0.0)
        distance = far if index == 0 else np.minimum(distance, far)
    return drawn


def _linear(weights, counted, k, generator):  # noqa: ARG001
    """Evenly spaced from the smallest to the largest weight."""
    return np.linspace(*_ends(weights, counted), k, axis=1)


def _density_based(weights, counted, k, generator):  # noqa: ARG001
    """At evenly spaced quantiles, as many weights between any two."""
    quantiles = (np.arange(k) + 0.5) / k
    return np.stack([np.quantile(row[of], quantiles) for row, of in zip(weights, counted, strict=True)])


def _random(weights, counted, k, generator):
    """Uniform between the smallest and the largest weight."""
    low, high = _ends(weights, counted)
    return low[:, None] + (high - low)[:, None] * generator.random((len(weights), k))


def _ends(weights: np.ndarray, counted: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    return np.where(counted, weights, np.inf).min(axis=1), np.where(counted, weights, -np.inf).max(axis=1)


INITIALIZATIONS = {
    "kmeans_plus_plus": _kmeans_plus_plus,
    "linear": _linear,
    "density_based": _density_based,
    "random": _random,
}


def cluster_kernel(
    kernel: np.ndarray,
    k: int,
    per_channel: bool = False,
    preserve_zeros: bool = False,
    initialization: str = "kmeans_plus_plus",
    seed: int = 0,
) -> np.ndarray:
    """The kernel with each weight replaced by its centroid: at most k values a tensor, or an output channel.

    With `preserve_zeros` the exact zeros stay, are one of the k, and have no part in the other centroids; a row without
    zeros is given all k to its weights, and no zero.
    """
    weights = make_rows(kernel, per_channel)
    counted = weights != 0 if preserve_zeros else np.ones_like(weights, bool)
    generator = np.random.default_rng(seed)
    found = np.zeros_like(weights)
    # Rows with zeros have one centroid less for the others; an empty row has nothing to cluster.
    for some, count in ((~counted.all(axis=1) & counted.any(axis=1), k - 1), (counted.all(axis=1), k)):
        if some.any():
            centroids = fit_centroids(weights[some], counted[some], count, initialization, generator)
            near = np.take_along_axis(centroids, find_nearest(weights[some], centroids), axis=1)
            if preserve_zeros:  # the mean of what cancels out is zero, and would make zeros of weights
                near[near == 0] = np.finfo(near.dtype).tiny
            found[some] = np.where(counted[some], near, 0)
    return make_kernel(found, kernel.shape)
