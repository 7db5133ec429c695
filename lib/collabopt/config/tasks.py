"""Tasks: what the outputs of a model mean, how its labels look, and which score an example gets.

`techniques/objectives.py` computes losses and scores. Nothing here imports TensorFlow.
"""

import dataclasses
import functools

from collabopt.config.metrics import register_score
from collabopt.config.scores import PLAIN, SCORES, Score


@dataclasses.dataclass(frozen=True)
class Task:
    """A task.

    Attributes:
        name: Name in experiments.
        labels: Form of the labels, as readers see it.
        has_classes: Whether the labels are indices of named classes.
        takes_logits: Whether its loss takes logits, so that a softmax or sigmoid at the end of a model is removed for
            training. The deployed file has it again.
        loss: "module:function" of a custom task: (labels, outputs) -> losses (batch,).
        metric: The same for its score.
    """

    name: str
    score: Score
    labels: str
    has_classes: bool = False
    takes_logits: bool = False
    loss: str | None = None
    metric: str | None = None


TASKS = {
    task.name: task
    for task in (
        Task(
            "classification",
            SCORES["accuracy"],
            "class indices (n,), one-hot rows (n, classes) or names (n,)",
            True,
            True,
        ),
        Task("binary", SCORES["accuracy"], "0 and 1, or two names (n,)", True, True),
        Task("multilabel", SCORES["f1"], "0 and 1 (n, labels)", takes_logits=True),
        Task("regression", SCORES["mae"], "numbers (n,) or (n, outputs)"),
        Task("reconstruction", SCORES["mse"], "none, or 1 for anomalies (n,)"),
        Task("segmentation", SCORES["miou"], "class indices per pixel (n, height, width)", True, True),
    )
}
"""Every built-in task by name."""


@functools.cache
def make_custom(loss: str, metric: str, higher_is_better: bool) -> Task:
    """Make a task of the user's functions, register its score, and return it.

    Args:
        loss: "module:function": (labels, outputs) -> losses (batch,).
        metric: "module:function": (labels, outputs) -> scores (batch,). The function's name names the score.
        higher_is_better: Direction of the score.

    Raises:
        ValueError: Another score or figure has the function's name.
    """
    name = metric.partition(":")[2]
    score = register_score(Score(name, name.replace("_", " "), lower_is_better=not higher_is_better, **PLAIN))
    return Task("custom", score, "numbers (n, ...)", loss=loss, metric=metric)
