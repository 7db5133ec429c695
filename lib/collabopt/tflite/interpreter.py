"""Predictions of `.tflite` files by LiteRT."""

import queue
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import numpy as np

from collabopt.datasets import Split
from collabopt.runtime.tensorflow import drop_native_notices, tf

if TYPE_CHECKING:
    from ai_edge_litert.interpreter import Interpreter


def predict_classes(tflite: bytes, split: Split, threads: int = 1, batch_size: int = 16) -> np.ndarray:
    """The class (n,) that a file of any of `FORMATS` gives each example of `split`, by LiteRT.

    Each of `threads` has an interpreter of its own and takes what comes next; LiteRT lets go of Python's lock while it
    runs. Threads inside one interpreter would wait for each other after every operator. Batches are the same whatever
    `threads`, and so is what comes out, in floats too.

    batch_size: examples a run. DS-CNN-L is fastest with 8 to 32 (some 4 %, against 1 and 128): more leave the cache.
    """
    at_once = 4 * batch_size  # Inputs are made in larger batches than they are run in: each call has its price.
    starts = range(0, len(split), at_once)
    idle: queue.SimpleQueue[Callable[[np.ndarray], np.ndarray]] = queue.SimpleQueue()
    for _ in range(min(threads, len(starts))):
        idle.put(_runner(tflite, batch_size))
    # Pictures are decoded in many small operations, which a graph runs in half the time; a cast is quicker without.
    prepare = tf.function(split.prepare) if split.examples.ndim == 1 else split.prepare

    def classes(start: int) -> np.ndarray:
        with tf.device("CPU:0"):
            inputs = np.asarray(prepare(tf.constant(split.examples[start : start + at_once])))
        run = idle.get()
        try:
            return run(inputs).argmax(axis=-1)
        finally:
            idle.put(run)

    with ThreadPoolExecutor(threads) as pool:
        return np.concatenate(list(pool.map(classes, starts)))


def open_interpreter(tflite: bytes, batch_size: int = 1) -> "Interpreter":
    """LiteRT's interpreter of a file, with XNNPACK and one thread, ready for inputs (batch_size, ...)."""
    from ai_edge_litert.interpreter import Interpreter

    with drop_native_notices():
        made = Interpreter(model_content=tflite, num_threads=1)
        (entry,) = made.get_input_details()
        made.resize_tensor_input(entry["index"], [batch_size, *entry["shape"][1:]])
        made.allocate_tensors()
    return made


def _runner(tflite: bytes, batch_size: int) -> Callable[[np.ndarray], np.ndarray]:
    """A function that gives the outputs (m, classes) of a file for model inputs (m, ...) float32, in whole batches."""
    one = open_interpreter(tflite, batch_size)
    (entry,), (exit_,) = one.get_input_details(), one.get_output_details()

    def run(inputs: np.ndarray) -> np.ndarray:
        given = inputs if entry["dtype"] == np.float32 else _codes(inputs, entry)
        # The last batch is filled up; what it is filled with is cut off again.
        missing = -len(given) % batch_size
        given = np.concatenate([given, np.zeros((missing, *given.shape[1:]), given.dtype)]) if missing else given
        outputs = []
        for batch in np.split(given, len(given) // batch_size):
            one.set_tensor(entry["index"], batch)
            one.invoke()
            outputs.append(one.get_tensor(exit_["index"]))
        return np.concatenate(outputs)[: len(inputs)]

    return run


def _codes(inputs: np.ndarray, entry: dict[str, Any]) -> np.ndarray:
    """Model inputs as codes of an integer input tensor, clipped to its range."""
    (scale, zero_point), limits = entry["quantization"], np.iinfo(entry["dtype"])
    return np.clip(np.round(inputs / scale) + zero_point, limits.min, limits.max).astype(entry["dtype"])
