"""What the kernels of a stage hold, in Keras and in the int8 file, and whether its parent's zeros and clusters survive.

Techniques can fail silently: TFMOT trains on without an error where it preserves nothing. The audit therefore counts
zeros and distinct values in the kernels themselves, and compares them with the parent's.
"""

import numpy as np
import pandas as pd


def compute_sparsity(kernel: np.ndarray) -> float:
    """Return the fraction of exact zeros of a `kernel`, in [0, 1]."""
    return float(np.mean(kernel == 0))


def count_unique(kernel: np.ndarray) -> int:
    """Return the number of distinct values of a `kernel`."""
    return len(np.unique(kernel))


def count_unique_per_channel(kernel: np.ndarray) -> int:
    """Return the largest number of distinct values of an output channel of a `kernel` (..., out)."""
    values = np.sort(kernel.reshape(-1, kernel.shape[-1]), axis=0)
    return int(1 + np.max(np.sum(values[1:] != values[:-1], axis=0, initial=0)))


def compute_asymmetry(kernel: np.ndarray, values: int, per_channel: bool) -> float:
    """Return the fraction in [0, 1] of weights that are not those of a binary or ternary kernel.

    Args:
        kernel: float32 or int8 kernel (..., out).
        values: 2 for {−α, α}, 3 for {−α, 0, α}.
        per_channel: Whether each output channel has its own α.
    """
    rows = np.abs(kernel.astype(float).reshape(-1, kernel.shape[-1]))
    is_right = rows == (rows.max(axis=0) if per_channel else rows.max())
    return 1 - float(np.mean(is_right | (rows == 0) if values == 3 else is_right & (rows > 0)))


_INT8_COLUMNS = {
    "int8_sparsity": compute_sparsity,
    "int8_unique_tensor": count_unique,
    "int8_unique_channel": count_unique_per_channel,
}


def audit_layers(
    kinds: dict[str, str],
    kernels: dict[str, np.ndarray],
    int8_values: dict[str, np.ndarray],
    quantizers: dict[str, str] | None = None,
    skipped: dict[str, str] | None = None,
) -> pd.DataFrame:
    """Return what each kernel holds: one row per kernel, with the columns of layers.csv from `layer` to `skipped`.

    Args:
        kinds: Kind of each kernel (`layers.get_kind`).
        kernels: float32 kernels by name.
        int8_values: int8 kernels by name, of the same shapes; kernels that the file holds in float are missing.
        quantizers: Class name of each layer's weight quantizer, for quantization-aware stages.
        skipped: Why layers were not pruned or clustered.
    """
    rows = [
        {
            "layer": name,
            "kind": kinds[name],
            "shape": "×".join(map(str, kernel.shape)),
            "weights": kernel.size,
            "sparsity": compute_sparsity(kernel),
            "unique_tensor": count_unique(kernel),
            "unique_channel": count_unique_per_channel(kernel),
            **{
                column: compute(int8_values[name]) if name in int8_values else None
                for column, compute in _INT8_COLUMNS.items()
            },
            "quantizer": (quantizers or {}).get(name, ""),
            "skipped": (skipped or {}).get(name, ""),
        }
        for name, kernel in kernels.items()
    ]
    return pd.DataFrame(rows)


def compute_rounded_to_zero(kernels: list[np.ndarray], int8_values: list[np.ndarray]) -> float:
    """Return the fraction in [0, 1] of the nonzero weights of `kernels` that rounding to `int8_values` makes zero."""
    nonzero = sum(np.count_nonzero(kernel) for kernel in kernels)
    return sum(
        np.count_nonzero((kernel != 0) & (values == 0)) for kernel, values in zip(kernels, int8_values, strict=True)
    ) / max(nonzero, 1)


def compute_gained_zeros(parents: list[np.ndarray], kernels: list[np.ndarray]) -> float:
    """Return the fraction in [0, 1] of all weights of `kernels` that are zero and were not in the `parents`."""
    gained = sum(np.count_nonzero((kernel == 0) & (old != 0)) for old, kernel in zip(parents, kernels, strict=True))
    return gained / max(sum(kernel.size for kernel in kernels), 1)


def find_defects(
    row: pd.Series,
    parent: np.ndarray | None,
    kernel: np.ndarray,
    int8_values: np.ndarray | None,
    clusters: int | None,
    per_channel: bool,
    int8_per_channel: bool = True,
) -> list[str]:
    """Return what a stage failed to preserve in one kernel, one sentence per defect.

    Zeros that it gained are no failure: where they cost accuracy, the accuracy shows it.

    Args:
        row: The kernel's row of `audit_layers`.
        parent: The parent's kernel; None if its zeros need not survive.
        kernel: The stage's kernel, of the same shape.
        int8_values: The stage's int8 kernel, of the same shape; None if the file holds it in float.
        clusters: Most values that a tensor, or a channel with `per_channel`, may hold; None preserves no clusters.
        per_channel: Whether clusters are counted per output channel.
        int8_per_channel: Whether int8 values are counted per output channel, as where each channel has its own range.
    """
    defects = []
    zeros = np.False_ if parent is None else parent == 0
    lost = np.mean(zeros & (kernel != 0))
    lost_int8 = 0.0 if int8_values is None else np.mean(zeros & (int8_values != 0))
    if lost:
        defects.append(f"{lost:.1%} of the weights are zeros of the parent that were lost")
    if lost_int8 > lost:
        defects.append(f"{lost_int8:.1%} of the int8 codes are zeros of the parent that were lost")
    if clusters is not None:
        unique = row["unique_channel"] if per_channel else row["unique_tensor"]
        if unique > clusters:
            defects.append(f"{unique:,} values in a {'channel' if per_channel else 'tensor'} instead of {clusters}")
        where = "channel" if int8_per_channel else "tensor"
        if int8_values is not None and row[f"int8_unique_{where}"] > clusters:
            defects.append(f"{row[f'int8_unique_{where}']:.0f} int8 codes in a {where} instead of {clusters}")
    return defects
