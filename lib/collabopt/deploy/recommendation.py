"""The recommended file of a finished report: what its targets choose or, without targets, what loses nothing."""

import dataclasses
import html
import math
import os
from pathlib import Path
from typing import Any

import pandas as pd

from collabopt.config.experiment import Targets
from collabopt.config.metrics import get_metric
from collabopt.config.scores import Score, find_score
from collabopt.deploy import targets
from collabopt.storage import results

_MOST = 3
"""Smaller files, or classes, that are named."""
_ON_DEVICE = "int8"
"""The format that TensorFlow Lite Micro and NPUs run."""


@dataclasses.dataclass(frozen=True)
class Recommendation:
    """The recommended file of a finished report. A notebook shows it as a sentence with links.

    Attributes:
        tflite: The file: the one in `deployed/` if it was written there, else that of the variant.
        variant: Its row of variants.csv.
        baseline: The row of the float32 baseline.
        report: The index page of the report.
        warning: Sentences if there are too few validation examples for this choice, if the given model seems to have
            been trained on them, or if a class has too few; else empty.
        experiment: The experiment file, if it is known.
        limits: The targets, by name.
        misses: By how much the file exceeds targets. It is then the nearest file, and not recommended.
        smaller: The rows of up to three smaller files, the nearest in size first.
        more_accurate: The row of the most accurate file, if it is more accurate; else None.
        on_device: The row of the file that would be recommended among those in int8, if the recommended one computes
            in another type and there are no targets; else None. Microcontrollers and NPUs run int8.
    """

    tflite: Path
    variant: dict[str, Any]
    baseline: dict[str, Any]
    report: Path
    warning: str = ""
    experiment: Path | None = None
    limits: dict[str, float] = dataclasses.field(default_factory=dict)
    misses: dict[str, float] = dataclasses.field(default_factory=dict)
    smaller: list[dict[str, Any]] = dataclasses.field(default_factory=list)
    more_accurate: dict[str, Any] | None = None
    on_device: dict[str, Any] | None = None

    @property
    def file(self) -> str:
        """Path of the file in its report directory."""
        return self.tflite.relative_to(self.report.parent).as_posix()

    @property
    def name(self) -> str:
        """Name of the file's variant: "PCQAT int8"."""
        return targets.format_variant(self.variant)

    @property
    def score(self) -> Score:
        """Score of the task."""
        return find_score(self.variant)

    def get_drop(self, row: dict[str, Any], split: str = "validation") -> tuple[float, float]:
        """Return how much worse a `row` is on a `split` than the float32 baseline, and what chance explains."""
        column = getattr(self.score, split)
        drop = self.score.compute_drop(self.baseline[column], row[column])
        return drop, targets.find_drop_noise(row, self.score, split)

    def describe_misses(self) -> str:
        """Return what the file misses: "gzip 2.1 kB over"; empty if it meets all targets."""
        return _join_misses(self.misses)

    def explain_refusal(self, row: dict[str, Any]) -> str:
        """Return why a smaller file is not recommended: "more than the tolerance of 1.00 points".

        Args:
            row: Row of variants.csv.
        """
        base = self.baseline[self.score.validation]
        if self.limits:
            misses = targets.find_misses(row, Targets(**self.limits), base)
            return f"it misses {_join_misses(misses)}" if misses else "it takes more techniques"
        tolerance, (drop, noise) = self.score.get_tolerance(base), self.get_drop(row)
        if drop > tolerance:
            return f"more than the tolerance of {self.score.format_drop(tolerance)}"
        return "more than chance explains" if drop > noise else ""

    def format_lines(self) -> str:
        """Return what a terminal shows: the recommendation, the caution if there is one, and the path of the file."""
        caution = [f"Caution: {self.warning}"] if self.warning else []
        return "\n".join([str(self), *caution, f"file: {os.path.relpath(self.tflite)}"])

    def __str__(self) -> str:
        score, size = self.score, get_metric("gzip_bytes")
        small, large = (f"{size.format(row[size.name])} {size.unit}" for row in (self.variant, self.baseline))
        factor = self.baseline[size.name] / self.variant[size.name]
        before, after = (score.format(row[score.validation]) for row in (self.baseline, self.variant))
        head = f"No file meets all targets. The nearest, which misses {self.describe_misses()}" if self.misses else ""
        is_unusable = not {*targets.UNUSABLE}.isdisjoint(self.misses)
        head = f"No file can be recommended: each {self.describe_misses()}. One" if is_unusable else head
        text = (
            f"{head or 'Recommended'}: {self.name}, {small} after gzip instead of {large} of the float32 "
            f"baseline ({factor:.1f} times smaller); {score.title} on {self.variant['validation_examples']:,.0f} "
            f"validation examples {after} instead of {before}"
        )
        on_test, before_on_test = self.variant[score.test], self.baseline[score.test]
        instead = "" if pd.isna(before_on_test) else f" instead of {score.format(before_on_test)}"
        return f"{text}; on test {score.format(on_test)}{instead}"

    def _repr_html_(self) -> str:
        links = " · ".join(
            f'<a href="{html.escape(os.path.relpath(path))}">{html.escape(path.name)}</a>'
            for path in filter(None, (self.tflite, self.report, self.experiment))
        )
        lines = [f"{self}.", *([f"{self.warning}."] if self.warning else [])]
        return "".join(f"<p>{html.escape(line)}</p>" for line in lines) + f"<p>{links}</p>"


def recommend(report: Path) -> Recommendation | None:
    """Return the recommended file of a finished `report`: that of `targets.choose`, or else the nearest.

    None if variants.csv is missing, or has no column `validation_examples` (older versions).
    """
    if not (report / "variants.csv").is_file():
        return None
    rows, run = pd.read_csv(report / "variants.csv"), results.read_run(report)
    limits = _get_targets(run)
    if "validation_examples" not in rows:
        return None
    rows = rows[rows["tflite"].notna()]  # the others have no file
    wanted = bool(targets.list_targets(limits))
    chosen = targets.choose(rows, limits)
    label = targets.find_nearest(rows, limits) if chosen is None else chosen
    row, base = rows.loc[label].to_dict(), rows.loc[targets.find_baseline(rows)].to_dict()
    smaller, more_accurate = _find_alternatives(rows, row)
    cautions = targets.find_noise(rows, label, limits), _find_seen_validation(base), find_scarce_classes(run)
    file = report / row["tflite"]
    deployed = (one for one in (report / "deployed").glob("*.tflite") if _is_same(one, file, row))
    return Recommendation(
        next(deployed, file),
        row,
        base,
        report / "index.html",
        ". ".join(filter(None, cautions)),
        limits=targets.list_targets(limits),
        misses=targets.find_misses(row, limits, targets.get_baseline_score(rows)),
        smaller=smaller,
        more_accurate=more_accurate,
        on_device=None if wanted or chosen is None else _find_on_device(rows, row),
    )


def find_scarce_classes(run: dict[str, Any]) -> str:
    """Return a sentence on classes of which a split has too few examples, by run.json, `run`; empty without any."""
    parts, data = [], run.get("data")
    for split, counts in (data.get("scarce_classes", {}) if isinstance(data, dict) else {}).items():
        fewest = sorted(counts.items(), key=lambda one: one[1])
        named = [f"{count or 'no'} example{'s' * (count != 1)} of {name}" for name, count in fewest[:_MOST]]
        more = [f"few of {len(counts) - _MOST} more classes"] if len(counts) > _MOST else []
        parts.append(f"{split} has {', '.join([*named, *more])}")
    return f"Too few examples tell how accurate a class is: {'; '.join(parts)}" if parts else ""


def _is_same(deployed: Path, file: Path, row: dict[str, Any]) -> bool:
    """Whether a deployed file is that of a variant's `row`. Committed reports have no files of variants."""
    if file.is_file():
        return deployed.read_bytes() == file.read_bytes()
    return deployed.stat().st_size == row["tflite_bytes"]


def _find_seen_validation(base: dict[str, Any]) -> str:
    """A doubt about validation, if the float32 baseline is better on it than on test by more than chance explains."""
    score = find_score(base)
    errors = [base.get(f"{column}_error") for column in (score.validation, score.test)]
    if pd.isna([base.get(score.test), *errors]).any():
        return ""
    gap = base[score.validation] - base[score.test]
    gap = -gap if score.lower_is_better else gap
    if gap <= 2 * math.hypot(*errors):
        return ""
    values = [score.format(base[column]) for column in (score.validation, score.test)]
    return (
        f"The float32 baseline has {score.title} {values[0]} on validation and {values[1]} on test, which chance does "
        "not explain. If the given model was trained on the validation examples, every trained stage looks worse than "
        "it is: give a validation split that it has not seen"
    )


def _get_targets(run: dict[str, Any]) -> Targets:
    """The targets in run.json, `run`; none if they cannot be read."""
    try:
        return Targets(**run["experiment"]["targets"])
    except (KeyError, TypeError, ValueError):
        return Targets()


def _join_misses(misses: dict[str, float]) -> str:
    return ", ".join(targets.describe_miss(name, excess) for name, excess in misses.items())


def _find_on_device(rows: pd.DataFrame, chosen: dict[str, Any]) -> dict[str, Any] | None:
    """The file to deploy where only int8 runs, if it is another than the chosen one."""
    if chosen["format"] == _ON_DEVICE:
        return None
    base = rows.loc[[targets.find_baseline(rows)]]
    label = targets.recommend(pd.concat([base, rows[rows["format"] == _ON_DEVICE]]))
    return rows.loc[label].to_dict() if rows.loc[label, "format"] == _ON_DEVICE else None


def _find_alternatives(
    rows: pd.DataFrame, chosen: dict[str, Any]
) -> tuple[list[dict[str, Any]], dict[str, Any] | None]:
    """The next smaller files that no smaller one equals, and the most accurate of all if the chosen one is worse."""
    score, size = find_score(rows), "gzip_bytes"

    def compute_drop(row: dict[str, Any]) -> float:
        return score.compute_drop(0.0, row[score.validation])

    usable = sorted(filter(targets.is_usable, rows.to_dict("records")), key=lambda row: (row[size], compute_drop(row)))
    front = []
    for row in usable:
        if row[size] < chosen[size] and (not front or compute_drop(row) < compute_drop(front[-1])):
            front.append(row)
    better = [row for row in usable if compute_drop(row) < compute_drop(chosen)]
    return front[: -_MOST - 1 : -1], min(better, key=compute_drop, default=None)
