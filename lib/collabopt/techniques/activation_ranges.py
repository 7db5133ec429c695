"""The ranges of activations in quantization-aware training: set before it, and compared with the data after it.

TFMOT starts every range at ±6 and moves it by 0.1 % per step (tensorflow/model-optimization #368). A range that should
be much wider or narrower is still wrong after thousands of steps.
"""

from collections.abc import Callable, Iterator

import numpy as np
import pandas as pd

from collabopt.datasets import Data
from collabopt.runtime import progress
from collabopt.runtime.tensorflow import keras, tf, tfmot
from collabopt.techniques import calibration, objectives
from collabopt.techniques.calibration import Inputs, Sample

EXAMPLES = 256
"""Number of training examples that set ranges."""
COLUMNS = ["activation", "low", "high", "observed_low", "observed_high", "factor"]
"""Columns of `compare`."""
_BATCH = 64

_quantizers = tfmot.quantization.keras.quantizers


def calibrate(wrapped: keras.Model, data: Data, seed: int, setting: str = "auto", stage: str = "qat") -> str:
    """Set ranges of activations by training examples, and of kernels by their weights. Return the method.

    Only ranges change. Training does not move the range of an input any more: its values do not change either.

    Args:
        wrapped: A fake-quantized model before training, changed in place.
        data: Training and validation splits.
        seed: Decides which examples are drawn.
        setting: One of `calibration.METHODS`; "auto" chooses on validation if an example is far outside.
        stage: Name of the stage in progress lines.
    """
    progress.advance("setting the ranges of activations", stage)
    sample = calibration.draw_examples(wrapped, data.train, EXAMPLES, seed)
    methods = sample.list_methods(setting)
    if len(methods) > 1:
        scores, split = {}, data.validation.take_counted()
        for method in methods:
            _set_ranges(wrapped, sample.select(method))
            scores[method] = objectives.score_model(wrapped, split, data.task)
        methods = (calibration.choose(scores, data.task.score),)
    _set_ranges(wrapped, sample.select(methods[0]))
    calibration.log_choice(sample, methods[0], stage)
    for layer in wrapped.layers:
        if hasattr(layer, "quantizer_vars"):  # of an input
            layer.quantizer = _FixedRange(**layer.quantizer.get_config())
    return methods[0]


def compare(wrapped: keras.Model, sample: Sample) -> pd.DataFrame:
    """Compare the ranges of activations with the values that examples give them.

    Args:
        wrapped: A fake-quantized model; it stays as it is.
        sample: Training examples.

    Returns:
        One row per activation with a range of its own, with `COLUMNS`. The observed values are those of all examples.
        The factor is above 1 where the range is that many times as wide as needed for all examples, or where 99 % of
        the examples at each end need one that many times as wide.
    """
    observers = {id(low): _Observer() for low, _ in _list_ranges(wrapped)}
    replaced = list(_replace_quantizers(wrapped, lambda quantizer: _Watch(quantizer, observers)))
    _run(wrapped, sample.inputs, replaced)
    rows = []
    for low, high in _list_ranges(wrapped):
        observer, learnt = observers[id(low)], (float(low), float(high))
        if observer.lows:
            widest, usual = observer.compute_range("min_max"), observer.compute_range("percentile")
            width, most, needed = (end - start for start, end in (learnt, widest, usual))
            factor = max(width / most, needed / width) if most and width else 1.0  # nothing to lose where all is zero
            rows.append([_get_activation(low), *learnt, *widest, factor])
    return pd.DataFrame(rows, columns=COLUMNS)


def replace_quantizers(wrapped: keras.Model, make: Callable) -> None:
    """Replace all quantizers of a model.

    Args:
        wrapped: A fake-quantized model, changed in place.
        make: Function (quantizer, layer, is_kernel) -> what is called in place of the quantizer. is_kernel tells
            kernels from activations.
    """
    place: list[object] = []
    for owner, attribute, _ in _replace_quantizers(wrapped, lambda quantizer: make(quantizer, *place)):
        place[:] = getattr(owner, "quantize_wrapper", owner), attribute == "_weight_vars"


def _get_activation(low: tf.Variable) -> str:
    """The layer of a range, from the name of its variable: "quant_conv/post_activation_min:0"."""
    return low.name.split("/")[0].removeprefix("quant_")


def _set_ranges(wrapped: keras.Model, inputs: Inputs) -> None:
    """Set the ranges of activations to those of examples."""
    ranges = _list_ranges(wrapped)
    for low, high in ranges:
        low.assign(0.0)
        high.assign(0.0)
    _run(wrapped, inputs, list(_replace_quantizers(wrapped, _Recorder)))
    for low, high in ranges:
        if low == high:  # an output that is zero throughout; without a range it would have no gradient
            high.assign(1.0)


def _run(wrapped: keras.Model, inputs: Inputs, replaced: list[tuple[object, str, object]]) -> None:
    """Run a model in inference while its quantizers are replaced, and put these back."""
    count = len(tf.nest.flatten(inputs)[0])
    try:
        for start in range(0, count, _BATCH):
            batch = tf.nest.map_structure(lambda one: tf.constant(one[start : start + _BATCH]), inputs)  # noqa: B023
            wrapped(batch, training=False)
    finally:
        for owner, attribute, original in replaced:
            object.__setattr__(owner, attribute, original)


class _FixedRange(_quantizers.AllValuesQuantizer):  # as TFMOT quantizes an input, so that tensors keep their names
    """Fake-quantizes over its range, which training does not move."""

    def __call__(self, inputs: tf.Tensor, training: bool, weights: dict[str, tf.Variable], **kwargs) -> tf.Tensor:  # noqa: ARG002
        return super().__call__(inputs, False, weights, **kwargs)


class _Recorder:
    """Widens the range to the values that it sees, whether or not the model is in training.

    Batch norms and dropout stay as in inference.
    """

    def __init__(self, quantizer: _quantizers.Quantizer) -> None:
        self.quantizer = quantizer
        if isinstance(quantizer, _quantizers.MovingAverageQuantizer):
            self.quantizer = _quantizers.AllValuesQuantizer(**quantizer.get_config())

    def __call__(self, inputs: tf.Tensor, training: bool, weights: dict[str, tf.Variable], **_) -> tf.Tensor:  # noqa: ARG002
        return self.quantizer(inputs, True, weights=weights)


class _Observer:
    """The extreme values of an activation, by example."""

    def __init__(self) -> None:
        self.lows, self.highs = [], []

    def observe(self, values: tf.Tensor) -> None:
        axes = list(range(1, len(values.shape)))
        self.lows.append(tf.reduce_min(values, axes).numpy())
        self.highs.append(tf.reduce_max(values, axes).numpy())

    def compute_range(self, method: str) -> tuple[float, float]:
        extremes = np.stack([np.concatenate(self.lows), np.concatenate(self.highs)], axis=1)
        return calibration.compute_range(extremes, method)


class _Watch:
    """Shows values to the observer of their range before they are fake-quantized as in inference."""

    def __init__(self, quantizer: _quantizers.Quantizer, observers: dict[int, _Observer]) -> None:
        self.quantizer, self.observers = quantizer, observers

    def __call__(self, inputs: tf.Tensor, training: bool, weights: dict[str, tf.Variable], **_) -> tf.Tensor:  # noqa: ARG002
        observer = self.observers.get(id(weights.get("min_var")))
        if observer:
            observer.observe(inputs)
        return self.quantizer(inputs, False, weights=weights)


def _list_ranges(wrapped: keras.Model) -> list[tuple[tf.Variable, tf.Variable]]:
    """The ranges that follow the data: minimum and maximum of each input and activation."""
    found = []
    for layer in wrapped.layers:
        for activation in getattr(layer, "_quantize_activations", ()):
            names = "_pre_activation_vars", "_post_activation_vars"
            found += [(activation.quantizer, getattr(activation, name)) for name in names if hasattr(activation, name)]
        if getattr(layer, "_output_quantizers", None):
            found.append((layer._output_quantizers[0], layer._output_quantizer_vars))
        if hasattr(layer, "quantizer_vars"):  # of an input
            found.append((layer.quantizer, layer.quantizer_vars))
    moving = _quantizers.MovingAverageQuantizer | _quantizers.AllValuesQuantizer
    return [(one["min_var"], one["max_var"]) for quantizer, one in found if isinstance(quantizer, moving)]


def _replace_quantizers(wrapped: keras.Model, make: Callable) -> Iterator[tuple[object, str, object]]:
    """Put `make(quantizer)` in the place of quantizers. Yields owner, attribute and original value of each."""
    for layer in wrapped.layers:
        for activation in getattr(layer, "_quantize_activations", ()):
            yield activation, "quantizer", activation.quantizer
            activation.quantizer = make(activation.quantizer)
        if getattr(layer, "_output_quantizers", None):
            (quantizer,) = originals = layer._output_quantizers
            yield layer, "_output_quantizers", originals
            layer._output_quantizers = [make(quantizer)]
        if getattr(layer, "_weight_vars", None):
            originals = layer._weight_vars
            yield layer, "_weight_vars", originals
            watched = [(weight, make(quantizer), state) for weight, quantizer, state in originals]
            object.__setattr__(layer, "_weight_vars", watched)  # Keras would track the kernel again, as trainable
        if hasattr(layer, "quantizer_vars"):  # that of an input
            yield layer, "quantizer", layer.quantizer
            layer.quantizer = make(layer.quantizer)
