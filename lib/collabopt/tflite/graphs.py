"""The graphs of a `.tflite` file, by TensorFlow's schema: their tensors and operators."""

from collections.abc import Iterator
from typing import Any

from ai_edge_litert import schema_py_generated as schema


def open_graphs(tflite: bytes | bytearray) -> tuple[Any, list[Any]]:
    """Return `tflite` as TensorFlow's `Model`, and its subgraphs: loops and branches are graphs of their own."""
    model = schema.Model.GetRootAs(tflite, 0)
    return model, [model.Subgraphs(index) for index in range(model.SubgraphsLength())]


def list_tensors(graph: Any) -> list[Any]:
    """Return the tensors of a subgraph `graph` in the order of their indices."""
    return [graph.Tensors(index) for index in range(graph.TensorsLength())]


def list_operators(model: Any, graph: Any) -> Iterator[tuple[str, Any]]:
    """Yield kind, such as CONV_2D, and operator of a `graph` of `model`. Old files have the kind in another field."""
    names = {code: name for name, code in vars(schema.BuiltinOperator).items()}
    for operator in (graph.Operators(index) for index in range(graph.OperatorsLength())):
        code = model.OperatorCodes(operator.OpcodeIndex())
        yield names[max(code.BuiltinCode(), code.DeprecatedBuiltinCode())], operator
