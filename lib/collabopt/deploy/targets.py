"""Whether a variant meets its targets, and which variant to deploy.

A variant is a row of variants.csv. Choices use the validation split. The test split is read once, for the chosen
variant.
"""

import math
from collections.abc import Hashable, Mapping
from typing import Any

import pandas as pd

from collabopt.config.experiment import Targets
from collabopt.config.formats import FORMATS, get_format_label
from collabopt.config.metrics import get_targets
from collabopt.config.scores import Score, find_score
from collabopt.config.stages import BASELINE, build_tree, get_label, get_level
from collabopt.storage.results import ONE_CLASS, is_constant

DROPS = ("max_accuracy_drop", "max_metric_drop")
NO_TFLITE = "no .tflite file, for comparison only"
NO_SCORE = "its score is not a number"
UNUSABLE = (ONE_CLASS, NO_SCORE)
"""What is wrong with a file that no target can be met by."""
_EXACT = 1e-9
"""A difference of two shares below this is rounding."""


def list_targets(targets: Targets) -> dict[str, float]:
    """Return the limits that are set, by name of the target."""
    return targets.model_dump(exclude_none=True)


def get_cost(variant: Mapping[str, Any], target: str, baseline_score: float) -> float:
    """Return a variant's value in the target's unit; infinity if unknown (NPU time of a file that Vela cannot compile).

    Args:
        variant: Row of variants.csv.
        target: Name of the target.
        baseline_score: Score of the float32 baseline on validation.
    """
    if target in DROPS:
        score = find_score(variant.keys())
        return score.compute_drop(baseline_score, variant[score.validation])
    cost = variant.get(get_targets()[target].name)
    return math.inf if cost is None or pd.isna(cost) else float(cost)


def find_misses(variant: Mapping[str, Any], targets: Targets, baseline_score: float) -> dict[str, float]:
    """Return by how much a variant exceeds each target that it does not meet.

    Args:
        variant: Row of variants.csv.
        baseline_score: Score of the float32 baseline on validation.

    Returns:
        Amounts by target. A variant that predicts `ONE_CLASS`, or has `NO_TFLITE` or `NO_SCORE`, misses this by
        infinity.
    """
    if obstacle := _find_obstacle(variant):
        return {obstacle: math.inf}
    excess = {name: get_cost(variant, name, baseline_score) - limit for name, limit in list_targets(targets).items()}
    # Accuracies are counts of correct examples: their difference is exact up to floating point.
    return {name: amount for name, amount in excess.items() if amount > _EXACT}


def choose(variants: pd.DataFrame, targets: Targets) -> Hashable | None:
    """Return the label of the row of `variants` to deploy, or None.

    Returns:
        Of the first level of the tree with variants that meet all targets, the smallest after gzip; of a search over
        settings (column `setting`), the smallest of all. Without limits, what `recommend` returns.
    """
    usable = variants[[is_usable(row) for row in variants.to_dict("records")]]
    if not list_targets(targets):
        return recommend(variants) if len(usable) else None
    base = get_baseline_score(variants)
    fit = usable[[not find_misses(row, targets, base) for row in usable.to_dict("records")]]
    if fit.empty:
        return None
    if "setting" in fit:
        return fit["gzip_bytes"].idxmin()
    tree = build_tree(set(variants["stage"]))
    levels = fit["stage"].map(lambda name: get_level(name, tree))
    return fit.loc[levels == levels.min(), "gzip_bytes"].idxmin()


def find_nearest(variants: pd.DataFrame, targets: Targets) -> Hashable:
    """Return the label of the row of `variants` whose largest miss, relative to its target, is smallest."""
    base, limits = get_baseline_score(variants), list_targets(targets)
    # A limit of zero would make every miss of a drop infinite.
    least = dict.fromkeys(DROPS, find_score(variants).get_tolerance(base))

    def get_misses(row: pd.Series) -> tuple[float, float]:
        misses = find_misses(row, targets, base)
        shares = [excess / max(limits.get(name, 1), least.get(name, 0)) for name, excess in misses.items()]
        return max(shares, default=0.0), sum(shares)

    return min(variants.index, key=lambda label: get_misses(variants.loc[label]))


def recommend(variants: pd.DataFrame) -> Hashable:
    """Return the label of the smallest file in `variants` after gzip that is as good as the float32 baseline.

    A drop on validation counts as nothing if it is within the score's tolerance (`Score.get_tolerance`) and within
    noise (`find_drop_noise`).

    Raises:
        ValueError: Every variant predicts one class for every example, or has no score.
    """
    base, score = get_baseline_score(variants), find_score(variants)
    usable = variants[[is_usable(row) for row in variants.to_dict("records")]]
    if usable.empty:
        raise ValueError(
            f"every file predicts {ONE_CLASS} of validation; expected a model that tells classes apart: train it with "
            "more epochs or on balanced classes"
            if variants[score.validation].notna().any()
            else "no file has a score that is a number; expected a metric that is defined for every output"
        )
    drops = score.compute_drop(base, usable[score.validation])
    noise = usable.apply(lambda row: find_drop_noise(row, score), axis=1)
    is_good = is_within(drops, score.get_tolerance(base)) & ~(drops > noise + _EXACT)
    good = usable.loc[is_good, "gzip_bytes"]
    return good.idxmin() if len(good) else drops.idxmin()


def is_within(drop: float | pd.Series, tolerance: float) -> bool | pd.Series:
    """Return whether a `drop`, or each of several, is at most the `tolerance`, up to floating point."""
    return drop <= tolerance + _EXACT


def find_drop_noise(variant: Mapping[str, Any], score: Score, split: str = "validation") -> float:
    """Return two standard errors of the drop of a `variant` on a `split`, validation or test; NaN if not known."""
    return score.get_noise(variant.get(f"{split}_drop_error", math.nan), variant.get(f"{split}_examples", 0))


def find_noise(variants: pd.DataFrame, label: Hashable, limits: Targets) -> str:
    """Return a sentence if chance moves the drop of `label` in `variants` by more than `limits` or tolerance allow."""
    score, row, given = find_score(variants), variants.loc[label], list_targets(limits)
    count, noise = int(row["validation_examples"]), find_drop_noise(row, score)
    allowed = next((given[name] for name in DROPS if name in given), score.get_tolerance(get_baseline_score(variants)))
    if count > 1 and noise <= allowed:
        return ""
    known = f", where chance alone makes a difference of {score.format_drop(noise)}" if count > 1 else ""
    is_bounded = not given or {*DROPS} & {*given}
    bound = f"The choice allows a drop of {score.format_drop(allowed)}" if is_bounded else "No target bounds the drop"
    return (
        f"{count:,} validation examples are too few for this choice{known} (two standard errors). {bound}. Give more "
        "examples, or raise validation_fraction in the experiment file"
    )


def find_baseline(variants: pd.DataFrame) -> Hashable:
    """Return the label of the float32 baseline in `variants`."""
    (label,) = variants.index[(variants["stage"] == BASELINE) & (variants["format"] == "float32")]
    return label


def get_baseline_score(variants: pd.DataFrame) -> float:
    """Return the score of the float32 baseline in `variants` on validation."""
    return float(variants.loc[find_baseline(variants), find_score(variants).validation])


def judge(variants: pd.DataFrame, targets: Targets) -> pd.DataFrame:
    """Compare each row of `variants` with the targets.

    Returns:
        The rows with three more columns: `missed`, a dict of target and excess; `verdict`, the same in words; `chosen`,
        true for one row at most.
    """
    base, chosen = get_baseline_score(variants), choose(variants, targets)
    missed = [find_misses(row, targets, base) for row in variants.to_dict("records")]
    texts = [[describe_miss(name, excess) for name, excess in one.items()] for one in missed]
    verdicts = [", ".join(text) or "meets all targets" for text in texts]
    return variants.assign(missed=missed, verdict=verdicts, chosen=variants.index == chosen)


def is_usable(variant: Mapping[str, Any]) -> bool:
    """Return whether a `variant` can be deployed, tells classes apart and has a score."""
    return not _find_obstacle(variant)


def _find_obstacle(variant: Mapping[str, Any]) -> str:
    """Why a variant is not deployed whatever the targets are, `NO_TFLITE` or one of `UNUSABLE`; "" if nothing is."""
    if variant.get("format") in FORMATS and not FORMATS[variant["format"]].is_tflite:
        return NO_TFLITE
    if is_constant(variant):
        return ONE_CLASS
    return NO_SCORE if pd.isna(variant[find_score(variant.keys()).validation]) else ""


def describe_miss(target: str, excess: float) -> str:
    """Return by how much `target`, or `ONE_CLASS`, is missed: "gzip 34.1 kB over"; an unknown `excess` is infinite."""
    if target in (NO_TFLITE, NO_SCORE):
        return target
    return f"predicts {ONE_CLASS}" if target == ONE_CLASS else get_targets()[target].describe_excess(excess)


def describe(rows: pd.DataFrame, targets: Targets) -> str:
    """Return one or two sentences on `rows` of `judge`: the chosen variant, or what the nearest one misses."""
    count, chosen = sum(not missed for missed in rows["missed"]), rows[rows["chosen"]]
    if len(chosen) and not list_targets(targets):
        return f"Recommended: {format_variant(chosen.iloc[0])}. There are no targets."
    if len(chosen):
        return f"Chosen: {format_variant(chosen.iloc[0])}. {count} of {len(rows)} variants meet all targets."
    nearest = rows.loc[find_nearest(rows, targets)]
    choice = f"The nearest is {format_variant(nearest)}: {nearest['verdict']}."
    return f"None of {len(rows)} variants meets all targets. {choice}"


def format_variant(row: Mapping[str, Any]) -> str:
    """Return the name of a `row`, such as "sparse clustered int16×8"; after a search over settings also these."""
    name, setting = f"{get_label(row['stage'])} {get_format_label(row['format'])}", row.get("setting")
    return f"{name} ({setting})" if isinstance(setting, str) and setting else name
