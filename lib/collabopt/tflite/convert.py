"""Conversion of Keras models to `.tflite` files in each format."""

import warnings
from collections.abc import Iterator, Sequence

import numpy as np

from collabopt.config.formats import FORMATS
from collabopt.runtime.tensorflow import drop_log_records, drop_native_notices, keras, tf

_CALIBRATED = {
    "int8": (tf.int8, "TFLITE_BUILTINS_INT8"),
    "int16x8": (tf.int16, "EXPERIMENTAL_TFLITE_BUILTINS_ACTIVATIONS_INT16_WEIGHTS_INT8"),
}
"""Formats that need activation ranges, with the type of inputs and outputs and the converter's set of operators."""

Inputs = np.ndarray | dict[str, np.ndarray]
"""Model inputs (n, ...) float32; arrays by the name of the input where a model has several."""


def convert(
    model: keras.Model, format: str, calibration: Inputs | None = None, activations: Sequence[str | None] = ()
) -> bytes:
    """Convert a float model to a file by post-training quantization (PTQ).

    float32 keeps the weights. float16 stores them in 16 bits and computes in float32. dynamic_range has int8 weights
    and quantizes activations at run time. These three have float32 inputs and outputs.
    int8 and int16x8 have int8 weights, and activations, inputs and outputs of 8 or 16 bits, so integer-only devices can
    run them. LiteRT has no fast kernels for int16x8: DS-CNN-L takes about 60 times as long as in int8.

    Args:
        model: The float model.
        format: One of `FORMATS`.
        calibration: Model inputs (n, ...) float32 for activation ranges; only int8 and int16x8 need them.
        activations: "softmax", "sigmoid" or None, to be appended to each output; empty appends nothing.

    Returns:
        The content of the file. The names of several inputs and outputs are in its signature.

    Raises:
        ValueError: For an unknown format, or if calibration inputs are missing.
    """
    if format not in FORMATS:
        raise ValueError(f"format={format!r}: expected one of {', '.join(FORMATS)}")
    converter = _make_converter(model, activations)
    if format in _CALIBRATED:
        if calibration is None:
            raise ValueError(f"calibration=None: {format} takes activation ranges from model inputs (n, ...)")
        converter.representative_dataset = lambda: _list_examples(model, calibration)
        dtype, operators = _CALIBRATED[format]
        converter.inference_input_type = converter.inference_output_type = dtype
        converter.target_spec.supported_ops = [tf.lite.OpsSet[operators]]
    if format == "float16":
        converter.target_spec.supported_types = [tf.float16]
    return _run_converter(converter, format)


def convert_to_int8(model: keras.Model, calibration: Inputs, activations: Sequence[str | None] = ()) -> bytes:
    """Convert a float model to an int8 file by full-integer post-training quantization.

    Args:
        model: The float model.
        calibration: Model inputs (n, ...) float32 for activation ranges.
        activations: As in `convert`.

    Returns:
        The content of the file.
    """
    return convert(model, "int8", calibration, activations)


def convert_as_trained(model: keras.Model, activations: Sequence[str | None] = ()) -> bytes:
    """Convert a model after quantization-aware training to an int8 file, with the ranges from training.

    Args:
        model: The model, still wrapped for quantization-aware training.
        activations: As in `convert`. LiteRT gives softmax and sigmoid a fixed int8 range, scale 1/256 and zero point
            −128.

    Returns:
        The content of the file.
    """
    converter = _make_converter(model, activations)
    converter.inference_input_type = converter.inference_output_type = tf.int8
    return _run_converter(converter, "int8")


def _make_converter(model: keras.Model, activations: Sequence[str | None]) -> tf.lite.TFLiteConverter:
    """Make a converter of the inference function, several times as fast as `from_keras_model`, which traces and saves
    every layer by itself and gives the same operators."""
    signature = [tf.TensorSpec([None, *one.shape[1:]], one.dtype, one.name.partition(":")[0]) for one in model.inputs]

    def infer(*inputs: tf.Tensor) -> tf.Tensor | dict[str, tf.Tensor]:
        outputs = model(list(inputs) if len(inputs) > 1 else inputs[0], training=False)
        outputs = outputs if isinstance(outputs, list) else [outputs]
        for index, name in enumerate(activations):
            outputs[index] = getattr(tf.nn, name)(outputs[index]) if name else outputs[index]
        return outputs[0] if len(outputs) == 1 else dict(zip(model.output_names, outputs, strict=True))

    module = tf.Module()
    module.variables_of_model = model.variables
    return tf.lite.TFLiteConverter.from_concrete_functions(
        [tf.function(infer, signature).get_concrete_function()], module
    )


def _list_examples(model: keras.Model, calibration: Inputs) -> Iterator[list[np.ndarray] | dict[str, np.ndarray]]:
    """One example after the other; by the name of the input, since the file orders several inputs as it likes."""
    if not isinstance(calibration, dict):
        yield from ([example[None]] for example in calibration)
        return
    arrays = [calibration[name] for name in model.input_names]
    for example in zip(*arrays, strict=True):
        parts = [part[None] for part in example]
        yield dict(zip(model.input_names, parts, strict=True)) if len(parts) > 1 else parts


def _run_converter(converter: tf.lite.TFLiteConverter, format: str) -> bytes:
    if format != "float32":
        converter.optimizations = [tf.lite.Optimize.DEFAULT]
    # Two messages appear for every model: the path of its SavedModel, and that input statistics are not needed.
    with drop_native_notices(), drop_log_records("Assets written to"), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Statistics for quantized inputs were expected")
        try:
            return converter.convert()
        except RuntimeError as error:
            raise RuntimeError(
                f"conversion to {format} failed: {error}; if the training diverged, use a lower learning_rate"
            ) from error
