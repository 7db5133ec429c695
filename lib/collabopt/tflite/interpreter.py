"""Predictions of `.tflite` files with LiteRT."""

import contextlib
import itertools
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import numpy as np

from collabopt.datasets import Split
from collabopt.runtime import progress
from collabopt.runtime.tensorflow import drop_native_notices, tf
from collabopt.tflite import flatbuffer, other_runtimes
from collabopt.tflite.convert import ConversionRefused, Inputs

if TYPE_CHECKING:
    from ai_edge_litert.interpreter import Interpreter

_TOLERANCE = 1e-4
"""Difference of outputs that count as equal, relative to the largest one: kernels add in different orders."""
_PROVED = 3
"""Examples that a file computes one by one and in a batch, before its batches count."""


def score_examples(
    tflite: bytes, split: Split, score: Callable[[Any, np.ndarray], Any], threads: int = 1, batch_size: int = 16
) -> np.ndarray:
    """Return the score of each example with a file of any format (n, ...) float32.

    Each thread has its own interpreter: LiteRT releases Python's lock while it runs, and threads inside one interpreter
    would wait for each other after every operator. Batches, and so results, do not depend on the number of threads.

    Args:
        tflite: The content of the file.
        score: Function (labels, outputs) -> scores (batch, ...).
        threads: Number of threads.
        batch_size: Examples per run. DS-CNN-L is fastest with 8 to 32, by about 4 % over 1 and 128.
    """
    # Preparing several batches per call saves the overhead of calls.
    batches = split.batches(4 * batch_size).as_numpy_iterator()
    first, lock = next(batches), threading.Lock()
    chunks = enumerate(itertools.chain([first], batches))
    chunk = len(first[1])
    tflite, batch_size = _make_batched(tflite, batch_size, first[0])

    def work(_: int) -> list[tuple[int, np.ndarray]]:
        interpreter, scored = open_interpreter(tflite, batch_size), []
        while True:
            with lock:  # a thread takes the next chunk when it is idle, so few are in memory
                number, (inputs, labels) = next(chunks, (None, (None, None)))
            if number is None:
                return scored
            scored.append((number, np.asarray(score(labels, run(interpreter, inputs)))))
            progress.advance("evaluating the file", done=min((number + 1) * chunk, len(split)), total=len(split))

    with ThreadPoolExecutor(threads) as pool:
        scored = [pair for pairs in pool.map(work, range(threads)) for pair in pairs]
    return np.concatenate([scores for _, scores in sorted(scored, key=lambda pair: pair[0])])


def compute_outputs(tflite: bytes, split: Split) -> np.ndarray:
    """Return the outputs (n, ...) float32 of `tflite`, a file of any format."""
    return score_examples(tflite, split, lambda _, outputs: outputs)


def open_interpreter(tflite: bytes, batch_size: int = 1, reference: bool = False) -> "Interpreter":
    """Return a file in LiteRT's interpreter, with one thread, or in the other runtime that it is for, with batch 1.

    Args:
        tflite: The content of the file.
        batch_size: First dimension of the inputs.
        reference: Whether to compute without XNNPACK, by LiteRT's reference kernels as far as it has them, and keep all
            tensors. XNNPACK is faster and rounds some values differently.

    Raises:
        RuntimeError: The file cannot run with this batch size.
    """
    from ai_edge_litert.interpreter import Interpreter, OpResolverType

    if not other_runtimes.is_tflite(tflite):
        return other_runtimes.open_interpreter(tflite)
    # Some operators, such as ELU, have no reference kernel.
    kinds = [OpResolverType.BUILTIN_REF, OpResolverType.BUILTIN_WITHOUT_DEFAULT_DELEGATES]
    options = {"model_content": tflite, "num_threads": 1, "experimental_preserve_all_tensors": reference}
    with drop_native_notices():
        for kind in kinds if reference else [OpResolverType.AUTO]:
            with contextlib.suppress(ValueError):
                interpreter = Interpreter(experimental_op_resolver_type=kind, **options)
                break
        else:
            raise RuntimeError("LiteRT does not know an operator of the file")
        for details in interpreter.get_input_details():
            if details["shape"][0] != batch_size:
                interpreter.resize_tensor_input(details["index"], [batch_size, *details["shape"][1:]])
        interpreter.allocate_tensors()
    return interpreter


def run(interpreter: "Interpreter", inputs: Inputs) -> np.ndarray:
    """Return the outputs (n, ...) float32 that an `interpreter` has for `inputs` (n, ...) float32."""
    (output,) = interpreter.get_output_details()
    outputs = [interpreter.get_tensor(output["index"]) for _ in _run_batches(interpreter, inputs)]
    number = len(next(iter(inputs.values())) if isinstance(inputs, dict) else inputs)
    return _dequantize(np.concatenate(outputs)[:number], output)


def run_or_refuse(tflite: bytes, inputs: Inputs) -> np.ndarray:
    """Return the outputs (n, ...) float32 of `inputs`, one by one, with a file `tflite` that may not run.

    Raises:
        ConversionRefused: It does not run.
    """
    try:
        return run(open_interpreter(tflite), inputs)
    except (RuntimeError, ValueError) as error:
        raise ConversionRefused(f"the file does not run: {' '.join(str(error).split())}") from error


def check_equal(tflite: bytes, dense: bytes, inputs: Inputs) -> None:
    """Check that `tflite` computes the same as the float32 file `dense` that it was made of, on `inputs` (n, ...).

    Raises:
        ConversionRefused: It does not run, or an output differs.
    """
    found, expected = run_or_refuse(tflite, inputs), run(open_interpreter(dense), inputs)
    difference = np.abs(found - expected).max()
    if not difference <= _TOLERANCE * np.abs(expected).max():
        raise ConversionRefused(
            f"the file computes something else: an output differs by {difference:.1e} from the float32 file's"
        )


def record(interpreter: "Interpreter", inputs: Inputs, tensors: Sequence[int]) -> list[np.ndarray]:
    """Return real values (n, ...) float32 of some tensors, examples run one by one.

    Args:
        interpreter: Opened with reference kernels.
        inputs: Model inputs (n, ...).
        tensors: Indices of the tensors.
    """
    details = {one["index"]: one for one in interpreter.get_tensor_details()}
    kept: list[list[np.ndarray]] = [[] for _ in tensors]
    for _ in _run_batches(interpreter, inputs):
        for place, index in enumerate(tensors):
            kept[place].append(interpreter.get_tensor(index))
    return [_dequantize(np.concatenate(parts), details[index]) for parts, index in zip(kept, tensors, strict=True)]


def make_test_vectors(tflite: bytes, inputs: Inputs) -> dict[str, np.ndarray]:
    """Return `inputs` as `input` (several: "input_<name>"), and `output` of `tflite` by reference kernels, in its
    types.
    """
    interpreter = open_interpreter(tflite, reference=True)
    entries, (output,) = find_inputs(interpreter, inputs), interpreter.get_output_details()
    names = [f"input_{name}" for name in inputs] if isinstance(inputs, dict) and len(inputs) > 1 else ["input"]
    arrays = [_quantize(np.asarray(values), details) for values, details in entries]
    outputs = [interpreter.get_tensor(output["index"]) for _ in _run_batches(interpreter, inputs)]
    return dict(zip(names, arrays, strict=True)) | {"output": np.concatenate(outputs)}


def _make_batched(tflite: bytes, batch_size: int, inputs: Inputs) -> tuple[bytes, int]:
    """A file that computes the same for a batch of examples, with its batch size.

    Files hold a batch of one example, and batches take less time. If the batched file refuses, or its outputs differ,
    the examples run one by one: a loop, for instance, keeps states of one example.

    Args:
        tflite: The content of the file.
        batch_size: Examples per run.
        inputs: Some model inputs (n, ...), of which the first are run both ways.
    """
    if not other_runtimes.is_tflite(tflite):
        return tflite, 1
    some = tf.nest.map_structure(lambda array: array[:_PROVED], inputs)
    batched = flatbuffer.resize_batch(tflite, batch_size)
    try:
        found = run(open_interpreter(batched, batch_size), some)
    except (RuntimeError, ValueError):
        return tflite, 1
    expected = run(open_interpreter(tflite), some)
    same = found.shape == expected.shape and np.allclose(found, expected, rtol=1e-4, atol=1e-5 * np.abs(expected).max())
    return (batched, batch_size) if same else (tflite, 1)


def _run_batches(interpreter: "Interpreter", inputs: Inputs) -> Iterator[None]:
    """Run batch after batch. Zeros fill up the last one."""
    entries = find_inputs(interpreter, inputs)
    values = [_quantize(np.asarray(array), details) for array, details in entries]
    batch_size = entries[0][1]["shape"][0]
    missing = -len(values[0]) % batch_size
    if missing:
        values = [np.concatenate([one, np.zeros((missing, *one.shape[1:]), one.dtype)]) for one in values]
    for start in range(0, len(values[0]), batch_size):
        for one, (_, details) in zip(values, entries, strict=True):
            interpreter.set_tensor(details["index"], one[start : start + batch_size])
        interpreter.invoke()
        yield


def find_inputs(interpreter: "Interpreter", inputs: Inputs) -> list[tuple[np.ndarray, dict[str, Any]]]:
    """Return each of `inputs` with the details of its tensor; the file of `interpreter` orders them as it likes."""
    details = interpreter.get_input_details()
    if not isinstance(inputs, dict):
        return [(inputs, details[0])]
    if len(details) == 1:
        return [(*inputs.values(), details[0])]
    named, by_index = interpreter.get_signature_runner().get_input_details(), {one["index"]: one for one in details}
    return [(array, by_index[named[name]["index"]]) for name, array in inputs.items()]


def _quantize(inputs: np.ndarray, details: dict[str, Any]) -> np.ndarray:
    """Quantize model inputs for an input tensor, clipped to its range. Indices have no scale."""
    if details["dtype"] == np.float32:
        return inputs
    (scale, zero_point), limits = details["quantization"], np.iinfo(details["dtype"])
    scale = scale or 1
    return np.clip(np.round(inputs / scale) + zero_point, limits.min, limits.max).astype(details["dtype"])


def _dequantize(values: np.ndarray, details: dict[str, Any]) -> np.ndarray:
    """Return the numbers that the values of an output tensor stand for."""
    if values.dtype == np.float32:
        return values
    scale, zero_point = details["quantization"]
    return (values.astype(np.float32) - zero_point) * np.float32(scale)
