"""A sweep of digits over sparsities, numbers of clusters and seeds, and the memory of a notebook on CIFAR-10.

    python benchmarks/sweeps.py

The sweep is compared with its cells one by one, and on a real Slurm with two slots and with one. Every run starts with
an empty store in a temporary directory.
"""

import json
import sys
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path

import batches
import pandas as pd
import psutil
import table
import whole
import yaml

from collabopt.config import loading
from collabopt.storage import results

sys.path.append(str(loading.ROOT / "tests" / "batch"))
import slurm

SUBJECT = "digits"
CELL = {"sparsity": 0.5, "number_of_clusters": 8, "seed": 0}
GRID, CELLS = "sparsity=0.5,0.6,0.7 number_of_clusters=6,8,12,16 seed=0,1", 24
SLURM_GRID = "sparsity=0.5,0.7 number_of_clusters=6,8,12,16 seed=0"
PICTURES = "cifar10-mobilenet_v1"


def compare_with_cell(place: Path) -> list[dict]:
    """The sweep on one core beside its first cell alone, which runs without Snakemake."""
    batch = [sys.executable, "-m", "collabopt"]
    cell = [*batch, "cell", "--experiment", SUBJECT, "--overrides", json.dumps(CELL)]
    cell += ["--pages", str(place / "cell" / "reports" / "cell"), "--done", str(place / "cell/data/runs/cell.done")]
    sweep = [*batch, "report", "--experiment", SUBJECT, "--set", GRID, "--cores", "1"]
    one, all_ = batches.time_command(cell, place / "cell"), batches.time_command(sweep, place / "sweep")
    spent = {"one cell": compute_shares(place / "cell", one), "sweep": compute_shares(place / "sweep", all_)}
    return [
        table.make_row("one cell of a sweep, cold (s)", SUBJECT, one),
        table.make_bounded_row(f"sweep of {CELLS} cells ÷ {CELLS} × one cell", SUBJECT, all_ / (CELLS * one), 0.35),
        *(
            table.make_row("share of the time (%)", f"{SUBJECT}, {which}, {activity}", 100 * part)
            for which, parts in spent.items()
            for activity, part in parts.items()
        ),
    ]


def compute_shares(place: Path, seconds: float) -> dict[str, float]:
    """Shares of the `seconds` of the cells at `place` by activity. Stages that cells share were trained once."""
    cells = [pd.read_csv(path.with_name("results.csv")) for path in (place / "reports").rglob("variants.csv")]
    spent, _ = whole.time_notebooks(place)
    spent |= whole.time_training(pd.concat(cells).drop_duplicates(results.KEY))
    return whole.compute_fractions(spent, seconds, "the rest: measuring, variants, starts of processes, pages in HTML")


def compare_slots(place: Path) -> list[dict]:
    """The sweep through Slurm with two one-core jobs at a time, beside one at a time."""
    if reason := slurm.unavailable():
        raise SystemExit(f"no Slurm: {reason}")
    command = [sys.executable, slurm.__file__, "--experiment", SUBJECT, "--set", SLURM_GRID, "--slots"]
    took = {count: batches.time_command([*command, str(count)], place / f"slots-{count}") for count in (1, 2)}
    return [
        table.make_row("sweep through Slurm, one slot (s)", SUBJECT, took[1]),
        table.make_bounded_row("two Slurm slots ÷ one, wall time", SUBJECT, took[2] / took[1], 0.65),
    ]


def measure_memory(place: Path) -> list[dict]:
    """Peak memory of the kernel of `baseline` on all of CIFAR-10, with one epoch of QAT instead of two."""
    file, data = place / "pictures.yaml", place / "memory"
    values = yaml.safe_load(loading.find_experiment(PICTURES).read_text())
    values["stages"]["qat"]["epochs"] = 1
    file.write_text(yaml.safe_dump(values))
    whole.link_data(data / "data")
    command = [sys.executable, "-m", "collabopt", "report", "--experiment", str(file), "--notebooks", "baseline"]
    watch = _Kernels()
    with watch:
        batches.time_command([*command, "--cores", "2"], data)
    return [table.make_bounded_row("peak memory of a notebook's kernel (GB)", PICTURES, watch.peak / 1e9, 4)]


class _Kernels:
    """The peak resident bytes of any Jupyter kernel below this process, sampled four times per second."""

    def __init__(self) -> None:
        self.peak, self._ended = 0, threading.Event()
        self._thread = threading.Thread(target=self._sample)

    def __enter__(self) -> None:
        self._thread.start()

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._thread.join()

    def _sample(self) -> None:
        while not self._ended.wait(0.25):
            for process in psutil.Process().children(recursive=True):
                try:
                    # A forked kernel has this process name, but not the command line.
                    if process.name().startswith("ipykernel") or "ipykernel_launcher" in process.cmdline():
                        self.peak = max(self.peak, process.memory_info().rss)
                except psutil.Error:
                    continue


def measure_figures() -> Iterator[dict]:
    """Yield one row per figure, when it is measured."""
    with tempfile.TemporaryDirectory() as name:
        for measure in (compare_with_cell, compare_slots, measure_memory):
            yield from measure(Path(name))


if __name__ == "__main__":
    table.record(measure_figures())
