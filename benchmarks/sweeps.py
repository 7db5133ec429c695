"""A sweep of digits, 2 sparsities by 4 numbers of clusters: beside its cells one by one, and on a real Slurm with two
slots beside one; and the memory of a notebook on CIFAR-10.

    python benchmarks/sweeps.py

Every run is cold, in directories of its own.
"""

import json
import sys
import tempfile
import threading
from pathlib import Path

import batches
import pandas as pd
import psutil
import table
import whole
import yaml

from collabopt.config import loading
from collabopt.storage import results

sys.path.append(str(loading.ROOT / "tests"))
import slurm

SUBJECT = "digits"
CELL = {"sparsity": 0.5, "number_of_clusters": 8, "seed": 0}
GRID = "sparsity=0.5,0.7 number_of_clusters=6,8,12,16 seed=0"
CELLS = 8
PICTURES = "cifar10-mobilenet_v1"


def sweep_and_cell(place: Path) -> list[dict]:
    """The sweep on one core beside its first cell alone, which starts no Snakemake."""
    batch = [sys.executable, "-m", "collabopt"]
    cell = [*batch, "cell", "--experiment", SUBJECT, "--overrides", json.dumps(CELL)]
    cell += ["--pages", str(place / "cell" / "reports" / "cell"), "--done", str(place / "cell/data/runs/cell.done")]
    sweep = [*batch, "report", "--experiment", SUBJECT, "--set", GRID, "--cores", "1"]
    one, all_ = batches.seconds(cell, place / "cell"), batches.seconds(sweep, place / "sweep")
    spent = {"one cell": shares(place / "cell", one), "sweep": shares(place / "sweep", all_)}
    return [
        table.seen("one cell of a sweep, cold (s)", SUBJECT, one),
        table.at_most(f"sweep of {CELLS} cells ÷ {CELLS} × one cell", SUBJECT, all_ / (CELLS * one), 0.6),
        *(
            table.seen("share of the time (%)", f"{SUBJECT}, {which}, {what}", 100 * part)
            for which, parts in spent.items()
            for what, part in parts.items()
        ),
    ]


def shares(place: Path, seconds: float) -> dict[str, float]:
    """What the `seconds` of the cells at `place` went into, as fractions. What several cells show was trained once."""
    cells = [pd.read_csv(path.with_name("results.csv")) for path in (place / "reports").rglob("leaves.csv")]
    spent, _ = whole.in_notebooks(place)
    spent |= whole.in_training(pd.concat(cells).drop_duplicates(results.KEY))
    return whole.fractions(spent, seconds, "the rest: measuring, leaves, starts of processes, pages in HTML")


def slots(place: Path) -> list[dict]:
    """The sweep through Slurm: two one-core jobs at a time beside one."""
    if why := slurm.unavailable():
        raise SystemExit(f"no Slurm: {why}")
    command = [sys.executable, slurm.__file__, "--experiment", SUBJECT, "--set", GRID, "--slots"]
    took = {count: batches.seconds([*command, str(count)], place / f"slots-{count}") for count in (1, 2)}
    return [
        table.seen("sweep through Slurm, one slot (s)", SUBJECT, took[1]),
        table.at_most("two Slurm slots ÷ one, wall time", SUBJECT, took[2] / took[1], 0.65),
    ]


def memory(place: Path) -> list[dict]:
    """The most that the kernel of `baseline` has resident on all of CIFAR-10, with one epoch of QAT instead of two."""
    plan, data = place / "pictures.yaml", place / "memory"
    values = yaml.safe_load(loading.find_experiment(PICTURES).read_text())
    values["stages"]["qat"]["epochs"] = 1
    plan.write_text(yaml.safe_dump(values))
    whole.linked_data(data / "data")
    command = [sys.executable, "-m", "collabopt", "report", "--experiment", str(plan), "--notebooks", "baseline"]
    watch = _Kernels()
    with watch:
        batches.seconds([*command, "--cores", "2"], data)
    return [table.at_most("peak memory of a notebook's kernel (GB)", PICTURES, watch.peak / 1e9, 4)]


class _Kernels:
    """The most bytes that any Jupyter kernel below this process has resident, looked at four times a second."""

    def __init__(self) -> None:
        self.peak, self._ended = 0, threading.Event()
        self._thread = threading.Thread(target=self._look)

    def __enter__(self) -> None:
        self._thread.start()

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._thread.join()

    def _look(self) -> None:
        while not self._ended.wait(0.25):
            for process in psutil.Process().children(recursive=True):
                try:
                    # A forked kernel has the name alone.
                    if process.name().startswith("ipykernel") or "ipykernel_launcher" in process.cmdline():
                        self.peak = max(self.peak, process.memory_info().rss)
                except psutil.Error:
                    continue


def figures() -> list[dict]:
    """A row a figure."""
    with tempfile.TemporaryDirectory() as name:
        place = Path(name)
        return [*sweep_and_cell(place), *slots(place), *memory(place)]


if __name__ == "__main__":
    table.record(figures())
