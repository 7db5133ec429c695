"""Scores of Keras models and of files, one per example, and their means."""

from collections.abc import Callable
from typing import Any

import numpy as np
from sklearn.metrics import roc_auc_score

from collabopt.config.tasks import Task
from collabopt.datasets import Data, Split
from collabopt.runtime.tensorflow import keras
from collabopt.storage.results import BALANCED, list_score_columns
from collabopt.techniques import objectives
from collabopt.tflite import interpreter


def score_file(tflite: bytes, split: Split, task: Task, threads: int = 1, probabilities: bool = False) -> np.ndarray:
    """Return the score of each example with a file (n,) float32.

    Args:
        tflite: The content of the file.
        threads: Number of threads.
        probabilities: Whether the file ends in a softmax or sigmoid that the model does not have.
    """
    return interpreter.score_examples(tflite, split, objectives.make_score(task, probabilities), threads)


def get_split(name: str, data: Data) -> Split:
    """Return the split that scores of a `name` of `score_splits`, such as "validation_int8", are on."""
    return data.validation if name.startswith("validation") else data.test


def summarize(scores: np.ndarray, split: Split) -> float:
    """Return the mean of `scores` (n,) of a split over the examples that count."""
    return float(scores[split.counted].mean(dtype=np.float64))


def _compute_auc(scores: np.ndarray, split: Split, task: Task) -> float | None:
    """The area under the ROC curve of anomalies, in [0, 1]; None but for reconstruction with both kinds."""
    if task.name != "reconstruction" or len(np.unique(split.labels)) < 2:
        return None
    return float(roc_auc_score(split.labels, scores))


def score_splits(
    model: keras.Model, files: dict[str, bytes], data: Data, threads: int, reads_test: bool, probabilities: bool
) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    """Score a stage on validation and test, and predict classes where the task has one per example.

    Args:
        model: Its model, plain or fake-quantized.
        files: The content of its files, by suffix of their names.
        data: All splits.
        threads: Number of threads.
        reads_test: Whether to score the test split.
        probabilities: As in `score_file`.

    Returns:
        Scores (n,) by name: `validation` and `test` for the model, with a suffix for a file. Only `_int8` is scored on
        validation. Class indices (n,) by the same names; none for other tasks.
    """
    values = {}
    for name, split in {"validation": data.validation, **({"test": data.test} if reads_test else {})}.items():
        values[name] = objectives.run_model(model, split, _make_judge(data.task))
        for suffix, content in files.items():
            if name == "test" or suffix == "_int8":
                judge = _make_judge(data.task, probabilities)
                values[f"{name}{suffix}"] = interpreter.score_examples(content, split, judge, threads)
    judged = {name: _split_judgement(one) for name, one in values.items()}
    classes = {name: predicted for name, (_, predicted) in judged.items() if predicted is not None}
    return {name: scores for name, (scores, _) in judged.items()}, classes


def judge_file(
    tflite: bytes, split: Split, task: Task, threads: int, probabilities: bool
) -> tuple[np.ndarray, np.ndarray | None]:
    """Score each example with a file, and predict its class. Arguments are those of `score_file`: `tflite`,
    `split`, `task`, `threads` and `probabilities`.

    Returns:
        The scores (n,) float32, and the class indices (n,); None if the task has no class per example.
    """
    return _split_judgement(interpreter.score_examples(tflite, split, _make_judge(task, probabilities), threads))


def _make_judge(task: Task, probabilities: bool = False) -> Callable[[Any, Any], np.ndarray]:
    """A function (labels, outputs) -> (batch, 1 or 2): the score and, if the task has one, the predicted class."""
    score = objectives.make_score(task, probabilities)

    def judge(labels: Any, outputs: Any) -> np.ndarray:
        values = [score(labels, outputs), objectives.classify(task, outputs, probabilities)]
        return np.stack([np.asarray(one, np.float64) for one in values if one is not None], axis=1)

    return judge


def _split_judgement(values: np.ndarray) -> tuple[np.ndarray, np.ndarray | None]:
    """What a judge returned (n, 1 or 2) as scores (n,) and class indices (n,), None without classes."""
    return values[:, 0].astype(np.float32), values[:, 1].astype(int) if values.shape[1] > 1 else None


def compute_balanced_accuracy(scores: np.ndarray, split: Split) -> float:
    """Return the mean over classes of `scores` (n,), which are 1 for examples classified correctly, in [0, 1]."""
    labels = split.labels.reshape(-1)
    return float(np.mean([scores[labels == label].mean(dtype=np.float64) for label in np.unique(labels)]))


def count_predicted_classes(classes: np.ndarray, split: Split) -> int | None:
    """Return how many `classes` (n,) are ever predicted; None if the split has only one class."""
    return len(np.unique(classes)) if len(np.unique(split.labels)) > 1 else None


def describe_classes(
    scores: dict[str, np.ndarray], classes: dict[str, np.ndarray], data: Data
) -> dict[str, float | int | None]:
    """Describe how a stage treats classes, by `scores` and `classes` of `score_splits`.

    Returns:
        `BALANCED` columns of results.csv, None where test was not read; none if the task has no class per example.
    """
    if not classes:
        return {}
    of_file = classes.get("validation_int8", classes["validation"])
    found = {"predicted_classes": count_predicted_classes(of_file, data.validation)}
    for name, column in zip(("validation", "validation_int8", "test", "test_int8"), BALANCED, strict=True):
        split = get_split(name, data)
        found[column] = compute_balanced_accuracy(scores[name], split) if name in scores else None
    return found


def describe_scores(scores: dict[str, np.ndarray], data: Data) -> dict[str, float | None]:
    """Average the `scores` of `score_splits`.

    Returns:
        The columns of the task's score and, as `<column>_error`, their standard errors over the examples, None where
        test was not read; and those of the AUC where anomalies are labelled.
    """
    score = data.task.score
    columns = {
        "validation": (score.validation, "validation_auc"),
        "validation_int8": (score.validation_int8, "validation_auc_int8"),
        "test": (score.test, "auc"),
        "test_int8": (score.test_int8, "auc_int8"),
        "test_int8_channel_ranges": (f"{score.test_int8}_channel_ranges", None),
    }
    found: dict[str, float | None] = {column: None for column, _ in columns.values()}
    found |= {f"{column}_error": None for column in list_score_columns(score)}
    for name, values in scores.items():
        split, (column, auc) = get_split(name, data), columns[name]
        found[column] = summarize(values, split)
        if f"{column}_error" in found:
            counted = values[split.counted].astype(np.float64)
            found[f"{column}_error"] = float(counted.std(ddof=1) / len(counted) ** 0.5) if len(counted) > 1 else None
        if auc and (area := _compute_auc(values, split, data.task)) is not None:
            found[auc] = area
    return found
