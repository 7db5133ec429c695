"""What TensorFlow Lite Micro (TFLM) needs to run a file: its operators, and memory for tensors."""

import math
import re
from collections.abc import Sequence
from typing import Any

import numpy as np
from ai_edge_litert import schema_py_generated as schema

from collabopt.tflite.graphs import list_operators, list_tensors, open_graphs

_OPERATORS = """
ABS ADD ADD_N ARG_MAX ARG_MIN ASSIGN_VARIABLE AVERAGE_POOL_2D BATCH_MATMUL BATCH_TO_SPACE_ND BROADCAST_ARGS BROADCAST_TO
CALL_ONCE CAST CEIL CONCATENATION CONV_2D COS CUMSUM DEPTH_TO_SPACE DEPTHWISE_CONV_2D DEQUANTIZE DIV
DYNAMIC_UPDATE_SLICE ELU EMBEDDING_LOOKUP EQUAL EXP EXPAND_DIMS FILL FLOOR FLOOR_DIV FLOOR_MOD FULLY_CONNECTED GATHER
GATHER_ND GREATER GREATER_EQUAL HARD_SWISH IF L2_NORMALIZATION L2_POOL_2D LEAKY_RELU LESS LESS_EQUAL LOG LOG_SOFTMAX
LOGICAL_AND LOGICAL_NOT LOGICAL_OR LOGISTIC MAX_POOL_2D MAXIMUM MEAN MINIMUM MIRROR_PAD MUL NEG NOT_EQUAL PACK PAD PADV2
PRELU QUANTIZE READ_VARIABLE REDUCE_ALL REDUCE_MAX REDUCE_MIN RELU RELU6 RESHAPE RESIZE_BILINEAR RESIZE_NEAREST_NEIGHBOR
REVERSE_V2 ROUND RSQRT SELECT_V2 SHAPE SIN SLICE SOFTMAX SPACE_TO_BATCH_ND SPACE_TO_DEPTH SPLIT SPLIT_V SQRT SQUARE
SQUARED_DIFFERENCE SQUEEZE STRIDED_SLICE SUB SUM SVDF TANH TRANSPOSE TRANSPOSE_CONV UNIDIRECTIONAL_SEQUENCE_LSTM UNPACK
VAR_HANDLE WHILE ZEROS_LIKE
"""
"""The operators that TFLM has, from `micro_mutable_op_resolver.h` of 20 August 2026."""

_IRREGULAR = {
    "BatchMatmul": "BatchMatMul",
    "Cumsum": "CumSum",
    "Padv2": "PadV2",
    "UnidirectionalSequenceLstm": "UnidirectionalSequenceLSTM",
}
_WITH_KERNEL = ("CONV_2D", "DEPTHWISE_CONV_2D", "FULLY_CONNECTED", "TRANSPOSE_CONV")
_ALIGNMENT, _POINTER = 16, 8
_PER_TENSOR, _PER_OPERATOR, _PER_CHANNEL, _FIXED = 24, 180, 8, 3072
"""Bytes that TFLM keeps beside the tensors, from its records of DS-CNN-L, MobileNet-v1 and the digits network in
float32, int8 and int16x8 on a 64-bit host. On boards of 32 bits, pointers take half."""


def list_operator_kinds(tflite: bytes) -> list[str]:
    """Return the kinds of operators of `tflite`, each once, in order of appearance."""
    model, graphs = open_graphs(tflite)
    return list(dict.fromkeys(kind for graph in graphs for kind, _ in list_operators(model, graph)))


def get_method(operator: str) -> str:
    """Return the method of TFLM's `MicroMutableOpResolver` that adds an `operator`: "AddConv2D" for CONV_2D."""
    name = "".join(part.capitalize() for part in operator.split("_"))
    return "Add" + _IRREGULAR.get(name, re.sub(r"(?<=\d)d", "D", name))


def list_obstacles(tflite: bytes) -> list[str]:
    """Return why TFLM cannot run `tflite`, one reason per kind of operator."""
    model, graphs = open_graphs(tflite)
    types, known, found = schema.TensorType, set(_OPERATORS.split()), []
    for graph in graphs:
        for kind, operator in list_operators(model, graph):
            inputs = [graph.Tensors(place).Type() for place in operator.InputsAsNumpy() if place >= 0]
            if kind not in known:
                found.append(f"it has no {kind}")
            elif kind == "DEQUANTIZE" and inputs[0] == types.FLOAT16:
                found.append("it has no float16 weights")
            elif kind in _WITH_KERNEL and types.FLOAT32 in inputs and {types.INT8, types.INT4} & set(inputs):
                found.append(f"its {kind} takes no integer weights with float32 inputs")
            elif kind in _WITH_KERNEL and types.INT4 in inputs:
                found.append(f"its {kind} with 4-bit weights was never tried here; the int8 file holds the same values")
    return list(dict.fromkeys(found))


def estimate_arena(tflite: bytes) -> tuple[int, int]:
    """Estimate the memory ("tensor arena") that TFLM needs for `tflite`, with its reference kernels.

    Returns:
        Bytes in all, and those of them that tensors take: every tensor from the operator that writes it to the last one
        that reads it, placed as TFLM places them. The rest is an estimate, on the safe side, of what TFLM keeps per
        tensor, operator and output channel. Optimized kernels, such as CMSIS-NN, need more for their own buffers.
    """
    model, graphs = open_graphs(tflite)
    planned = sum(plan_memory(_list_lifetimes(graph)) for graph in graphs)
    kept = _FIXED
    for graph in graphs:
        kept += _PER_TENSOR * graph.TensorsLength() + _PER_OPERATOR * graph.OperatorsLength()
        for kind, operator in list_operators(model, graph):
            if kind in _WITH_KERNEL:
                kept += _PER_CHANNEL * int(graph.Tensors(operator.Outputs(0)).ShapeAsNumpy()[-1])
        kept += sum(_count_bytes(one) for one in list_tensors(graph) if one.IsVariable())
    return _align(planned + kept), planned


def plan_memory(buffers: Sequence[tuple[int, int, int]]) -> int:
    """Return the bytes of `buffers` (size, first and last operator that uses it), placed as TFLM's
    GreedyMemoryPlanner does.
    """
    placed: list[tuple[int, int, int, int]] = []
    order = sorted(range(len(buffers)), key=lambda index: (buffers[index][0], index), reverse=True)
    for size, first, last in map(buffers.__getitem__, order):
        offset = 0
        for start, end, other_first, other_last in sorted(placed):
            if other_first > last or first > other_last:
                continue
            if start - offset >= size:
                break
            offset = max(offset, end)
        placed.append((offset, offset + size, first, last))
    return max((end for _, end, _, _ in placed), default=0)


def _list_lifetimes(graph: Any) -> list[tuple[int, int, int]]:
    """Bytes, first and last operator of each tensor that is no constant and no variable."""
    last = graph.OperatorsLength() - 1
    lifetimes = {int(index): [0, 0] for index in graph.InputsAsNumpy()}
    for number, operator in enumerate(map(graph.Operators, range(last + 1))):
        lifetimes |= {int(index): [number, number] for index in operator.OutputsAsNumpy()}
        for index in filter(lifetimes.__contains__, map(int, operator.InputsAsNumpy())):
            lifetimes[index][1] = number
    for index in filter(lifetimes.__contains__, map(int, graph.OutputsAsNumpy())):
        lifetimes[index][1] = last
    return [(_align(_count_bytes(graph.Tensors(index))), *used) for index, used in sorted(lifetimes.items())]


def _count_bytes(tensor: Any) -> int:
    names = {value: name for name, value in vars(schema.TensorType).items() if isinstance(value, int)}
    name = names[tensor.Type()]
    size = _POINTER if name in ("RESOURCE", "STRING", "VARIANT") else np.dtype(name.lower()).itemsize
    return size * (math.prod(map(int, tensor.ShapeAsNumpy())) if tensor.ShapeLength() else 1)


def _align(size: int) -> int:
    return -(-size // _ALIGNMENT) * _ALIGNMENT
