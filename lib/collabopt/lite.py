"""Full-integer `.tflite` files: conversion, accuracy by LiteRT, and the int8 kernels inside."""

import dataclasses
import math
import warnings
from collections.abc import Iterator
from typing import Literal

import numpy as np

from collabopt.backend import keras, log_dropped, native_notices_dropped, tf
from collabopt.datasets import Split

_KERNEL_OPERATORS = ("CONV_2D", "DEPTHWISE_CONV_2D", "FULLY_CONNECTED")


def quantized(model: keras.Model, calibration: np.ndarray) -> bytes:
    """The int8 file of a float model by full-integer post-training quantization (PTQ), int8 in and out.

    calibration: model inputs (n, ...) float32 that activation ranges are taken from, one at a time.
    """
    converter = _converter(model)
    converter.representative_dataset = lambda: ([example[None]] for example in calibration)
    converter.target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS_INT8]
    return _converted(converter)


def quantized_as_trained(model: keras.Model) -> bytes:
    """The int8 file of a model wrapped for quantization-aware training, with the ranges that training found."""
    return _converted(_converter(model))


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
    constants = list(_constants(tflite))
    found = {layer: _of_layer(constants, layer, shape) for layer, shape in shapes.items()}
    missing = [layer for layer, one in found.items() if one is None]
    if missing:
        raise ValueError(f"no int8 kernel in the .tflite file for {', '.join(missing)}")
    return {layer: _in_keras_layout(found[layer], shape) for layer, shape in shapes.items()}


def with_ranges(tflite: bytes, kernels: dict[str, np.ndarray], of: Literal["tensor", "channel"]) -> bytes:
    """The int8 file in which a channel's codes span its own range instead of the tensor's, or the other way round.

    Post-training quantization gives a channel the range of its own largest weight, so that a centroid has another code
    wherever the largest centroid is missing. Where all channels share the range of the tensor's largest weight, what is
    left in a channel's scale is the batch norm that the converter folded in, and there are as many codes as values.
    Codes, scales and biases of convolutions are written over the old ones; all else stays.

    kernels: float32 by layer in Keras's layout, of which `tflite` holds codes with ranges of the other kind.
    """
    file = bytearray(tflite)
    constants, written = list(_constants(file)), set()
    for layer, kernel in kernels.items():
        one = _of_layer(constants, layer, kernel.shape)
        if one is None or one.codes.ctypes.data in written:  # equal kernels may be one tensor of the file
            continue
        written.add(one.codes.ctypes.data)
        rows = kernel.reshape(-1, kernel.shape[-1])
        own, shared = np.abs(rows).max(axis=0), np.abs(rows).max()
        if one.scales is None or len(one.scales) != len(own) or not shared:
            continue
        own = np.where(own > 0, own, shared)
        before, after = (own, shared) if of == "tensor" else (shared, own)
        # A batch norm with a negative gamma turned a channel's signs over.
        turned = np.sign(
            (_in_keras_layout(one, kernel.shape).astype(np.float32) * kernel).reshape(rows.shape).sum(axis=0)
        )
        codes = np.round(rows / after * 127) * np.where(turned < 0, -1, 1)
        one.codes[:] = _in_file_layout(one, codes.reshape(kernel.shape)).astype(np.int8)
        wider = (after / before).astype(np.float32)
        one.scales[:] = one.scales * wider
        if one.bias is not None:
            one.bias[:] = np.round(one.bias / wider)
    return bytes(file)


@dataclasses.dataclass(frozen=True)
class _Constant:
    """A kernel in a file: its operator, names of its tensor and of the operator's output, codes in the file's layout,
    scales (out,) float32 and bias (out,) int32. Views: written to, they change a file that is a bytearray."""

    operator: str
    name: str
    output: str
    codes: np.ndarray
    scales: np.ndarray | None
    bias: np.ndarray | None


def _of_layer(constants: list[_Constant], layer: str, shape: tuple[int, ...]) -> _Constant | None:
    fitting = [one for one in constants if one.codes.size == math.prod(shape)]
    # A grouped kernel, and one of two equal ones, has lost its name in the file; its operator's output has not.
    named = [one for one in fitting if _is_of(layer, one.name)] or [one for one in fitting if _is_of(layer, one.output)]
    return named[0] if named else None


def _is_of(layer: str, tensor: str) -> bool:
    """Whether a tensor's name, like `model/dw_1_bn/FusedBatchNormV3;model/dw_1/depthwise`, is of the layer."""
    parts = {part for path in tensor.split(";") for part in path.split("/")[1:-1]}
    return not parts.isdisjoint({layer, f"quant_{layer}"})


def _in_keras_layout(one: _Constant, shape: tuple[int, ...]) -> np.ndarray:
    if one.operator == "DEPTHWISE_CONV_2D":  # (1, height, width, in * multiplier)
        return one.codes.reshape(shape)
    if len(shape) == 2:  # (out, in)
        return one.codes.reshape(shape[1], shape[0]).T
    return one.codes.transpose(1, 2, 3, 0).reshape(shape)  # (out, height, width, in)


def _in_file_layout(one: _Constant, codes: np.ndarray) -> np.ndarray:
    """Codes of a convolution or a dense layer as the file holds them."""
    if codes.ndim == 2:
        return codes.T.reshape(one.codes.shape)
    return codes.transpose(3, 0, 1, 2).reshape(one.codes.shape)


def _constants(tflite: bytes | bytearray) -> Iterator[_Constant]:
    """Every int8 kernel that an operator of the file takes."""
    from tensorflow.lite.python import schema_py_generated as schema

    model = schema.Model.GetRootAs(tflite, 0)
    kinds = {getattr(schema.BuiltinOperator, name): name for name in _KERNEL_OPERATORS}
    graph = model.Subgraphs(0)

    def data(tensor: schema.Tensor, dtype: type) -> np.ndarray | None:
        content = model.Buffers(tensor.Buffer()).DataAsNumpy()
        return content.view(dtype).reshape(tensor.ShapeAsNumpy()) if isinstance(content, np.ndarray) else None

    for operator in (graph.Operators(index) for index in range(graph.OperatorsLength())):
        code = model.OperatorCodes(operator.OpcodeIndex())
        kind = kinds.get(max(code.BuiltinCode(), code.DeprecatedBuiltinCode()))
        if kind is None or graph.Tensors(operator.Inputs(1)).Type() != schema.TensorType.INT8:
            continue
        kernel, output = graph.Tensors(operator.Inputs(1)), graph.Tensors(operator.Outputs(0))
        scales = kernel.Quantization().ScaleAsNumpy()
        codes = data(kernel, np.int8)
        with_bias = operator.InputsLength() > 2 and operator.Inputs(2) >= 0
        bias = data(graph.Tensors(operator.Inputs(2)), np.int32) if with_bias else None
        if codes is not None:
            own = scales if isinstance(scales, np.ndarray) else None
            yield _Constant(kind, kernel.Name().decode(), output.Name().decode(), codes, own, bias)
