"""Batches of digits: cold, and with nothing to do. Each is in directories of its own and touches nothing else."""

import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import psutil
import table

CORES = "2"


def tree_memory(process: psutil.Process) -> int:
    """Bytes resident in a process and all below it, pages that they share in parts; Linux only."""
    total = 0
    for one in [process, *process.children(recursive=True)]:
        try:
            total += one.memory_full_info().pss
        except psutil.NoSuchProcess:
            continue
    return total


def directories(place: Path | str) -> dict[str, str]:
    """The environment that puts all of a run below `place`."""
    return {"COLLABOPT_DATA": f"{place}/data", "COLLABOPT_REPORTS": f"{place}/reports"}


def seconds(command: list[str], place: Path) -> float:
    """What a command takes with its data and reports below `place`."""
    began = time.perf_counter()
    done = subprocess.run(command, env=os.environ | directories(place), stdout=subprocess.DEVNULL, check=False)
    if done.returncode:
        raise SystemExit(f"{' '.join(command)}: exit status {done.returncode}")
    return time.perf_counter() - began


def batch(environment: dict[str, str], name: str) -> tuple[float, int]:
    """Seconds and peak bytes of a batch."""
    command = [sys.executable, "-m", "collabopt", "report", "--experiment", name, "--cores", CORES]
    began, peak = time.perf_counter(), 0
    running = psutil.Popen(command, env=os.environ | environment, stdout=subprocess.DEVNULL)
    while running.poll() is None:
        peak = max(peak, tree_memory(running))
        time.sleep(1)  # a look takes 50 ms
    if running.returncode:
        raise SystemExit(f"the batch of {name} failed with exit status {running.returncode}")
    return time.perf_counter() - began, peak


def figures() -> list[dict]:
    """A row a figure of whole batches."""
    with tempfile.TemporaryDirectory() as place:
        environment = directories(place)
        cold_seconds, cold_bytes = batch(environment, "digits")
        nothing_seconds, _ = batch(environment, "digits")
    return [
        table.at_most("all notebooks, cold, 2 cores (s)", "digits", cold_seconds, 180),
        table.at_most("peak memory of that batch (GB)", "digits", cold_bytes / 1e9, 3),
        table.at_most("nothing to do (s)", "digits", nothing_seconds, 10),
    ]
