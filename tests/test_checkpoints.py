"""A training that was stopped goes on to the weights it would have had, unless its checkpoint is damaged."""

import logging
from pathlib import Path

import numpy as np
import pytest

from collabopt.config.experiment import Training
from collabopt.runtime import progress
from collabopt.runtime.tensorflow import keras, seed_everything
from collabopt.techniques import training
from collabopt.techniques.checkpoints import Checkpoint

EPOCHS = 3
OPTIMIZERS = {
    "adam": {"optimizer": "adam", "learning_rate": 1e-2, "schedule": "cosine"},
    "sgd": {"optimizer": "sgd", "learning_rate": 0.1, "momentum": 0.9, "nesterov": True, "weight_decay": 1e-3},
}


class Stopped(Exception):
    """The process was stopped."""


class Stopping(Checkpoint):
    """Stops the process after an epoch, when its state is saved."""

    def __init__(self, path: Path, after: int) -> None:
        super().__init__(path)
        self.after = after

    def save(self, model: keras.Model, seen: dict) -> None:
        super().save(model, seen)
        if len(seen["rows"]) == self.after:
            raise Stopped


def network(shape: tuple[int, ...], classes: int) -> keras.Model:
    """Batch norm and dropout have states of their own beside the kernels."""
    layers = keras.layers
    seed_everything(0)
    return keras.Sequential(
        [
            keras.Input(shape),
            layers.Conv2D(4, 3, use_bias=False),
            layers.BatchNormalization(),
            layers.ReLU(),
            layers.Dropout(0.3),
            layers.Flatten(),
            layers.Dense(classes),
        ]
    )


def trained(data, section: dict, checkpoint: Checkpoint) -> tuple[list[np.ndarray], training.Fit]:
    how = Training.model_validate({"epochs": EPOCHS, "batch_size": 32} | section)
    model = network(data.input_shape, len(data.classes))
    fit = training.fit(model, data, how, 0, "baseline", progress.Clock(), checkpoint=checkpoint)
    return model.get_weights(), fit


def same(one: list[np.ndarray], other: list[np.ndarray]) -> bool:
    return all(np.array_equal(mine, theirs) for mine, theirs in zip(one, other, strict=True))


@pytest.fixture(scope="module", params=OPTIMIZERS)
def straight(request, tiny_data, tmp_path_factory):
    """A training that nobody stopped, and its section."""
    section = OPTIMIZERS[request.param]
    path = tmp_path_factory.mktemp("straight") / "epoch.npz"
    return section, *trained(tiny_data, section, Checkpoint(path)), path


@pytest.mark.parametrize("after", range(1, EPOCHS + 1))
def test_a_stopped_training_ends_as_one_that_was_not(straight, tiny_data, tmp_path, after):
    section, weights, fit, _ = straight
    path = tmp_path / "epoch.npz"
    with pytest.raises(Stopped):
        trained(tiny_data, section, Stopping(path, after))
    resumed, resumed_fit = trained(tiny_data, section, Checkpoint(path))
    assert same(resumed, weights)
    columns = [column for column in training.COLUMNS if column != "seconds"]
    assert resumed_fit.history[columns].equals(fit.history[columns])
    assert resumed_fit.setup_seconds > 0 and resumed_fit.fit_seconds > 0


def test_dropout_draws_differ_from_epoch_to_epoch_and_seed_to_seed(tiny_data):
    model = network(tiny_data.input_shape, len(tiny_data.classes))
    inputs = next(iter(tiny_data.train.batches(8)))[0]
    first, second = (model(inputs, training=True).numpy() for _ in range(2))
    assert not np.array_equal(first, second)


DAMAGES = {
    "truncated": lambda content: content[: len(content) // 2],
    "altered": lambda content: content[:2000] + bytes([content[2000] ^ 1]) + content[2001:],
    "empty": lambda content: b"",  # noqa: ARG005
    "no archive": lambda content: b"weights" * 99,  # noqa: ARG005
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_checkpoint_is_said_and_training_begins_anew(straight, tiny_data, tmp_path, damage):
    section, weights, _, saved = straight
    path = tmp_path / "epoch.npz"
    path.write_bytes(DAMAGES[damage](saved.read_bytes()))
    assert same(trained(tiny_data, section, Checkpoint(path))[0], weights)
    assert lines_of(tiny_data, section, path, DAMAGES[damage](saved.read_bytes()))


def lines_of(data, section: dict, path: Path, content: bytes) -> list[str]:
    """What is said of the checkpoint when a training finds it."""
    path.write_bytes(content)
    lines, handler, level = [], logging.Handler(), progress.logger.level
    handler.emit = lambda record: lines.append(record.getMessage())
    progress.logger.addHandler(handler)
    progress.logger.setLevel(logging.INFO)
    model = network(data.input_shape, len(data.classes))
    how = Training.model_validate({"epochs": EPOCHS, "batch_size": 32} | section)
    assert Checkpoint(path).restore(training.compile_model(model, data, how)) is None
    progress.logger.removeHandler(handler)
    progress.logger.setLevel(level)
    return [line for line in lines if "cannot be read" in line and "begins anew" in line]


def test_a_checkpoint_of_another_model_is_not_used(straight, tiny_data, tmp_path):
    section, *_, saved = straight
    path = tmp_path / "epoch.npz"
    path.write_bytes(saved.read_bytes())
    model = keras.Sequential([keras.Input(tiny_data.input_shape), keras.layers.Flatten(), keras.layers.Dense(10)])
    how = Training.model_validate({"epochs": EPOCHS, "batch_size": 32} | section)
    before = [array.copy() for array in model.get_weights()]
    assert Checkpoint(path).restore(training.compile_model(model, tiny_data, how)) is None
    assert same(model.get_weights(), before)
