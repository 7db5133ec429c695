"""Sizes of a deployable file, raw and compressed. A size depends on the file's content alone, not on its name."""

import gzip
import io
import zipfile
from pathlib import Path

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
