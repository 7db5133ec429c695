"""Distillation: limits of the loss, and a teacher that is neither trained, nor saved, nor a source of chance."""

import dataclasses
import shutil

import numpy as np
import pytest
from test_checkpoints import Stopped, StoppingCheckpoint, are_equal, build_network

from collabopt.config import loading
from collabopt.config.experiment import ExperimentError
from collabopt.config.sections import Pruning, Training
from collabopt.config.tasks import TASKS
from collabopt.run import Run
from collabopt.runtime import progress
from collabopt.runtime.tensorflow import keras, run_eagerly, tf
from collabopt.techniques import distillation, pruning, quantization, training
from collabopt.techniques.checkpoints import NO_CHECKPOINT, Checkpoint

SECTION = {"epochs": 2, "batch_size": 64, "optimizer": "sgd", "learning_rate": 0.05}
LOGITS = [np.random.default_rng(seed).normal(size=(6, 5)).astype(np.float32) for seed in (0, 1)]


def make_section(**values: object) -> Training:
    return Training.model_validate(SECTION | values)


@pytest.fixture(scope="module")
def taught_data(tiny_data):
    """The tiny data with a teacher, whose batch norm and dropout show whether it runs as in training."""
    teacher = build_network(tiny_data.input_shape, len(tiny_data.classes))
    teacher.set_weights([array + 0.1 for array in teacher.get_weights()])
    return dataclasses.replace(tiny_data, teacher=teacher)


def train(data, section: Training, checkpoint: Checkpoint = NO_CHECKPOINT) -> list[np.ndarray]:
    model = build_network(data.input_shape, len(data.classes))
    training.fit(model, data, section, 0, "pruned", progress.Clock(), checkpoint=checkpoint)
    return model.get_weights()


@pytest.mark.parametrize("name", TASKS)
def test_a_student_with_the_outputs_of_its_teacher_loses_nothing(name):
    loss = distillation.make_imitation_loss(TASKS[name], temperature=3.0)
    np.testing.assert_allclose(loss(LOGITS[0], LOGITS[0]), 0, atol=1e-6)
    assert (loss(*LOGITS).numpy() >= 0).all()
    assert loss(*LOGITS).numpy().mean() > 0.01


def test_the_divergence_of_classes_is_that_of_keras():
    taught, outputs = (tf.nn.softmax(logits / 2) for logits in LOGITS)
    loss = distillation.make_imitation_loss(TASKS["classification"], temperature=2.0)
    np.testing.assert_allclose(loss(*LOGITS), 4 * keras.losses.kl_divergence(taught, outputs), rtol=1e-4)


def test_two_classes_are_one_label():
    """A softmax over (0, x) is a sigmoid of x."""
    one, other = (logits[:, :1] for logits in LOGITS)
    pairs = [np.hstack([np.zeros_like(logits), logits]) for logits in (one, other)]
    binary = distillation.make_imitation_loss(TASKS["binary"], 4.0)(one, other)
    classes = distillation.make_imitation_loss(TASKS["classification"], 4.0)(*pairs)
    np.testing.assert_allclose(binary[:, 0], classes, rtol=1e-3, atol=1e-6)


def test_at_a_high_temperature_logits_are_compared_by_their_squared_error():
    """Hinton et al. 2015, section 2.1: for logits of mean zero the gradient is their difference per class."""
    taught, outputs = (tf.constant(logits - logits.mean(axis=1, keepdims=True)) for logits in LOGITS)
    with tf.GradientTape() as tape:
        tape.watch(outputs)
        loss = distillation.make_imitation_loss(TASKS["classification"], 1000.0)(taught, outputs)
    np.testing.assert_allclose(tape.gradient(loss, outputs), (outputs - taught) / 5, rtol=0.05, atol=1e-2)


def test_a_weight_of_zero_trains_as_without_a_teacher(tiny_data, taught_data):
    plain = train(tiny_data, make_section())
    assert are_equal(train(taught_data, make_section(distill={"weight": 0.0})), plain)
    assert not are_equal(train(taught_data, make_section(distill={})), plain)


def test_the_task_counts_as_much_as_the_weight_leaves(taught_data):
    """A step that counts only the teacher does not depend on the labels."""
    section = make_section(distill={"weight": 1.0})
    labels = np.roll(taught_data.train.labels, 1)
    other = dataclasses.replace(taught_data, train=dataclasses.replace(taught_data.train, labels=labels))
    assert are_equal(train(taught_data, section), train(other, section))
    half = make_section(distill={"weight": 0.5})
    assert not are_equal(train(taught_data, half), train(other, half))


def test_the_teacher_stays_as_it_is_and_sees_what_the_student_sees(taught_data):
    before, seen = taught_data.teacher.get_weights(), []

    class Watching(keras.Model):
        def call(self, inputs, training=None):
            assert training is False
            tf.py_function(lambda values: seen.append(values.numpy()), [inputs], [])
            return taught_data.teacher(inputs, training=training)

    blank = dataclasses.replace(taught_data.train, augment=lambda examples, seed: 0 * tf.cast(examples, tf.float32))  # noqa: ARG005
    data = dataclasses.replace(taught_data, train=blank, teacher=Watching())
    train(data, make_section(distill={}, augment=True))
    assert seen
    assert not any(values.any() for values in seen)
    assert are_equal(taught_data.teacher.get_weights(), before)


def test_a_stopped_distillation_ends_like_an_uninterrupted_one_and_saves_no_teacher(tiny_data, taught_data, tmp_path):
    section, paths = make_section(distill={}), [tmp_path / "taught.npz", tmp_path / "plain.npz"]
    uninterrupted = train(taught_data, section, Checkpoint(tmp_path / "other.npz"))
    with pytest.raises(Stopped):
        train(taught_data, section, StoppingCheckpoint(paths[0], after=1))
    assert are_equal(train(taught_data, section, Checkpoint(paths[0])), uninterrupted)
    train(tiny_data, make_section(), Checkpoint(paths[1]))
    taught, plain = (path.stat().st_size for path in paths)
    assert abs(taught - plain) < 500  # the texts of the records differ in length


def test_wrapped_models_are_taught(small_cnn, few_data):
    data = dataclasses.replace(few_data, teacher=small_cnn(seed=1))
    for weight in (0.5, 0.0):
        section = Pruning.model_validate(SECTION | {"epochs": 1, "frequency": 1, "distill": {"weight": weight}})
        with run_eagerly():  # tracing takes longer than the steps
            models = [pruning.fine_tune(small_cnn(), data, 0.5, section)[0]]
            models.append(quantization.fine_tune(small_cnn(), data, section)[0])
        if weight:
            taught = [model.get_weights() for model in models]
    assert not any(are_equal(one, model.get_weights()) for one, model in zip(taught, models, strict=True))


def test_a_section_without_a_teacher_is_an_error(tiny_data):
    with pytest.raises(ValueError, match="distill: expected data with a teacher"):
        train(tiny_data, make_section(distill={}))


def test_the_baseline_cannot_be_distilled(small, tmp_path):
    path = tmp_path / "wrong.yaml"
    path.write_text(small.read_text().replace("baseline: {", "baseline: {distill: {weight: 0.5}, "))
    with pytest.raises(ExperimentError, match="baseline: distill: the baseline is the teacher"):
        loading.load(str(path))


def test_the_setting_of_a_stage_goes_before_that_of_the_experiment(small, tmp_path):
    path = tmp_path / "one.yaml"
    path.write_text(small.read_text().replace("  qat: {", "  qat: {distill: {weight: 0}, "))
    experiment = loading.load(str(path), distill={"temperature": 2.0})
    assert experiment.training("baseline").distill is None
    assert experiment.training("qat").distill.weight == 0
    assert (experiment.training("pqat").distill.temperature, experiment.training("pqat").distill.weight) == (2, 0.5)
    assert loading.load(str(path)).training("pqat").distill is None


def test_a_run_takes_its_baseline_as_the_teacher(small, trained_small, tmp_path):
    shutil.copytree(trained_small / "stages", tmp_path / "stages")
    results = []
    for values in ({}, {"distill": {}}):
        run = Run(loading.load(str(small), **values), None, small, tmp_path / "stages")
        results.append(run.stage("pruned"))
    plain, taught = results
    assert plain.trained != taught.trained
    assert plain.result["sparsity"] == taught.result["sparsity"]
    assert not np.array_equal(plain.kernels()["pw"], taught.kernels()["pw"])
