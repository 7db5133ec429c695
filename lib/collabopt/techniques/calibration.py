"""The ranges of activations, taken from training examples: for converters, and before quantization-aware training.

TFMOT starts every range at ±6 and moves it by 0.1 % per step (tensorflow/model-optimization #368). A range that should
be much wider or narrower is still wrong after thousands of steps.
"""

from collections.abc import Iterator

import numpy as np

from collabopt.datasets import Split
from collabopt.runtime.tensorflow import keras, tf, tfmot

EXAMPLES = 256
"""Number of training examples that set the first ranges of quantization-aware training."""

_quantizers = tfmot.quantization.keras.quantizers


def sample_examples(train: Split, examples: int, seed: int) -> np.ndarray | dict[str, np.ndarray]:
    """Sample model inputs.

    Args:
        train: The training split.
        examples: Number of examples.
        seed: Decides which examples are chosen.

    Returns:
        float32 inputs (examples, ...), by name where the model has several; fewer if the split is smaller.
    """
    chosen = np.random.default_rng(seed).permutation(len(train))[:examples]
    batches = [inputs for inputs, _ in train.take(chosen).batches(256).as_numpy_iterator()]
    return tf.nest.map_structure(lambda *parts: np.concatenate(parts), *batches)


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


def calibrate(wrapped: keras.Model, train: Split, seed: int) -> None:
    """Set the ranges of all activations to those of some training examples, and those of kernels to their weights.

    Args:
        wrapped: A fake-quantized model before training, changed in place. Only ranges change.
        train: The training split.
        seed: Decides which examples are chosen.
    """
    ranges = _list_ranges(wrapped)
    for low, high in ranges:
        low.assign(0.0)
        high.assign(0.0)
    replaced = list(_replace_quantizers(wrapped))
    split = train.take(np.sort(np.random.default_rng(seed).permutation(len(train))[:EXAMPLES]))
    try:
        for inputs, _ in split.batches(64):
            wrapped(inputs, training=False)
    finally:
        for owner, attribute, original in replaced:
            setattr(owner, attribute, original)
    for low, high in ranges:
        if low == high:  # an output that is zero throughout; without a range it would have no gradient
            high.assign(1.0)


def _list_ranges(wrapped: keras.Model) -> list[tuple[tf.Variable, tf.Variable]]:
    """The ranges that follow the data: minimum and maximum of each activation."""
    found = []
    for layer in wrapped.layers:
        for activation in getattr(layer, "_quantize_activations", ()):
            names = "_pre_activation_vars", "_post_activation_vars"
            found += [(activation.quantizer, getattr(activation, name)) for name in names if hasattr(activation, name)]
        if getattr(layer, "_output_quantizers", None):
            found.append((layer._output_quantizers[0], layer._output_quantizer_vars))
    moving = _quantizers.MovingAverageQuantizer
    return [(one["min_var"], one["max_var"]) for quantizer, one in found if isinstance(quantizer, moving)]


def _replace_quantizers(wrapped: keras.Model) -> Iterator[tuple[object, str, object]]:
    """Put recorders in the place of quantizers. Yields owner, attribute and original value of each."""
    for layer in wrapped.layers:
        for activation in getattr(layer, "_quantize_activations", ()):
            yield activation, "quantizer", activation.quantizer
            activation.quantizer = _Recorder(activation.quantizer)
        if getattr(layer, "_output_quantizers", None):
            (quantizer,) = originals = layer._output_quantizers
            yield layer, "_output_quantizers", originals
            layer._output_quantizers = [_Recorder(quantizer)]
        if getattr(layer, "_weight_vars", None):
            originals = layer._weight_vars
            yield layer, "_weight_vars", originals
            layer._weight_vars = [(weight, _Recorder(quantizer), state) for weight, quantizer, state in originals]
        if hasattr(layer, "quantizer_vars"):  # that of an input
            yield layer, "quantizer", layer.quantizer
            layer.quantizer = _Recorder(layer.quantizer)
