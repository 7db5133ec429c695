"""`make bench`: prints the figures and writes reports/benchmarks.csv (figure, subject, value, goal, met).

Each batch runs in directories of its own, so that it is cold and touches neither the store nor a report.
"""

import os
import subprocess
import sys
import tempfile
import time

import pandas as pd
import psutil
import schemes

from collabopt import experiment, store

CORES = "2"


def tree_memory(process: psutil.Process) -> int:
    """Bytes resident in a process and all below it; pages they share count once each, so this is an upper bound."""
    total = 0
    for one in [process, *process.children(recursive=True)]:
        try:
            total += one.memory_info().rss
        except psutil.NoSuchProcess:
            continue
    return total


def batch(environment: dict[str, str], name: str) -> tuple[float, int]:
    """Seconds and peak bytes of a batch."""
    command = [sys.executable, "-m", "collabopt.batch", "report", "--experiment", name, "--cores", CORES]
    began, peak = time.perf_counter(), 0
    running = psutil.Popen(command, env=os.environ | environment, stdout=subprocess.DEVNULL)
    while running.poll() is None:
        peak = max(peak, tree_memory(running))
        time.sleep(0.25)
    if running.returncode:
        raise SystemExit(f"the batch of {name} failed with exit status {running.returncode}")
    return time.perf_counter() - began, peak


def figures() -> list[dict]:
    """A row a figure; goals are upper limits."""
    with tempfile.TemporaryDirectory() as place:
        environment = {"COLLABOPT_DATA": f"{place}/data", "COLLABOPT_REPORTS": f"{place}/reports"}
        cold_seconds, cold_bytes = batch(environment, "digits")
        nothing_seconds, _ = batch(environment, "digits")
    return [
        {"figure": "all notebooks, cold, 2 cores (s)", "subject": "digits", "value": cold_seconds, "goal": 180},
        {"figure": "peak memory of that batch (GB)", "subject": "digits", "value": cold_bytes / 1e9, "goal": 3},
        {"figure": "nothing to do (s)", "subject": "digits", "value": nothing_seconds, "goal": 10},
    ]


def main() -> None:
    """Measure, print and write."""
    rows = pd.DataFrame(figures() + schemes.figures())
    rows["met"] = rows["value"] <= rows["goal"]
    rows["value"] = rows["value"].round(2)
    print(rows.to_string(index=False))
    store.write(experiment.REPORTS / "benchmarks.csv", rows.to_csv(index=False))


if __name__ == "__main__":
    main()
