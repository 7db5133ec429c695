"""Sizes of a file, raw and compressed, and the entropy of its kernels. Names of files do not count."""

import gzip
import io
import zipfile
from pathlib import Path

import numpy as np
import zstandard

_ZSTD_LEVEL = 19  # the highest level that needs little memory to decompress: windows of 8 MiB


def raw(path: Path) -> int:
    """Return the size of a file in bytes."""
    return path.stat().st_size


def gzipped(path: Path) -> int:
    """Return the size of a file in bytes after gzip at level 9."""
    return len(gzip.compress(path.read_bytes(), compresslevel=9, mtime=0))


def zipped(path: Path) -> int:
    """Return the size in bytes of a ZIP archive with the file, by deflate at level 6.

    TFMOT's guides publish this size, though they call it gzip.
    """
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr(zipfile.ZipInfo("model.tflite"), path.read_bytes(), zipfile.ZIP_DEFLATED)
    return len(buffer.getvalue())


def zstd(path: Path) -> int:
    """Return the size of a file in bytes after Zstandard (RFC 8878) at level 19."""
    return len(zstandard.compress(path.read_bytes(), _ZSTD_LEVEL))


def measure(path: Path) -> dict[str, int]:
    """Return every size of a file in bytes, by the name of its metric."""
    return {"tflite_bytes": raw(path), "zip_bytes": zipped(path), "gzip_bytes": gzipped(path), "zstd_bytes": zstd(path)}


def compute_entropy_bytes(kernels: list[np.ndarray]) -> float:
    """Return the zero-order entropy of int8 `kernels` in bytes: a lower bound for codes of single values."""
    return sum(kernel.size * _compute_entropy(kernel) / 8 for kernel in kernels)


def compute_gzip_bytes(kernels: list[np.ndarray]) -> int:
    """Return the bytes of int8 `kernels`, one after another, after gzip at level 9."""
    return len(gzip.compress(b"".join(kernel.tobytes() for kernel in kernels), compresslevel=9, mtime=0))


def _compute_entropy(kernel: np.ndarray) -> float:
    """Compute the entropy in bits per value."""
    share = np.unique(kernel, return_counts=True)[1] / kernel.size
    return float(-(share * np.log2(share)).sum())
