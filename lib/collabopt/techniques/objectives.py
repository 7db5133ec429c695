"""Losses and scores of the tasks: functions (labels, outputs) -> (batch,), one value per example.

Outputs are those of the Keras model: logits for tasks that take them. A deployed file may end in a softmax or sigmoid;
its scores are computed with `probabilities`.
"""

from collections.abc import Callable

import numpy as np

from collabopt.config.tasks import Task
from collabopt.datasets import Split
from collabopt.runtime import progress, user_modules
from collabopt.runtime.tensorflow import drop_log_records, drop_native_notices, keras, tf

Objective = Callable[[tf.Tensor, tf.Tensor], tf.Tensor]


def make_loss(task: Task, label_smoothing: float = 0.0) -> Objective:
    """Return the loss of a task, (labels, outputs) -> losses (batch,): cross-entropy of logits, or squared error.

    `label_smoothing` is the share in [0, 1) of each label spread over all classes. Tasks without logits ignore it.
    """

    def cross_entropy(labels: tf.Tensor, outputs: tf.Tensor) -> tf.Tensor:
        targets = tf.one_hot(_fit(labels, outputs), outputs.shape[-1])
        options = {"from_logits": True, "label_smoothing": label_smoothing}
        return _mean(keras.losses.categorical_crossentropy(targets, outputs, **options))

    def binary_cross_entropy(labels: tf.Tensor, outputs: tf.Tensor) -> tf.Tensor:
        targets = tf.reshape(tf.cast(labels, outputs.dtype), tf.shape(outputs))
        options = {"from_logits": True, "label_smoothing": label_smoothing}
        return _mean(keras.losses.binary_crossentropy(targets, outputs, **options))

    if task.loss:
        return user_modules.import_object(task.loss)
    if task.has_classes:
        return binary_cross_entropy if task.name == "binary" else cross_entropy
    return binary_cross_entropy if task.takes_logits else _score_squared_error


def make_score(task: Task, probabilities: bool = False) -> Objective:
    """Return the score of a task, (labels, outputs) -> scores (batch,), of logits or of `probabilities`."""
    threshold = 0.5 if probabilities else 0.0
    if task.metric:
        return user_modules.import_object(task.metric)
    return {
        "classification": _score_class,
        "binary": lambda labels, outputs: _score_binary(labels, outputs, threshold),
        "multilabel": lambda labels, outputs: _score_labels(labels, outputs, threshold),
        "regression": _score_absolute_error,
        "reconstruction": _score_squared_error,
        "segmentation": _score_pixels,
    }[task.name]


def classify(task: Task, outputs: tf.Tensor, probabilities: bool = False) -> tf.Tensor | None:
    """Return the class (batch,) int32 that logits, or `probabilities`, in `outputs` (batch, ...) predict, or None."""
    if task.name == "classification":
        return tf.argmax(outputs, axis=-1, output_type=tf.int32)
    if task.name == "binary":
        return tf.cast(outputs[:, 0] > (0.5 if probabilities else 0.0), tf.int32)
    return None


def score_model(model: keras.Model, split: Split, task: Task) -> np.ndarray:
    """Return the score of each example with a Keras `model` (n,) float32: 0 or 1 if the score is accuracy."""
    return run_model(model, split, make_score(task))


def run_model(model: keras.Model, split: Split, function: Objective) -> np.ndarray:
    """Return the values (n, ...) of a `function` (labels, outputs) -> (batch, ...) of the outputs of a `model`."""
    # Each stage is another model, traced once. TensorFlow mistakes this for one model traced again and again.
    progress.advance(f"evaluating the model on {len(split):,} examples")
    with drop_log_records("triggered tf.function retracing"), drop_native_notices():
        values = [function(labels, model.predict_on_batch(inputs)) for inputs, labels in split.batches(256)]
    return np.concatenate(values)


def _score_class(labels: tf.Tensor, outputs: tf.Tensor) -> tf.Tensor:
    """1 if the largest output (batch, classes) is the label's (batch,), else 0; float32."""
    return _as_float(tf.equal(tf.argmax(outputs, axis=-1, output_type=tf.int32), _fit(labels, outputs)))


def _score_binary(labels: tf.Tensor, outputs: tf.Tensor, threshold: float) -> tf.Tensor:
    """1 if the output (batch, 1) is on the label's side of the threshold, else 0 (batch,) float32."""
    return _as_float(tf.equal(outputs[:, 0] > threshold, tf.reshape(labels, [-1]) > 0))


def _score_labels(labels: tf.Tensor, outputs: tf.Tensor, threshold: float) -> tf.Tensor:
    """F1 in [0, 1] (batch,) of labels (batch, labels), as scikit-learn's `f1_score(average="samples")`."""
    true, predicted = _as_float(labels > 0), _as_float(outputs > threshold)
    found, all_ = tf.reduce_sum(true * predicted, axis=-1), tf.reduce_sum(true + predicted, axis=-1)
    return tf.where(all_ > 0, 2 * found / tf.maximum(all_, 1), 1.0)


def _score_absolute_error(labels: tf.Tensor, outputs: tf.Tensor) -> tf.Tensor:
    """The mean absolute error (batch,) of outputs (batch, outputs)."""
    return _mean(tf.abs(_difference(labels, outputs)))


def _score_squared_error(labels: tf.Tensor, outputs: tf.Tensor) -> tf.Tensor:
    """The mean squared error (batch,) of outputs (batch, ...)."""
    return _mean(tf.square(_difference(labels, outputs)))


def _score_pixels(labels: tf.Tensor, outputs: tf.Tensor) -> tf.Tensor:
    """The mean intersection over union in [0, 1] (batch,) of the classes in each image.

    Images count equally, as in Wang et al. 2023 (arXiv:2310.19252). Classes that are neither in the labels nor in the
    outputs do not count.
    """
    classes = outputs.shape[-1]
    true = tf.one_hot(_fit(labels, outputs), classes)
    predicted = tf.one_hot(tf.argmax(outputs, axis=-1, output_type=tf.int32), classes)
    shared = tf.reduce_sum(true * predicted, axis=(1, 2))
    union = tf.reduce_sum(tf.maximum(true, predicted), axis=(1, 2))
    present = _as_float(union > 0)
    return tf.reduce_sum(shared / tf.maximum(union, 1), axis=-1) / tf.reduce_sum(present, axis=-1)


def _fit(labels: tf.Tensor, outputs: tf.Tensor) -> tf.Tensor:
    """Class indices in the shape of the outputs without classes. Keras adds an axis to labels (batch,) in training."""
    return tf.reshape(tf.cast(labels, tf.int32), tf.shape(outputs)[:-1])


def _difference(labels: tf.Tensor, outputs: tf.Tensor) -> tf.Tensor:
    return tf.reshape(tf.cast(labels, tf.float32), tf.shape(outputs)) - tf.cast(outputs, tf.float32)


def _mean(values: tf.Tensor) -> tf.Tensor:
    """The mean over all axes but the first."""
    values = tf.convert_to_tensor(values)
    return tf.reduce_mean(values, axis=list(range(1, len(values.shape)))) if len(values.shape) > 1 else values


def _as_float(values: tf.Tensor) -> tf.Tensor:
    return tf.cast(values, tf.float32)
