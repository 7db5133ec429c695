"""Scores of Keras models and of files, one per example, and their means."""

import numpy as np
from sklearn.metrics import roc_auc_score

from collabopt.config.tasks import Task
from collabopt.datasets import Data, Split
from collabopt.runtime.tensorflow import drop_log_records, drop_native_notices, keras
from collabopt.techniques import objectives
from collabopt.tflite import interpreter


def score_model(model: keras.Model, split: Split, task: Task) -> np.ndarray:
    """Score each example with a Keras model.

    Args:
        model: Plain or fake-quantized.
        split: Examples with labels.
        task: Gives the score.

    Returns:
        The scores (n,) float32: 0 or 1 if the score is accuracy.
    """
    score = objectives.make_score(task)
    # Each stage is another model, traced once. TensorFlow mistakes this for one model traced again and again.
    with drop_log_records("triggered tf.function retracing"), drop_native_notices():
        scores = [score(labels, model.predict_on_batch(inputs)) for inputs, labels in split.batches(256)]
    return np.concatenate(scores)


def score_file(tflite: bytes, split: Split, task: Task, threads: int = 1, probabilities: bool = False) -> np.ndarray:
    """Score each example with a file.

    Args:
        tflite: The content of the file.
        split: Examples with labels.
        task: Gives the score.
        threads: Number of threads.
        probabilities: Whether the file ends in a softmax or sigmoid that the model does not have.

    Returns:
        The scores (n,) float32.
    """
    return interpreter.score_examples(tflite, split, objectives.make_score(task, probabilities), threads)


def select_counted(scores: np.ndarray, split: Split, task: Task) -> np.ndarray:
    """Select the scores that count. Anomalies do not: a model of normal examples shall not reconstruct them.

    Args:
        scores: One per example (n,).
        split: The examples.
        task: The task.

    Returns:
        The scores (m,) whose mean is the metric.
    """
    return scores[split.labels == 0] if task.name == "reconstruction" else scores


def summarize(scores: np.ndarray, split: Split, task: Task) -> float:
    """Average the scores of a split that count.

    Args:
        scores: One per example (n,).
        split: The examples.
        task: The task.

    Returns:
        The mean.
    """
    return float(select_counted(scores, split, task).mean(dtype=np.float64))


def compute_auc(scores: np.ndarray, split: Split, task: Task) -> float | None:
    """Compute the area under the ROC curve of anomalies, which have larger errors than normal examples.

    Args:
        scores: One error per example (n,).
        split: The examples; their labels are 1 for anomalies.
        task: The task.

    Returns:
        The area in [0, 1]; None unless the task is reconstruction and the split has both kinds.
    """
    if task.name != "reconstruction" or len(np.unique(split.labels)) < 2:
        return None
    return float(roc_auc_score(split.labels, scores))


def score_splits(
    model: keras.Model, files: dict[str, bytes], data: Data, threads: int, reads_test: bool, probabilities: bool
) -> dict[str, np.ndarray]:
    """Score a stage on validation and test.

    Args:
        model: Its model, plain or fake-quantized.
        files: The content of its files, by suffix of their names.
        data: All splits.
        threads: Number of threads.
        reads_test: Whether to score the test split.
        probabilities: As in `score_file`.

    Returns:
        Scores (n,) by name: `validation` and `test` for the model, with a suffix for a file. Only `_int8` is scored on
        validation.
    """
    scores = {}
    for name, split in {"validation": data.validation, **({"test": data.test} if reads_test else {})}.items():
        scores[name] = score_model(model, split, data.task)
        for suffix, content in files.items():
            if name == "test" or suffix == "_int8":
                scores[f"{name}{suffix}"] = score_file(content, split, data.task, threads, probabilities)
    return scores


def describe_scores(scores: dict[str, np.ndarray], data: Data) -> dict[str, float | None]:
    """Average the scores of a stage.

    Args:
        scores: What `score_splits` returned.
        data: All splits.

    Returns:
        The columns of the task's score, None where test was not read, and those of the AUC where anomalies are
        labelled.
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
    for name, values in scores.items():
        split, (column, auc) = data.validation if name.startswith("validation") else data.test, columns[name]
        found[column] = summarize(values, split, data.task)
        if auc and (area := compute_auc(values, split, data.task)) is not None:
            found[auc] = area
    return found
