"""Kills processes at seeded moments, lets the same work go on, and counts what came out wrong.

    python tests/batch/kills.py --stages 200 --batches 12     # some two hours on two cores

`--stages`: SIGKILL to a process that trains a stage of `digits`, forked after the imports. `--batches`: SIGKILL to one
process of a whole batch: batch, Snakemake, papermill or kernel. After its kills each case runs to the end and is held
against a run that nobody killed: weights bit for bit, figures, and every entry that was whole before a kill.
"""

import argparse
import hashlib
import itertools
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import traceback
from pathlib import Path

import numpy as np
import pandas as pd
import psutil

from collabopt.config import loading
from collabopt.config.stages import STAGES, get_lineage

KILLS_IN_A_ROW = 3
COUNTS = ("kills", "wrong results", "lost finished stages", "unclear errors")
UNLIKE = {"setup_seconds", "fit_seconds", "seconds"}
"""Columns of times, which differ from run to run."""


def weights(entry: Path) -> str:
    """Digest of a trained entry's arrays."""
    digest = hashlib.sha256()
    with np.load(entry / "weights.npz") as arrays:
        for name in sorted(arrays.files):
            digest.update(name.encode() + arrays[name].tobytes())
    return digest.hexdigest()


def entries(keep: Path) -> dict[str, tuple[int, int]]:
    """The whole entries of a store, with what changes when one is made again."""
    seals = {path.parent.name: path.stat() for path in keep.glob("[a-z]*/checksums.json")}
    return {name: (seal.st_ino, seal.st_mtime_ns) for name, seal in seals.items()}


def figures(table: Path) -> pd.DataFrame:
    """A table of results without its times."""
    rows = pd.read_csv(table)
    return rows.drop(columns=UNLIKE & set(rows))


def wrong(keep: Path, reference: Path) -> list[str]:
    """Entries that are not, bit for bit, what a run without kills made."""
    found = []
    for name in entries(keep):
        same = json.loads((keep / name / "checksums.json").read_text())
        theirs = reference / name
        if not theirs.is_dir():
            found.append(f"{name}: not there without kills")
        elif (keep / name / "weights.npz").is_file():
            if weights(keep / name) != weights(theirs):
                found.append(f"{name}: other weights")
            histories = [figures(place / name / "history.csv") for place in (keep, reference)]
            if not histories[0].equals(histories[1]):
                found.append(f"{name}: another history")
        elif same != json.loads((theirs / "checksums.json").read_text()):
            found.append(f"{name}: other files")
    return found


class Campaign:
    """Cases of kills on one experiment, counted in `counts`; what went wrong stands in `faults`."""

    def __init__(self, plan: str, place: Path, seed: int, notebooks: str = "", names: tuple[str, ...] = ()) -> None:
        self.plan, self.place, self.chance, self.notebooks = plan, place, random.Random(seed), notebooks
        self.names = names or tuple(STAGES)
        self.counts, self.faults = dict.fromkeys(COUNTS, 0), []

    def fault(self, kind: str, what: str) -> None:
        self.counts[kind] += 1
        self.faults.append(f"{kind}: {what}")

    def stages(self, kills: int) -> None:
        """Kill processes that train one stage after another, until `kills` have been dealt."""
        reference = self.place / "reference"
        if _wait(self._child(reference, None)):
            raise SystemExit("the check without kills failed")
        seconds = {}
        for name in self.names:
            began = time.perf_counter()
            if _wait(self._child(reference, name)):
                raise SystemExit(f"{name}: the run without kills failed")
            seconds[name] = time.perf_counter() - began
        cases, dealt = itertools.cycle(self.names), 0
        while dealt < kills:
            name, keep = next(cases), self.place / "case"
            ancestors = {"trial", *(stage.name for stage in get_lineage(name, STAGES)[:-1])}
            for entry in reference.glob("[a-z]*-*"):
                if entry.name.rsplit("-", 1)[0].removesuffix("-measured") in ancestors:
                    shutil.copytree(entry, keep / entry.name)
            for _ in range(min(KILLS_IN_A_ROW, kills - dealt)):
                whole = entries(keep)
                child = self._child(keep, name)
                time.sleep(self.chance.uniform(0, 1.1 * seconds[name]))
                os.kill(child, signal.SIGKILL)
                if _wait(child) != -signal.SIGKILL:
                    break  # it had ended already
                dealt += 1
                self._still_whole(whole, keep, name)
            self._ends_well(_wait(self._child(keep, name)), keep, reference, f"{name}, kill {dealt}")
            shutil.rmtree(keep, ignore_errors=True)  # killed before it made anything
            print(f"{dealt} kills, {name}", flush=True)

    def _still_whole(self, before: dict, keep: Path, about: str) -> None:
        after = entries(keep)
        for entry, seal in before.items():
            if after.get(entry) != seal:
                self.fault("lost finished stages", f"{about}: {entry}")
        self.counts["kills"] += 1

    def _ends_well(self, status: int, keep: Path, reference: Path, about: str) -> None:
        if status:
            self.fault("unclear errors", f"{about}: exit status {status}")
        for what in wrong(keep, reference):
            self.fault("wrong results", f"{about}: {what}")

    def _child(self, keep: Path, name: str | None) -> int:
        """A forked process that finishes a stage in the store `keep`; None only checks the model."""
        child = os.fork()
        if child:
            return child
        try:
            from collabopt.run import Run
            from collabopt.runtime import tensorflow

            os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
            plan = loading.load(self.plan)
            tensorflow.configure(plan.threads)
            loading.DATA = keep.parent
            run = Run(plan, keep / "report", loading.find_experiment(self.plan), keep)
            run.stage(name) if name else run.preflight()
        except BaseException:
            traceback.print_exc()
            os._exit(1)
        os._exit(0)

    def batches(self, kills: int) -> None:
        """Kill one process of a whole batch, `kills` times, and let the batch run again each time."""
        reference, began = self.place / "whole", time.perf_counter()
        if self._batch(reference).wait():
            raise SystemExit("the batch without kills failed")
        seconds = time.perf_counter() - began
        for case in range(kills):
            place = self.place / f"batch-{case}"
            running = self._batch(place)
            time.sleep(self.chance.uniform(0.05, 0.95) * seconds)
            whole, about = entries(place / "data" / "stages"), f"batch {case}"
            about += f": {self._kill_one_of(running)}"
            running.wait()
            self._still_whole(whole, place / "data" / "stages", about)
            again = self._batch(place)
            said = again.communicate()[0]
            if "Traceback" in said:
                self.fault("unclear errors", f"{about}: {said}")
            self._ends_well(again.returncode, place / "data" / "stages", reference / "data" / "stages", about)
            for table in ("results.csv", "layers.csv"):
                both = [next((at / "reports").glob(f"*/{table}")) for at in (place, reference)]
                if not figures(both[0]).equals(figures(both[1])):
                    self.fault("wrong results", f"{about}: {table}")
            shutil.rmtree(place)
            print(about, flush=True)

    def _batch(self, place: Path) -> subprocess.Popen:
        place.mkdir(exist_ok=True)
        environment = os.environ | {"COLLABOPT_DATA": f"{place}/data", "COLLABOPT_REPORTS": f"{place}/reports"}
        command = [sys.executable, "-m", "collabopt", "report", "--experiment", self.plan, "--cores", "2"]
        command += ["--notebooks", self.notebooks]
        return subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)

    def _kill_one_of(self, running: subprocess.Popen) -> str:
        """SIGKILL to one process of a batch and, so that nothing of it goes on beside its successor, to those below."""
        try:
            own = psutil.Process(running.pid)
            chosen = self.chance.choice([own, *own.children(recursive=True)])
            said = f"{chosen.name()}: {' '.join(chosen.cmdline())[-60:]}"
            for process in [*chosen.children(recursive=True), chosen]:
                process.kill()
        except psutil.NoSuchProcess:
            return "it had ended already"
        return f"…{said}"


def _wait(child: int) -> int:
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def main() -> int:
    """Print the counts; exit status 1 where anything but kills was counted."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--stages", type=int, default=0)
    parser.add_argument("--batches", type=int, default=0)
    parser.add_argument("--experiment", default="digits")
    parser.add_argument("--notebooks", default="", help="of a batch; all by default")
    parser.add_argument("--names", default="", help="of the stages; all by default")
    parser.add_argument("--seed", type=int, default=0)
    words = parser.parse_args()
    import collabopt.analysis.evaluate
    import collabopt.analysis.preflight
    import collabopt.run  # noqa: F401 - imported once, before the forks

    with tempfile.TemporaryDirectory() as place:
        campaign = Campaign(words.experiment, Path(place), words.seed, words.notebooks, tuple(words.names.split()))
        if words.stages:
            campaign.stages(words.stages)
        if words.batches:
            campaign.batches(words.batches)
    print("\n".join(campaign.faults))
    print(", ".join(f"{kind} {count}" for kind, count in campaign.counts.items()))
    return int(bool(campaign.faults))


if __name__ == "__main__":
    sys.exit(main())
