"""Patterns of zeros that hardware and kernels can skip, over groups of four neighbouring input channels.

- `2:4`: two of the four weights of a group are zero (Mishra et al. 2021, arXiv:2104.08378).
- `block`: all weights of a group are zero, or none is chosen, as in the 1×4 blocks of LiteRT's sparse kernels.

TFMOT's `sparsity_m_by_n=(2, 4)` makes its mask once and pads input channels; its `block_size=(4, 1)` is for dense
kernels only. Here both follow the schedule of sparsity and fit every kind of kernel. A layer whose input channels four
does not divide is not pruned.
"""

import numpy as np
from tensorflow_model_optimization.python.core.sparsity.keras import pruning_impl, pruning_schedule, pruning_wrapper

from collabopt.config.experiment import Experiment
from collabopt.runtime.tensorflow import keras, tf
from collabopt.techniques import layers

GROUP = 4
"""Weights per group."""


def split_groups(kernel: np.ndarray) -> np.ndarray:
    """Return a `kernel` (..., in, out) as groups (n, 4) of neighbouring input channels; four divides `in`."""
    return np.moveaxis(kernel, -2, -1).reshape(-1, GROUP)


def _compute_zeros(kernel: np.ndarray, pattern: str) -> float:
    """The fraction in [0, 1] of groups with at least two zeros (2:4), or with zeros only (block)."""
    return float(np.mean(np.sum(split_groups(kernel) == 0, axis=1) >= (2 if pattern == "2:4" else GROUP)))


def find_defect(kernel: np.ndarray, pattern: str, sparsity: float) -> str:
    """Return what a kernel lacks of its pattern, a sentence; empty if the kernel has the pattern.

    Args:
        kernel: float32 or int8 kernel, as in `split_groups`.
        pattern: "2:4" or "block".
        sparsity: Fraction of zeros that was asked for; 0 asks for no pattern.
    """
    share, groups = _compute_zeros(kernel, pattern), kernel.size // GROUP
    if pattern == "2:4" and sparsity and share < 1:
        return f"{1 - share:.1%} of the groups of four input channels have fewer than two zeros"
    if pattern == "block" and share < sparsity - max(0.01, 1 / groups):
        return f"{share:.1%} of the blocks of four input channels are zero instead of {sparsity:.1%}"
    return ""


def find_misfits(model: keras.Model, experiment: Experiment) -> dict[str, str]:
    """Return why layers of `model` are not pruned that the pattern of `experiment` does not fit, by plain name."""
    if experiment.sparsity_pattern == "unstructured":
        return {}
    misfits = {}
    for layer in layers.list_plain(model):
        if layers.is_eligible(layer) and layer.name not in experiment.exclude.pruning:
            for owner, attribute in layers.find_kernels(layer).values():
                shape, axis = getattr(owner, attribute).shape, _get_input_axis(layer)
                if shape[axis] % GROUP:
                    misfits[layer.name] = (
                        f"sparsity_pattern {experiment.sparsity_pattern} does not fit its kernel "
                        f"{'×'.join(map(str, shape))}: {GROUP} does not divide its {shape[axis]} input channels"
                    )
    return misfits


def exclude_skipped(experiment: Experiment, model: keras.Model) -> Experiment:
    """Return an experiment that excludes frozen layers of `model`, and those that the pattern does not fit."""
    misfits, experiment = find_misfits(model, experiment), layers.exclude_frozen(experiment, model)
    exclude = experiment.exclude
    changes = {"exclude": exclude.model_copy(update={"pruning": (*exclude.pruning, *misfits)})}
    return experiment.model_copy(update=changes) if misfits else experiment


class PatternLayer(pruning_wrapper.PruneLowMagnitude):
    """TFMOT's wrapper of a layer that is pruned, with masks that have a pattern.

    Attributes:
        pattern: "2:4" or "block".
    """

    def __init__(self, layer: keras.layers.Layer, pattern: str, **kwargs) -> None:
        super().__init__(layer, **kwargs)
        self.pattern = pattern

    def build(self, input_shape) -> None:
        """Build the layer and its masks."""
        super().build(input_shape)
        self.pruning_obj = _PatternPruning(
            lambda: self.pruning_step, self.pruning_vars, self.pruning_schedule, (1, 1), "AVG"
        )
        self.pruning_obj.pattern, self.pruning_obj.axis = self.pattern, _get_input_axis(self.layer)


def make_mask(kernel: np.ndarray, pattern: str, sparsity: float) -> np.ndarray:
    """Return the mask of a constant `sparsity` in [0, 1) by `pattern`: 1 for weights of `kernel` to keep, else 0."""
    schedule = pruning_schedule.ConstantSparsity(sparsity, begin_step=0)
    masks = _PatternPruning(lambda: 0, [], schedule, (1, 1), "AVG")
    masks.pattern, masks.axis = pattern, -2
    return masks._maybe_update_block_mask(tf.constant(kernel))[1].numpy()


def prune_kernel(kernel: np.ndarray, sparsity: float, pattern: str = "unstructured") -> np.ndarray:
    """Return a kernel with its smallest weights at zero, as many as `make_mask` says; at least one weight is kept.

    Args:
        kernel: float32 kernel of any shape.
        sparsity: Fraction of zeros in [0, 1).
        pattern: "unstructured", or a pattern for a kernel (..., in, out) that it fits.
    """
    if pattern != "unstructured":
        return kernel * make_mask(kernel, pattern, sparsity)
    kept = max(1, int(np.rint(np.float32(kernel.size) * (np.float32(1) - np.float32(sparsity)))))
    magnitude = np.abs(kernel)
    threshold = np.partition(magnitude, kernel.size - kept, axis=None)[kernel.size - kept]
    return np.where(magnitude < threshold, 0, kernel)


class _PatternPruning(pruning_impl.Pruning):
    """TFMOT's masks, renewed by its schedule, with a `pattern` along the `axis` of input channels."""

    def _maybe_update_block_mask(self, weights: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        """The threshold, which only TFMOT's summaries read, and the mask."""
        ordered = tf.experimental.numpy.moveaxis(tf.abs(weights), self.axis, -1)
        groups = tf.reshape(ordered, [-1, GROUP])
        if self.pattern == "2:4":
            ranks = tf.argsort(tf.argsort(groups, axis=1, stable=True), axis=1)
            zeros = tf.round(GROUP * self._pruning_schedule(self._step_fn())[1])
            threshold, kept = tf.zeros((), weights.dtype), tf.cast(ranks, tf.float32) >= zeros
        else:
            threshold, kept = self._update_mask(tf.reduce_mean(groups, axis=1))
            kept = tf.repeat(kept[:, tf.newaxis], GROUP, axis=1)
        mask = tf.reshape(tf.cast(kept, weights.dtype), ordered.shape)
        return threshold, tf.experimental.numpy.moveaxis(mask, -1, self.axis)


def _get_input_axis(layer: keras.layers.Layer) -> int:
    """The axis of a kernel's input channels, counted from the end."""
    return -3 - layers.get_channel_axis(layer)
