"""Sizes of a deployable file, raw and compressed. A size depends on the file's content alone, not on its name."""

import gzip
import io
import zipfile
from pathlib import Path

import numpy as np
import zstandard

ZSTD_LEVEL = 19
"""The strongest level of Zstandard that decompresses in ordinary memory: 8 MiB windows."""


def raw(path: Path) -> int:
    """Bytes of the file."""
    return path.stat().st_size


def gzipped(path: Path) -> int:
    """Bytes after gzip at level 9."""
    return len(gzip.compress(path.read_bytes(), compresslevel=9, mtime=0))


def zipped(path: Path) -> int:
    """Bytes of a ZIP archive (deflate at its default level, 6) that holds the file: what TFMOT's guides publish, though
    they call it gzip."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr(zipfile.ZipInfo("model.tflite"), path.read_bytes(), zipfile.ZIP_DEFLATED)
    return len(buffer.getvalue())


def zstd(path: Path) -> int:
    """Bytes after Zstandard (RFC 8878) at level 19."""
    return len(zstandard.compress(path.read_bytes(), ZSTD_LEVEL))


def compute_entropy_bytes(kernels: list[np.ndarray]) -> float:
    """Bytes of the kernels' codes at the entropy of each kernel's own distribution.

    Of all weights of a file with `constants.weights`.
    """
    return sum(kernel.size * _entropy(kernel) / 8 for kernel in kernels)


def compute_gzip_bytes(kernels: list[np.ndarray]) -> int:
    """Bytes of the kernels' codes alone, one kernel after another, after gzip at level 9."""
    return len(gzip.compress(_joined(kernels), compresslevel=9, mtime=0))


def compute_zstd_bytes(kernels: list[np.ndarray]) -> int:
    """Bytes of the kernels' codes alone, one kernel after another, after Zstandard at level 19."""
    return len(zstandard.compress(_joined(kernels), ZSTD_LEVEL))


def _joined(kernels: list[np.ndarray]) -> bytes:
    return b"".join(kernel.tobytes() for kernel in kernels)


def _entropy(codes: np.ndarray) -> float:
    """Bits a code."""
    share = np.unique(codes, return_counts=True)[1] / codes.size
    return float(-(share * np.log2(share)).sum())
