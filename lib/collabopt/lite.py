"""`.tflite` files: conversion to each format, predictions by LiteRT, and the int8 kernels of layers."""

import queue
import warnings
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from collabopt import constants
from collabopt.backend import keras, log_dropped, native_notices_dropped, tf
from collabopt.datasets import Split

if TYPE_CHECKING:
    from ai_edge_litert.interpreter import Interpreter

FORMATS = ("float32", "float16", "dynamic_range", "int8", "int16x8")
_CALIBRATED = {
    "int8": (tf.int8, "TFLITE_BUILTINS_INT8"),
    "int16x8": (tf.int16, "EXPERIMENTAL_TFLITE_BUILTINS_ACTIVATIONS_INT16_WEIGHTS_INT8"),
}
"""Formats that need activation ranges: the type of inputs and outputs, and the converter's set of operators."""


def converted(model: keras.Model, format: str, calibration: np.ndarray | None = None) -> bytes:
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


def quantized(model: keras.Model, calibration: np.ndarray) -> bytes:
    """The int8 file of a float model by full-integer post-training quantization (PTQ): `converted` to int8."""
    return converted(model, "int8", calibration)


def quantized_as_trained(model: keras.Model) -> bytes:
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
    with native_notices_dropped(), log_dropped("Assets written to"), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Statistics for quantized inputs were expected")
        try:
            return converter.convert()
        except RuntimeError as error:
            raise RuntimeError(
                f"conversion to {format} failed: {error}; where a training diverged, its learning_rate is too high"
            ) from error


def predictions(tflite: bytes, split: Split, threads: int = 1, batch_size: int = 16) -> np.ndarray:
    """The class (n,) that a file of any of `FORMATS` gives each example of `split`, by LiteRT.

    Each of `threads` has an interpreter of its own and takes what comes next; LiteRT lets go of Python's lock while it
    runs. Threads inside one interpreter would wait for each other after every operator. Batches are the same whatever
    `threads`, and so is what comes out, in floats too.

    batch_size: examples a run. DS-CNN-L is fastest with 8 to 32 (some 4 %, against 1 and 128): more leave the cache.
    """
    at_once = 4 * batch_size  # Inputs are made in larger batches than they are run in: each call has its price.
    starts = range(0, len(split), at_once)
    idle: queue.SimpleQueue[Callable[[np.ndarray], np.ndarray]] = queue.SimpleQueue()
    for _ in range(min(threads, len(starts))):
        idle.put(_runner(tflite, batch_size))
    # Pictures are decoded in many small operations, which a graph runs in half the time; a cast is quicker without.
    prepare = tf.function(split.prepare) if split.examples.ndim == 1 else split.prepare

    def classes(start: int) -> np.ndarray:
        with tf.device("CPU:0"):
            inputs = np.asarray(prepare(tf.constant(split.examples[start : start + at_once])))
        run = idle.get()
        try:
            return run(inputs).argmax(axis=-1)
        finally:
            idle.put(run)

    with ThreadPoolExecutor(threads) as pool:
        return np.concatenate(list(pool.map(classes, starts)))


def interpreter(tflite: bytes, batch_size: int = 1) -> "Interpreter":
    """LiteRT's interpreter of a file, with XNNPACK and one thread, ready for inputs (batch_size, ...)."""
    from ai_edge_litert.interpreter import Interpreter

    with native_notices_dropped():
        made = Interpreter(model_content=tflite, num_threads=1)
        (entry,) = made.get_input_details()
        made.resize_tensor_input(entry["index"], [batch_size, *entry["shape"][1:]])
        made.allocate_tensors()
    return made


def _runner(tflite: bytes, batch_size: int) -> Callable[[np.ndarray], np.ndarray]:
    """A function that gives the outputs (m, classes) of a file for model inputs (m, ...) float32, in whole batches."""
    one = interpreter(tflite, batch_size)
    (entry,), (exit_,) = one.get_input_details(), one.get_output_details()

    def run(inputs: np.ndarray) -> np.ndarray:
        given = inputs if entry["dtype"] == np.float32 else _codes(inputs, entry)
        # The last batch is filled up; what it is filled with is cut off again.
        missing = -len(given) % batch_size
        given = np.concatenate([given, np.zeros((missing, *given.shape[1:]), given.dtype)]) if missing else given
        outputs = []
        for batch in np.split(given, len(given) // batch_size):
            one.set_tensor(entry["index"], batch)
            one.invoke()
            outputs.append(one.get_tensor(exit_["index"]))
        return np.concatenate(outputs)[: len(inputs)]

    return run


def _codes(inputs: np.ndarray, entry: dict[str, Any]) -> np.ndarray:
    """Model inputs as codes of an integer input tensor, clipped to its range."""
    (scale, zero_point), limits = entry["quantization"], np.iinfo(entry["dtype"])
    return np.clip(np.round(inputs / scale) + zero_point, limits.min, limits.max).astype(entry["dtype"])


def kernels(tflite: bytes, shapes: dict[str, tuple[int, ...]]) -> dict[str, np.ndarray]:
    """The int8 codes of the kernels of the named layers, in Keras's layout.

    shapes: layer name -> shape of its Keras kernel: (height, width, in, out), depthwise (height, width, in,
        multiplier) or dense (in, out).

    Raises ValueError when the file holds no int8 kernel for a layer.
    """
    held = list(constants.kernels(tflite))
    found = {layer: constants.of_layer(held, layer, shape) for layer, shape in shapes.items()}
    missing = [layer for layer, one in found.items() if one is None]
    if missing:
        raise ValueError(f"no int8 kernel in the .tflite file for {', '.join(missing)}")
    return {layer: found[layer].in_keras_layout(shape) for layer, shape in shapes.items()}


def with_ranges(tflite: bytes, kernels: dict[str, np.ndarray], of: Literal["tensor", "channel"]) -> bytes:
    """The int8 file in which a channel's codes span its own range instead of the tensor's, or the other way round.

    Post-training quantization gives a channel the range of its own largest weight, so that a centroid has another code
    wherever the largest centroid is missing. Where all channels share the range of the tensor's largest weight, what is
    left in a channel's scale is the batch norm that the converter folded in, and there are as many codes as values.
    Codes, scales and biases of convolutions are written over the old ones; all else stays.

    kernels: float32 by layer in Keras's layout, of which `tflite` holds codes with ranges of the other kind.
    """
    file = bytearray(tflite)
    held, written = list(constants.kernels(file)), set()
    for layer, kernel in kernels.items():
        one = constants.of_layer(held, layer, kernel.shape)
        if one is None or one.int8_values.ctypes.data in written:  # equal kernels may be one tensor of the file
            continue
        written.add(one.int8_values.ctypes.data)
        rows = kernel.reshape(-1, kernel.shape[-1])
        own, shared = np.abs(rows).max(axis=0), np.abs(rows).max()
        if one.scales is None or len(one.scales) != len(own) or not shared:
            continue
        own = np.where(own > 0, own, shared)
        before, after = (own, shared) if of == "tensor" else (shared, own)
        # A batch norm with a negative gamma turned a channel's signs over.
        turned = np.sign(
            (one.in_keras_layout(kernel.shape).astype(np.float32) * kernel).reshape(rows.shape).sum(axis=0)
        )
        codes = np.round(rows / after * 127) * np.where(turned < 0, -1, 1)
        one.int8_values[:] = one.in_file_layout(codes.reshape(kernel.shape)).astype(np.int8)
        wider = (after / before).astype(np.float32)
        one.scales[:] = one.scales * wider
        if one.bias is not None:
            one.bias[:] = np.round(one.bias / wider)
    return bytes(file)
