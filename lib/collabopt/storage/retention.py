"""What the store holds, by experiment and size, and how it gets smaller.

    python -m collabopt store                                           # make store
    python -m collabopt store --prune "unused_days=30"                  # make store PRUNE="unused_days=30"
    python -m collabopt store --prune "experiment=digits unused_days=7"

Each run notes which entries it uses, and holds a shared lock on its experiment while its process lives: what an
experiment uses that runs is never removed, and one that starts meanwhile waits until pruning is over.
"""

import contextlib
import errno
import fcntl
import shlex
import shutil
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from collabopt.config import loading
from collabopt.config.experiment import ExperimentError

DAY = 24 * 3600


_held: dict[Path, object] = {}


@dataclass(frozen=True)
class Entry:
    """A finished stage, or the checkpoint of an unfinished one. used: by experiment, when last (seconds, Unix)."""

    path: Path
    bytes: int
    used: dict[str, float]

    @property
    def last_used(self) -> float:
        return max(self.used.values(), default=self.path.stat().st_mtime)


def hold(keep: Path, name: str) -> None:
    """Keep what the experiment uses from being pruned while this process lives."""
    path = _lock(keep, name)
    if path not in _held:
        with _where_it_can_be_written():
            path.parent.mkdir(parents=True, exist_ok=True)
            _held[path] = path.open("a")
            fcntl.flock(_held[path], fcntl.LOCK_SH)


def note_use(keep: Path, entry: Path, name: str) -> None:
    """Note that the experiment uses the entry, now."""
    path = keep / "uses" / entry.name / name
    with _where_it_can_be_written():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()


def list_entries(keep: Path) -> list[Entry]:
    """All that the store holds, the largest first."""
    found = []
    for path in keep.iterdir() if keep.is_dir() else ():
        unfinished = path.name.startswith(".") and path.name.endswith(".unfinished")
        if path.is_dir() and ("-" in path.name) and (unfinished or not path.name.startswith(".")):
            name = path.name.removeprefix(".").removesuffix(".unfinished")
            uses = {use.name: use.stat().st_mtime for use in (keep / "uses" / name).glob("*")}
            found.append(Entry(path, sum(file.stat().st_size for file in path.rglob("*") if file.is_file()), uses))
    return sorted(found, key=lambda entry: -entry.bytes)


def summarize(keep: Path) -> pd.DataFrame:
    """A row an experiment: entries, megabytes, those that no other experiment uses, days since it last used one, and
    whether it runs."""
    held = list_entries(keep)
    rows, now = [], time.time()
    for name in sorted({name for entry in held for name in entry.used} | {""}):
        own = [entry for entry in held if name in entry.used or not (name or entry.used)]
        if own:
            last = max(entry.used.get(name, entry.last_used) for entry in own)
            rows.append(
                {
                    "experiment": name or "(noted by none)",
                    "entries": len(own),
                    "MB": round(sum(entry.bytes for entry in own) / 1e6, 1),
                    "MB of its own": round(sum(entry.bytes for entry in own if len(entry.used) < 2) / 1e6, 1),
                    "days unused": round((now - last) / DAY, 1),
                    "runs": "yes" if name and _runs(keep, name) else "",
                }
            )
    return pd.DataFrame(rows, columns=["experiment", "entries", "MB", "MB of its own", "days unused", "runs"])


def prune(keep: Path, name: str | None = None, unused_days: float = 0.0) -> tuple[list[Entry], list[Entry]]:
    """Remove what was not used for so many days, of all experiments or of one; what another experiment uses as well
    stays with it.

    Returns what was removed and what stays because an experiment that uses it runs.
    """
    removed, running = [], []
    for entry in list_entries(keep):
        if name is not None and set(entry.used) != {name}:
            continue
        if time.time() - entry.last_used < unused_days * DAY:
            continue
        with _alone(keep, list(entry.used)) as alone:
            if not alone:
                running.append(entry)
                continue
            shutil.rmtree(entry.path)
            shutil.rmtree(keep / "uses" / entry.path.name, ignore_errors=True)
            removed.append(entry)
    return removed, running


@contextlib.contextmanager
def _where_it_can_be_written() -> Iterator[None]:
    """A store that is full or read-only can still be read; what it cannot note it goes without."""
    try:
        yield
    except OSError as error:
        if error.errno not in (errno.EACCES, errno.EROFS, errno.ENOSPC, errno.EDQUOT):
            raise


def _lock(keep: Path, name: str) -> Path:
    return keep / "locks" / f"{name}.experiment"


def _runs(keep: Path, name: str) -> bool:
    with _alone(keep, [name]) as alone:
        return not alone


@contextlib.contextmanager
def _alone(keep: Path, names: list[str]) -> Iterator[bool]:
    """Whether none of the experiments runs; while the block lasts, none begins."""
    with contextlib.ExitStack() as files:
        try:
            for name in names:
                path = _lock(keep, name)
                path.parent.mkdir(parents=True, exist_ok=True)
                fcntl.flock(files.enter_context(path.open("a")), fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            yield False
        else:
            yield True


def _settings(text: str) -> dict:
    """`experiment=digits unused_days=30` as arguments of `prune`. Raises ExperimentError for anything else."""
    values: dict = {}
    for word in shlex.split(text):
        key, _, value = word.partition("=")
        if key == "experiment" and value:
            values["name"] = Path(value).stem if value.endswith((".yaml", ".yml")) else value
        elif key == "unused_days" and value.replace(".", "", 1).isdigit():
            values["unused_days"] = float(value)
        else:
            raise ExperimentError(f"PRUNE: {word!r}: expected experiment=<name>, unused_days=<number>, or both")
    return values


def list_or_prune(settings: str = "") -> int:
    """Print what the store holds, and remove what the settings name before that.

    Args:
        settings: `experiment=digits unused_days=30`; nothing is removed without settings.

    Returns:
        The exit status.
    """
    store_directory, chosen = loading.DATA / "stages", _settings(settings)
    if chosen:
        removed, running = prune(store_directory, **chosen)
        print(f"removed {len(removed)} entries, {sum(entry.bytes for entry in removed) / 1e6:,.1f} MB")
        if running:
            users = sorted({name for entry in running for name in entry.used if _runs(store_directory, name)})
            print(f"kept {len(running)} entries that a running batch or notebook uses: {', '.join(users)}")
    table = summarize(store_directory)
    print(table.to_string(index=False) if len(table) else f"{store_directory}: nothing is stored")
    return 0
