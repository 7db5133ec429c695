"""Whether a variant meets its targets, and which variant to deploy.

A variant is a row of variants.csv. Choices use the validation split. The test split is read once, for the chosen
variant.
"""

import math
from collections.abc import Hashable, Mapping
from typing import Any

import pandas as pd

from collabopt.config.experiment import Targets
from collabopt.config.formats import get_format_label
from collabopt.config.metrics import get_targets
from collabopt.config.stages import BASELINE, get_label

_DROP = "max_accuracy_drop"
_SMALLEST_DROP = 0.01
"""A miss of the accuracy target is compared with at least this drop (one point)."""


def list_targets(targets: Targets) -> dict[str, float]:
    """Return the limits that are set, by name of the target.

    Args:
        targets: The targets of an experiment.
    """
    return targets.model_dump(exclude_none=True)


def get_cost(variant: Mapping[str, Any], target: str, baseline_accuracy: float) -> float:
    """Return a variant's value for a target.

    Args:
        variant: Row of variants.csv.
        target: Name of the target.
        baseline_accuracy: Validation accuracy of the float32 baseline, in [0, 1].

    Returns:
        The value in the unit of the target, or infinity if it is not known (for example the NPU time of a file that
        Vela cannot compile).
    """
    if target == _DROP:
        return baseline_accuracy - variant["validation_accuracy"]
    cost = variant.get(get_targets()[target].name)
    return math.inf if cost is None or pd.isna(cost) else float(cost)


def find_misses(variant: Mapping[str, Any], targets: Targets, baseline_accuracy: float) -> dict[str, float]:
    """Return by how much a variant exceeds each target that it does not meet.

    Args:
        variant: Row of variants.csv.
        targets: The limits.
        baseline_accuracy: Validation accuracy of the float32 baseline, in [0, 1].
    """
    excess = {name: get_cost(variant, name, baseline_accuracy) - limit for name, limit in list_targets(targets).items()}
    # Accuracies are counts of correct examples: their difference is exact up to floating point.
    return {name: amount for name, amount in excess.items() if amount > 1e-9}


def choose(variants: pd.DataFrame, targets: Targets) -> Hashable | None:
    """Return the label of the first variant that meets all targets, or None.

    Args:
        variants: Rows of variants.csv in the order of the search, the float32 baseline among them.
        targets: The limits.
    """
    base = get_baseline_accuracy(variants)
    return next((label for label, row in variants.iterrows() if not find_misses(row, targets, base)), None)


def find_nearest(variants: pd.DataFrame, targets: Targets) -> Hashable:
    """Return the label of the variant whose largest miss is smallest, each miss relative to its target.

    Args:
        variants: Rows of variants.csv, the float32 baseline among them.
        targets: The limits.
    """
    base, limits = get_baseline_accuracy(variants), list_targets(targets)

    def get_misses(row: pd.Series) -> tuple[float, float]:
        misses = find_misses(row, targets, base)
        shares = [excess / max(limits[name], _SMALLEST_DROP if name == _DROP else 0) for name, excess in misses.items()]
        return max(shares, default=0.0), sum(shares)

    return min(variants.index, key=lambda label: get_misses(variants.loc[label]))


def get_baseline_accuracy(variants: pd.DataFrame) -> float:
    """Return the validation accuracy of the float32 baseline, in [0, 1].

    Args:
        variants: Rows of variants.csv.
    """
    is_baseline = (variants["stage"] == BASELINE) & (variants["format"] == "float32")
    (accuracy,) = variants.loc[is_baseline, "validation_accuracy"]
    return float(accuracy)


def judge(variants: pd.DataFrame, targets: Targets) -> pd.DataFrame:
    """Compare every variant with the targets.

    Args:
        variants: Rows of variants.csv.
        targets: The limits.

    Returns:
        The rows with three more columns: `missed`, a dict of target and excess; `verdict`, the same in words; `chosen`,
        true for one row at most.
    """
    base, chosen = get_baseline_accuracy(variants), choose(variants, targets)
    missed = [find_misses(row, targets, base) for row in variants.to_dict("records")]
    texts = [[get_targets()[name].describe_excess(excess) for name, excess in one.items()] for one in missed]
    verdicts = [", ".join(text) or "meets all targets" for text in texts]
    return variants.assign(missed=missed, verdict=verdicts, chosen=variants.index == chosen)


def describe(rows: pd.DataFrame, targets: Targets) -> str:
    """Describe the choice in a sentence: the chosen variant, or what the nearest one misses.

    Args:
        rows: Rows of `judge`.
        targets: The limits.

    Returns:
        One or two sentences.
    """
    count, chosen = sum(not missed for missed in rows["missed"]), rows[rows["chosen"]]
    if len(chosen):
        return f"Chosen: {format_variant(chosen.iloc[0])}. {count} of {len(rows)} variants meet all targets."
    nearest = rows.loc[find_nearest(rows, targets)]
    choice = f"The nearest is {format_variant(nearest)}: {nearest['verdict']}."
    return f"None of {len(rows)} variants meets all targets. {choice}"


def format_variant(row: Mapping[str, Any]) -> str:
    """Format the name of a variant: "sparse clustered int16×8".

    Args:
        row: Row of variants.csv.

    Returns:
        Stage and format.
    """
    return f"{get_label(row['stage'])} {get_format_label(row['format'])}"
