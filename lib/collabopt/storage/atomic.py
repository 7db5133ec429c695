"""Files and directories written as a whole, even if the process is killed, and digests of files."""

import contextlib
import hashlib
import os
import shutil
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO


def write(path: Path, content: str | bytes) -> None:
    """Write `content` (text in UTF-8) to a file, in a new directory if need be. Readers never see a part."""
    with write_file(path) as file:
        file.write(content.encode() if isinstance(content, str) else content)


@contextlib.contextmanager
def write_file(destination: Path) -> Iterator[BinaryIO]:
    """Yield a temporary file that replaces `destination` if the block ends without an error. Makes its directory."""
    unfinished = _make_temporary_path(destination)
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
    """Yield a temporary directory. It becomes `destination`, if no other process has made it and the block succeeds."""
    unfinished = _make_temporary_path(destination)
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


def remove_unfinished(destination: Path) -> None:
    """Remove the temporary directories of dead processes for `destination`, which no running one may be making."""
    for unfinished in destination.parent.glob(f".{destination.name}.*.partial"):
        shutil.rmtree(unfinished)


def compute_sha256(path: Path) -> str:
    """Return the SHA-256 of a file, 64 hex digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def compute_files_digest(paths: list[Path]) -> str:
    """Return a digest, 16 hex digits, of names and contents of files; order and directories of `paths` do not count."""
    digest = hashlib.blake2b(digest_size=8)
    for path in sorted(set(paths), key=lambda path: (path.name, str(path))):
        digest.update(path.name.encode() + b"\0" + hashlib.blake2b(path.read_bytes()).digest())
    return digest.hexdigest()


def _make_temporary_path(destination: Path) -> Path:
    destination.parent.mkdir(parents=True, exist_ok=True)
    return destination.with_name(f".{destination.name}.{uuid.uuid4().hex}.partial")
