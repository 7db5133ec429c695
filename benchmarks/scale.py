"""What grows with the work, by simulation: a store of many entries, a sweep of many cells, and long tables of results.

    python benchmarks/scale.py            # some minutes

Entries and rows are synthetic. Planning a sweep runs the real Snakefile without executing its jobs.
"""

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from unittest import mock
from urllib.parse import quote

import batches
import numpy as np
import pandas as pd
import psutil
import table

from collabopt.config import loading
from collabopt.storage import results, retention, store

ENTRIES = 10_000
CELLS = 1_000
ROWS = 100_000


def measure_store(directory: Path) -> list[dict]:
    """Seconds to list, look up and prune a store; each entry has three small files."""

    def make(entry: Path) -> None:
        for name in ("weights.npz", "history.csv", "fit.json"):
            (entry / name).write_text(entry.name)

    with mock.patch("os.fsync"):  # writing them is not measured
        for index in range(ENTRIES):
            store.get_or_make(directory, "stage", {"index": index}, make)

    def time_action(action: Callable[[], object]) -> float:
        began = time.perf_counter()
        action()
        return time.perf_counter() - began

    took = {
        "list": time_action(lambda: retention.prune(directory, unused_days=1)),
        "look up": time_action(lambda: store.get_or_make(directory, "stage", {"index": ENTRIES // 2}, make)),
        "prune": time_action(lambda: retention.prune(directory)),
    }
    if list(directory.glob("stage-*")):
        raise SystemExit("pruning left entries")
    return [table.make_row(f"{action} (s)", f"store of {ENTRIES:,} entries", took[action]) for action in took]


def plan_sweep(place: Path) -> list[dict]:
    """Seconds and peak memory of Snakemake for the jobs of a sweep, without running them."""
    side = round(CELLS ** (1 / 3))
    grid = {
        "sparsity": [round(value, 3) for value in np.linspace(0.3, 0.9, side)],
        "number_of_clusters": list(range(4, 4 + side)),
        "seed": list(range(side)),
    }
    config = {"experiment": "digits", "grid": grid, "pages": str(place / "reports"), "place": str(place / "place")}
    command = [
        sys.executable,
        "-m",
        "snakemake",
        "--snakefile",
        str(loading.ROOT / "Snakefile"),
        "--dry-run",
        "--quiet",
    ]
    command += ["--directory", str(place), "--nolock", "--cores", "2"]
    command += ["--config", f"batch={quote(json.dumps(config), safe='')}"]
    began, peak = time.perf_counter(), 0
    running = psutil.Popen(command, env=os.environ | batches.make_environment(place), stdout=subprocess.DEVNULL)
    while running.poll() is None:
        peak = max(peak, batches.measure_memory(running))
        time.sleep(0.5)
    if running.returncode:
        raise SystemExit(f"planning failed with exit status {running.returncode}")
    subject = f"sweep of {side**3:,} cells"
    return [
        table.make_row("plan the jobs (s)", subject, time.perf_counter() - began),
        table.make_row("plan the jobs, peak memory (GB)", subject, peak / 1e9),
    ]


def measure_tables(directory: Path) -> list[dict]:
    """Seconds to read a results table of many rows, and to record one more stage in it."""
    run = pd.read_csv(loading.REPORTS / "digits" / "results.csv")
    rows = pd.concat([run.iloc[:1]] * ROWS, ignore_index=True).assign(seed=range(ROWS))
    path = directory / "results.csv"
    rows.to_csv(path, index=False)
    subject = f"results.csv of {ROWS:,} rows"
    began = time.perf_counter()
    read = results.read(path)
    took = {"read": time.perf_counter() - began}
    layers = pd.DataFrame([dict.fromkeys(results.LAYERS, "")])
    began = time.perf_counter()
    results.record(
        directory, read.iloc[0].to_dict() | {"seed": ROWS}, layers, {"experiment": {"name": "digits"}, "seed": 0}
    )
    took["record a stage"] = time.perf_counter() - began
    if len(results.read(path)) != ROWS + 1:
        raise SystemExit("the stage was not recorded")
    return [table.make_row(f"{action} (s)", subject, seconds) for action, seconds in took.items()]


def measure_figures() -> Iterator[dict]:
    """Yield one row per figure, when it is measured."""
    with tempfile.TemporaryDirectory() as name:
        for measure in (measure_store, plan_sweep, measure_tables):
            place = Path(name, measure.__name__)
            place.mkdir()
            yield from measure(place)


if __name__ == "__main__":
    table.record(measure_figures())
