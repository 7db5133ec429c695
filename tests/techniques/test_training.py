"""Training: schedules at their limits, the reach of weight decay, and weights that depend on the seed alone."""

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
from collabopt.config import sections
from collabopt.config.scores import ACCURACY
from collabopt.config.sections import Training
from collabopt.config.tasks import TASKS
from collabopt.runtime import progress
from collabopt.runtime.tensorflow import keras, seed_everything, tf
from collabopt.techniques import objectives, training

STEPS = 10


def make_section(**values: object) -> Training:
    return Training.model_validate({"epochs": 1, "batch_size": 64, "optimizer": "adam", "learning_rate": 0.01} | values)


def train(data: datasets.Data, seed: int, section: Training | None = None) -> list[np.ndarray]:
    """Weights of a small network after training."""
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
    training.fit(model, data, section or make_section(), seed, "baseline", progress.Clock())
    return model.get_weights()


def compute_digest(arrays: list[np.ndarray]) -> str:
    return hashlib.sha256(b"".join(array.tobytes() for array in arrays)).hexdigest()


@pytest.fixture(scope="module")
def digest_of_seed_7(tiny_data) -> str:
    return compute_digest(train(tiny_data, 7))


@pytest.mark.parametrize("schedule", ["constant", "cosine"])
def test_warm_up_rises_from_zero_to_the_peak(schedule):
    rate = training.make_learning_rate(make_section(epochs=4, warmup_epochs=2, schedule=schedule), STEPS)
    assert float(rate(0)) == 0
    assert float(rate(STEPS)) == pytest.approx(0.005)
    assert float(rate(2 * STEPS)) == pytest.approx(0.01)
    assert max(float(rate(step)) for step in range(4 * STEPS)) == pytest.approx(0.01)


@pytest.mark.parametrize("warmup_epochs", [0, 1.5])
def test_a_cosine_falls_to_zero_after_warm_up(warmup_epochs):
    rate = training.make_learning_rate(make_section(epochs=4, warmup_epochs=warmup_epochs, schedule="cosine"), STEPS)
    rates = [float(rate(step)) for step in range(round(warmup_epochs * STEPS), 4 * STEPS + 1)]
    assert rates[0] == pytest.approx(0.01)
    assert rates == sorted(rates, reverse=True)
    assert rates[-1] == pytest.approx(0, abs=1e-9)


@pytest.mark.parametrize("warmup_epochs", [0, 1])
def test_a_constant_rate_stays_constant_beyond_the_end(warmup_epochs):
    rate = training.make_learning_rate(make_section(epochs=3, warmup_epochs=warmup_epochs), STEPS)
    rates = [float(rate(step)) for step in range(warmup_epochs * STEPS, 5 * STEPS)]
    assert rates == pytest.approx([0.01] * len(rates))


def test_without_label_smoothing_the_loss_is_sparse_cross_entropy():
    generator = np.random.default_rng(0)
    logits, labels = generator.normal(size=(20, 5)).astype(np.float32), generator.integers(5, size=20)
    expected = keras.losses.sparse_categorical_crossentropy(labels, logits, from_logits=True)
    np.testing.assert_allclose(objectives.make_loss(TASKS["classification"])(labels, logits), expected, rtol=1e-5)


def test_label_smoothing_spreads_its_share_evenly_over_all_classes():
    generator = np.random.default_rng(0)
    logits, labels = generator.normal(size=(20, 5)).astype(np.float32), generator.integers(5, size=20)
    log_likelihood = tf.nn.log_softmax(logits).numpy()
    expected = -0.9 * log_likelihood[np.arange(20), labels] - 0.1 * log_likelihood.mean(axis=1)
    np.testing.assert_allclose(objectives.make_loss(TASKS["classification"], 0.1)(labels, logits), expected, rtol=1e-5)


@pytest.mark.parametrize("optimizer", ["sgd", "adam"])
def test_weight_decay_shrinks_only_kernels(optimizer):
    seed_everything(0)
    model = models.build(sections.Model(name="digits_cnn"), (8, 8, 1), (10,))
    for variable in model.trainable_variables:  # biases and betas start at zero, which would hide a decay
        variable.assign(variable + 0.5)
    before = [variable.numpy() for variable in model.trainable_variables]
    keras_optimizer = training.make_optimizer(make_section(optimizer=optimizer, weight_decay=0.5), STEPS)
    # With zero gradients only the decay moves a weight: by learning rate × decay × weight.
    keras_optimizer.apply_gradients([(tf.zeros_like(variable), variable) for variable in model.trainable_variables])
    decayed = set()
    for variable, old in zip(model.trainable_variables, before, strict=True):
        if "kernel" in variable.name:
            decayed.add(variable.name.split("/")[0])
            np.testing.assert_allclose(variable.numpy(), old * (1 - 0.01 * 0.5), rtol=1e-5)
        else:
            np.testing.assert_array_equal(variable.numpy(), old)
    assert decayed == {"conv_1", "dw_1", "pw_1", "dw_2", "pw_2", "dw_3", "pw_3", "fc"}


def test_weight_decay_depends_on_the_variable_and_not_on_its_layers_name():
    layers = [keras.layers.Dense(1, name=name) for name in ("min_head", "beta", "centroids_1")]
    model = keras.Sequential([keras.Input((2,)), *layers])
    before = {variable.name: variable.numpy() for variable in model.trainable_variables}
    keras_optimizer = training.make_optimizer(make_section(weight_decay=0.5), STEPS)
    keras_optimizer.apply_gradients([(tf.zeros_like(variable), variable) for variable in model.trainable_variables])
    for variable in model.trainable_variables:
        assert np.all(variable.numpy() == before[variable.name]) == ("bias" in variable.name), variable.name


def test_zero_epochs_change_no_weight(tiny_data, small_cnn):
    model = small_cnn()
    before = model.get_weights()
    fit = training.fit(model, tiny_data, make_section(epochs=0), 0, "baseline", progress.Clock())
    assert compute_digest(model.get_weights()) == compute_digest(before)
    assert list(fit.history) == training.list_history_columns(ACCURACY)
    assert len(fit.history) == 0


def test_the_history_has_one_row_per_epoch(tiny_data, small_cnn):
    fit = training.fit(small_cnn(), tiny_data, make_section(epochs=2), 0, "baseline", progress.Clock())
    assert list(fit.history) == training.list_history_columns(ACCURACY)
    assert list(fit.history["epoch"]) == [1, 2]
    assert fit.history[["accuracy", "val_accuracy"]].stack().between(0, 1).all()


def test_the_same_seed_gives_the_same_weights_after_other_work(tiny_data, digest_of_seed_7):
    assert compute_digest(train(tiny_data, 8)) != digest_of_seed_7
    assert compute_digest(train(tiny_data, 7)) == digest_of_seed_7


def test_the_same_seed_gives_the_same_weights_in_another_process(tiny, digest_of_seed_7):
    script = (
        "from collabopt import datasets\n"
        "from collabopt.config import loading\n"
        "from collabopt.runtime import tensorflow\n"
        "tensorflow.configure(1)\n"
        "import test_training\n"
        f"data = datasets.load(loading.load({str(tiny)!r}))\n"
        "print(test_training.compute_digest(test_training.train(data, 7)))\n"
    )
    paths = os.pathsep.join([str(Path(__file__).parent), *filter(None, [os.environ.get("PYTHONPATH")])])
    done = subprocess.run(
        [sys.executable, "-c", script], env={**os.environ, "PYTHONPATH": paths}, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == [digest_of_seed_7]


def test_a_loss_that_is_not_finite_raises_and_names_the_learning_rate(tiny_data):
    with pytest.raises(FloatingPointError, match=r"^baseline: .*not finite; lower learning_rate=1e\+30$"):
        train(tiny_data, 0, make_section(optimizer="sgd", learning_rate=1e30))


def test_augmentation_is_used_only_if_the_section_asks_for_it(tiny_data, digest_of_seed_7):
    blank = dataclasses.replace(tiny_data.train, augment=lambda examples, seed: 0 * tf.cast(examples, tf.float32))  # noqa: ARG005
    data = dataclasses.replace(tiny_data, train=blank)
    assert compute_digest(train(data, 7, make_section(augment=False))) == digest_of_seed_7
    blind = train(data, 7, make_section(augment=True))
    assert compute_digest(blind) != digest_of_seed_7
    assert all(math.isfinite(array.sum()) for array in blind)


@pytest.mark.parametrize("momentum", [0.9, 0.999])
def test_batch_norms_follow_a_short_training_on_new_data(momentum):
    """Their statistics are still those of other inputs when training begins."""
    layers = keras.layers
    keras.utils.set_random_seed(0)
    inputs = keras.Input((6,), name="input")
    norm = layers.BatchNormalization(momentum=momentum, center=False, scale=False, name="bn")
    model = keras.Model(inputs, layers.Dense(2, name="fc")(norm(inputs)))
    labels = np.arange(600) % 2
    examples = (np.random.default_rng(0).normal(size=(600, 6)) + 2 * labels[:, None] + 20).astype(np.float32)
    split = datasets.Split(examples, labels)
    data = datasets.Data("shifted", ("0", "1"), split, split, split, "", (6,), (2,))
    section = Training(epochs=2, batch_size=20, optimizer="adam", learning_rate=0.05)
    fit = training.fit(model, data, section, 0, "baseline", progress.Clock())
    last = fit.history.iloc[-1]
    assert last["val_accuracy"] > 0.95
    assert abs(last["val_accuracy"] - last["accuracy"]) < 0.05
    assert (norm.momentum == momentum) == (momentum == 0.9)
