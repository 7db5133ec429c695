"""Files and folders written whole or not at all: a reader, or a run that is killed, never meets half of one."""

import contextlib
import hashlib
import os
import shutil
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO


def _unfinished(destination: Path) -> Path:
    destination.parent.mkdir(parents=True, exist_ok=True)
    return destination.with_name(f".{destination.name}.{uuid.uuid4().hex}.partial")


def remove_unfinished(destination: Path) -> None:
    """Remove what processes left that died while they made the folder `destination`; no other may be making it."""
    for left in destination.parent.glob(f".{destination.name}.*.partial"):
        shutil.rmtree(left)


@contextlib.contextmanager
def write_file(destination: Path) -> Iterator[BinaryIO]:
    """A file to write, in the folder of `destination`, that takes its place when the block ends without an error."""
    unfinished = _unfinished(destination)
    try:
        with unfinished.open("wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        unfinished.replace(destination)
    finally:
        unfinished.unlink(missing_ok=True)


@contextlib.contextmanager
def write_directory(destination: Path) -> Iterator[Path]:
    """A folder to fill that becomes `destination` when the block ends without an error; if another process has made
    `destination` in the meantime, its stays."""
    unfinished = _unfinished(destination)
    unfinished.mkdir()
    try:
        yield unfinished
        try:
            unfinished.rename(destination)
        except OSError:
            if not destination.is_dir():
                raise
    finally:
        if unfinished.exists():
            shutil.rmtree(unfinished)


def compute_sha256(path: Path) -> str:
    """Hex SHA-256 of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def compute_files_digest(paths: list[Path]) -> str:
    """Digest of the files' contents, under their names, in any order."""
    digest = hashlib.blake2b(digest_size=8)
    for path in sorted(set(paths), key=lambda path: (path.name, str(path))):
        digest.update(path.name.encode() + b"\0" + hashlib.blake2b(path.read_bytes()).digest())
    return digest.hexdigest()


def write(path: Path, text: str | bytes) -> None:
    """Write a file whole: its readers see the old content or the new, never a part."""
    with write_file(path) as file:
        file.write(text.encode() if isinstance(text, str) else text)
