"""What a stage's kernels really hold, in Keras and in the int8 file, and whether it kept what its parent had won."""

import numpy as np
import pandas as pd

GAINED = 0.001
"""Share of weights that may become zero in Keras without being a failure (0.1 points)."""


def compute_sparsity(kernel: np.ndarray) -> float:
    """Fraction of exact zeros in [0, 1]."""
    return float(np.mean(kernel == 0))


def count_unique(kernel: np.ndarray) -> int:
    """Count of distinct values."""
    return len(np.unique(kernel))


def count_unique_per_channel(kernel: np.ndarray) -> int:
    """The largest count of distinct values in an output channel, the last axis of a kernel."""
    values = np.sort(kernel.reshape(-1, kernel.shape[-1]), axis=0)
    return int(1 + np.max(np.sum(values[1:] != values[:-1], axis=0, initial=0)))


def audit_layers(
    kinds: dict[str, str],
    own: dict[str, np.ndarray],
    codes: dict[str, np.ndarray],
    quantizer: dict[str, str] | None = None,
    skipped: dict[str, str] | None = None,
) -> pd.DataFrame:
    """A row a kernel: what it is, its sparsity and unique values in Keras (`own`) and int8 (`codes`), the quantizer it
    got, and why it was passed over."""
    rows = [
        {
            "layer": name,
            "kind": kinds[name],
            "shape": "×".join(map(str, kernel.shape)),
            "weights": kernel.size,
            "sparsity": compute_sparsity(kernel),
            "unique_tensor": count_unique(kernel),
            "unique_channel": count_unique_per_channel(kernel),
            "int8_sparsity": compute_sparsity(codes[name]),
            "int8_unique_tensor": count_unique(codes[name]),
            "int8_unique_channel": count_unique_per_channel(codes[name]),
            "quantizer": (quantizer or {}).get(name, ""),
            "skipped": (skipped or {}).get(name, ""),
        }
        for name, kernel in own.items()
    ]
    return pd.DataFrame(rows)


def compute_rounded_to_zero(own: list[np.ndarray], codes: list[np.ndarray]) -> float:
    """Fraction of the kernels' non-zero weights that rounding to int8 turned into zeros."""
    alive = sum(np.count_nonzero(kernel) for kernel in own)
    return sum(np.count_nonzero((kernel != 0) & (code == 0)) for kernel, code in zip(own, codes, strict=True)) / max(
        alive, 1
    )


def find_defects(
    row: pd.Series,
    parent: np.ndarray,
    own: np.ndarray,
    codes: np.ndarray,
    clusters: int | None,
    per_channel: bool,
    codes_per_channel: bool = True,
) -> list[str]:
    """What a stage failed to preserve in one kernel, in words; empty where all held.

    parent, own: the kernel before and after the stage. codes: its int8 codes. clusters: how many values a tensor (a
    channel with `per_channel`) may hold; None where the stage preserves no clusters. codes_per_channel: count int8
    codes by channel, as where the stock converter gave each channel a range of its own.
    """
    found = []
    zeros = parent == 0
    lost, lost_int8 = np.mean(zeros & (own != 0)), np.mean(zeros & (codes != 0))
    gained = np.mean(~zeros & (own == 0))
    if lost:
        found.append(f"{lost:.1%} of the weights are zeros of the parent that were lost")
    if lost_int8 > lost:
        found.append(f"{lost_int8:.1%} of the int8 codes are zeros of the parent that were lost")
    if gained > GAINED:
        found.append(f"{gained:.1%} of the weights became zero")
    if clusters is not None:
        held = row["unique_channel"] if per_channel else row["unique_tensor"]
        if held > clusters:
            found.append(f"{held:,} values in a {'channel' if per_channel else 'tensor'} instead of {clusters}")
        where = "channel" if codes_per_channel else "tensor"
        if row[f"int8_unique_{where}"] > clusters:
            found.append(f"{row[f'int8_unique_{where}']} int8 codes in a {where} instead of {clusters}")
    return found
