"""Losses and scores agree with their definitions, one value per example, in Keras and on the outputs of files."""

import numpy as np
import pytest
from sklearn.metrics import f1_score, jaccard_score

from collabopt.config import tasks
from collabopt.config.metrics import METRICS
from collabopt.config.scores import SCORES, find_score
from collabopt.runtime.tensorflow import keras, tf
from collabopt.techniques import objectives


def draw(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def draw_labels(high: int, *shape: int) -> np.ndarray:
    return np.random.default_rng(1).integers(high, size=shape)


def make_sigmoid(values: np.ndarray) -> np.ndarray:
    return 1 / (1 + np.exp(-values))


def test_f1_is_that_of_scikit_learn():
    labels, logits = draw_labels(2, 200, 4), draw(200, 4)
    labels[:5], logits[:5] = 0, -1.0  # no label, none predicted
    labels[5:8], logits[5:8] = 0, 1.0
    scores = objectives.make_score(tasks.TASKS["multilabel"])(labels, logits).numpy()
    expected = f1_score(labels, logits > 0, average="samples", zero_division=1)
    assert scores.mean() == pytest.approx(expected, rel=1e-6)
    assert list(scores[:8]) == [1] * 5 + [0] * 3


def test_mean_iou_is_the_mean_jaccard_score_of_each_image():
    labels, outputs = draw_labels(3, 6, 5, 4), draw(6, 5, 4, 3)
    labels[0] = 1  # a class that is missing in labels may be predicted, or be missing in both
    outputs[0, ..., 2] = -9
    scores = objectives.make_score(tasks.TASKS["segmentation"])(labels, outputs).numpy()
    for score, truth, found in zip(scores, labels, outputs.argmax(axis=-1), strict=True):
        present = np.union1d(truth, found)
        expected = jaccard_score(truth.ravel(), found.ravel(), average="macro", labels=present)
        assert score == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize(("name", "power"), [("regression", 1), ("reconstruction", 2)])
def test_errors_are_means_over_the_outputs_of_an_example(name, power):
    labels, outputs = draw(7, 3, 2), draw(7, 3, 2, seed=1)
    scores = objectives.make_score(tasks.TASKS[name])(labels, outputs).numpy()
    np.testing.assert_allclose(scores, (np.abs(labels - outputs) ** power).mean(axis=(1, 2)), rtol=1e-5)


@pytest.mark.parametrize("name", ["binary", "multilabel"])
def test_probabilities_score_as_their_logits(name):
    labels, logits = draw_labels(2, 50, 1), draw(50, 1)
    task = tasks.TASKS[name]
    of_logits = objectives.make_score(task)(labels, logits)
    of_probabilities = objectives.make_score(task, probabilities=True)(labels, make_sigmoid(logits))
    np.testing.assert_array_equal(of_logits, of_probabilities)
    assert 0 < of_logits.numpy().mean() < 1


def test_the_binary_loss_is_the_log_likelihood_of_the_label():
    labels, logits = draw_labels(2, 30), draw(30, 1)
    likelihood = np.where(labels == 1, make_sigmoid(logits[:, 0]), 1 - make_sigmoid(logits[:, 0]))
    losses = objectives.make_loss(tasks.TASKS["binary"])(labels, logits)
    np.testing.assert_allclose(losses, -np.log(likelihood), rtol=1e-4)


def test_the_loss_of_a_segmentation_is_the_mean_over_pixels():
    labels, logits = draw_labels(3, 4, 5, 6), draw(4, 5, 6, 3)
    pixels = objectives.make_loss(tasks.TASKS["classification"])(labels.ravel(), logits.reshape(-1, 3)).numpy()
    losses = objectives.make_loss(tasks.TASKS["segmentation"])(labels, logits)
    np.testing.assert_allclose(losses, pixels.reshape(4, -1).mean(axis=1), rtol=1e-5)


@pytest.mark.parametrize("name", tasks.TASKS)
def test_keras_reports_the_score_of_each_task(name):
    """Keras adds an axis to labels (n,) before it calls a loss or a metric."""
    task = tasks.TASKS[name]
    shapes = {"classification": ((3,), (8,)), "binary": ((1,), (8,)), "multilabel": ((4,), (8, 4))}
    shapes |= {"segmentation": ((2, 2, 3), (8, 2, 2))}
    output, of_labels = shapes.get(name, ((4,), (8, 4)))
    labels = draw(*of_labels) if task.score.lower_is_better else draw_labels(2, *of_labels)
    inputs = keras.Input((5,))
    outputs = keras.layers.Reshape(output)(keras.layers.Dense(int(np.prod(output)))(inputs))
    model = keras.Model(inputs, outputs)
    score = objectives.make_score(task)
    model.compile("sgd", objectives.make_loss(task), [keras.metrics.MeanMetricWrapper(score, name="score")])
    found = model.evaluate(draw(8, 5), labels, verbose=0, return_dict=True)
    expected = score(labels, model.predict(draw(8, 5), verbose=0)).numpy()
    assert expected.shape == (8,)
    assert found["score"] == pytest.approx(expected.mean(), rel=1e-5)
    assert np.isfinite(found["loss"])


def test_a_custom_score_is_known_by_the_name_of_its_function():
    place = f"{__name__}:{measure_bias.__name__}"
    task = tasks.make_custom(place, place, higher_is_better=False)
    labels, outputs = draw(5, 1), draw(5, 1, seed=1)
    np.testing.assert_array_equal(objectives.make_score(task)(labels, outputs), measure_bias(labels, outputs))
    assert find_score(["stage", "measure_bias_int8"]) is SCORES["measure_bias"]
    assert task.score.compute_drop(1.0, 1.5) == 0.5
    tasks.make_custom(place, place, higher_is_better=True)
    assert SCORES["measure_bias"].compute_drop(1.0, 1.5) == -0.5
    assert not METRICS["measure_bias"].lower_is_better
    for name in ("sparsity", "metric", "accuracy"):
        with pytest.raises(ValueError, match=f"^{name}: the workbook has a figure .* rename your function"):
            tasks.make_custom(place, f"anything:{name}", higher_is_better=True)


def measure_bias(labels, outputs):
    return tf.abs(tf.reduce_mean(outputs - labels, axis=-1))
