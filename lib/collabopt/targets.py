"""What a deployed model may cost: whether a leaf of the deployment tree meets its targets, and which leaf to choose.

A leaf is a row with the columns of leaves.csv. Accuracies here are those of the validation split: test is for the leaf
that is chosen, once.
"""

import math
from collections.abc import Hashable, Mapping
from typing import Any

import pandas as pd

from collabopt.experiment import Targets

LEAST_DROP = 0.01
"""What a drop in accuracy beyond its target is set against where the target is smaller: a point."""
COSTS = {
    "max_tflite_bytes": "tflite_bytes",
    "max_gzip_bytes": "gzip_bytes",
    "max_sram_kib": "npu_sram_kib",
    "max_flash_kib": "npu_flash_kib",
    "max_npu_ms": "npu_ms",
}
"""The column of leaves.csv that a target bounds; `max_accuracy_drop` bounds the drop from the float32 baseline."""


def asked(targets: Targets) -> dict[str, float]:
    """The targets that are set, by name."""
    return {name: limit for name, limit in targets.model_dump().items() if limit is not None}


def spent(leaf: Mapping[str, Any], target: str, baseline_accuracy: float) -> float:
    """What the leaf takes of what `target` bounds, in its unit; infinity where that is not known, as of the NPU's time
    of a file that Vela cannot place there."""
    if target == "max_accuracy_drop":
        return baseline_accuracy - leaf["validation_accuracy"]
    cost = leaf.get(COSTS[target])
    return math.inf if cost is None or pd.isna(cost) else float(cost)


def misses(leaf: Mapping[str, Any], targets: Targets, baseline_accuracy: float) -> dict[str, float]:
    """By how much the leaf exceeds each target that it does not meet; empty where it meets all.

    baseline_accuracy: of the float32 baseline on validation, in [0, 1].
    """
    beyond = {name: spent(leaf, name, baseline_accuracy) - limit for name, limit in asked(targets).items()}
    # An accuracy is a number of examples right: a difference of two is no more exact than floating point.
    return {name: excess for name, excess in beyond.items() if excess > 1e-9}


def choose(leaves: pd.DataFrame, targets: Targets) -> Hashable | None:
    """The label of the first of the `leaves`, in order of the tree's levels, that meets all targets; None if none does.

    The baseline's float32 leaf must be among them.
    """
    base = baseline(leaves)
    return next((at for at, leaf in leaves.iterrows() if not misses(leaf, targets, base)), None)


def nearest(leaves: pd.DataFrame, targets: Targets) -> Hashable:
    """The label of the leaf whose worst miss is least, each miss as a share of its target."""
    base = baseline(leaves)

    def worst(leaf: pd.Series) -> tuple[float, float]:
        missed = misses(leaf, targets, base)
        shares = [excess / _measure(name, targets) for name, excess in missed.items()]
        return max(shares, default=0.0), sum(shares)

    return min(leaves.index, key=lambda at: worst(leaves.loc[at]))


def baseline(leaves: pd.DataFrame) -> float:
    """The validation accuracy of the baseline in float32, which drops are counted from."""
    (accuracy,) = leaves.loc[(leaves["stage"] == "baseline") & (leaves["format"] == "float32"), "validation_accuracy"]
    return float(accuracy)


def _measure(target: str, targets: Targets) -> float:
    limit = asked(targets)[target]
    return max(limit, LEAST_DROP) if target == "max_accuracy_drop" else limit
