"""The zeros and clusters of a kernel in training: a mask, centroids, and the assignment of weights to centroids.

The forward pass looks up each weight's centroid. The weights themselves stay as latent weights: they get the gradient
of the looked-up kernel as if there were no clusters (a straight-through estimator, Bengio et al. 2013,
arXiv:1308.3432), and each training step assigns them again, with `importance` to centroids with a short code, too
(`assignment`). A centroid gets the sum over its members (Han et al. 2016, arXiv:1510.00149).
"""

import dataclasses
from typing import Any, Literal

import numpy as np

from collabopt.config import per_layer
from collabopt.config.experiment import Experiment
from collabopt.runtime.tensorflow import keras, tf
from collabopt.techniques.assignment import assign, compute_code_length
from collabopt.techniques.kmeans import make_kernel, make_rows
from collabopt.techniques.layers import get_channel_axis, read_layer_kernels

Granularity = Literal["tensor", "channel"]
"""Whether a kernel's clusters are shared by the whole tensor, or each output channel has its own."""


@dataclasses.dataclass(frozen=True)
class Clusters:
    """How the clusters of a kernel are trained.

    Attributes:
        granularity: Whether the whole tensor shares the clusters.
        moving: Whether training steps assign weights again; else each weight keeps its centroid.
        symmetric: 2 for {−α, α}, binary weights (Rastegari et al. 2016, arXiv:1603.05279); 3 for {−α, 0, α}, ternary
            weights (Li et al. 2016, arXiv:1605.04711); 0 for any values.
    """

    granularity: Granularity
    moving: bool = True
    symmetric: int = 0


PER_TENSOR = Clusters("tensor")


def make_clusters(experiment: Experiment) -> Clusters:
    """Return how an `experiment` trains clusters."""
    granularity = "channel" if experiment.cluster_per_channel else "tensor"
    symmetric = per_layer.get_value(experiment.number_of_clusters) if experiment.symmetric else 0
    return Clusters(granularity, experiment.clustering == "moving", symmetric)


def make_lookup(kernel: np.ndarray, granularity: Granularity) -> tuple[np.ndarray, np.ndarray]:
    """Split a clustered kernel into its values and the place of each weight among them.

    Args:
        kernel: Clustered kernel (..., out).
        granularity: "tensor", or "channel" for values of each output channel.

    Returns:
        The distinct values (rows, k) in ascending order, one row per tensor or channel; a row of fewer values repeats
        its last one. int32 indices (..., out) into the flattened values.
    """
    if granularity == "tensor":
        values, indices = np.unique(kernel, return_inverse=True)
        return values[np.newaxis], indices.reshape(kernel.shape).astype(np.int32)
    rows = np.ascontiguousarray(kernel.reshape(-1, kernel.shape[-1]).T)
    order = np.argsort(rows, axis=1, kind="stable")
    ordered = np.take_along_axis(rows, order, axis=1)
    place = np.cumsum(np.diff(ordered, axis=1, prepend=ordered[:, :1]) != 0, axis=1)
    k, row = place.max() + 1, np.arange(len(rows))[:, np.newaxis]
    values = np.repeat(ordered[:, -1:], k, axis=1)
    np.put_along_axis(values, place, ordered, axis=1)
    indices = np.empty(rows.shape, np.int32)
    np.put_along_axis(indices, order, (place + k * row).astype(np.int32), axis=1)
    return values, indices.T.reshape(kernel.shape)


def make_symmetric_lookup(kernel: np.ndarray, clusters: Clusters) -> tuple[np.ndarray, np.ndarray]:
    """Split a binary or ternary kernel into its values and the place of each weight among them.

    Args:
        kernel: Clustered kernel (..., out), whose weights other than zero have one magnitude per row.
        clusters: Granularity, and how many values there are.

    Returns:
        As `make_lookup`, with −α, α or −α, 0, α in each row, also where the row holds fewer.
    """
    rows, k = make_rows(kernel, clusters.granularity == "channel"), clusters.symmetric
    values = np.abs(rows).max(axis=1, keepdims=True) * np.linspace(-1, 1, k, dtype=np.float32)
    place = rows > 0 if k == 2 else np.sign(rows) + 1
    indices = place.astype(np.int32) + k * np.arange(len(rows), dtype=np.int32)[:, np.newaxis]
    return values, make_kernel(indices, kernel.shape)


@tf.custom_gradient
def look_up(centroids: tf.Tensor, latent: tf.Tensor, indices: tf.Tensor):
    """Return a kernel made of each weight's centroid.

    Args:
        centroids: Values (rows, k).
        latent: Latent weights; they get the gradient of the kernel.
        indices: int32 indices of the kernel's shape into the flattened centroids.
    """

    def gradient(upstream: tf.Tensor):
        sums = tf.math.unsorted_segment_sum(tf.reshape(upstream, [-1]), tf.reshape(indices, [-1]), tf.size(centroids))
        return tf.reshape(sums, tf.shape(centroids)), upstream, None

    del latent  # only its gradient matters
    return tf.gather(tf.reshape(centroids, [-1]), indices), gradient


def add_state(
    wrapper: keras.layers.Wrapper,
    zeros: bool,
    clusters: Clusters | None,
    place: int = 0,
    clustered: np.ndarray | None = None,
    importance: np.ndarray | None = None,
) -> dict[str, Any]:
    """Add variables to a wrapper that hold the zeros and clusters of a kernel of its layer.

    Args:
        wrapper: The wrapper that gets the variables.
        zeros: Whether zeros stay zero.
        clusters: How clusters are trained; None preserves none.
        place: Which of the layer's kernels (`layers.find_kernels`).
        clustered: The clustered kernel (..., out); None if the layer's kernel is clustered.
        importance: What the squared error of each weight costs, in bits (..., out); None assigns to the nearest.

    Returns:
        The state by name: `mask` for zeros; for clusters `centroids`, `where`, `is_free` (which centroids are trained),
        `is_symmetric`; for moving clusters also `reassigns`, `importance` if given, and `axis`, that of the channels
        with clusters of their own.
    """
    state, axis = {}, get_channel_axis(wrapper.layer)
    name, kernel = f"kernel_{place}" if place else "kernel", [*read_layer_kernels(wrapper.layer).values()][place]
    if zeros:
        mask = np.moveaxis(kernel != 0, -1, axis).astype(np.float32)
        state["mask"] = _add_variable(wrapper, f"{name}_mask", mask)
    if clusters:
        kernel = kernel if clustered is None else clustered
        values, indices = (
            make_symmetric_lookup(kernel, clusters) if clusters.symmetric else make_lookup(kernel, clusters.granularity)
        )
        state["is_symmetric"] = bool(clusters.symmetric)
        state["centroids"] = _add_variable(wrapper, f"{name}_centroids", values, trainable=True)
        state["where"] = _add_variable(wrapper, f"{name}_where", np.moveaxis(indices, -1, axis))
        state["is_free"] = (values != 0).astype(np.float32) if zeros else np.ones_like(values)
        if clusters.moving:
            state["reassigns"] = _add_variable(wrapper, f"{name}_reassigns", np.zeros((), bool))
            if importance is not None:
                state["importance"] = tf.constant(np.moveaxis(importance, -1, axis))
            state["axis"] = axis if clusters.granularity == "channel" else None
    return state


def apply_state(kernel: tf.Tensor, state: dict[str, Any], training: bool = False) -> tf.Tensor:
    """Return a kernel made of centroids and multiplied by the mask, where the state has them.

    Args:
        kernel: The trained kernel, or latent weights.
        state: What `add_state` returned.
        training: Whether weights are assigned again first, until `reassigns` is unset.
    """
    if "centroids" in state:
        # Tensors, because tf.custom_gradient takes no gradient of a variable on several devices.
        centroids = tf.convert_to_tensor(state["centroids"]) * state["is_free"]
        if state["is_symmetric"]:  # −α and α train one magnitude, and stay exact opposites
            centroids = (centroids - centroids[:, ::-1]) / 2
        latent = tf.convert_to_tensor(kernel) if "reassigns" in state else tf.zeros_like(kernel)
        where = _reassign(latent, centroids, state) if training and "reassigns" in state else state["where"]
        kernel = look_up(centroids, latent, tf.convert_to_tensor(where))
    return kernel * state["mask"] if "mask" in state else kernel


def _reassign(latent: tf.Tensor, centroids: tf.Tensor, state: dict[str, Any]) -> tf.Tensor:
    """The assignment of a training step, which the state keeps."""

    def renew() -> tf.Tensor:
        (rows, k), axis = centroids.shape, state["axis"]

        def make_rows(values: tf.Tensor) -> tf.Tensor:
            values = values if axis is None else tf.experimental.numpy.moveaxis(values, axis, 0)
            return tf.reshape(values, [rows, -1])

        weights = make_rows(tf.stop_gradient(latent * state.get("mask", 1.0)))
        costs = ()
        if "importance" in state:
            costs = make_rows(state["importance"]), compute_code_length(state["where"], rows, k)
        indices = assign(weights, tf.stop_gradient(centroids), *costs)
        indices += k * tf.range(rows)[:, tf.newaxis]
        if axis is None:
            return tf.reshape(indices, latent.shape)
        shape = [rows, *(size for place, size in enumerate(latent.shape) if place != axis % len(latent.shape))]
        return tf.experimental.numpy.moveaxis(tf.reshape(indices, shape), 0, axis)

    return state["where"].assign(tf.cond(state["reassigns"], renew, lambda: tf.identity(state["where"])))


def _add_variable(layer: keras.layers.Layer, name: str, value: np.ndarray, trainable: bool = False) -> tf.Variable:
    return layer.add_weight(name, value.shape, value.dtype, keras.initializers.Constant(value), trainable=trainable)
