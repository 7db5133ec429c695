"""The store: results on disk, each made once, checked by checksums and shared by all notebooks and processes.

An entry is a directory `<name>-<key>`. The key is a digest of everything that determines its content. The entry is made
under a temporary name and renamed when it is complete, under a lock that ends with its process.
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

_CHECKSUMS = "checksums.json"
_REASONS = {
    errno.ENOSPC: "the disk is full",
    errno.EDQUOT: "the disk quota is used up",
    errno.EACCES: "the directory is not writable",
    errno.EROFS: "the directory is not writable",
}


class StoreError(OSError):
    """The store cannot be written: the disk is full or the directory is read-only."""


def compute_key(material: dict[str, Any]) -> str:
    """Return the key, 16 hex digits, of an entry whose content `material` determines, as JSON values in any order."""
    text = json.dumps(material, sort_keys=True, ensure_ascii=True)
    return hashlib.blake2b(text.encode(), digest_size=8).hexdigest()


def get_or_make(directory: Path, name: str, material: dict[str, Any], make: Callable[[Path], None]) -> Path:
    """Return the directory of an entry, made if it is missing or damaged.

    If another process makes the same entry, this one waits for it.

    Args:
        directory: The store.
        name: First part of the entry's name.
        material: Everything that determines the content, as JSON values.
        make: Called with an empty directory to fill. What it keeps in `get_unfinished_directory` remains if the process
            dies, and is removed on success.

    Raises:
        StoreError: If the store cannot be written.
    """
    entry = directory / f"{name}-{compute_key(material)}"
    if _is_complete(entry):
        return entry

    def report_waiting(owner: str) -> None:
        progress.log(f"{name}: waiting for process {owner}, which is making it")

    with _explain_errors(directory), lock(directory / "locks" / f"{entry.name}.lock", report_waiting):
        if _is_complete(entry):
            return entry
        if entry.exists():
            progress.log(f"{name}: the stored entry {entry.name} is damaged; making it again")
            shutil.rmtree(entry)
        atomic.remove_unfinished(entry)
        with atomic.write_directory(entry) as partial:
            make(partial)
            (partial / "key.json").write_text(json.dumps(material, indent=1, sort_keys=True))
            _write_checksums(partial)
        _sync(directory)
        shutil.rmtree(get_unfinished_directory(directory, name, material), ignore_errors=True)
    return entry


def get_unfinished_directory(directory: Path, name: str, material: dict[str, Any]) -> Path:
    """Return the `directory` for checkpoints of the entry `name` of `material` being made; it need not exist."""
    return directory / f".{name}-{compute_key(material)}.unfinished"


@contextlib.contextmanager
def lock(path: Path, report_waiting: Callable[[str], object] = str) -> Iterator[None]:
    """Hold an exclusive lock while the block runs. The lock ends with the process, even if it is killed.

    Args:
        path: The lock file; it is made if it is missing, and stays.
        report_waiting: Called with the process number of the holder before waiting for it.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a+") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.seek(0)
            report_waiting(file.read().strip() or "unknown")
            fcntl.flock(file, fcntl.LOCK_EX)
        file.truncate(0)
        file.write(str(os.getpid()))
        file.flush()
        yield


@contextlib.contextmanager
def _explain_errors(directory: Path) -> Iterator[None]:
    """Raise errors that mean an unwritable store as `StoreError`."""
    try:
        directory.mkdir(parents=True, exist_ok=True)
        yield
    except OSError as error:
        reason = _REASONS.get(error.errno)
        # A file elsewhere that `make` may not read is no error of the store.
        elsewhere = error.filename and not Path(error.filename).is_relative_to(directory)
        if reason is None or (elsewhere and error.errno in (errno.EACCES, errno.EROFS)):
            raise
        raise StoreError(
            error.errno, f"{reason}; free some space or set COLLABOPT_DATA to another directory", str(directory)
        ) from error


def _is_complete(entry: Path) -> bool:
    try:
        checksums = json.loads((entry / _CHECKSUMS).read_text())
        return "key.json" in checksums and all(
            _compute_checksum(entry / file) == checksum for file, checksum in checksums.items()
        )
    except (OSError, ValueError, TypeError, AttributeError):  # the last two if the checksums are no JSON object
        return False


def _write_checksums(entry: Path) -> None:
    files = sorted(path for path in entry.rglob("*") if path.is_file())
    checksums = {str(file.relative_to(entry)): _compute_checksum(file) for file in files}
    (entry / _CHECKSUMS).write_text(json.dumps(checksums, indent=1))
    for path in (*files, entry / _CHECKSUMS, entry):
        _sync(path)


def _compute_checksum(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "blake2b").hexdigest()[:32]


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
