"""What a `.tflite` file holds in int8: all its weights, and the kernels of its operators."""

import dataclasses
import math
from collections.abc import Iterator
from typing import Literal

import numpy as np


def read_layer_kernels(tflite: bytes, shapes: dict[str, tuple[int, ...]]) -> dict[str, np.ndarray]:
    """The int8 codes of the kernels of the named layers, in Keras's layout.

    shapes: layer name -> shape of its Keras kernel: (height, width, in, out), depthwise (height, width, in,
        multiplier) or dense (in, out).

    Raises ValueError when the file holds no int8 kernel for a layer.
    """
    held = list(list_kernels(tflite))
    found = {layer: find_kernel(held, layer, shape) for layer, shape in shapes.items()}
    missing = [layer for layer, one in found.items() if one is None]
    if missing:
        raise ValueError(f"no int8 kernel in the .tflite file for {', '.join(missing)}")
    return {layer: found[layer].in_keras_layout(shape) for layer, shape in shapes.items()}


def rewrite_ranges(tflite: bytes, kernels: dict[str, np.ndarray], of: Literal["tensor", "channel"]) -> bytes:
    """The int8 file in which a channel's codes span its own range instead of the tensor's, or the other way round.

    Post-training quantization gives a channel the range of its own largest weight, so that a centroid has another code
    wherever the largest centroid is missing. Where all channels share the range of the tensor's largest weight, what is
    left in a channel's scale is the batch norm that the converter folded in, and there are as many codes as values.
    Codes, scales and biases of convolutions are written over the old ones; all else stays.

    kernels: float32 by layer in Keras's layout, of which `tflite` holds codes with ranges of the other kind.
    """
    file = bytearray(tflite)
    held, written = list(list_kernels(file)), set()
    for layer, kernel in kernels.items():
        one = find_kernel(held, layer, kernel.shape)
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


_OPERATORS = ("CONV_2D", "DEPTHWISE_CONV_2D", "FULLY_CONNECTED")


def read_weights(tflite: bytes) -> list[np.ndarray]:
    """The codes (n,) of every int8 constant of a file, each once; none in a float file.

    Biases are int32, int64 or float32, so that these are its weights.
    """
    from tensorflow.lite.python import schema_py_generated as schema

    model = schema.Model.GetRootAs(tflite, 0)
    graphs = [model.Subgraphs(index) for index in range(model.SubgraphsLength())]
    tensors = [graph.Tensors(index) for graph in graphs for index in range(graph.TensorsLength())]
    buffers = {tensor.Buffer() for tensor in tensors if tensor.Type() == schema.TensorType.INT8}
    contents = [model.Buffers(index).DataAsNumpy() for index in sorted(buffers)]
    return [content.view(np.int8) for content in contents if isinstance(content, np.ndarray)]


@dataclasses.dataclass(frozen=True)
class Kernel:
    """A kernel in a file: its operator, names of its tensor and of the operator's output, codes in the file's layout,
    scales (out,) float32 and bias (out,) int32, or int64 beside 16-bit activations; None where it is neither. Views:
    written to, they change a file that is a bytearray."""

    operator: str
    name: str
    output: str
    int8_values: np.ndarray
    scales: np.ndarray | None
    bias: np.ndarray | None

    def in_keras_layout(self, shape: tuple[int, ...]) -> np.ndarray:
        """The codes as a Keras kernel of that shape has them."""
        if self.operator == "DEPTHWISE_CONV_2D":  # (1, height, width, in * multiplier)
            return self.int8_values.reshape(shape)
        if len(shape) == 2:  # (out, in)
            return self.int8_values.reshape(shape[1], shape[0]).T
        return self.int8_values.transpose(1, 2, 3, 0).reshape(shape)  # (out, height, width, in)

    def in_file_layout(self, codes: np.ndarray) -> np.ndarray:
        """Codes of a convolution or a dense layer, from Keras's layout, as the file holds them."""
        if codes.ndim == 2:
            return codes.T.reshape(self.int8_values.shape)
        return codes.transpose(3, 0, 1, 2).reshape(self.int8_values.shape)


def find_kernel(kernels: list[Kernel], layer: str, shape: tuple[int, ...]) -> Kernel | None:
    """The kernel of a Keras layer, whose kernel has that shape there; None where there is none."""
    fitting = [one for one in kernels if one.int8_values.size == math.prod(shape)]
    # A grouped kernel, and one of two equal ones, has lost its name in the file; its operator's output has not.
    named = [one for one in fitting if _is_of(layer, one.name)] or [one for one in fitting if _is_of(layer, one.output)]
    return named[0] if named else None


def _is_of(layer: str, tensor: str) -> bool:
    """Whether a tensor's name, like `model/dw_1_bn/FusedBatchNormV3;model/dw_1/depthwise`, is of the layer."""
    parts = {part for path in tensor.split(";") for part in path.split("/")[1:-1]}
    return not parts.isdisjoint({layer, f"quant_{layer}"})


def list_kernels(tflite: bytes | bytearray) -> Iterator[Kernel]:
    """Every int8 kernel that an operator of the file takes."""
    from tensorflow.lite.python import schema_py_generated as schema

    model = schema.Model.GetRootAs(tflite, 0)
    kinds = {getattr(schema.BuiltinOperator, name): name for name in _OPERATORS}
    integers = {schema.TensorType.INT8: np.int8, schema.TensorType.INT32: np.int32, schema.TensorType.INT64: np.int64}
    graph = model.Subgraphs(0)

    def data(index: int) -> np.ndarray | None:
        tensor = graph.Tensors(index)
        content, dtype = model.Buffers(tensor.Buffer()).DataAsNumpy(), integers.get(tensor.Type())
        known = dtype and isinstance(content, np.ndarray)
        return content.view(dtype).reshape(tensor.ShapeAsNumpy()) if known else None

    for operator in (graph.Operators(index) for index in range(graph.OperatorsLength())):
        code = model.OperatorCodes(operator.OpcodeIndex())
        kind = kinds.get(max(code.BuiltinCode(), code.DeprecatedBuiltinCode()))
        if kind is None or graph.Tensors(operator.Inputs(1)).Type() != schema.TensorType.INT8:
            continue
        kernel, output = graph.Tensors(operator.Inputs(1)), graph.Tensors(operator.Outputs(0))
        scales, codes = kernel.Quantization().ScaleAsNumpy(), data(operator.Inputs(1))
        with_bias = operator.InputsLength() > 2 and operator.Inputs(2) >= 0
        bias = data(operator.Inputs(2)) if with_bias else None
        if codes is not None:
            own = scales if isinstance(scales, np.ndarray) else None
            yield Kernel(kind, kernel.Name().decode(), output.Name().decode(), codes, own, bias)
