"""Downloads through pooch, checked against a known SHA-256. A file is complete at its destination, or absent."""

import contextlib
import errno
import functools
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

import pooch
import requests

from collabopt.datasets.dataset import DatasetError

CHUNK_BYTES = 1 << 20

# pooch's log handler keeps the stderr that was open at import. A forked job has another one.
pooch.get_logger().setLevel("WARNING")


def fetch(url: str, destination: Path, sha256: str, title: str, timeout_seconds: float = 30) -> Path:
    """Download one file.

    Args:
        url: Address of the file.
        destination: Path of the file to write. Missing folders are created.
        sha256: Expected SHA-256, in hex.
        title: Name of the content, for progress and errors.
        timeout_seconds: Longest wait for the server's next bytes.

    Returns:
        `destination`.

    Raises:
        DatasetError: The download failed. The message is one line with the reason and where to put the file by hand.
            Nothing is left at `destination`.
    """
    downloader = pooch.HTTPDownloader(
        progressbar=sys.stderr.isatty() or _LogProgress(title),
        chunk_size=CHUNK_BYTES,
        timeout=timeout_seconds,
        # A server that compresses in transit would change the bytes that are hashed.
        headers={"Accept-Encoding": "identity"},
        hooks={"response": functools.partial(_check_free_space, destination.parent)},
    )
    print(f"{title}: downloading {url}", file=sys.stderr, flush=True)
    try:
        pooch.retrieve(url, sha256, destination.name, destination.parent, downloader=downloader)
        destination.chmod(0o644)  # pooch's temporary file is readable by its owner only
    except (OSError, ValueError) as error:  # ValueError: a wrong hash
        raise DatasetError(
            f"{title}: could not download {url}: {_describe(error)}. "
            f"Put the file at {destination} by hand and run again."
        ) from None
    return destination


@contextlib.contextmanager
def fetch_archive(url: str, path: Path, sha256: str, title: str) -> Iterator[Path]:
    """Provide an archive for conversion: the file at `path`, or a download that is removed afterwards.

    An existing file is verified and kept. A download is also kept when its conversion fails.

    Args:
        url: Address of the archive.
        path: Path of the archive.
        sha256: Expected SHA-256, in hex.
        title: Name of the content, for progress and errors.

    Yields:
        `path`.

    Raises:
        DatasetError: The existing file has another SHA-256, or the download failed.
    """
    existed = path.exists()
    if not existed:
        fetch(url, path, sha256, title)
    elif (found := pooch.file_hash(str(path))) != sha256:
        raise DatasetError(
            f"{path}: its SHA-256 is {found}, expected {sha256}; delete it, or download {url} to it again"
        )
    yield path
    if not existed:
        path.unlink(missing_ok=True)


def _check_free_space(folder: Path, response: requests.Response, **_: object) -> None:
    size, free = int(response.headers.get("Content-Length", 0)), shutil.disk_usage(folder).free
    if size > free:
        raise OSError(errno.ENOSPC, f"{size:,} bytes needed, {free:,} bytes free")


def _describe(error: Exception) -> str:
    match error:
        case requests.HTTPError():
            return f"the server answered {error.response.status_code} {error.response.reason}"
        case requests.Timeout():
            return "the server did not answer in time"
        case requests.ConnectionError():
            return "no connection to the server (is there a network?)"
        case OSError(errno=errno.ENOSPC):
            return f"the disk is full ({error.strerror})"
        case OSError(filename=str() as name):
            return f"{error.strerror} ({name})"
    return " ".join(str(error).split()).rstrip(".")


class _LogProgress:
    """One line per tenth of a download, for log files and notebooks. pooch sets `total` and calls the methods."""

    def __init__(self, title: str) -> None:
        self.title, self.total, self.done, self.tenths = title, 0, 0, 0

    def update(self, count: int) -> None:
        self.done = min(self.done + count, self.total)  # pooch counts its last chunk as a full one
        tenths = self.done * 10 // max(self.total, 1)  # total is 0 if the server does not tell it
        if tenths > self.tenths:
            self.tenths = tenths
            print(f"{self.title}: {tenths * 10} % of {self.total / 1e6:,.1f} MB", file=sys.stderr, flush=True)

    def reset(self) -> None:
        self.done = 0

    def close(self) -> None:
        pass
