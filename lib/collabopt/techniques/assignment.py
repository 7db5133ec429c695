"""Which centroid stands for each weight: the nearest one, or the one that is best if the length of its code counts.

Entropy-constrained quantization (Chou, Lookabaugh and Gray 1989; for networks Choi, El-Khamy and Lee 2017,
arXiv:1612.01543) minimizes the error plus the length of the code. Every function works on rows, one per tensor or per
channel.
"""

import numpy as np

from collabopt.runtime.tensorflow import drop_log_records, tf

_COMPILED_FROM = 2**20
"""Weights times centroids from which compiling takes less time than it saves in a training."""
_COMPILED_CENTROIDS = 64
"""Centroids at a time. Compiling takes a second for 64 of them, and grows faster than their number."""


def assign(
    weights: tf.Tensor, centroids: tf.Tensor, importance: tf.Tensor | None = None, length: tf.Tensor | None = None
) -> tf.Tensor:
    """Return each weight's best centroid: int32 indices (rows, n) into the row's centroids.

    Args:
        weights: Weights (rows, n).
        centroids: Values (rows, k) in any order.
        importance: What the squared error of each weight costs, in bits (rows, n). None takes the nearest centroid.
        length: Length of each centroid's code, in bits (rows, k); goes with `importance`.
    """
    costs = () if importance is None else (importance, length)
    size, k = np.prod(weights.shape), centroids.shape[1]
    if size * k < _COMPILED_FROM:
        return _assign(weights, centroids, *costs)
    least, indices = tf.fill(weights.shape, np.float32(np.inf)), tf.zeros(weights.shape, tf.int32)
    with drop_log_records("triggered tf.function retracing"):  # once per shape of a kernel
        for first in range(0, k, _COMPILED_CENTROIDS):
            some = slice(first, first + _COMPILED_CENTROIDS)
            own = () if importance is None else (importance, length[:, some])
            error, index = _find_best(weights, centroids[:, some], *own)
            indices, least = tf.where(error < least, first + index, indices), tf.minimum(error, least)
    return indices


def _assign(
    weights: tf.Tensor, centroids: tf.Tensor, importance: tf.Tensor | None = None, length: tf.Tensor | None = None
) -> tf.Tensor:
    errors = tf.math.squared_difference(weights[:, :, tf.newaxis], centroids[:, tf.newaxis])
    if importance is not None:
        errors = importance[:, :, tf.newaxis] * errors + length[:, tf.newaxis]
    return tf.argmin(errors, axis=2, output_type=tf.int32)


@tf.function(jit_compile=True, autograph=False)
def _find_best(
    weights: tf.Tensor, centroids: tf.Tensor, importance: tf.Tensor | None = None, length: tf.Tensor | None = None
) -> tuple[tf.Tensor, tf.Tensor]:
    """The least cost, and the index by `_assign`, in one loop over the weights, without arrays (rows, n, k). Compiled,
    it is ten times as fast.
    """
    least, indices = tf.fill(weights.shape, np.float32(np.inf)), tf.zeros(weights.shape, tf.int32)
    for index in range(centroids.shape[1]):
        error = tf.math.squared_difference(weights, centroids[:, index : index + 1])
        if importance is not None:
            error = importance * error + length[:, index : index + 1]
        indices, least = tf.where(error < least, index, indices), tf.minimum(error, least)
    return least, indices


def compute_code_length(indices: tf.Tensor, rows: int, k: int) -> tf.Tensor:
    """Return the bits (rows, k) of each centroid's ideal entropy code, from `indices` into the flattened `rows` × `k`.

    A centroid without members has the length of one that has a single member.
    """
    members = tf.math.bincount(tf.reshape(indices, [-1]), minlength=rows * k, maxlength=rows * k)
    share = tf.cast(tf.maximum(tf.reshape(members, [rows, k]), 1), tf.float32)
    return tf.math.log(tf.reduce_sum(share, axis=1, keepdims=True) / share) / np.log(2)
