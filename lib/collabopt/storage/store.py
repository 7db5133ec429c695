"""Finished work on disk: each entry whole, checksummed, made once and shared by every notebook and process.

An entry is a directory `<name>-<key>`; the key is a digest of all that decides its content. It is made in a directory
of its own and renamed when complete, under a lock that dies with its process.
"""

import contextlib
import errno
import fcntl
import hashlib
import json
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from collabopt.runtime import progress
from collabopt.storage import atomic

_SEAL = "checksums.json"


_REASONS = {
    errno.ENOSPC: "the disk is full",
    errno.EDQUOT: "the disk quota is used up",
    errno.EACCES: "the directory is not writable",
    errno.EROFS: "the directory is not writable",
}


class StoreError(OSError):
    """The store cannot be written: a full disk, a directory that is read-only."""


def compute_key(material: dict[str, Any]) -> str:
    """16 hex digits that change with anything in `material`."""
    text = json.dumps(material, sort_keys=True, ensure_ascii=True)
    return hashlib.blake2b(text.encode(), digest_size=8).hexdigest()


def get_or_make(directory: Path, name: str, material: dict[str, Any], make: Callable[[Path], None]) -> Path:
    """The entry for `material`, made by `make(path)` in an empty directory if it is not there, whole.

    Another process that makes the same entry is waited for. A damaged entry is said and made again. What `make` leaves
    in `unfinished(…)` is there for the next process where this one dies, and is removed with success.
    Raises StoreError when the directory cannot be written.
    """
    entry = directory / f"{name}-{compute_key(material)}"
    if _is_whole(entry):
        return entry

    def waiting(owner: str) -> None:
        progress.log(f"{name}: waiting for process {owner}, which is making it")

    with _writing(directory), lock(directory / "locks" / f"{entry.name}.lock", waiting):
        if _is_whole(entry):
            return entry
        if entry.exists():
            progress.log(f"{name}: the stored entry {entry.name} is damaged; making it again")
            shutil.rmtree(entry)
        atomic.remove_unfinished(entry)  # of a process that died
        with atomic.write_directory(entry) as partial:
            make(partial)
            (partial / "key.json").write_text(json.dumps(material, indent=1, sort_keys=True))
            _seal(partial)
        _sync(directory)
        shutil.rmtree(get_unfinished_directory(directory, name, material), ignore_errors=True)
    return entry


def get_unfinished_directory(directory: Path, name: str, material: dict[str, Any]) -> Path:
    """A directory for what the maker of an entry wants to go on from should its process die."""
    return directory / f".{name}-{compute_key(material)}.unfinished"


@contextlib.contextmanager
def lock(path: Path, waiting: Callable[[str], object] = str) -> Iterator[None]:
    """Hold an exclusive lock on `path`; the kernel lets go of it when the process dies, however it dies.

    waiting: called with the number of the process that holds it, where one does; nothing is said by default.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a+") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.seek(0)
            waiting(file.read().strip() or "unknown")
            fcntl.flock(file, fcntl.LOCK_EX)
        file.truncate(0)
        file.write(str(os.getpid()))
        file.flush()
        yield


@contextlib.contextmanager
def _writing(directory: Path) -> Iterator[None]:
    try:
        directory.mkdir(parents=True, exist_ok=True)
        yield
    except OSError as error:
        reason = _REASONS.get(error.errno)
        # What `make` cannot read elsewhere is not the store's fault.
        elsewhere = error.filename and not Path(error.filename).is_relative_to(directory)
        if reason is None or (elsewhere and error.errno in (errno.EACCES, errno.EROFS)):
            raise
        raise StoreError(
            error.errno, f"{reason}; free some space or set COLLABOPT_DATA to another directory", str(directory)
        ) from error


def _is_whole(entry: Path) -> bool:
    try:
        sums = json.loads((entry / _SEAL).read_text())
        return "key.json" in sums and all(_checksum(entry / file) == sum_ for file, sum_ in sums.items())
    except (OSError, ValueError, TypeError, AttributeError):  # the last two of a seal that is no table
        return False


def _seal(entry: Path) -> None:
    files = sorted(path for path in entry.rglob("*") if path.is_file())
    (entry / _SEAL).write_text(json.dumps({str(file.relative_to(entry)): _checksum(file) for file in files}, indent=1))
    for file in (*files, entry / _SEAL, entry):
        _sync(file)


def _checksum(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "blake2b").hexdigest()[:32]


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
