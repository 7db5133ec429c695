"""Conversion of Keras models to `.tflite` files in each format."""

import os
import subprocess
import sys
import tempfile
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from collabopt.config.formats import STANDARD
from collabopt.runtime import progress
from collabopt.runtime.tensorflow import drop_log_records, drop_native_notices, keras, tf
from collabopt.tflite import flatbuffer

_CALIBRATED = {
    "int8": (tf.int8, "TFLITE_BUILTINS_INT8"),
    "int16x8": (tf.int16, "EXPERIMENTAL_TFLITE_BUILTINS_ACTIVATIONS_INT16_WEIGHTS_INT8"),
}
"""Formats that need activation ranges, with the type of inputs and outputs and the converter's set of operators."""
_MOST_STEPS = 128
"""A loop of a recurrent layer over more steps is not written out: each step is some ten operators."""

Inputs = np.ndarray | dict[str, np.ndarray]
"""Model inputs (n, ...) float32; arrays by the name of the input where a model has several."""


class ConversionRefused(RuntimeError):
    """The converter refuses a model in a format."""


def convert(
    model: keras.Model,
    format: str,
    calibration: Inputs | None = None,
    activations: Sequence[str | None] = (),
    apart: bool = False,
) -> bytes:
    """Return a float model after post-training quantization. Its signature names several inputs and outputs.

    float32 keeps the weights. float16 stores them in 16 bits and computes in float32. dynamic_range has int8 weights
    and quantizes activations at run time. These three have float32 inputs and outputs.
    int8 and int16x8 have int8 weights, and activations, inputs and outputs of 8 or 16 bits, so integer-only devices can
    run them. LiteRT has no fast kernels for int16x8: DS-CNN-L takes about 60 times as long as in float32.

    Args:
        model: The float model.
        format: One of `STANDARD`.
        calibration: Model inputs (n, ...) float32 for activation ranges; only int8 and int16x8 need them.
        activations: "softmax", "sigmoid" or None, to be appended to each output; empty appends nothing.
        apart: Whether to calibrate in another process. The converter crashes for some layers, such as the loop of a
            GRU, and LiteRT for others, such as layer normalization in int16x8.

    Raises:
        ValueError: For an unknown format, or if calibration inputs are missing.
        ConversionRefused: The converter fails.
    """
    if format not in STANDARD:
        raise ValueError(f"format={format!r}: expected one of {', '.join(STANDARD)}")
    if format in _CALIBRATED and calibration is None:
        raise ValueError(f"calibration=None: {format} takes activation ranges from model inputs (n, ...)")
    progress.advance(f"converting to {format}")
    if format in _CALIBRATED:
        model, calibration = _unroll(model), _name_inputs(model, calibration)
    infer, module = trace(model, activations)
    if apart and format in _CALIBRATED:
        return _convert_apart(infer, module, format, calibration)
    converter = tf.lite.TFLiteConverter.from_concrete_functions([infer], module)
    if format in _CALIBRATED:
        set_calibration(converter, format, calibration)
    if format == "float16":
        converter.target_spec.supported_types = [tf.float16]
    return run_converter(converter, format)


def set_calibration(converter: tf.lite.TFLiteConverter, format: str, calibration: dict[str, np.ndarray]) -> None:
    """Let a `converter` to `format` ("int8" or "int16x8") take ranges from `calibration`, inputs (n, ...) by name."""
    converter.representative_dataset = lambda: _list_examples(calibration)
    dtype, operators = _CALIBRATED[format]
    converter.inference_input_type = converter.inference_output_type = dtype
    converter.target_spec.supported_ops = [tf.lite.OpsSet[operators]]


def _convert_apart(infer: Any, module: tf.Module, format: str, calibration: dict[str, np.ndarray]) -> bytes:
    """Convert in a process of its own, which takes about ten seconds more."""
    with tempfile.TemporaryDirectory() as directory, drop_native_notices(), drop_log_records("Assets written to"):
        tf.saved_model.save(module, directory, signatures=infer)
        np.savez(f"{directory}/calibration.npz", **calibration)
        command = [sys.executable, "-m", "collabopt.tflite.apart", directory, format]
        search_path = {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
        done = subprocess.run(command, capture_output=True, text=True, env=os.environ | search_path)
        if done.returncode < 0:
            raise ConversionRefused(f"the converter or LiteRT crashes in {format}")
        if done.returncode:
            raise ConversionRefused(done.stderr.strip().splitlines()[-1])
        return Path(directory, "model.tflite").read_bytes()


def _unroll(model: keras.Model) -> keras.Model:
    """A copy whose loops over few steps are written out, because the converter quantizes no loop. It has an operator of
    its own for LSTM."""

    def is_loop(layer: keras.layers.Layer) -> bool:
        one = layer.forward_layer if isinstance(layer, keras.layers.Bidirectional) else layer
        if not isinstance(one, keras.layers.GRU | keras.layers.SimpleRNN):
            return False
        shapes = layer.input_shape  # a list if the layer also gets its initial states
        steps = (shapes[0] if isinstance(shapes, list) else shapes)[1]
        return steps is not None and steps <= _MOST_STEPS

    def copy(layer: keras.layers.Layer) -> keras.layers.Layer:
        config = layer.get_config()
        directions = [config[name]["config"] for name in ("layer", "backward_layer") if name in config]
        for one in (directions or [config]) if is_loop(layer) else ():
            one["unroll"] = True
        return type(layer).from_config(config)

    if not any(map(is_loop, model.layers)):
        return model
    unrolled = keras.models.clone_model(model, clone_function=copy)
    unrolled.set_weights(model.get_weights())
    return unrolled


def convert_to_int8(model: keras.Model, calibration: Inputs, activations: Sequence[str | None] = ()) -> bytes:
    """Return a float `model` in int8 by PTQ with `calibration` (n, ...) float32; `activations` as in `convert`."""
    return convert(model, "int8", calibration, activations)


def convert_as_trained(model: keras.Model, activations: Sequence[str | None] = ()) -> bytes:
    """Return the int8 file of a model after quantization-aware training, with the ranges from training.

    Args:
        model: The model, still wrapped for quantization-aware training.
        activations: As in `convert`. LiteRT gives softmax and sigmoid a fixed int8 range, scale 1/256 and zero point
            −128.
    """
    progress.advance("converting to int8")
    infer, module = trace(model, activations)
    converter = tf.lite.TFLiteConverter.from_concrete_functions([infer], module)
    converter.inference_input_type = converter.inference_output_type = tf.int8
    return run_converter(converter, "int8")


def convert_for_trial(model: keras.Model, calibration: Inputs | None = None) -> bytes:
    """Return an int8 file that is not kept, in a quarter of the time.

    The converter saves a model and loads it, variable by variable, which takes most of its time. Here it does not. The
    file lacks the signature that names several inputs and outputs, and lists its constants in another order.

    Args:
        model: The float model, or one that is still wrapped for quantization-aware training.
        calibration: Model inputs (n, ...) float32 for the activation ranges of a float model; None for the other.

    Raises:
        ConversionRefused: The converter fails.
    """
    infer, module = trace(model, ())
    # Recurrent layers are functions, by which the converter knows them.
    if len(model.inputs) > 1 or len(model.outputs) > 1 or infer.graph.as_graph_def().library.function:
        return convert_as_trained(model) if calibration is None else convert_to_int8(model, calibration)
    progress.advance("converting to int8")
    converter = tf.lite.TFLiteConverter.from_concrete_functions([infer], module)
    converter.experimental_lower_to_saved_model = False
    converter.inference_input_type = converter.inference_output_type = tf.int8
    if calibration is not None:
        set_calibration(converter, "int8", _name_inputs(model, calibration))
    return run_converter(converter, "int8")


def trace(model: keras.Model, activations: Sequence[str | None]) -> tuple[Any, tf.Module]:
    """Return the concrete inference function of one example, and what holds its variables.

    Files with a dynamic batch compute shapes at run time, which NPUs leave to the CPU. The converter then leaves
    dilated convolutions and dense layers on more than two axes in float32 (tensorflow/tensorflow #50241, #54261).
    To convert a function is several times as fast as `from_keras_model`, which traces and saves every layer by itself
    and gives the same operators.

    Args:
        model: The float model.
        activations: As in `convert`.
    """
    signature = [tf.TensorSpec([1, *one.shape[1:]], one.dtype, one.name.partition(":")[0]) for one in model.inputs]

    def infer(*inputs: tf.Tensor) -> tf.Tensor | dict[str, tf.Tensor]:
        outputs = model(list(inputs) if len(inputs) > 1 else inputs[0], training=False)
        outputs = outputs if isinstance(outputs, list) else [outputs]
        for index, name in enumerate(activations):
            outputs[index] = getattr(tf.nn, name)(outputs[index]) if name else outputs[index]
        return outputs[0] if len(outputs) == 1 else dict(zip(model.output_names, outputs, strict=True))

    module = tf.Module()
    module.variables_of_model = model.variables
    return tf.function(infer, signature).get_concrete_function(), module


def _name_inputs(model: keras.Model, calibration: Inputs) -> dict[str, np.ndarray]:
    """The calibration inputs by name, in the types of the model: indices of an embedding are integers."""
    by_name = calibration if isinstance(calibration, dict) else {model.input_names[0]: calibration}
    return {
        name: by_name[name].astype(tensor.dtype.as_numpy_dtype)
        for name, tensor in zip(model.input_names, model.inputs, strict=True)
    }


def _list_examples(calibration: dict[str, np.ndarray]) -> Iterator[list[np.ndarray] | dict[str, np.ndarray]]:
    """One example after the other; by the name of the input, since the file orders several inputs as it likes."""
    for example in zip(*calibration.values(), strict=True):
        parts = [part[None] for part in example]
        yield dict(zip(calibration, parts, strict=True)) if len(parts) > 1 else parts


def run_converter(converter: tf.lite.TFLiteConverter, format: str) -> bytes:
    """Convert to `format` by `converter`, without messages that appear for every model, and return the file.

    Raises:
        ConversionRefused: The converter fails.
    """
    if format != "float32":
        converter.optimizations = [tf.lite.Optimize.DEFAULT]
    # Two messages appear for every model: the path of its SavedModel, and that input statistics are not needed.
    with drop_native_notices(), drop_log_records("Assets written to"), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Statistics for quantized inputs were expected")
        warnings.filterwarnings("ignore", message=r"\s*Warning: tf.lite.Interpreter is deprecated")  # by the converter
        try:
            content = converter.convert()
        except Exception as error:  # a ConverterError, RuntimeError or ValueError
            raise ConversionRefused(f"conversion to {format} failed: {error}") from error
    return flatbuffer.run_elu_in_int8(content)
