"""How much the squared error of each weight costs: the diagonal of the Fisher information.

The loss rises by half the Fisher information times the squared error of a weight (LeCun, Denker and Solla 1989, Optimal
Brain Damage; for clusters Choi, El-Khamy and Lee 2017, arXiv:1612.01543, and Kim et al. 2023, SqueezeLLM,
arXiv:2306.07629).
"""

import numpy as np

from collabopt.datasets import Data
from collabopt.runtime.tensorflow import keras, tf
from collabopt.techniques import layers, objectives

EXAMPLES = 512
"""Training examples whose gradients are squared."""
_BATCH = 4
"""Examples per gradient. Batches are faster than single examples, and as good on average."""
_FLOOR = 0.1
"""Importance that every weight has at least, as a share of its kernel's mean: 512 examples do not show every use."""


def compute_importance(model: keras.Model, data: Data, seed: int) -> dict[str, np.ndarray]:
    """Return what the squared error of each weight costs: float64 by kernel.

    Costs are scaled: setting a whole kernel to zero costs 1 per weight, as a geometric mean over all weights. Kernels
    that matter more to the loss cost more. Depthwise kernels are left out. So are kernels that the loss does not depend
    on: they would decide the mean.

    Args:
        model: A plain model; it stays as it is.
        data: Training examples and the task.
        seed: Decides which examples are taken.
    """
    places = {
        name: (getattr(owner, attribute), layers.get_channel_axis(layer))
        for layer in filter(layers.is_eligible, model.layers)
        for name, (owner, attribute) in layers.find_kernels(layer).items()
    }
    sums = _sum_squared_gradients(model, data, seed, [kernel for kernel, _ in places.values()])
    fisher, log_scale = {}, 0.0
    for (name, (kernel, axis)), squares in zip(places.items(), sums, strict=True):
        if not (squares * kernel.numpy() ** 2).any():
            continue
        squares = squares + _FLOOR * squares.mean() + np.finfo(np.float32).tiny
        cost = np.mean(squares * kernel.numpy() ** 2) + np.finfo(np.float32).tiny
        log_scale += kernel.numpy().size * np.log(cost)
        fisher[name] = np.moveaxis(squares, axis, -1)
    scale = np.exp(log_scale / max(sum(one.size for one in fisher.values()), 1))
    return {name: one / scale for name, one in fisher.items()}


def _sum_squared_gradients(model: keras.Model, data: Data, seed: int, kernels: list[tf.Variable]) -> list[np.ndarray]:
    loss, strategy = objectives.make_loss(data.task), tf.distribute.get_strategy()
    own = [strategy.experimental_local_results(kernel)[0] for kernel in kernels]  # those of the first device

    @tf.function(reduce_retracing=True)
    def square_gradients(inputs: tf.Tensor | dict[str, tf.Tensor], labels: tf.Tensor) -> list[tf.Tensor]:
        with tf.GradientTape() as tape:
            value = loss(labels, model(inputs, training=False))
        return [gradient**2 for gradient in tape.gradient(value, own, unconnected_gradients="zero")]

    sums = [np.zeros(kernel.shape) for kernel in kernels]
    chosen = np.sort(np.random.default_rng(seed).permutation(len(data.train))[:EXAMPLES])
    for inputs, labels in data.train.take(chosen).batches(_BATCH):
        for total, squares in zip(sums, square_gradients(inputs, labels), strict=True):
            total += squares.numpy()
    return sums
