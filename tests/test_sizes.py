"""What files weigh: raw and compressed sizes depend on content alone."""

from pathlib import Path

import numpy as np
import pytest

from collabopt.tflite import sizes

COMPRESSED = [sizes.gzipped, sizes.zipped, sizes.zstd]


@pytest.mark.parametrize("compressed", COMPRESSED)
def test_what_cannot_be_compressed_grows_and_repeats_nearly_vanish(tmp_path: Path, compressed):
    noise, repeats = tmp_path / "noise.tflite", tmp_path / "repeats.tflite"
    noise.write_bytes(np.random.default_rng(0).bytes(100_000))
    repeats.write_bytes(b"\1\2\3\4" * 25_000)
    assert sizes.raw(noise) == sizes.raw(repeats) == 100_000
    assert 100_000 < compressed(noise) < 101_000
    assert compressed(repeats) < 1000


@pytest.mark.parametrize("size", [sizes.raw, *COMPRESSED])
def test_a_size_depends_on_content_alone(tmp_path: Path, size):
    content = np.random.default_rng(0).integers(0, 9, 5000).astype(np.int8).tobytes()
    first, second = tmp_path / "a.tflite", tmp_path / "another_longer_name.tflite"
    first.write_bytes(content)
    second.write_bytes(content)
    assert size(first) == size(first) == size(second)


def test_zstandard_finds_a_repeat_that_deflate_no_longer_sees(tmp_path: Path):
    """Deflate looks back 32 KiB, Zstandard at this level 8 MiB."""
    path = tmp_path / "far.tflite"
    path.write_bytes(2 * np.random.default_rng(0).bytes(100_000))
    assert sizes.zstd(path) < 101_000 < 200_000 < sizes.gzipped(path)
