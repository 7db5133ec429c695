"""Full-integer `.tflite` files: conversion, accuracy by LiteRT, and the int8 kernels inside."""

import math
import warnings
from collections.abc import Iterator

import numpy as np

from collabopt.backend import keras, log_dropped, native_notices_dropped, tf
from collabopt.datasets import Split

_KERNEL_OPERATORS = ("CONV_2D", "DEPTHWISE_CONV_2D", "FULLY_CONNECTED")


def quantized(model: keras.Model, calibration: np.ndarray) -> bytes:
    """The int8 file of a float model by full-integer post-training quantization (PTQ), int8 in and out.

    calibration: model inputs (n, ...) float32 that activation ranges are taken from, one at a time.
    """
    converter = tf.lite.TFLiteConverter.from_keras_model(model)
    converter.representative_dataset = lambda: ([example[None]] for example in calibration)
    converter.target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS_INT8]
    return _converted(converter)


def quantized_as_trained(model: keras.Model) -> bytes:
    """The int8 file of a model wrapped for quantization-aware training, with the ranges that training found."""
    return _converted(tf.lite.TFLiteConverter.from_keras_model(model))


def _converted(converter: tf.lite.TFLiteConverter) -> bytes:
    converter.optimizations = [tf.lite.Optimize.DEFAULT]
    converter.inference_input_type = tf.int8
    converter.inference_output_type = tf.int8
    # Said of every model: where its SavedModel was kept, and that no input statistics are needed.
    with native_notices_dropped(), log_dropped("Assets written to"), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Statistics for quantized inputs were expected")
        try:
            return converter.convert()
        except RuntimeError as error:
            raise RuntimeError(
                f"conversion to int8 failed: {error}; where a training diverged, its learning_rate is too high"
            ) from error


def predictions(tflite: bytes, split: Split, threads: int = 1, batch_size: int = 64) -> np.ndarray:
    """The class (n,) that an int8 file gives each example of `split`, by LiteRT."""
    from ai_edge_litert.interpreter import Interpreter

    with native_notices_dropped():
        interpreter = Interpreter(model_content=tflite, num_threads=threads)
        (entry,), (exit_,) = interpreter.get_input_details(), interpreter.get_output_details()
        interpreter.resize_tensor_input(entry["index"], [batch_size, *entry["shape"][1:]])
        interpreter.allocate_tensors()
    scale, zero_point = entry["quantization"]
    classes = []
    for inputs, _ in split.batches(batch_size).as_numpy_iterator():
        codes = np.clip(np.round(inputs / scale) + zero_point, -128, 127).astype(np.int8)
        # The last batch is filled up; what it is filled with is cut off again.
        filled = np.concatenate([codes, np.zeros((batch_size - len(codes), *codes.shape[1:]), np.int8)])
        interpreter.set_tensor(entry["index"], filled)
        interpreter.invoke()
        classes.append(interpreter.get_tensor(exit_["index"])[: len(codes)].argmax(axis=-1))
    return np.concatenate(classes)


def kernels(tflite: bytes, shapes: dict[str, tuple[int, ...]]) -> dict[str, np.ndarray]:
    """The int8 codes of the kernels of the named layers, in Keras's layout.

    shapes: layer name -> shape of its Keras kernel: (height, width, in, out), depthwise (height, width, in,
        multiplier) or dense (in, out).

    Raises ValueError when the file holds no int8 kernel for a layer.
    """
    constants, found = list(_constants(tflite)), {}
    for layer, shape in shapes.items():
        fitting = [one for one in constants if one[-1].size == math.prod(shape)]
        # A grouped kernel, and one of two equal ones, has lost its name in the file; its operator's output has not.
        named = [one for one in fitting if _is_of(layer, one[1])] or [one for one in fitting if _is_of(layer, one[2])]
        if named:
            found[layer] = _in_keras_layout(named[0][0], named[0][-1], shape)
    missing = [layer for layer in shapes if layer not in found]
    if missing:
        raise ValueError(f"no int8 kernel in the .tflite file for {', '.join(missing)}")
    return found


def _is_of(layer: str, tensor: str) -> bool:
    """Whether a tensor's name, like `model/dw_1_bn/FusedBatchNormV3;model/dw_1/depthwise`, is of the layer."""
    parts = {part for path in tensor.split(";") for part in path.split("/")[1:-1]}
    return not parts.isdisjoint({layer, f"quant_{layer}"})


def _in_keras_layout(operator: str, codes: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    if operator == "DEPTHWISE_CONV_2D":  # (1, height, width, in * multiplier)
        return codes.reshape(shape)
    if len(shape) == 2:  # (out, in)
        return codes.reshape(shape[1], shape[0]).T
    return codes.transpose(1, 2, 3, 0).reshape(shape)  # (out, height, width, in)


def _constants(tflite: bytes) -> Iterator[tuple[str, str, str, np.ndarray]]:
    """Operator, names of kernel and output, and int8 codes of every constant that an operator with a kernel takes."""
    from tensorflow.lite.python import schema_py_generated as schema

    model = schema.ModelT.InitFromPackedBuf(tflite, 0)
    operators = {getattr(schema.BuiltinOperator, name): name for name in _KERNEL_OPERATORS}
    graph = model.subgraphs[0]
    for operator in graph.operators:
        code = model.operatorCodes[operator.opcodeIndex]
        kind = operators.get(max(code.builtinCode, code.deprecatedBuiltinCode))
        if kind is None:
            continue
        tensor = graph.tensors[operator.inputs[1]]
        data = model.buffers[tensor.buffer].data
        if tensor.type == schema.TensorType.INT8 and data is not None:
            output = graph.tensors[operator.outputs[0]].name.decode()
            codes = np.asarray(data, np.uint8).view(np.int8).reshape(tensor.shape)
            yield kind, tensor.name.decode(), output, codes
