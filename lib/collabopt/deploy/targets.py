"""What a deployed model may cost: whether a leaf of the deployment tree meets its targets, and which leaf to choose.

A leaf is a row with the columns of leaves.csv. Accuracies here are those of the validation split: test is for the leaf
that is chosen, once.
"""

import math
from collections.abc import Hashable, Mapping
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from collabopt.config.experiment import Targets
from collabopt.config.formats import get_format_label
from collabopt.config.stages import get_label

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


def list_targets(targets: Targets) -> dict[str, float]:
    """The targets that are set, by name."""
    return {name: limit for name, limit in targets.model_dump().items() if limit is not None}


def get_cost(leaf: Mapping[str, Any], target: str, baseline_accuracy: float) -> float:
    """What the leaf takes of what `target` bounds, in its unit; infinity where that is not known, as of the NPU's time
    of a file that Vela cannot place there."""
    if target == "max_accuracy_drop":
        return baseline_accuracy - leaf["validation_accuracy"]
    cost = leaf.get(COSTS[target])
    return math.inf if cost is None or pd.isna(cost) else float(cost)


def find_misses(leaf: Mapping[str, Any], targets: Targets, baseline_accuracy: float) -> dict[str, float]:
    """By how much the leaf exceeds each target that it does not meet; empty where it meets all.

    baseline_accuracy: of the float32 baseline on validation, in [0, 1].
    """
    beyond = {name: get_cost(leaf, name, baseline_accuracy) - limit for name, limit in list_targets(targets).items()}
    # An accuracy is a number of examples right: a difference of two is no more exact than floating point.
    return {name: excess for name, excess in beyond.items() if excess > 1e-9}


def choose(leaves: pd.DataFrame, targets: Targets) -> Hashable | None:
    """The label of the first of the `leaves`, in order of the tree's levels, that meets all targets; None if none does.

    The baseline's float32 leaf must be among them.
    """
    base = get_baseline_accuracy(leaves)
    return next((at for at, leaf in leaves.iterrows() if not find_misses(leaf, targets, base)), None)


def find_nearest(leaves: pd.DataFrame, targets: Targets) -> Hashable:
    """The label of the leaf whose worst miss is least, each miss as a share of its target."""
    base = get_baseline_accuracy(leaves)

    def worst(leaf: pd.Series) -> tuple[float, float]:
        missed = find_misses(leaf, targets, base)
        shares = [excess / _measure(name, targets) for name, excess in missed.items()]
        return max(shares, default=0.0), sum(shares)

    return min(leaves.index, key=lambda at: worst(leaves.loc[at]))


def get_baseline_accuracy(leaves: pd.DataFrame) -> float:
    """The validation accuracy of the baseline in float32, which drops are counted from."""
    (accuracy,) = leaves.loc[(leaves["stage"] == "baseline") & (leaves["format"] == "float32"), "validation_accuracy"]
    return float(accuracy)


def _measure(target: str, targets: Targets) -> float:
    limit = list_targets(targets)[target]
    return max(limit, LEAST_DROP) if target == "max_accuracy_drop" else limit


class Bound(NamedTuple):
    """How a target is written: what it bounds, in which unit, and the unit's size in the target's own."""

    title: str
    unit: str
    size: float
    digits: int

    def number(self, amount: float) -> str:
        return f"{amount / self.size:,.{self.digits}f}".replace("-", "−") if np.isfinite(amount) else "–"

    def beyond(self, excess: float) -> str:
        """By how much the target is exceeded: "gzip 34.1 kB over"; or "SRAM not known"."""
        if not np.isfinite(excess):
            return f"{self.title} not known"
        least = 10.0**-self.digits
        said = self.number(excess) if excess >= least * self.size else f"< {least:g}"
        return f"{self.title} {said} {self.unit} over"


BOUNDS = {
    "max_accuracy_drop": Bound("accuracy drop", "points", 0.01, 2),
    "max_tflite_bytes": Bound("file", "kB", 1000, 1),
    "max_gzip_bytes": Bound("gzip", "kB", 1000, 1),
    "max_sram_kib": Bound("SRAM", "KiB", 1, 1),
    "max_flash_kib": Bound("flash", "KiB", 1, 1),
    "max_npu_ms": Bound("NPU time", "ms", 1, 3),
}
"""Every target by its name."""


def judge(leaves: pd.DataFrame, wanted: Targets) -> pd.DataFrame:
    """The leaves with three more columns: `missed`, a dict of target and excess, empty where all are met; `verdict`,
    the same in words; `chosen`, true of one row at most."""
    base, chosen = get_baseline_accuracy(leaves), choose(leaves, wanted)
    missed = [find_misses(leaf, wanted, base) for leaf in leaves.to_dict("records")]
    said = [_describe_misses(one) for one in missed]
    return leaves.assign(missed=missed, verdict=said, chosen=leaves.index == chosen)


def _describe_misses(missed: dict[str, float]) -> str:
    """meets all targets; or "gzip 34.1 kB over, SRAM not known"."""
    return ", ".join(BOUNDS[target].beyond(excess) for target, excess in missed.items()) or "meets all targets"


def describe(rows: pd.DataFrame, wanted: Targets) -> str:
    """What the figure shows in words, from `judged` rows: the chosen leaf, or what the nearest misses."""
    meet, chosen = sum(not missed for missed in rows["missed"]), rows[rows["chosen"]]
    if len(chosen):
        return f"Chosen: {format_variant(chosen.iloc[0])}. Of {len(rows)} leaves {meet} meet all targets."
    near = rows.loc[find_nearest(rows, wanted)]
    return f"None of {len(rows)} leaves meets all targets. The nearest is {format_variant(near)}: {near['verdict']}."


def format_variant(row: dict | pd.Series) -> str:
    """A leaf as it is written: `sparse clustered int16×8`."""
    return f"{get_label(row['stage'])} {get_format_label(row['format'])}"
