"""Files with 4-bit weights: of float stages by ai-edge-quantizer (optional), of quantization-aware ones as trained."""

import contextlib
import io
import math

import numpy as np
from ai_edge_litert import schema_py_generated as schema

from collabopt.tflite import convert
from collabopt.tflite.graphs import list_tensors, open_graphs


def quantize_to_int4(dense: bytes) -> bytes:
    """Return the float32 file `dense` with weights of 4 bits, with one scale per output channel.

    Activations stay float32 in the file. LiteRT quantizes them at run time, as for dynamic range. The library has no
    4-bit weights for depthwise convolutions, which stay float32.

    Raises:
        ConversionRefused: The library fails, or finds no weights that it can quantize.
    """
    from ai_edge_quantizer import quantizer, recipe

    try:
        with contextlib.redirect_stdout(io.StringIO()):  # it prints sizes
            content = bytes(quantizer.Quantizer(dense, recipe.dynamic_wi4_afp32()).quantize().quantized_model)
    except (RuntimeError, ValueError) as error:
        raise convert.ConversionRefused(f"ai-edge-quantizer fails: {' '.join(str(error).split())}") from error
    if not count_int4_tensors(content):
        raise convert.ConversionRefused("the file has no weights that ai-edge-quantizer stores in 4 bits")
    return content


def count_int4_tensors(tflite: bytes) -> int:
    """Return the number of 4-bit tensors of `tflite`."""
    kind = schema.TensorType.INT4
    _, graphs = open_graphs(tflite)
    return sum(tensor.Type() == kind for graph in graphs for tensor in list_tensors(graph))


def unpack_int4(tflite: bytes) -> bytes:
    """Return `tflite` with its 4-bit weights in int8 tensors, which every runtime takes; values and scales stay."""
    import flatbuffers

    if not count_int4_tensors(tflite):
        return tflite
    model, done = schema.ModelT.InitFromPackedBuf(tflite, 0), set()
    for graph in model.subgraphs:
        for tensor in (one for one in graph.tensors if one.type == schema.TensorType.INT4):
            tensor.type, buffer, size = schema.TensorType.INT8, model.buffers[tensor.buffer], math.prod(tensor.shape)
            if tensor.buffer not in done:
                done.add(tensor.buffer)
                packed = np.asarray(buffer.data, np.uint8)
                nibbles = np.stack([packed & 15, packed >> 4], axis=1).reshape(-1)[:size].astype(np.int8)
                buffer.data = np.where(nibbles > 7, nibbles - 16, nibbles).astype(np.int8).view(np.uint8)
    builder = flatbuffers.Builder()
    builder.Finish(model.Pack(builder), b"TFL3")
    return bytes(builder.Output())
