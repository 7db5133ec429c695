"""The entropy bound: known values and limits; compressors go below it only where codes have patterns."""

import numpy as np
import pytest

from collabopt.tflite import sizes


def drawn(values: np.ndarray, size: int, share: np.ndarray | None = None) -> np.ndarray:
    """Codes (size,) int8, each drawn by itself."""
    return np.random.default_rng(0).choice(values, size, p=share).astype(np.int8)


def test_a_kernel_of_one_value_takes_nothing():
    assert sizes.compute_entropy_bytes([np.full((3, 3, 4), -7, np.int8)]) == 0


def test_no_kernels_take_nothing():
    assert sizes.compute_entropy_bytes([]) == 0


@pytest.mark.parametrize("values", [2, 4, 16, 256])
def test_equally_frequent_values_take_the_logarithm_of_their_number(values):
    codes = np.repeat(np.arange(values) - 128, 1024 // values).astype(np.int8)
    assert sizes.compute_entropy_bytes([codes]) == pytest.approx(1024 * np.log2(values) / 8)


def test_half_zeros_and_eight_centroids():
    """A sparse clustered kernel: half of it zero, seven other values: 1/2 · 1 bit + 1/2 · (1 + log2 7) bits."""
    codes = np.concatenate([np.zeros(700), np.repeat(np.arange(1, 8), 100)]).astype(np.int8)
    assert sizes.compute_entropy_bytes([codes]) == pytest.approx(1400 * (1 + np.log2(7) / 2) / 8)


def test_order_and_shape_do_not_matter():
    codes = drawn(np.arange(8), 4000)
    assert sizes.compute_entropy_bytes([codes]) == pytest.approx(
        sizes.compute_entropy_bytes([np.sort(codes).reshape(40, 100)])
    )


def test_kernels_add_up_and_take_no_more_apart_than_together():
    low, high = drawn(np.arange(8), 5000), drawn(np.arange(6, 20), 3000)
    apart, together = (
        sizes.compute_entropy_bytes([low, high]),
        sizes.compute_entropy_bytes([np.concatenate([low, high])]),
    )
    assert apart == pytest.approx(sizes.compute_entropy_bytes([low]) + sizes.compute_entropy_bytes([high]))
    assert apart < together <= 8000


@pytest.mark.parametrize("compressed", [sizes.compute_gzip_bytes, sizes.compute_zstd_bytes])
def test_compressors_stay_above_the_bound_of_codes_without_patterns(compressed):
    codes = drawn(np.arange(5), 50_000, np.array([0.5, 0.2, 0.1, 0.1, 0.1]))
    assert 1 < compressed([codes]) / sizes.compute_entropy_bytes([codes]) < 1.4


@pytest.mark.parametrize("compressed", [sizes.compute_gzip_bytes, sizes.compute_zstd_bytes])
def test_compressors_go_below_it_where_there_are_patterns(compressed):
    codes = np.tile(drawn(np.arange(200), 500), 100)
    assert compressed([codes]) < 0.1 * sizes.compute_entropy_bytes([codes])
