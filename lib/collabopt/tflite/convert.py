"""`.tflite` files: conversion to each format, predictions by LiteRT, and the int8 kernels of layers."""

import warnings

import numpy as np

from collabopt.runtime.tensorflow import drop_log_records, drop_native_notices, keras, tf

FORMATS = ("float32", "float16", "dynamic_range", "int8", "int16x8")


_CALIBRATED = {
    "int8": (tf.int8, "TFLITE_BUILTINS_INT8"),
    "int16x8": (tf.int16, "EXPERIMENTAL_TFLITE_BUILTINS_ACTIVATIONS_INT16_WEIGHTS_INT8"),
}
"""Formats that need activation ranges: the type of inputs and outputs, and the converter's set of operators."""


def convert(model: keras.Model, format: str, calibration: np.ndarray | None = None) -> bytes:
    """The file of a float model in one of `FORMATS`, after training (PTQ).

    float32 holds the weights as they are. float16 halves them and computes in float32. dynamic_range has int8 weights,
    and quantizes activations as they come. All three take and give float32.
    int8 and int16x8 have int8 weights, and activations of 8 and of 16 bits, in and out too. For int16x8 LiteRT has no
    fast kernels: DS-CNN-L takes some 60 times as long as in int8, as long with float32 in and out. With int16 there is
    nothing left in the file that an integer-only device could not run.

    calibration: model inputs (n, ...) float32 that activation ranges are taken from, one at a time; int8 and int16x8
        alone need it.
    Raises ValueError for another format, and where calibration is missing.
    """
    if format not in FORMATS:
        raise ValueError(f"format={format!r}: expected one of {', '.join(FORMATS)}")
    converter = _converter(model)
    if format in _CALIBRATED:
        if calibration is None:
            raise ValueError(f"calibration=None: {format} takes activation ranges from model inputs (n, ...)")
        converter.representative_dataset = lambda: ([example[None]] for example in calibration)
        ends, operators = _CALIBRATED[format]
        converter.inference_input_type = converter.inference_output_type = ends
        converter.target_spec.supported_ops = [tf.lite.OpsSet[operators]]
    if format == "float16":
        converter.target_spec.supported_types = [tf.float16]
    return _converted(converter, format)


def convert_to_int8(model: keras.Model, calibration: np.ndarray) -> bytes:
    """The int8 file of a float model by full-integer post-training quantization (PTQ): `converted` to int8."""
    return convert(model, "int8", calibration)


def convert_as_trained(model: keras.Model) -> bytes:
    """The int8 file of a model wrapped for quantization-aware training, with the ranges that training found."""
    converter = _converter(model)
    converter.inference_input_type = converter.inference_output_type = tf.int8
    return _converted(converter, "int8")


def _converter(model: keras.Model) -> tf.lite.TFLiteConverter:
    """A converter of the model's inference alone: `from_keras_model` would trace and save every layer by itself, which
    takes several times as long and gives the same operators."""
    (entry,) = model.inputs
    name = entry.name.partition(":")[0]
    given = tf.TensorSpec([None, *entry.shape[1:]], tf.float32, name)
    infer = tf.function(lambda inputs: model(inputs, training=False), [given]).get_concrete_function()
    owner = tf.Module()
    owner.variables_of_model = model.variables
    return tf.lite.TFLiteConverter.from_concrete_functions([infer], owner)


def _converted(converter: tf.lite.TFLiteConverter, format: str) -> bytes:
    if format != "float32":
        converter.optimizations = [tf.lite.Optimize.DEFAULT]
    # Said of every model: where its SavedModel was kept, and that no input statistics are needed.
    with drop_native_notices(), drop_log_records("Assets written to"), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Statistics for quantized inputs were expected")
        try:
            return converter.convert()
        except RuntimeError as error:
            raise RuntimeError(
                f"conversion to {format} failed: {error}; where a training diverged, its learning_rate is too high"
            ) from error
