"""C source of a deployed file for TensorFlow Lite Micro (TFLM), with a program that runs its test vectors."""

import re
from pathlib import Path

import jinja2
import numpy as np

from collabopt.tflite import micro
from collabopt.tflite.interpreter import find_inputs, open_interpreter

_LINE = 116  # columns
_TOLERANCE = 1e-4
"""Difference of a float output that passes, relative to the largest expected one."""
_TYPES = {"float32": "float", "int8": "int8_t", "uint8": "uint8_t", "int16": "int16_t", "int32": "int32_t"}
_TEMPLATES = {
    ".h": "model.h",
    ".c": "model.c",
    "_test_vectors.h": "test_vectors.h",
    "_test_vectors.c": "test_vectors.c",
    "_main.cc": "main.cc",
}
"""Template by the end of the file name."""


def make_identifier(name: str) -> str:
    """Return a C and C++ identifier for any `name`: "2-bit kws" becomes "model_2_bit_kws"."""
    return re.sub(r"_+", "_", "model_" + re.sub(r"\W", "_", name, flags=re.ASCII)).rstrip("_")


def make_sources(name: str, tflite: bytes, vectors: dict[str, np.ndarray]) -> dict[str, str | None]:
    """Write a file and its test vectors as C source.

    Args:
        name: Name of the experiment.
        tflite: The content of the file.
        vectors: `input` and `output` of `interpreter.make_test_vectors`.

    Returns:
        Text by file name: the array of the file, the test vectors, and a `main` with the operators and the memory that
        TFLM needs. Each text is None for a file that TFLM cannot run (`micro.list_obstacles`).
    """
    identifier = make_identifier(name)
    if micro.list_obstacles(tflite):
        return dict.fromkeys(f"{identifier}{end}" for end in _TEMPLATES)
    arena, planned = micro.estimate_arena(tflite)
    environment = jinja2.Environment(trim_blocks=True, lstrip_blocks=True, keep_trailing_newline=True)
    environment.filters |= {"values": _format_values, "c_type": lambda array: _TYPES[array.dtype.name]}
    names = {
        "name": re.sub(r"[^\x20-\x7e]|[*/\\]", "_", name),  # in comments and messages
        "id": identifier,
        "tflite": np.frombuffer(tflite, np.uint8),
        "inputs": _order_inputs(tflite, vectors),
        "output": vectors["output"],
        "arena": arena,
        "planned": planned,
        "tolerance": _TOLERANCE * float(np.abs(vectors["output"]).max()),
        "methods": [micro.get_method(operator) for operator in micro.list_operator_kinds(tflite)],
    }
    folder = Path(__file__).parent / "templates"
    texts = {end: (folder / f"{part}.j2").read_text(encoding="utf-8") for end, part in _TEMPLATES.items()}
    return {f"{identifier}{end}": environment.from_string(text).render(names) for end, text in texts.items()}


def _order_inputs(tflite: bytes, vectors: dict[str, np.ndarray]) -> list[np.ndarray]:
    """The test inputs (n, ...) in the order of the file's inputs."""
    arrays = {name.removeprefix("input_"): array for name, array in vectors.items() if name != "output"}
    interpreter = open_interpreter(tflite)
    order = [one["index"] for one in interpreter.get_input_details()]
    return [
        array for array, _ in sorted(find_inputs(interpreter, arrays), key=lambda one: order.index(one[1]["index"]))
    ]


def _format_values(array: np.ndarray) -> str:
    """The values of an array as a C initializer, wrapped."""
    if array.dtype == np.float32:
        words = [f"{value!r}f" for value in map(float, array.ravel())]
    else:
        words = [str(value) for value in array.ravel().tolist()]
    lines, line = [], ""
    for word in words:
        if len(line) + len(word) >= _LINE:
            lines.append(line)
            line = ""
        line += f"{word},"
    return "\n".join(f"  {one}" for one in [*lines, line])
