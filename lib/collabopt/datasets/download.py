"""Downloads: streamed, checked against a known SHA-256, and at their destination whole or not at all."""

import contextlib
import hashlib
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType

import requests
from tqdm import tqdm

from collabopt.datasets.parts import DatasetError
from collabopt.storage.atomic import compute_sha256, write_file

CHUNK_BYTES = 1 << 20


def fetch(url: str, destination: Path, sha256: str, what: str, timeout_seconds: float = 30) -> Path:
    """Download `what` from `url` to `destination`, whole.

    Raises DatasetError, one line, saying why it failed and where to put the file by hand; nothing is then left at
    `destination`.
    """
    try:
        # `identity`, or a server that compresses in transit would change the bytes that are hashed.
        headers = {"Accept-Encoding": "identity"}
        with requests.get(url, stream=True, timeout=timeout_seconds, headers=headers) as response:
            response.raise_for_status()
            _write(response, destination, sha256, what)
    except (OSError, _Refused) as error:  # requests' errors are OSErrors too
        raise DatasetError(
            f"{what}: could not download {url}: {_reason(error)}. Put the file at {destination} by hand and run again."
        ) from None
    return destination


@contextlib.contextmanager
def archive(url: str, path: Path, sha256: str, what: str) -> Iterator[Path]:
    """The archive at `path`, downloaded if it is not there.

    One that was there is checked and stays; one that was downloaded is removed when the block has succeeded.
    Raises DatasetError when its SHA-256 is wrong or it cannot be downloaded.
    """
    was_there = path.exists()
    if not was_there:
        fetch(url, path, sha256, what)
    elif (found := compute_sha256(path)) != sha256:
        raise DatasetError(f"{path}: its SHA-256 is {found}, expected {sha256}; delete it or put {url} there again")
    yield path
    if not was_there:
        path.unlink(missing_ok=True)


class _Refused(Exception):
    """Why an answer cannot be used."""


def _write(response: requests.Response, destination: Path, sha256: str, what: str) -> None:
    size = int(response.headers.get("Content-Length", 0))
    digest = hashlib.sha256()
    with write_file(destination) as file, _Progress(what, size) as progress:
        free = shutil.disk_usage(destination.parent).free
        if size > free:
            raise _Refused(f"the disk is full: {size:,} bytes needed, {free:,} bytes free")
        for chunk in response.iter_content(CHUNK_BYTES):
            file.write(chunk)
            digest.update(chunk)
            progress.advance(len(chunk))
        if digest.hexdigest() != sha256:
            raise _Refused(f"its SHA-256 is {digest.hexdigest()}, expected {sha256}")


def _reason(error: Exception) -> str:
    if isinstance(error, requests.HTTPError):
        return f"the server answered {error.response.status_code} {error.response.reason}"
    if isinstance(error, requests.Timeout):
        return "the server did not answer in time"
    if isinstance(error, requests.ConnectionError):
        return "no connection to the server (is there a network?)"
    if isinstance(error, requests.RequestException):
        return " ".join(str(error).split())
    return f"{error.strerror} ({error.filename})" if isinstance(error, OSError) and error.filename else str(error)


class _Progress:
    """A bar on a terminal; elsewhere, in log files and notebooks, a line every tenth."""

    def __init__(self, what: str, size: int) -> None:
        self.what, self.size, self.done, self.tenths = what, size, 0, 0
        self.bar = tqdm(total=size or None, desc=what, unit="B", unit_scale=True) if sys.stderr.isatty() else None

    def __enter__(self) -> "_Progress":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self.bar is not None:
            self.bar.close()

    def advance(self, count: int) -> None:
        """`count` more bytes have arrived."""
        self.done += count
        if self.bar is not None:
            self.bar.update(count)
        elif self.size and self.done * 10 // self.size > self.tenths:
            self.tenths = self.done * 10 // self.size
            print(f"{self.what}: {self.tenths * 10} % of {self.size / 1e6:,.1f} MB", file=sys.stderr, flush=True)
