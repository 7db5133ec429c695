"""Conversion of Keras models to `.tflite` files in each format."""

import warnings

import numpy as np

from collabopt.config.formats import FORMATS
from collabopt.runtime.tensorflow import drop_log_records, drop_native_notices, keras, tf

_CALIBRATED = {
    "int8": (tf.int8, "TFLITE_BUILTINS_INT8"),
    "int16x8": (tf.int16, "EXPERIMENTAL_TFLITE_BUILTINS_ACTIVATIONS_INT16_WEIGHTS_INT8"),
}
"""Formats that need activation ranges, with the type of inputs and outputs and the converter's set of operators."""


class ConversionRefused(RuntimeError):
    """The converter refuses a model in a format."""


def convert(model: keras.Model, format: str, calibration: np.ndarray | None = None) -> bytes:
    """Convert a float model to a file by post-training quantization (PTQ).

    float32 keeps the weights. float16 stores them in 16 bits and computes in float32. dynamic_range has int8 weights
    and quantizes activations at run time. These three have float32 inputs and outputs.
    int8 and int16x8 have int8 weights, and activations, inputs and outputs of 8 or 16 bits, so integer-only devices can
    run them. LiteRT has no fast kernels for int16x8: DS-CNN-L takes about 60 times as long as in int8.

    Args:
        model: The float model.
        format: One of `FORMATS`.
        calibration: Model inputs (n, ...) float32 for activation ranges; only int8 and int16x8 need them.

    Returns:
        The content of the file.

    Raises:
        ValueError: For an unknown format, or if calibration inputs are missing.
    """
    if format not in FORMATS:
        raise ValueError(f"format={format!r}: expected one of {', '.join(FORMATS)}")
    converter = _make_converter(model)
    if format in _CALIBRATED:
        if calibration is None:
            raise ValueError(f"calibration=None: {format} takes activation ranges from model inputs (n, ...)")
        converter.representative_dataset = lambda: ([example[None]] for example in calibration)
        dtype, operators = _CALIBRATED[format]
        converter.inference_input_type = converter.inference_output_type = dtype
        converter.target_spec.supported_ops = [tf.lite.OpsSet[operators]]
    if format == "float16":
        converter.target_spec.supported_types = [tf.float16]
    return _run_converter(converter, format)


def convert_to_int8(model: keras.Model, calibration: np.ndarray) -> bytes:
    """Convert a float model to an int8 file by full-integer post-training quantization.

    Args:
        model: The float model.
        calibration: Model inputs (n, ...) float32 for activation ranges.

    Returns:
        The content of the file.
    """
    return convert(model, "int8", calibration)


def convert_as_trained(model: keras.Model) -> bytes:
    """Convert a model after quantization-aware training to an int8 file, with the ranges from training.

    Args:
        model: The model, still wrapped for quantization-aware training.

    Returns:
        The content of the file.
    """
    converter = _make_converter(model)
    converter.inference_input_type = converter.inference_output_type = tf.int8
    return _run_converter(converter, "int8")


def needs_static_batch(model: keras.Model) -> bool:
    """Tell whether a model converts well only with a batch of one example.

    With a dynamic batch the converter leaves dilated convolutions and dense layers on more than two axes in float32,
    computes the shapes of transposed convolutions at run time, and refuses recurrent layers.

    Args:
        model: Plain or fake-quantized.
    """
    return any(_has_dynamic_shapes(layer) for layer in model.layers)


def _has_dynamic_shapes(layer: keras.layers.Layer) -> bool:
    inner = getattr(layer, "layer", layer)
    if isinstance(inner, keras.layers.Dense):
        return len(layer.output_shape) > 2
    return (
        isinstance(inner, keras.layers.Conv2DTranspose | keras.layers.RNN)
        or np.max(getattr(inner, "dilation_rate", 1)) > 1
    )


def _make_converter(model: keras.Model) -> tf.lite.TFLiteConverter:
    """Make a converter of the inference function, several times as fast as `from_keras_model`, which traces and saves
    every layer by itself and gives the same operators."""
    (model_input,) = model.inputs
    name = model_input.name.partition(":")[0]
    batch = 1 if needs_static_batch(model) else None
    signature = tf.TensorSpec([batch, *model_input.shape[1:]], tf.float32, name)
    infer = tf.function(lambda inputs: model(inputs, training=False), [signature]).get_concrete_function()
    module = tf.Module()
    module.variables_of_model = model.variables
    return tf.lite.TFLiteConverter.from_concrete_functions([infer], module)


def _run_converter(converter: tf.lite.TFLiteConverter, format: str) -> bytes:
    if format != "float32":
        converter.optimizations = [tf.lite.Optimize.DEFAULT]
    # Two messages appear for every model: the path of its SavedModel, and that input statistics are not needed.
    with drop_native_notices(), drop_log_records("Assets written to"), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Statistics for quantized inputs were expected")
        try:
            return converter.convert()
        except RuntimeError as error:
            raise ConversionRefused(
                f"conversion to {format} failed: {error}; if the training diverged, use a lower learning_rate"
            ) from error
