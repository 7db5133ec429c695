"""The training examples that set the ranges of activations, for converters and before quantization-aware training.

One extreme example can set the range of an input, so that all others share a few int8 values (tensorflow/tensorflow
#49927). It enters by the input, and an int8 file clips its input to the range. So a robust range is needed for the
input alone: the ranges of the activations behind it are those of the clipped examples, without the extreme ones.
"""

import dataclasses
from collections.abc import Mapping

import numpy as np

from collabopt.config.scores import Score
from collabopt.datasets import Split
from collabopt.datasets.splitting import draw_stratified_order
from collabopt.runtime import progress
from collabopt.runtime.tensorflow import keras, tf
from collabopt.tflite.convert import Inputs

METHODS = "min_max", "percentile", "mse"
"""Ways to take the range of an input from examples (`compute_range`)."""
_FAR = 2.0
"""An example is far outside if it makes a range this many times as wide."""
_DROPPED = 0.01
"""Share of the examples that may lie outside the range `percentile`, at each end."""


@dataclasses.dataclass(frozen=True)
class Outlier:
    """An example that sets the range of an input and lies far outside of all others.

    Attributes:
        index: Its index in the data set's own training examples.
        value: Its extreme value.
        low: Least value without it.
        high: Largest value without it.
        input: Name of the input; empty if the model has one.
    """

    index: int
    value: float
    low: float
    high: float
    input: str = ""

    def __str__(self) -> str:
        where = f"input {self.input}: " if self.input else ""
        return (
            f"{where}training example {self.index} has the value {self.value:.4g}; without such examples the range is "
            f"{self.low:.4g} to {self.high:.4g}"
        )


@dataclasses.dataclass(frozen=True)
class Sample:
    """Training examples that set ranges.

    Attributes:
        inputs: Model inputs.
        indices: Index of each example (n,) in the data set's own training examples.
    """

    inputs: Inputs
    indices: np.ndarray

    def select(self, method: str) -> Inputs:
        """Return the inputs that set ranges, clipped to them by `method`. Integer inputs (indices) stay as they are.

        "percentile" leaves out the examples that are far outside.
        """

        def clip(values: np.ndarray) -> np.ndarray:
            return np.clip(values, *compute_range(values, method)) if values.dtype.kind == "f" else values

        if method == "min_max":
            return self.inputs
        is_near = np.ones(len(self.indices), bool)
        for values in self._get_float_inputs().values() if method == "percentile" else ():
            is_near &= ~_is_far(values, *compute_range(values, method))
        return tf.nest.map_structure(lambda values: clip(values)[is_near], self.inputs)

    def _get_float_inputs(self) -> dict[str, np.ndarray]:
        by_name = self.inputs if isinstance(self.inputs, dict) else {"": self.inputs}
        return {name: values for name, values in by_name.items() if values.dtype.kind == "f"}

    def find_outlier(self) -> Outlier | None:
        """Return the first example that sets a range far outside that of `percentile`, by input, or None."""
        for name, values in self._get_float_inputs().items():
            low, high = compute_range(values, "percentile")
            if _is_far(values, low, high).any():
                lows, highs = _compute_extremes(values)
                place = int(np.argmax(np.maximum(highs - high, low - lows)))
                is_above = highs[place] - high >= low - lows[place]
                value = float(highs[place] if is_above else lows[place])
                return Outlier(int(self.indices[place]), value, low, high, name)
        return None

    def list_methods(self, setting: str) -> tuple[str, ...]:
        """Return the method, or all of them if the `setting` is "auto" and an example is far outside."""
        if setting != "auto":
            return (setting,)
        return METHODS if self.find_outlier() else METHODS[:1]


def draw_examples(model: keras.Model, train: Split, examples: int, seed: int) -> Sample:
    """Return training examples that set ranges, stratified by class. Fewer examples are part of more.

    Args:
        model: A model with the inputs of the data, plain or fake-quantized.
        train: The training split.
        examples: Number of examples.
        seed: Decides which examples are drawn.
    """
    indices = draw_stratified_order(train.labels, seed)[:examples]
    drawn = train.take(indices)
    batches = [inputs for inputs, _ in drawn.batches(256).as_numpy_iterator()]
    inputs = tf.nest.map_structure(lambda *parts: np.concatenate(parts), *batches)
    types = {name: tensor.dtype.as_numpy_dtype for name, tensor in zip(model.input_names, model.inputs, strict=True)}
    if isinstance(inputs, dict):
        return Sample({name: inputs[name].astype(dtype) for name, dtype in types.items()}, drawn.places)
    return Sample(inputs.astype(next(iter(types.values()))), drawn.places)


def compute_range(values: np.ndarray, method: str) -> tuple[float, float]:
    """Return least and largest value of an input. The range includes zero, as int8 ranges do.

    - min_max: from the least to the largest value.
    - percentile: the same without the 1 % of the examples that reach farthest, at each end, and at least without one.
    - mse: the part of min_max, scaled about zero, that has the least squared error after rounding to 8 bits.

    Args:
        values: Examples (n, ...).
        method: One of `METHODS`.
    """
    lows, highs = _compute_extremes(values)
    low, high = float(lows.min()), float(highs.max())
    dropped = max(1, round(_DROPPED * len(values)))
    if method == "percentile" and dropped < len(values):
        inner = float(np.sort(lows)[dropped]), float(np.sort(highs)[-1 - dropped])
        low, high = inner if inner[1] > inner[0] else (low, high)
    if method == "mse" and high > low:
        scales = 2.0 ** (-np.arange(81) / 8)
        low, high = min(((low * scale, high * scale) for scale in scales), key=lambda one: _compute_error(values, *one))
    return low, high


def _is_far(values: np.ndarray, low: float, high: float) -> np.ndarray:
    """Whether each example reaches so far outside a range that one end would make it `_FAR` times as wide (n,)."""
    lows, highs = _compute_extremes(values)
    return np.maximum(highs - high, low - lows) > (_FAR - 1) * (high - low)


def _compute_extremes(values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Least and largest value of each example (n,), zero included."""
    rows = values.reshape(len(values), -1)
    return np.minimum(rows.min(axis=1), 0), np.maximum(rows.max(axis=1), 0)


def _compute_error(values: np.ndarray, low: float, high: float) -> float:
    """The mean squared error of 8 bits over a range."""
    step = (high - low) / 255
    rounded = np.clip(np.round((values - low) / step), 0, 255) * step + low
    return float(np.mean(np.square(values - rounded, dtype=np.float64)))


def choose(scores: Mapping[str, np.ndarray], score: Score) -> str:
    """Return the first method, unless a later one has better `scores` (n,) by two standard errors of the difference."""
    chosen, *others = scores
    for method in others:
        gains = np.asarray(score.compute_drop(scores[method], scores[chosen]), np.float64)
        if gains.mean() > 2 * gains.std() / np.sqrt(len(gains)):
            chosen = method
    return chosen


def log_choice(sample: Sample, method: str, stage: str) -> None:
    """Name the example that sets a range far outside, and the `method`, for a `stage`."""
    outlier = sample.find_outlier()
    if outlier:
        progress.log(f"{stage}: {outlier}; ranges are set by {method}", about=stage)
