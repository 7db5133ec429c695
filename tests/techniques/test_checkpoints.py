"""A stopped training ends with the same weights as an uninterrupted one; a damaged checkpoint is reported."""

import logging
from pathlib import Path

import numpy as np
import pytest

from collabopt.config.scores import ACCURACY
from collabopt.config.sections import Training
from collabopt.runtime import progress
from collabopt.runtime.tensorflow import keras, seed_everything
from collabopt.techniques import training
from collabopt.techniques.checkpoints import Checkpoint

pytestmark = pytest.mark.usefixtures("eagerly")
EPOCHS = 3
OPTIMIZERS = {
    "adam": {"optimizer": "adam", "learning_rate": 1e-2, "schedule": "cosine"},
    "sgd": {"optimizer": "sgd", "learning_rate": 0.1, "momentum": 0.9, "nesterov": True, "weight_decay": 1e-3},
}


@pytest.fixture(autouse=True)
def every_epoch(monkeypatch):
    """Save a checkpoint after every epoch, however short."""
    monkeypatch.setattr(training, "CHECKPOINT_SECONDS", 0)


class Stopped(Exception):
    """The process was stopped."""


class StoppingCheckpoint(Checkpoint):
    """Stops the process after it saved the state of an epoch."""

    def __init__(self, path: Path, after: int) -> None:
        super().__init__(path)
        self.after = after

    def save(self, model: keras.Model, record: dict) -> None:
        super().save(model, record)
        if len(record["rows"]) == self.after:
            raise Stopped


def build_network(shape: tuple[int, ...], classes: int) -> keras.Model:
    """Batch norm and dropout have states besides their kernels."""
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


def make_section(settings: dict) -> Training:
    return Training.model_validate({"epochs": EPOCHS, "batch_size": 32} | settings)


def train(data, settings: dict, checkpoint: Checkpoint) -> tuple[list[np.ndarray], training.Fit]:
    model = build_network(data.input_shape, len(data.classes))
    fit = training.fit(model, data, make_section(settings), 0, "baseline", progress.Clock(), checkpoint=checkpoint)
    return model.get_weights(), fit


def are_equal(one: list[np.ndarray], other: list[np.ndarray]) -> bool:
    return all(np.array_equal(*pair) for pair in zip(one, other, strict=True))


@pytest.fixture(scope="module", params=["adam", pytest.param("sgd", marks=pytest.mark.slow)])
def uninterrupted(request, few_data, tmp_path_factory):
    """The settings, weights, record and checkpoint of an uninterrupted training."""
    settings = OPTIMIZERS[request.param]
    path = tmp_path_factory.mktemp("uninterrupted") / "epoch.npz"
    return settings, *train(few_data, settings, Checkpoint(path)), path


@pytest.mark.parametrize("after", range(1, EPOCHS + 1))
def test_a_stopped_training_ends_like_an_uninterrupted_one(uninterrupted, few_data, tmp_path, after):
    settings, weights, fit, _ = uninterrupted
    path = tmp_path / "epoch.npz"
    with pytest.raises(Stopped):
        train(few_data, settings, StoppingCheckpoint(path, after))
    resumed, resumed_fit = train(few_data, settings, Checkpoint(path))
    assert are_equal(resumed, weights)
    columns = [column for column in training.list_history_columns(ACCURACY) if column != "seconds"]
    assert resumed_fit.history[columns].equals(fit.history[columns])
    assert resumed_fit.setup_seconds > 0 and resumed_fit.fit_seconds > 0


def test_short_epochs_share_a_checkpoint(few_data, tmp_path, monkeypatch):
    monkeypatch.setattr(training, "CHECKPOINT_SECONDS", 1000)
    saved = []
    monkeypatch.setattr(Checkpoint, "save", lambda _, model, record: saved.append(len(record["rows"])))  # noqa: ARG005
    train(few_data, OPTIMIZERS["adam"], Checkpoint(tmp_path / "epoch.npz"))
    assert saved == [1, EPOCHS]


def test_dropout_differs_from_call_to_call(few_data):
    model = build_network(few_data.input_shape, len(few_data.classes))
    inputs = next(iter(few_data.train.batches(8)))[0]
    first, second = (model(inputs, training=True).numpy() for _ in range(2))
    assert not np.array_equal(first, second)


DAMAGES = {
    "truncated": lambda content: content[: len(content) // 2],
    "altered": lambda content: content[:2000] + bytes([content[2000] ^ 1]) + content[2001:],
    "empty": lambda content: b"",  # noqa: ARG005
    "no archive": lambda content: b"weights" * 99,  # noqa: ARG005
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_checkpoint_is_reported_and_training_starts_again(uninterrupted, few_data, tmp_path, caplog, damage):
    settings, weights, _, saved = uninterrupted
    path = tmp_path / "epoch.npz"
    path.write_bytes(DAMAGES[damage](saved.read_bytes()))
    with caplog.at_level(logging.INFO, progress.logger.name):
        assert are_equal(train(few_data, settings, Checkpoint(path))[0], weights)
    (line,) = [line for line in caplog.messages if "cannot use this checkpoint" in line]
    assert "training starts from the first epoch" in line


def test_a_checkpoint_of_another_model_is_not_used(uninterrupted, few_data, tmp_path):
    settings, *_, saved = uninterrupted
    path = tmp_path / "epoch.npz"
    path.write_bytes(saved.read_bytes())
    model = keras.Sequential([keras.Input(few_data.input_shape), keras.layers.Flatten(), keras.layers.Dense(10)])
    before = [array.copy() for array in model.get_weights()]
    assert Checkpoint(path).restore(training.compile_model(model, few_data, make_section(settings))) is None
    assert are_equal(model.get_weights(), before)
