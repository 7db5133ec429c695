"""How long one inference takes on this host, compared between files so that the host's drift cancels."""

import math
import time
from collections.abc import Callable, Mapping, Sequence

import numpy as np
import pandas as pd

from collabopt.tflite.interpreter import open_interpreter

VISIT_MS = 5.0
"""How long a file is timed at a visit, about: far above the clock's steps, far below what a host's load lasts."""


def measure_latency(files: Mapping[str, bytes], rounds: int = 40) -> pd.DataFrame:
    """Latency of each file by LiteRT with XNNPACK, one thread, batch 1: index `name`, columns as in `summary`.

    Every round visits every file, in the order given and in the next round backwards, so that a host that slows down
    or heats up does the same to all. A visit runs the file once untimed, since the one before it left the caches to
    others, and then for `VISIT_MS` or once; what counts is the median. The same random inputs every time.

    files: contents by name; the first is what the others are compared with.
    Raises ValueError where there are no files or no rounds.
    """
    if not files:
        raise ValueError("files={}: expected at least one, by name")
    if rounds < 1:
        raise ValueError(f"rounds={rounds}: expected at least 1")
    runs = [_run(content) for content in files.values()]
    repeats = [max(1, math.ceil(VISIT_MS / _visit(run, 3))) for run in runs]
    milliseconds = np.empty((rounds, len(runs)))
    for turn, row in enumerate(milliseconds):
        for index in range(len(runs)) if turn % 2 == 0 else reversed(range(len(runs))):
            row[index] = _visit(runs[index], repeats[index])
    return summarize(list(files), milliseconds)


def summarize(names: Sequence[str], milliseconds: np.ndarray) -> pd.DataFrame:
    """What measurements (rounds, files) say of each file: latency_ms, the median; latency_q1_ms and latency_q3_ms, the
    quartiles; latency_ratio, the median over rounds of a file's time to the first file's of the same round."""
    q1, median, q3 = np.quantile(milliseconds, [0.25, 0.5, 0.75], axis=0)
    ratio = np.median(milliseconds / milliseconds[:, :1], axis=0)
    columns = {"latency_ms": median, "latency_q1_ms": q1, "latency_q3_ms": q3, "latency_ratio": ratio}
    return pd.DataFrame(columns, index=pd.Index(names, name="name"))


def _run(tflite: bytes) -> Callable[[], None]:
    """Runs a file on random inputs."""
    interpreter = open_interpreter(tflite)
    (entry,) = interpreter.get_input_details()
    draw, shape, dtype = np.random.default_rng(0), entry["shape"], entry["dtype"]
    if dtype == np.float32:
        inputs = draw.standard_normal(shape, dtype)
    else:
        inputs = draw.integers(np.iinfo(dtype).min, np.iinfo(dtype).max, shape, dtype, endpoint=True)
    interpreter.set_tensor(entry["index"], inputs)
    return interpreter.invoke


def _visit(run: Callable[[], None], repeats: int) -> float:
    """Milliseconds of a run, the median of `repeats` after one that does not count."""
    run()
    clock = [time.perf_counter()]
    for _ in range(repeats):
        run()
        clock.append(time.perf_counter())
    return 1000 * float(np.median(np.diff(clock)))
