"""Batches in directories of their own, and the one batch whose stages and pages many tests share."""

import contextlib
import os
import pickle
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import psutil
import pytest

NOTEBOOKS = [
    "baseline",
    "cqat",
    "deployment_tree",
    "pcqat",
    "pqat",
    "sensitivity",
    "sparse_clustering",
]
"""The notebooks of the shared batch: the core ones and one other."""

DIFFICULT_DIRECTORY = "it's #1: a b"
DIFFICULT_NAME = "a: b #2 'c' 50% ü"
"""YAML, Snakemake, shells or URLs would misread these."""


class Place:
    """A data and a report directory, and the batches that use them.

    Attributes:
        root: The directory of both.
        data: Where the store and the executed notebooks go.
        reports: Where the pages go.
        environment: The environment variables of the batches.
    """

    def __init__(self, root: Path) -> None:
        root.mkdir(exist_ok=True)
        self.root, self.data, self.reports = root, root / "data", root / "reports"
        self.environment = os.environ | {"COLLABOPT_DATA": str(self.data), "COLLABOPT_REPORTS": str(self.reports)}
        # The tests may themselves run in a batch.
        self.environment.pop("COLLABOPT_LOG", None)
        self.environment.pop("COLLABOPT_NOTEBOOK", None)

    @contextlib.contextmanager
    def start(self, experiment: Path, *options: str) -> Iterator[SimpleNamespace]:
        """Start a batch in its own process group, with its output in files; kill it at the end if it still runs."""
        output = [self.root / f"{time.monotonic_ns()}.{name}" for name in ("stdout", "stderr")]
        command = [sys.executable, "-m", "collabopt", "report", "--experiment", str(experiment), "--cores", "2"]
        with output[0].open("wb") as stdout, output[1].open("wb") as stderr:
            process = subprocess.Popen(
                [*command, *options],
                stdout=stdout,
                stderr=stderr,
                env=self.environment,
                cwd=self.root,
                start_new_session=True,
            )
        try:
            yield SimpleNamespace(process=process, stdout=output[0].read_bytes, stderr=output[1].read_bytes)
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()

    def run(self, experiment: Path, *options: str) -> SimpleNamespace:
        """Run a batch to its end."""
        with self.start(experiment, *options) as running:
            return wait_for_end(running)

    def read_marks(self, experiment: Path) -> dict[str, int]:
        """Read when each notebook last finished, in ns."""
        marks = (self.data / "runs" / experiment.stem / "as_given").glob("*.done")
        return {path.stem: path.stat().st_mtime_ns for path in marks}


def wait_for_end(running: SimpleNamespace) -> SimpleNamespace:
    """Wait for the end of a batch, and read its exit status and output."""
    status = running.process.wait(timeout=900)
    return SimpleNamespace(
        status=status, pid=running.process.pid, stdout=running.stdout().decode(), stderr=running.stderr().decode()
    )


def wait_for(running: SimpleNamespace, text: bytes) -> None:
    """Wait until a batch has printed a text."""
    deadline = time.monotonic() + 600
    while text not in running.stdout():
        if running.process.poll() is not None or time.monotonic() > deadline:
            pytest.fail(f"{text!r} was not printed; {running.stdout()!r} {running.stderr()!r}")
        time.sleep(0.05)


def stop_in_background(place: Place, experiment: Path, *options: str) -> SimpleNamespace:
    """Start a batch as a script does in the background, with SIGINT ignored. Stop it by SIGTERM in its first training.

    Returns:
        How the batch ended, the `commands` of the processes below it, and those `alive` after its end.
    """
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)  # processes inherit it
    try:
        with place.start(experiment, *options) as running:
            signal.signal(signal.SIGINT, before)
            wait_for(running, b" epoch 1/")
            below = psutil.Process(running.process.pid).children(recursive=True)
            commands = [process.cmdline() for process in below]
            running.process.terminate()
            stopped = wait_for_end(running)
            _, alive = psutil.wait_procs(below, timeout=30)
    finally:
        signal.signal(signal.SIGINT, before)
    return SimpleNamespace(**vars(stopped), commands=commands, alive=[str(process) for process in alive])


def make_shared_batch(root: Path, experiment: Path) -> None:
    """Run a batch that is stopped in the middle, then again with a second one beside it.

    Afterwards `root` holds both directories of the batch, a `copy` of them, which no later batch changes, and
    `observed`.
    """
    place, options = Place(root), ("--notebooks", " ".join(NOTEBOOKS))
    stopped = stop_in_background(place, experiment, *options)
    marks_after_stop, index = place.read_marks(experiment), place.reports / experiment.stem / "index.html"
    with place.start(experiment, *options) as running:
        wait_for(running, f"notebook 1/{len(NOTEBOOKS)} started".encode())
        with place.start(experiment, *options) as waiting:
            first = wait_for_end(running)
            # Those of the first: the second has yet to start Snakemake.
            marks, index_time = place.read_marks(experiment), index.stat().st_mtime_ns
            second = wait_for_end(waiting)
    for directory in (place.data, place.reports):
        shutil.copytree(directory, root / "copy" / directory.name)
    observed = {
        "stopped": stopped,
        "marks_after_stop": marks_after_stop,
        "first": first,
        "second": second,
        "marks": [marks, place.read_marks(experiment)],
        "index_times": [index_time, index.stat().st_mtime_ns],
    }
    (root / "observed").write_bytes(pickle.dumps(observed))
