"""How few bytes int8 codes could take, and how few general compressors make of them.

The bound is the zero-order entropy (Shannon 1948): what a coder needs at least that takes codes one by one, each kernel
by one distribution of its own. Only a coder that uses patterns or neighbours can go below it. What it costs to write
the distributions down is not counted.
"""

import gzip

import numpy as np
import zstandard

from collabopt import sizes


def entropy_bytes(kernels: list[np.ndarray]) -> float:
    """Bytes of the kernels' codes at the entropy of each kernel's own distribution.

    Of all weights of a file with `constants.weights`.
    """
    return sum(kernel.size * _entropy(kernel) / 8 for kernel in kernels)


def gzip_bytes(kernels: list[np.ndarray]) -> int:
    """Bytes of the kernels' codes alone, one kernel after another, after gzip at level 9."""
    return len(gzip.compress(_joined(kernels), compresslevel=9, mtime=0))


def zstd_bytes(kernels: list[np.ndarray]) -> int:
    """Bytes of the kernels' codes alone, one kernel after another, after Zstandard at level 19."""
    return len(zstandard.compress(_joined(kernels), sizes.ZSTD_LEVEL))


def _joined(kernels: list[np.ndarray]) -> bytes:
    return b"".join(kernel.tobytes() for kernel in kernels)


def _entropy(codes: np.ndarray) -> float:
    """Bits a code."""
    share = np.unique(codes, return_counts=True)[1] / codes.size
    return float(-(share * np.log2(share)).sum())
