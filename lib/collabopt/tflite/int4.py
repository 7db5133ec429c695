"""Files with 4-bit weights, by ai-edge-quantizer (optional)."""

import contextlib
import io

from ai_edge_litert import schema_py_generated as schema

from collabopt.tflite import convert
from collabopt.tflite.graphs import list_tensors, open_graphs


def quantize_to_int4(dense: bytes) -> bytes:
    """Quantize the weights of a float32 file to 4 bits, with one scale per output channel.

    Activations stay float32 in the file. LiteRT quantizes them at run time, as for dynamic range. The library has no
    4-bit weights for depthwise convolutions, which stay float32.

    Args:
        dense: The content of the file.

    Returns:
        The content of the file with 4-bit weights.

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
    """Return the number of 4-bit tensors of a file.

    Args:
        tflite: The content of the file.
    """
    kind = schema.TensorType.INT4
    _, graphs = open_graphs(tflite)
    return sum(tensor.Type() == kind for graph in graphs for tensor in list_tensors(graph))
