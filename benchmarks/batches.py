"""Default reports of digits with an empty store, on two cores and on one, and with nothing to do."""

import contextlib
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import psutil
import table

STEPS = 10**8
"""Steps of the loop that shows what two cores can do."""


def measure_memory(process: psutil.Process) -> int:
    """Resident bytes of a process and its descendants; shared pages count in parts. Linux only."""
    total = 0
    for one in [process, *process.children(recursive=True)]:
        try:
            total += one.memory_full_info().pss
        except psutil.NoSuchProcess:
            continue
    return total


def make_environment(place: Path | str) -> dict[str, str]:
    """Environment variables that put the data and reports of a run below `place`."""
    return {"COLLABOPT_DATA": f"{place}/data", "COLLABOPT_REPORTS": f"{place}/reports"}


def time_command(command: list[str], place: Path) -> float:
    """Seconds that a command takes with its data and reports below `place`."""
    began = time.perf_counter()
    done = subprocess.run(command, env=os.environ | make_environment(place), stdout=subprocess.DEVNULL, check=False)
    if done.returncode:
        raise SystemExit(f"{' '.join(command)}: exit status {done.returncode}")
    return time.perf_counter() - began


def run_batch(environment: dict[str, str], name: str, cores: int) -> tuple[float, int]:
    """Seconds and peak bytes of a batch."""
    command = [sys.executable, "-m", "collabopt", "report", "--experiment", name, "--cores", str(cores)]
    began, peak = time.perf_counter(), 0
    running = psutil.Popen(command, env=os.environ | environment, stdout=subprocess.DEVNULL)
    while running.poll() is None:
        peak = max(peak, measure_memory(running))
        with contextlib.suppress(psutil.TimeoutExpired):
            running.wait(1)  # measuring memory takes 50 ms
    if running.returncode:
        raise SystemExit(f"the batch of {name} failed with exit status {running.returncode}")
    return time.perf_counter() - began, peak


def measure_limit() -> dict:
    """Two computing processes at once ÷ one after the other: no batch can do better on two cores of this machine.

    It is 0.5 for two whole cores, and more where they are threads of one.
    """

    def count(processes: int) -> float:
        began = time.perf_counter()
        running = [subprocess.Popen([sys.executable, "-c", f"for _ in range({STEPS}): pass"]) for _ in range(processes)]
        for process in running:
            process.wait()
        return time.perf_counter() - began

    ratios = [count(2) / (2 * count(1)) for _ in range(5)]
    return table.make_row("two processes at once ÷ one after the other", "a loop in Python", statistics.median(ratios))


def measure_figures() -> list[dict]:
    """One row per figure of whole batches."""
    with tempfile.TemporaryDirectory() as two, tempfile.TemporaryDirectory() as one:
        seconds, peak = run_batch(make_environment(two), "digits", 2)
        nothing, _ = run_batch(make_environment(two), "digits", 2)
        alone, _ = run_batch(make_environment(one), "digits", 1)
    return [
        measure_limit(),
        table.make_bounded_row("default report, cold, 2 cores (s)", "digits", seconds, 100),
        table.make_bounded_row("default report, cold, 2 cores ÷ 1 core", "digits", seconds / alone, 0.6),
        table.make_bounded_row("peak memory of that batch (GB)", "digits", peak / 1e9, 3),
        table.make_bounded_row("nothing to do (s)", "digits", nothing, 2),
    ]
