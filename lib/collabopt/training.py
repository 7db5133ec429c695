"""Training a (wrapped) Keras model as an experiment's section says."""

import dataclasses
import math
from collections.abc import Sequence

import pandas as pd

from collabopt import progress
from collabopt.backend import keras, log_dropped, tf
from collabopt.datasets import Data
from collabopt.experiment import Training


@dataclasses.dataclass(frozen=True)
class Fit:
    """What training left besides the weights.

    history: a row an epoch: epoch (from 1), loss, accuracy, val_loss, val_accuracy, seconds.
    setup_seconds: wrapping and tracing, up to the end of the first step. fit_seconds: the rest.
    """

    history: pd.DataFrame
    setup_seconds: float
    fit_seconds: float


COLUMNS = ["epoch", "loss", "accuracy", "val_loss", "val_accuracy", "seconds"]


def learning_rate(how: Training, steps_per_epoch: int) -> keras.optimizers.schedules.LearningRateSchedule:
    """A linear warm-up to the peak, then constant or a cosine to zero (Loshchilov and Hutter 2017)."""
    warmup = round(how.warmup_epochs * steps_per_epoch)
    return keras.optimizers.schedules.CosineDecay(
        0.0 if warmup else how.learning_rate,
        decay_steps=max(1, how.epochs * steps_per_epoch - warmup),
        alpha=0.0 if how.schedule == "cosine" else 1.0,
        warmup_target=how.learning_rate if warmup else None,
        warmup_steps=warmup,
    )


def optimizer(how: Training, steps_per_epoch: int) -> keras.optimizers.Optimizer:
    """Adam, or SGD with momentum; weight decay reaches kernels only, never batch norm, biases or centroids."""
    shared = {"learning_rate": learning_rate(how, steps_per_epoch), "weight_decay": how.weight_decay or None}
    made = (
        keras.optimizers.SGD(momentum=how.momentum, nesterov=how.nesterov, **shared)
        if how.optimizer == "sgd"
        else keras.optimizers.Adam(**shared)
    )
    if how.weight_decay:
        made.exclude_from_weight_decay(var_names=[r"(^|/)(bias|gamma|beta)(:|$)", r"centroids[^/]*$"])
    return made


def loss(classes: int, label_smoothing: float = 0.0):
    """Cross-entropy of logits (batch, classes) against class indices (batch,), with smoothed labels."""

    def smoothed(labels: tf.Tensor, logits: tf.Tensor) -> tf.Tensor:
        truth = tf.one_hot(tf.cast(tf.reshape(labels, [-1]), tf.int32), classes)
        return keras.losses.categorical_crossentropy(truth, logits, from_logits=True, label_smoothing=label_smoothing)

    return smoothed


def compiled(model: keras.Model, data: Data, how: Training) -> keras.Model:
    """`model`, ready to fit."""
    steps = math.ceil(len(data.train) / how.batch_size)
    model.compile(optimizer(how, steps), loss(len(data.classes), how.label_smoothing), metrics=["accuracy"])
    return model


class _Watch(keras.callbacks.Callback):
    """Times set-up and epochs, keeps the history and says each epoch."""

    def __init__(self, stage: str, clock: progress.Clock) -> None:
        super().__init__()
        self.stage, self.clock, self.rows, self.setup_seconds = stage, clock, [], None

    def on_epoch_begin(self, epoch: int, logs: dict | None = None) -> None:  # noqa: ARG002
        self.began = self.clock.seconds()

    def on_train_batch_end(self, batch: int, logs: dict | None = None) -> None:  # noqa: ARG002
        if self.setup_seconds is None:
            self.setup_seconds = self.clock.seconds()

    def on_epoch_end(self, epoch: int, logs: dict | None = None) -> None:
        seconds = self.clock.seconds() - self.began
        self.rows.append({"epoch": epoch + 1, **{key: float(value) for key, value in logs.items()}, "seconds": seconds})
        progress.say(
            f"{self.stage}: epoch {epoch + 1}/{self.params['epochs']}, loss {logs['loss']:.4f}, accuracy "
            f"{logs['accuracy']:.2%}, validation {logs['val_accuracy']:.2%}, {progress.duration(seconds)}",
            about=self.stage,
        )


def fit(
    model: keras.Model,
    data: Data,
    how: Training,
    seed: int,
    stage: str,
    clock: progress.Clock,
    callbacks: Sequence[keras.callbacks.Callback] = (),
) -> Fit:
    """Train `model` in place on the training split, validated on the validation split after each epoch.

    `clock` was started before the model was wrapped, so that wrapping counts as set-up. Batches come in an order that
    depends on `seed` and the epoch alone.
    """
    if not how.epochs:
        return Fit(pd.DataFrame(columns=COLUMNS), clock.seconds(), 0.0)
    watch = _Watch(stage, clock)
    train = data.train if how.augment else dataclasses.replace(data.train, augment=None)
    with log_dropped("triggered tf.function retracing"):  # each stage is another model, traced once
        compiled(model, data, how).fit(
            train.training_batches(how.batch_size, seed, range(how.epochs)),
            steps_per_epoch=math.ceil(len(train) / how.batch_size),
            epochs=how.epochs,
            validation_data=data.validation.batches(max(how.batch_size, 256)),
            callbacks=[*callbacks, watch],
            verbose=0,
        )
    if not all(math.isfinite(row["loss"]) for row in watch.rows):
        raise FloatingPointError(f"{stage}: the training loss is not finite; lower learning_rate={how.learning_rate}")
    return Fit(pd.DataFrame(watch.rows, columns=COLUMNS), watch.setup_seconds, clock.seconds() - watch.setup_seconds)
