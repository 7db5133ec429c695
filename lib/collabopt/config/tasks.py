"""Tasks: what the outputs of a model mean, how its labels look, and the score of an example.

The mean score over a split is the task's metric, such as accuracy. Its columns in results.csv carry its name:
`accuracy`, `accuracy_int8`, `validation_accuracy`, … `techniques/objectives.py` computes losses and scores. Nothing
here imports TensorFlow.
"""

import dataclasses
import functools
from collections.abc import Iterable


@dataclasses.dataclass(frozen=True)
class Score:
    """A figure per example.

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
        """Compute how much worse a score is than the baseline's; negative if it is better.

        Args:
            baseline: Score of the baseline, a number or an array.
            value: Score to compare, of the same shape.

        Returns:
            The difference in units of the column.
        """
        return value - baseline if self.lower_is_better else baseline - value

    def format(self, value: float) -> str:
        """Format a value with its unit: "98.61 %" or "0.0123".

        Args:
            value: Value of the column.
        """
        return f"{value / self.scale:,.{self.digits}f} {self.unit}".rstrip().replace("-", "−").replace(" %", "%")


@dataclasses.dataclass(frozen=True)
class Task:
    """A task.

    Attributes:
        name: Name in experiments.
        score: Its score.
        labels: Form of the labels, as readers see it.
        has_classes: Whether the labels are indices of named classes.
        loss: "module:function" of a custom task: (labels, outputs) -> losses (batch,).
        metric: The same for its score.
    """

    name: str
    score: Score
    labels: str
    has_classes: bool = False
    loss: str | None = None
    metric: str | None = None


ACCURACY = Score("accuracy", "accuracy")
_PLAIN = {"unit": "", "drop_unit": "", "scale": 1.0, "digits": 4, "lower_is_better": True}

TASKS = {
    task.name: task
    for task in (
        Task("classification", ACCURACY, "class indices (n,), one-hot rows (n, classes) or names (n,)", True),
        Task("binary", ACCURACY, "0 and 1, or two names (n,)", True),
        Task("multilabel", Score("f1", "F1"), "0 and 1 (n, labels)"),
        Task("regression", Score("mae", "MAE", **_PLAIN), "numbers (n,) or (n, outputs)"),
        Task("reconstruction", Score("mse", "MSE", **_PLAIN), "none, or 1 for anomalies (n,)"),
        Task("segmentation", Score("miou", "mean IoU"), "class indices per pixel (n, height, width)", True),
    )
}
"""Every built-in task by name."""

SCORES: dict[str, Score] = {task.score.name: task.score for task in TASKS.values()}
"""Every score by name, those of custom tasks of this process among them."""


@functools.cache
def make_custom(loss: str, metric: str, higher_is_better: bool) -> Task:
    """Make a task of the user's functions, and register its score.

    Args:
        loss: "module:function": (labels, outputs) -> losses (batch,).
        metric: "module:function": (labels, outputs) -> scores (batch,). The function's name names the score.
        higher_is_better: Direction of the score.

    Raises:
        ValueError: A score of another direction has the name.
    """
    name = metric.partition(":")[2]
    score = Score(name, name.replace("_", " "), **(_PLAIN | {"lower_is_better": not higher_is_better}))
    if SCORES.setdefault(name, score) != score:
        raise ValueError(f"metric={metric}: another score is named {name}; give the function another name")
    return Task("custom", score, "numbers (n, ...)", loss=loss, metric=metric)


def find_score(columns: Iterable[str]) -> Score:
    """Find the score that a table holds.

    Args:
        columns: Columns of results.csv, variants.csv or of the history of a training.

    Returns:
        The score; accuracy if the table holds none.
    """
    columns = set(columns)
    held = [one for one in SCORES.values() if columns & {one.test, one.test_int8, one.validation, one.validation_int8}]
    return held[0] if held else ACCURACY

