"""Sizes depend on content alone; entropy has known values and limits."""

from pathlib import Path

import numpy as np
import pytest
import zstandard

from collabopt.tflite import sizes

COMPRESSORS = [sizes.gzipped, sizes.zipped, sizes.zstd]


def sample(values: np.ndarray, size: int, probabilities: np.ndarray | None = None) -> np.ndarray:
    """Independent int8 values (size,)."""
    return np.random.default_rng(0).choice(values, size, p=probabilities).astype(np.int8)


@pytest.mark.parametrize("compress", COMPRESSORS)
def test_noise_grows_and_repeats_nearly_vanish(tmp_path: Path, compress):
    noise, repeats = tmp_path / "noise.tflite", tmp_path / "repeats.tflite"
    noise.write_bytes(np.random.default_rng(0).bytes(100_000))
    repeats.write_bytes(b"\1\2\3\4" * 25_000)
    assert sizes.raw(noise) == sizes.raw(repeats) == 100_000
    assert 100_000 < compress(noise) < 101_000
    assert compress(repeats) < 1000


@pytest.mark.parametrize("size", [sizes.raw, *COMPRESSORS])
def test_a_size_depends_on_content_alone(tmp_path: Path, size):
    content = np.random.default_rng(0).integers(0, 9, 5000).astype(np.int8).tobytes()
    first, second = tmp_path / "a.tflite", tmp_path / "another_longer_name.tflite"
    first.write_bytes(content)
    second.write_bytes(content)
    assert size(first) == size(first) == size(second)


def test_zstandard_finds_a_distant_repeat_that_deflate_misses(tmp_path: Path):
    """The window of deflate has 32 KiB, that of Zstandard at this level 8 MiB."""
    path = tmp_path / "far.tflite"
    path.write_bytes(2 * np.random.default_rng(0).bytes(100_000))
    assert sizes.zstd(path) < 101_000 < 200_000 < sizes.gzipped(path)


def test_the_entropy_of_one_value_is_zero():
    assert sizes.compute_entropy_bytes([np.full((3, 3, 4), -7, np.int8)]) == 0


def test_the_entropy_of_no_kernels_is_zero():
    assert sizes.compute_entropy_bytes([]) == 0


@pytest.mark.parametrize("values", [2, 4, 16, 256])
def test_the_entropy_of_equally_frequent_values_is_the_logarithm_of_their_number(values):
    kernel = np.repeat(np.arange(values) - 128, 1024 // values).astype(np.int8)
    assert sizes.compute_entropy_bytes([kernel]) == pytest.approx(1024 * np.log2(values) / 8)


def test_the_entropy_of_half_zeros_and_seven_centroids():
    """A sparse clustered kernel, half of it zero, with seven other values: 1/2 · 1 bit + 1/2 · (1 + log2 7) bits."""
    kernel = np.concatenate([np.zeros(700), np.repeat(np.arange(1, 8), 100)]).astype(np.int8)
    assert sizes.compute_entropy_bytes([kernel]) == pytest.approx(1400 * (1 + np.log2(7) / 2) / 8)


def test_entropy_does_not_depend_on_order_and_shape():
    kernel = sample(np.arange(8), 4000)
    assert sizes.compute_entropy_bytes([kernel]) == pytest.approx(
        sizes.compute_entropy_bytes([np.sort(kernel).reshape(40, 100)])
    )


def test_entropies_of_kernels_add_up_to_at_most_that_of_their_union():
    low, high = sample(np.arange(8), 5000), sample(np.arange(6, 20), 3000)
    separate = sizes.compute_entropy_bytes([low, high])
    union = sizes.compute_entropy_bytes([np.concatenate([low, high])])
    assert separate == pytest.approx(sizes.compute_entropy_bytes([low]) + sizes.compute_entropy_bytes([high]))
    assert separate < union <= 8000


def compute_zstd_bytes(kernels: list[np.ndarray]) -> int:
    return len(zstandard.compress(b"".join(kernel.tobytes() for kernel in kernels), 19))


@pytest.mark.parametrize("compress", [sizes.compute_gzip_bytes, compute_zstd_bytes])
def test_compressors_stay_above_the_entropy_of_independent_values(compress):
    kernel = sample(np.arange(5), 50_000, np.array([0.5, 0.2, 0.1, 0.1, 0.1]))
    assert 1 < compress([kernel]) / sizes.compute_entropy_bytes([kernel]) < 1.4


@pytest.mark.parametrize("compress", [sizes.compute_gzip_bytes, compute_zstd_bytes])
def test_compressors_go_below_the_entropy_of_repeated_patterns(compress):
    kernel = np.tile(sample(np.arange(200), 500), 100)
    assert compress([kernel]) < 0.1 * sizes.compute_entropy_bytes([kernel])
