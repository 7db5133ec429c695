"""Scores: the figure that a task gives each example, and whose mean is the task's metric."""

import dataclasses
from collections.abc import Iterable


@dataclasses.dataclass(frozen=True)
class Score:
    """A figure per example, such as whether its class is right. Its mean over a split is the metric of a task.

    Attributes:
        name: Stem of its columns.
        title: Name as readers see it.
        unit: Unit of a value as readers see it.
        drop_unit: Unit of a difference.
        scale: The shown unit in units of the column.
        digits: Decimals shown.
        lower_is_better: Direction of improvement.
    """

    name: str
    title: str
    unit: str = "%"
    drop_unit: str = "points"
    scale: float = 0.01
    digits: int = 2
    lower_is_better: bool = False

    @property
    def test(self) -> str:
        """Column of the float model's score on test."""
        return self.name

    @property
    def test_int8(self) -> str:
        """Column of the int8 file's score on test."""
        return f"{self.name}_int8"

    @property
    def validation(self) -> str:
        """Column of the score on validation."""
        return f"validation_{self.name}"

    @property
    def validation_int8(self) -> str:
        """Column of the int8 file's score on validation."""
        return f"validation_{self.name}_int8"

    @property
    def drop(self) -> str:
        """Column of the loss against the baseline."""
        return f"{self.name}_drop"

    def compute_drop(self, baseline, value):
        """Return how much worse a `value` is than the `baseline`, in units of the column; negative if it is better."""
        return value - baseline if self.lower_is_better else baseline - value

    def get_tolerance(self, baseline: float) -> float:
        """Return the drop that counts as nothing: a point of a score in percent, or 5 % of the `baseline`."""
        return 0.01 if self.unit == "%" else 0.05 * abs(baseline)

    def get_noise(self, error: float, examples: int) -> float:
        """Return what chance alone explains: two standard errors in units of the column; NaN if not known.

        Args:
            error: Standard error of a mean over examples, or of a difference of two; NaN if not known.
            examples: Number of examples. A share of these is known no better than to one example.
        """
        return max(2 * error, 1 / examples) if self.unit == "%" and error == error else 2 * error

    def format_drop(self, value: float) -> str:
        """Return a difference `value` with its unit: "1.00 points" or "0.0123"."""
        return f"{value / self.scale:,.{self.digits}f} {self.drop_unit}".rstrip()

    def format_spread(self, value: float, noise: float, is_drop: bool = False) -> str:
        """Return a value with its noise: "98.61 ± 1.24%".

        Args:
            value: Value of the column, or a difference.
            noise: The difference that chance alone explains; NaN if not known.
            is_drop: Whether the value is a difference.
        """
        texts = [f"{one / self.scale:,.{self.digits}f}".replace("-", "−") for one in (value, noise) if one == one]
        return f"{' ± '.join(texts)} {self.drop_unit if is_drop else self.unit}".rstrip().replace(" %", "%")

    def format(self, value: float) -> str:
        """Return a `value` with its unit: "98.61 %" or "0.0123"."""
        return f"{value / self.scale:,.{self.digits}f} {self.unit}".rstrip().replace("-", "−").replace(" %", "%")


ACCURACY = Score("accuracy", "accuracy")
PLAIN = {"unit": "", "drop_unit": "", "scale": 1.0, "digits": 4}
"""Form of a score without a unit."""

SCORES: dict[str, Score] = {}
"""Every score by name."""


def find_score(columns: Iterable[str]) -> Score:
    """Return the score whose `columns` a table or history has; accuracy if it has none."""
    columns = set(columns)
    held = [one for one in SCORES.values() if columns & {one.test, one.test_int8, one.validation, one.validation_int8}]
    return held[0] if held else ACCURACY
