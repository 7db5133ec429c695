"""Training: schedules at their limits, what weight decay reaches, and weights that depend on the seed alone."""

import dataclasses
import hashlib
import math
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from collabopt import datasets, models
from collabopt.config import experiment
from collabopt.config.experiment import Training
from collabopt.runtime import progress
from collabopt.runtime.tensorflow import keras, seed_everything, tf
from collabopt.techniques import training

STEPS = 10


def how(**values: object) -> Training:
    return Training.model_validate({"epochs": 1, "batch_size": 64, "optimizer": "adam", "learning_rate": 0.01} | values)


def trained(data: datasets.Data, seed: int, section: Training | None = None) -> list[np.ndarray]:
    """Weights of a convolution, batch norm and dense layer after training by `section`."""
    seed_everything(seed)
    layers = keras.layers
    model = keras.Sequential(
        [
            keras.Input(data.input_shape),
            layers.Conv2D(4, 3, use_bias=False),
            layers.BatchNormalization(),
            layers.ReLU(),
            layers.Flatten(),
            layers.Dense(len(data.classes)),
        ]
    )
    training.fit(model, data, section or how(), seed, "baseline", progress.Clock())
    return model.get_weights()


def digest(arrays: list[np.ndarray]) -> str:
    return hashlib.sha256(b"".join(array.tobytes() for array in arrays)).hexdigest()


@pytest.fixture(scope="module")
def seed_7(tiny_data) -> str:
    return digest(trained(tiny_data, 7))


@pytest.mark.parametrize("schedule", ["constant", "cosine"])
def test_warm_up_climbs_from_zero_to_the_peak(schedule):
    rate = training.make_learning_rate(how(epochs=4, warmup_epochs=2, schedule=schedule), STEPS)
    assert float(rate(0)) == 0
    assert float(rate(STEPS)) == pytest.approx(0.005)
    assert float(rate(2 * STEPS)) == pytest.approx(0.01)
    assert max(float(rate(step)) for step in range(4 * STEPS)) == pytest.approx(0.01)


@pytest.mark.parametrize("warmup_epochs", [0, 1.5])
def test_a_cosine_ends_at_zero_and_never_climbs_after_warm_up(warmup_epochs):
    rate = training.make_learning_rate(how(epochs=4, warmup_epochs=warmup_epochs, schedule="cosine"), STEPS)
    rates = [float(rate(step)) for step in range(round(warmup_epochs * STEPS), 4 * STEPS + 1)]
    assert rates[0] == pytest.approx(0.01)
    assert rates == sorted(rates, reverse=True)
    assert rates[-1] == pytest.approx(0, abs=1e-9)


@pytest.mark.parametrize("warmup_epochs", [0, 1])
def test_a_constant_rate_stays_to_the_end_and_beyond(warmup_epochs):
    rate = training.make_learning_rate(how(epochs=3, warmup_epochs=warmup_epochs), STEPS)
    rates = [float(rate(step)) for step in range(warmup_epochs * STEPS, 5 * STEPS)]
    assert rates == pytest.approx([0.01] * len(rates))


def test_without_label_smoothing_the_loss_is_sparse_cross_entropy():
    draw = np.random.default_rng(0)
    logits, labels = draw.normal(size=(20, 5)).astype(np.float32), draw.integers(5, size=20)
    expected = keras.losses.sparse_categorical_crossentropy(labels, logits, from_logits=True)
    np.testing.assert_allclose(training.make_loss(5)(labels, logits), expected, rtol=1e-5)


def test_label_smoothing_moves_its_share_of_the_truth_to_all_classes_alike():
    draw = np.random.default_rng(0)
    logits, labels = draw.normal(size=(20, 5)).astype(np.float32), draw.integers(5, size=20)
    log_likelihood = tf.nn.log_softmax(logits).numpy()
    expected = -0.9 * log_likelihood[np.arange(20), labels] - 0.1 * log_likelihood.mean(axis=1)
    np.testing.assert_allclose(training.make_loss(5, 0.1)(labels, logits), expected, rtol=1e-5)


@pytest.mark.parametrize("optimizer", ["sgd", "adam"])
def test_weight_decay_shrinks_kernels_and_nothing_else(optimizer):
    seed_everything(0)
    model = models.build(experiment.Model(name="digits_cnn"), (8, 8, 1), 10)
    for variable in model.trainable_variables:  # biases and betas start at zero, which decays to zero
        variable.assign(variable + 0.5)
    before = [variable.numpy() for variable in model.trainable_variables]
    made = training.make_optimizer(how(optimizer=optimizer, weight_decay=0.5), STEPS)
    # Without gradients the decay is all that moves a weight: by learning rate × decay × weight.
    made.apply_gradients([(tf.zeros_like(variable), variable) for variable in model.trainable_variables])
    decayed = set()
    for variable, old in zip(model.trainable_variables, before, strict=True):
        if "kernel" in variable.name:
            decayed.add(variable.name.split("/")[0])
            np.testing.assert_allclose(variable.numpy(), old * (1 - 0.01 * 0.5), rtol=1e-5)
        else:
            np.testing.assert_array_equal(variable.numpy(), old)
    assert decayed == {"conv_1", "dw_1", "pw_1", "dw_2", "pw_2", "dw_3", "pw_3", "fc"}


def test_weight_decay_goes_by_the_variable_and_not_by_the_name_of_its_layer():
    layers = [keras.layers.Dense(1, name=name) for name in ("min_head", "beta", "centroids_1")]
    model = keras.Sequential([keras.Input((2,)), *layers])
    before = {variable.name: variable.numpy() for variable in model.trainable_variables}
    made = training.make_optimizer(how(weight_decay=0.5), STEPS)
    made.apply_gradients([(tf.zeros_like(variable), variable) for variable in model.trainable_variables])
    for variable in model.trainable_variables:
        assert np.all(variable.numpy() == before[variable.name]) == ("bias" in variable.name), variable.name


def test_zero_epochs_leave_the_weights_as_they_are(tiny_data, small_cnn):
    model = small_cnn()
    before = model.get_weights()
    fit = training.fit(model, tiny_data, how(epochs=0), 0, "baseline", progress.Clock())
    assert digest(model.get_weights()) == digest(before)
    assert list(fit.history) == training.COLUMNS
    assert len(fit.history) == 0


def test_the_history_has_a_row_an_epoch(tiny_data, small_cnn):
    fit = training.fit(small_cnn(), tiny_data, how(epochs=2), 0, "baseline", progress.Clock())
    assert list(fit.history) == training.COLUMNS
    assert list(fit.history["epoch"]) == [1, 2]
    assert fit.history[["accuracy", "val_accuracy"]].stack().between(0, 1).all()


def test_the_same_seed_gives_the_same_weights_after_other_work(tiny_data, seed_7):
    assert digest(trained(tiny_data, 8)) != seed_7
    assert digest(trained(tiny_data, 7)) == seed_7


def test_the_same_seed_gives_the_same_weights_in_another_process(tiny, seed_7):
    script = (
        "from collabopt import backend, datasets, experiment\n"
        "backend.configure(1)\n"
        "import test_training\n"
        f"data = datasets.load(experiment.load({str(tiny)!r}))\n"
        "print(test_training.digest(test_training.trained(data, 7)))\n"
    )
    paths = os.pathsep.join([str(Path(__file__).parent), *filter(None, [os.environ.get("PYTHONPATH")])])
    done = subprocess.run(
        [sys.executable, "-c", script], env={**os.environ, "PYTHONPATH": paths}, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == [seed_7]


def test_a_loss_that_is_not_finite_is_an_error_that_names_the_learning_rate(tiny_data):
    with pytest.raises(FloatingPointError, match=r"^baseline: .*not finite; lower learning_rate=1e\+30$"):
        trained(tiny_data, 0, how(optimizer="sgd", learning_rate=1e30))


def test_augmentation_is_used_where_the_section_says_so_and_only_there(tiny_data, seed_7):
    blank = dataclasses.replace(tiny_data.train, augment=lambda examples, seed: 0 * tf.cast(examples, tf.float32))  # noqa: ARG005
    data = dataclasses.replace(tiny_data, train=blank)
    assert digest(trained(data, 7, how(augment=False))) == seed_7
    blind = trained(data, 7, how(augment=True))
    assert digest(blind) != seed_7
    assert all(math.isfinite(array.sum()) for array in blind)
