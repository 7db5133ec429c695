"""What the layers of a `.tflite` file hold and compute: parameters, multiplications and bytes per operator."""

import gzip
import math
from collections.abc import Iterator
from typing import Any

import numpy as np
import pandas as pd
from ai_edge_litert import schema_py_generated as schema

from collabopt.tflite.flatbuffer import BIASES
from collabopt.tflite.graphs import list_operators, open_graphs

_CONVERSIONS = "DEQUANTIZE", "DENSIFY"
"""Operators that unpack constants of float16 and sparse files."""
_CONTROL = "WHILE", "IF", "CALL_ONCE"
_OVER_OUTPUT = "CONV_2D", "DEPTHWISE_CONV_2D", "CONV_3D"
"""Operators that multiply their whole kernel at each place of the output. TRANSPOSE_CONV does at each of its input."""

_INTEGERS = schema.TensorType.INT32, schema.TensorType.INT64
"""The types of shapes and indices, and of biases in int8 files."""

COLUMNS = ["tensor", "kernel", "operator", "shape", "parameters", "multiplications", "bytes", "gzip_bytes"]


def list_weighted_operators(tflite: bytes) -> pd.DataFrame:
    """List the operators of `tflite` that have weights.

    Returns:
        One row per operator with a kernel: `tensor`, name of its output ("output" for that of the file); `kernel`, name
        of its kernel; `operator`, such as CONV_2D; `shape` of the kernel; `parameters`, the kernel and biases;
        `multiplications` per example, NaN if not known; `bytes` of the parameters in the file, and after gzip.
    """
    model, graphs = open_graphs(tflite)
    rows = [row for graph in graphs for row in _list_rows(model, graph, graph is graphs[0])]
    return pd.DataFrame(rows, columns=COLUMNS)


def _list_rows(model: Any, graph: Any, is_main: bool) -> Iterator[dict[str, Any]]:
    """The rows of a graph. Loops and branches are graphs of their own; how often a loop runs is not known."""
    operators, sources = list(list_operators(model, graph)), {}
    for kind, operator in operators:
        if kind in _CONVERSIONS:
            sources[operator.Outputs(0)] = operator.Inputs(0)
    for kind, operator in operators:
        places = [place for place in operator.InputsAsNumpy() if place >= 0]
        held = [(graph.Tensors(place), _read(model, graph, sources.get(place, place))) for place in places]
        constants = [
            (tensor, content)
            for index, (tensor, content) in enumerate(held)
            if content is not None and (tensor.Type() not in _INTEGERS or index == BIASES.get(kind))
        ]
        matrices = [tensor for tensor, _ in constants if len(tensor.ShapeAsNumpy()) > 1]
        if kind in (*_CONVERSIONS, *_CONTROL) or not matrices:
            continue
        kernel, output = max(matrices, key=_count), operator.Outputs(0)
        content = b"".join(content for _, content in constants)
        is_end = is_main and output == graph.Outputs(0)
        yield {
            "tensor": "output" if is_end else graph.Tensors(output).Name().decode(),
            "kernel": kernel.Name().decode(),
            "operator": kind,
            "shape": "×".join(map(str, kernel.ShapeAsNumpy())),
            "parameters": sum(_count(tensor) for tensor, _ in constants),
            "multiplications": _count_multiplications(kind, kernel, graph.Tensors(output), held)
            if is_main
            else math.nan,
            "bytes": len(content),
            "gzip_bytes": len(gzip.compress(content, 9, mtime=0)),
        }


def _read(model: Any, graph: Any, place: int) -> bytes | None:
    """The bytes of a constant tensor; None for one that is computed."""
    content = model.Buffers(graph.Tensors(place).Buffer()).DataAsNumpy()
    return content.tobytes() if isinstance(content, np.ndarray) else None


def _count(tensor: Any) -> int:
    return math.prod(map(int, tensor.ShapeAsNumpy()))


def _count_multiplications(kind: str, kernel: Any, output: Any, held: list[tuple[Any, bytes | None]]) -> float:
    if kind in (*_OVER_OUTPUT, "TRANSPOSE_CONV"):  # the latter's inputs: shape of the output, kernel, activations
        places = (output if kind in _OVER_OUTPUT else held[2][0]).ShapeAsNumpy()[1:-1]
        return float(math.prod(map(int, places)) * _count(kernel))
    if kind == "FULLY_CONNECTED":
        return float(_count(output) // int(output.ShapeAsNumpy()[-1]) * _count(kernel))
    return math.nan
