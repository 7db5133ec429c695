"""Latency of one inference on this host, measured in turns between files so that the host's drift cancels."""

import math
import time
from collections.abc import Callable, Mapping, Sequence

import numpy as np
import pandas as pd

from collabopt.runtime import progress
from collabopt.tflite.interpreter import open_interpreter

_VISIT_MS = 3.0  # time per visit: far above the clock's resolution, far below the duration of a change in load


def measure_latency(files: Mapping[str, bytes], rounds: int = 25) -> pd.DataFrame:
    """Return the latency of files in LiteRT with XNNPACK, one thread and batch 1, on random inputs, as in `summarize`.

    Each round visits every file, in turns forwards and backwards, so that a host that slows down affects all files
    alike. A visit runs the file once to fill the caches, then for about 3 ms, and takes the median.

    Args:
        files: Contents by name. The others are compared with the first.
        rounds: Number of rounds.
    """
    runs = [_make_run(content) for content in files.values()]
    repeats = [max(1, math.ceil(_VISIT_MS / _time_runs(run, 3))) for run in runs]
    milliseconds = np.empty((rounds, len(runs)))
    for turn, row in enumerate(milliseconds):
        progress.advance("measuring latency", "files", turn, rounds)
        for index in range(len(runs)) if turn % 2 == 0 else reversed(range(len(runs))):
            row[index] = _time_runs(runs[index], repeats[index])
    return summarize(list(files), milliseconds)


def summarize(names: Sequence[str], milliseconds: np.ndarray) -> pd.DataFrame:
    """Summarize `milliseconds` (rounds, files) of the files `names`.

    Returns:
        One row per file, with index `name`: latency_ms, the median; latency_q1_ms and latency_q3_ms, the quartiles;
        latency_ratio, the median over rounds of its time divided by the first file's time in the same round.
    """
    q1, median, q3 = np.quantile(milliseconds, [0.25, 0.5, 0.75], axis=0)
    ratio = np.median(milliseconds / milliseconds[:, :1], axis=0)
    columns = {"latency_ms": median, "latency_q1_ms": q1, "latency_q3_ms": q3, "latency_ratio": ratio}
    return pd.DataFrame(columns, index=pd.Index(names, name="name"))


def _make_run(tflite: bytes) -> Callable[[], None]:
    """Make a function that runs a file on random inputs."""
    interpreter = open_interpreter(tflite)
    generator = np.random.default_rng(0)
    for details in interpreter.get_input_details():
        shape, dtype = details["shape"], details["dtype"]
        if dtype == np.float32:
            inputs = generator.standard_normal(shape, dtype)
        elif details["quantization"][0]:
            inputs = generator.integers(np.iinfo(dtype).min, np.iinfo(dtype).max, shape, dtype, endpoint=True)
        else:  # indices, of which only the first is known to exist
            inputs = np.zeros(shape, dtype)
        interpreter.set_tensor(details["index"], inputs)
    return interpreter.invoke


def _time_runs(run: Callable[[], None], repeats: int) -> float:
    """Return the median time of `repeats` runs in ms, after one untimed run."""
    run()
    times = [time.perf_counter()]
    for _ in range(repeats):
        run()
        times.append(time.perf_counter())
    return 1000 * float(np.median(np.diff(times)))
