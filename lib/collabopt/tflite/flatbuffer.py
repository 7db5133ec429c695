"""The int8 weights in a `.tflite` file, and the kernels of its operators with their scales and biases."""

import dataclasses
import itertools
import math
from collections.abc import Collection, Iterator
from typing import Literal

import numpy as np
from ai_edge_litert import schema_py_generated as schema

from collabopt.tflite.graphs import list_operators, list_tensors, open_graphs

BIASES = {"CONV_2D": 2, "DEPTHWISE_CONV_2D": 2, "FULLY_CONNECTED": 2, "TRANSPOSE_CONV": 3}
"""Operators with a kernel as their second input, and which input is the bias."""


def read_layer_kernels(
    tflite: bytes, shapes: dict[str, tuple[int, ...]], in_float: Collection[str] = ()
) -> dict[str, np.ndarray]:
    """Return the int8 kernels of layers in Keras's layout, by layer name.

    Args:
        tflite: The content of the file.
        shapes: Shape of the Keras kernel by layer name: (height, width, in, out), depthwise (height, width, in,
            multiplier) or dense (in, out).
        in_float: Layers whose kernels need not be int8.

    Raises:
        ValueError: If the file has no int8 kernel for a layer.
    """
    kernels = list(list_kernels(tflite))
    found = {layer: _find_kernel(kernels, layer, shape) for layer, shape in shapes.items()}
    missing = [layer for layer, kernel in found.items() if kernel is None and layer not in in_float]
    if missing:
        raise ValueError(f"no int8 kernel in the .tflite file for {', '.join(missing)}")
    return {layer: kernel.in_keras_layout(shapes[layer]) for layer, kernel in found.items() if kernel}


def rewrite_ranges(tflite: bytes, kernels: dict[str, np.ndarray], of: Literal["tensor", "channel"]) -> bytes:
    """Return an int8 file with kernels quantized anew: one range per tensor instead of per channel, or the reverse.

    Post-training quantization gives each channel the range of its own largest weight, so a centroid becomes different
    int8 values in channels with different largest centroids. With one range per tensor, a kernel has as many int8
    values as centroids, and a channel's scale keeps only the batch norm that the converter folded in.
    Only int8 values, scales and biases of these kernels are rewritten.

    Args:
        tflite: The content of the file, with ranges of the other kind.
        kernels: float32 kernels by layer name, in Keras's layout.
        of: What gets one range: the tensor or each channel.
    """
    file = bytearray(tflite)
    file_kernels, written = list(list_kernels(file)), set()
    for layer, weights in kernels.items():
        kernel = _find_kernel(file_kernels, layer, weights.shape)
        if kernel is None or kernel.int8_values.ctypes.data in written:  # equal kernels may be one tensor of the file
            continue
        written.add(kernel.int8_values.ctypes.data)
        rows = weights.reshape(-1, weights.shape[-1])
        per_channel, per_tensor = np.abs(rows).max(axis=0), np.abs(rows).max()
        if kernel.scales is None or len(kernel.scales) != len(per_channel) or not per_tensor:
            continue
        per_channel = np.where(per_channel > 0, per_channel, per_tensor)
        before, after = (per_channel, per_tensor) if of == "tensor" else (per_tensor, per_channel)
        # A batch norm with a negative gamma has flipped the signs of its channel.
        signs = np.sign(
            (kernel.in_keras_layout(weights.shape).astype(np.float32) * weights).reshape(rows.shape).sum(axis=0)
        )
        int8_values = np.round(rows / after * 127) * np.where(signs < 0, -1, 1)
        kernel.int8_values[:] = kernel.in_file_layout(int8_values.reshape(weights.shape)).astype(np.int8)
        ratio = (after / before).astype(np.float32)
        kernel.scales[:] = kernel.scales * ratio
        if kernel.bias is not None:
            kernel.bias[:] = np.round(kernel.bias / ratio)
    return bytes(file)


def resize_batch(tflite: bytes, batch_size: int) -> bytes:
    """Return `tflite` with its constant shapes, those of one example, for `batch_size`. Inputs must still be resized.

    LiteRT resizes tensors, but not the shapes that some operators take as a constant.
    """
    file, resized = bytearray(tflite), set()
    model, (graph, *_) = open_graphs(file)
    for kind, operator in list_operators(model, graph):
        place = {"RESHAPE": 1, "TRANSPOSE_CONV": 0}.get(kind)
        if place is None or operator.InputsLength() <= place:
            continue
        number = graph.Tensors(operator.Inputs(place)).Buffer()
        content = model.Buffers(number).DataAsNumpy()
        if isinstance(content, np.ndarray) and number not in resized:
            shape = content.view(np.int32)
            shape[0] *= batch_size if shape[0] > 0 else 1
            resized.add(number)
    return bytes(file)


def run_elu_in_int8(tflite: bytes) -> bytes:
    """Return `tflite` with ELU operators that take and return int8, without DEQUANTIZE and QUANTIZE around them."""
    import flatbuffers

    kinds, packed = schema.BuiltinOperator, schema.Model.GetRootAs(tflite, 0)
    codes = [packed.OperatorCodes(index).BuiltinCode() for index in range(packed.OperatorCodesLength())]
    if kinds.ELU not in codes:
        return tflite
    model = schema.ModelT.InitFromPackedBuf(tflite, 0)
    graph = model.subgraphs[0]
    steps = [(codes[one.opcodeIndex], one) for one in graph.operators]
    before = {one.outputs[0]: one.inputs[0] for kind, one in steps if kind == kinds.DEQUANTIZE}
    after = {one.inputs[0]: one.outputs[0] for kind, one in steps if kind == kinds.QUANTIZE}
    found = [one for kind, one in steps if kind == kinds.ELU and one.inputs[0] in before and one.outputs[0] in after]
    if not found:
        return tflite
    for one in found:
        one.inputs, one.outputs = np.array([before[one.inputs[0]]]), np.array([after[one.outputs[0]]])
    written = {one.outputs[0] for one in found}
    graph.operators = [one for kind, one in steps if kind != kinds.QUANTIZE or one.outputs[0] not in written]
    read = {index for one in graph.operators for index in one.inputs} | {*graph.outputs}
    is_used = {id(one): codes[one.opcodeIndex] != kinds.DEQUANTIZE or one.outputs[0] in read for one in graph.operators}
    graph.operators = [one for one in graph.operators if is_used[id(one)]]
    builder = flatbuffers.Builder()
    builder.Finish(model.Pack(builder), b"TFL3")
    return bytes(builder.Output())


def list_float_operators(tflite: bytes) -> list[tuple[str, str]]:
    """Return kind and output's name of each operator of `tflite` with a float32 tensor, conversions left out."""
    (model, graphs), found = open_graphs(tflite), []
    for graph in graphs:
        for kind, operator in list_operators(model, graph):
            places = [place for place in (*operator.InputsAsNumpy(), *operator.OutputsAsNumpy()) if place >= 0]
            is_float = any(graph.Tensors(place).Type() == schema.TensorType.FLOAT32 for place in places)
            if is_float and kind not in ("QUANTIZE", "DEQUANTIZE"):
                found.append((kind, graph.Tensors(operator.Outputs(0)).Name().decode()))
    return found


def read_weights(tflite: bytes) -> list[np.ndarray]:
    """Return the int8 constants (n,) of `tflite`, which are its weights: biases are int32, int64 or float32."""
    model, graphs = open_graphs(tflite)
    tensors = itertools.chain.from_iterable(map(list_tensors, graphs))
    buffers = {tensor.Buffer() for tensor in tensors if tensor.Type() == schema.TensorType.INT8}
    contents = [model.Buffers(index).DataAsNumpy() for index in sorted(buffers)]
    return [content.view(np.int8) for content in contents if isinstance(content, np.ndarray)]


@dataclasses.dataclass(frozen=True)
class Kernel:
    """A kernel in a file. Its arrays are views: writing to them changes a file that is a bytearray.

    Attributes:
        operator: One of CONV_2D, DEPTHWISE_CONV_2D, FULLY_CONNECTED and TRANSPOSE_CONV.
        name: Name of the kernel's tensor.
        output: Name of the operator's output tensor.
        int8_values: The kernel in the file's layout.
        scales: Scales (out,) float32, or None.
        bias: Bias (out,) int32, or int64 with 16-bit activations; None if there is none or it is float32.
    """

    operator: str
    name: str
    output: str
    int8_values: np.ndarray
    scales: np.ndarray | None
    bias: np.ndarray | None

    def in_keras_layout(self, shape: tuple[int, ...]) -> np.ndarray:
        """Return the int8 values in the layout of a Keras kernel of this `shape`."""
        if self.operator == "DEPTHWISE_CONV_2D":  # (1, height, width, in * multiplier)
            return self.int8_values.reshape(shape)
        if len(shape) == 2:  # (out, in)
            return self.int8_values.reshape(shape[1], shape[0]).T
        return self.int8_values.transpose(1, 2, 3, 0).reshape(shape)  # (out, height, width, in)

    def in_file_layout(self, values: np.ndarray) -> np.ndarray:
        """Return `values` in Keras's layout, of a convolution or a dense layer, in the file's layout."""
        if values.ndim == 2:
            return values.T.reshape(self.int8_values.shape)
        return values.transpose(3, 0, 1, 2).reshape(self.int8_values.shape)


def list_kernels(tflite: bytes | bytearray) -> Iterator[Kernel]:
    """Yield the int8 kernel of each operator of `tflite`. A tensor that two operators share comes twice."""
    model, (graph, *_) = open_graphs(tflite)
    integers = {schema.TensorType.INT8: np.int8, schema.TensorType.INT32: np.int32, schema.TensorType.INT64: np.int64}

    def read_tensor(index: int) -> np.ndarray | None:
        tensor = graph.Tensors(index)
        content, dtype = model.Buffers(tensor.Buffer()).DataAsNumpy(), integers.get(tensor.Type())
        is_constant = dtype and isinstance(content, np.ndarray)
        return content.view(dtype).reshape(tensor.ShapeAsNumpy()) if is_constant else None

    for kind, operator in list_operators(model, graph):
        if kind not in BIASES or graph.Tensors(operator.Inputs(1)).Type() != schema.TensorType.INT8:
            continue
        kernel, output = graph.Tensors(operator.Inputs(1)), graph.Tensors(operator.Outputs(0))
        scales, int8_values = kernel.Quantization().ScaleAsNumpy(), read_tensor(operator.Inputs(1))
        place = BIASES[kind]
        has_bias = operator.InputsLength() > place and operator.Inputs(place) >= 0
        bias = read_tensor(operator.Inputs(place)) if has_bias else None
        if int8_values is not None:
            kernel_scales = scales if isinstance(scales, np.ndarray) else None
            yield Kernel(kind, kernel.Name().decode(), output.Name().decode(), int8_values, kernel_scales, bias)


def _find_kernel(kernels: list[Kernel], layer: str, shape: tuple[int, ...]) -> Kernel | None:
    same_size = [one for one in kernels if one.int8_values.size == math.prod(shape)]
    # The name of a grouped kernel, or of one of two equal kernels, is lost in the file; its operator's output keeps it.
    named = [one for one in same_size if _belongs_to(layer, one.name)] or [
        one for one in same_size if _belongs_to(layer, one.output)
    ]
    return named[0] if named else None


def _belongs_to(layer: str, tensor: str) -> bool:
    """Whether a tensor's name, such as `model/dw_1_bn/FusedBatchNormV3;model/dw_1/depthwise`, contains the layer's."""
    parts = {part for path in tensor.split(";") for part in path.split("/")[1:-1]}
    return not parts.isdisjoint({layer, f"quant_{layer}"})
