"""Which centroid stands for each weight: the nearest one, or the one that is best if the length of its code counts.

Entropy-constrained quantization (Chou, Lookabaugh and Gray 1989; for networks Choi, El-Khamy and Lee 2017,
arXiv:1612.01543) minimizes the error plus the length of the code. Every function works on rows, one per tensor or per
channel.
"""

import numpy as np

from collabopt.runtime.tensorflow import tf


def assign(
    weights: tf.Tensor, centroids: tf.Tensor, importance: tf.Tensor | None = None, length: tf.Tensor | None = None
) -> tf.Tensor:
    """Find each weight's best centroid.

    Args:
        weights: Weights (rows, n).
        centroids: Values (rows, k) in any order.
        importance: What the squared error of each weight costs, in bits (rows, n). None takes the nearest centroid.
        length: Length of each centroid's code, in bits (rows, k); goes with `importance`.

    Returns:
        int32 indices (rows, n) into the row's centroids.
    """
    errors = tf.math.squared_difference(weights[:, :, tf.newaxis], centroids[:, tf.newaxis])
    if importance is not None:
        errors = importance[:, :, tf.newaxis] * errors + length[:, tf.newaxis]
    return tf.argmin(errors, axis=2, output_type=tf.int32)


def compute_code_length(indices: tf.Tensor, rows: int, k: int) -> tf.Tensor:
    """Compute the length of each centroid's code, that of an ideal entropy coder.

    Args:
        indices: int32 indices of a kernel into its flattened centroids.
        rows: Rows of centroids.
        k: Centroids per row.

    Returns:
        Bits (rows, k). A centroid without members has the length of one that has a single member.
    """
    members = tf.math.bincount(tf.reshape(indices, [-1]), minlength=rows * k, maxlength=rows * k)
    share = tf.cast(tf.maximum(tf.reshape(members, [rows, k]), 1), tf.float32)
    return tf.math.log(tf.reduce_sum(share, axis=1, keepdims=True) / share) / np.log(2)
