"""The store's contents by experiment and size, and the removal of unused entries.

    make store                                          # list
    make store PRUNE="unused_days=30"                   # remove what no run has used for 30 days
    make store PRUNE="experiment=digits unused_days=7"  # the same for entries that only digits has used

A run notes each entry that it uses in `uses/<entry>/<experiment>`, and shares a lock on its experiment while its
process lives. Pruning needs that lock alone: it skips a running experiment, and one that starts meanwhile waits.
"""

import contextlib
import fcntl
import functools
import re
import shutil
import time
from pathlib import Path
from typing import TextIO

import pandas as pd

from collabopt.config import loading
from collabopt.config.experiment import ExperimentError

_NO_EXPERIMENT = "(none)"  # user of entries without notes, such as checkpoints; every run shares its lock
_locks: list[TextIO] = []


@functools.cache
def hold(store_directory: Path, experiment: str) -> None:
    """Protect what an `experiment` uses in `store_directory` from pruning while this process lives."""
    for name in (experiment, _NO_EXPERIMENT):
        with contextlib.suppress(OSError):
            _locks.append(_open_lock(store_directory, name))
            fcntl.flock(_locks[-1], fcntl.LOCK_SH)


def note_use(store_directory: Path, entry: Path, experiment: str) -> None:
    """Record that an `experiment` uses an `entry` now, unless the store in `store_directory` is full or read-only."""
    path = store_directory / "uses" / entry.name / experiment
    with contextlib.suppress(OSError):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()


def prune(
    store_directory: Path, experiment: str | None = None, unused_days: float = 0
) -> tuple[list[Path], list[Path]]:
    """Remove unused entries. Return their paths, and those of entries that a running experiment uses.

    Args:
        store_directory: The store.
        experiment: Remove only what this experiment alone has used.
        unused_days: Remove only what has not been used for this many days.
    """
    removed, running = [], []
    for path, uses in _read_uses(store_directory).groupby("path"):
        if uses["days unused"].min() < unused_days or (experiment and set(uses["experiment"]) != {experiment}):
            continue
        with contextlib.ExitStack() as locks:
            try:
                for name in uses["experiment"]:
                    lock = locks.enter_context(_open_lock(store_directory, name))
                    fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                running.append(path)
            else:
                shutil.rmtree(path)
                shutil.rmtree(store_directory / "uses" / path.name, ignore_errors=True)
                removed.append(path)
    return removed, running


def list_or_prune(settings: str = "") -> int:
    """Remove entries by `settings` ("unused_days=30"), print what the store holds, and return the exit status.

    Raises:
        ExperimentError: For any other setting.
    """
    store_directory = loading.DATA / "stages"
    if chosen := _parse(settings):
        known = {*_read_uses(store_directory)["experiment"]}
        if chosen.get("experiment", "") not in {"", *known}:
            name = chosen["experiment"]
            raise ExperimentError(
                f"PRUNE: experiment={name}: the store {store_directory} holds nothing of it"
                + (loading.suggest(name, sorted(known)) if known else "")
            )
        removed, running = prune(store_directory, **chosen)
        print(f"removed {len(removed)} entries; kept {len(running)} that a running batch or notebook uses")
    uses = _read_uses(store_directory)
    uses["MB not shared"] = uses["MB"].mask(uses["path"].duplicated(keep=False), 0)
    table = uses.groupby("experiment").agg({"path": "size", "MB": "sum", "MB not shared": "sum", "days unused": "min"})
    table = table.round(1).rename(columns={"path": "entries"}).reset_index()
    print(table.to_string(index=False) if len(table) else f"{store_directory}: nothing is stored")
    return 0


def _parse(settings: str) -> dict[str, str | float]:
    arguments: dict[str, str | float] = {}
    for word in settings.split():
        key, _, value = word.partition("=")
        if key == "experiment" and value:
            arguments[key] = Path(value).stem if value.endswith((".yaml", ".yml")) else value
        elif key == "unused_days" and re.fullmatch(r"\d+(\.\d+)?", value):
            arguments[key] = float(value)
        else:
            raise ExperimentError(f"PRUNE: {word!r}: expected experiment=<name>, unused_days=<number>, or both")
    return arguments


def _open_lock(store_directory: Path, experiment: str) -> TextIO:
    path = store_directory / "locks" / f"{experiment}.experiment"
    path.parent.mkdir(parents=True, exist_ok=True)
    return path.open("a")


def _read_uses(store_directory: Path) -> pd.DataFrame:
    """One row per entry and experiment that has used it. Checkpoints of unfinished stages are entries, too."""
    rows = []
    for path in (*store_directory.glob("[!.]*-*"), *store_directory.glob(".*.unfinished")):
        megabytes = sum(file.stat().st_size for file in path.rglob("*") if file.is_file()) / 1e6
        uses = [(use.name, use) for use in (store_directory / "uses" / path.name).glob("*")]
        for name, noted in uses or [(_NO_EXPERIMENT, path)]:
            rows.append((path, megabytes, name, (time.time() - noted.stat().st_mtime) / (24 * 3600)))
    return pd.DataFrame(rows, columns=["path", "MB", "experiment", "days unused"])
