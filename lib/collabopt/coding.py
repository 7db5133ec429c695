"""How few bytes int8 codes could take: the zero-order entropy, which no coder that takes codes one by one can beat."""

import gzip

import numpy as np


def entropy_bytes(kernels: list[np.ndarray]) -> float:
    """Bytes of the kernels' codes at the entropy of each kernel's own distribution (Shannon 1948)."""
    return sum(kernel.size * _entropy(kernel) / 8 for kernel in kernels)


def gzip_bytes(kernels: list[np.ndarray]) -> int:
    """Bytes of the kernels' codes alone, one after another, after gzip at level 9."""
    return len(gzip.compress(b"".join(kernel.tobytes() for kernel in kernels), compresslevel=9, mtime=0))


def _entropy(codes: np.ndarray) -> float:
    """Bits a code."""
    share = np.unique(codes, return_counts=True)[1] / codes.size
    return float(-(share * np.log2(share)).sum())
