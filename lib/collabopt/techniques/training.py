"""Training a (wrapped) Keras model as an experiment's section says."""

import dataclasses
import math
from collections.abc import Sequence

import pandas as pd

from collabopt.config.experiment import Experiment, Training
from collabopt.config.stages import Stage
from collabopt.datasets import Data
from collabopt.runtime import progress
from collabopt.runtime.tensorflow import drop_log_records, keras, tf
from collabopt.techniques.checkpoints import NO_CHECKPOINT, Checkpoint


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


def train(
    stage: Stage, model: keras.Model, data: Data, experiment: Experiment, checkpoint: Checkpoint
) -> tuple[keras.Model, Fit]:
    """Train a stage that changes nothing but the weights, such as the baseline."""
    section, clock = experiment.training(stage.name), progress.Clock()
    return model, fit(model, data, section, experiment.seed, stage.name, clock, checkpoint=checkpoint)


def make_learning_rate(how: Training, steps_per_epoch: int) -> keras.optimizers.schedules.LearningRateSchedule:
    """A linear warm-up to the peak, then constant or a cosine to zero (Loshchilov and Hutter 2017)."""
    warmup = round(how.warmup_epochs * steps_per_epoch)
    return keras.optimizers.schedules.CosineDecay(
        0.0 if warmup else how.learning_rate,
        decay_steps=max(1, how.epochs * steps_per_epoch - warmup),
        alpha=0.0 if how.schedule == "cosine" else 1.0,
        warmup_target=how.learning_rate if warmup else None,
        warmup_steps=warmup,
    )


def make_optimizer(how: Training, steps_per_epoch: int) -> keras.optimizers.Optimizer:
    """Adam, or SGD with momentum; weight decay reaches kernels only, never batch norm, biases or centroids."""
    shared = {"learning_rate": make_learning_rate(how, steps_per_epoch), "weight_decay": how.weight_decay or None}
    made = (
        keras.optimizers.SGD(momentum=how.momentum, nesterov=how.nesterov, **shared)
        if how.optimizer == "sgd"
        else keras.optimizers.Adam(**shared)
    )
    if how.weight_decay:
        made.exclude_from_weight_decay(var_names=[r"(^|/)(bias|gamma|beta)(:|$)", r"centroids[^/]*$"])
    return made


def make_loss(classes: int, label_smoothing: float = 0.0):
    """Cross-entropy of logits (batch, classes) against class indices (batch,), with smoothed labels."""

    def smoothed(labels: tf.Tensor, logits: tf.Tensor) -> tf.Tensor:
        truth = tf.one_hot(tf.cast(tf.reshape(labels, [-1]), tf.int32), classes)
        return keras.losses.categorical_crossentropy(truth, logits, from_logits=True, label_smoothing=label_smoothing)

    return smoothed


def compile_model(model: keras.Model, data: Data, how: Training) -> keras.Model:
    """`model`, ready to fit, with the optimizer's variables made."""
    steps = math.ceil(len(data.train) / how.batch_size)
    model.compile(make_optimizer(how, steps), make_loss(len(data.classes), how.label_smoothing), metrics=["accuracy"])
    with model.distribute_strategy.scope():
        model.optimizer.build(model.trainable_variables)
    return model


class _Watch(keras.callbacks.Callback):
    """Times set-up and epochs, keeps the history, says each epoch and saves a checkpoint after it.

    seen: what an earlier process saw of the same training, or None.
    """

    def __init__(
        self, stage: str, how: Training, clock: progress.Clock, checkpoint: Checkpoint, seen: dict | None
    ) -> None:
        super().__init__()
        self.stage, self.section, self.clock, self.checkpoint = stage, how, clock, checkpoint
        self.record = seen or {"rows": [], "setup_seconds": None, "fit_seconds": 0.0}
        self.fitting_since: float | None = None

    def on_epoch_begin(self, epoch: int, logs: dict | None = None) -> None:  # noqa: ARG002
        self.began = self.clock.seconds()

    def on_train_batch_end(self, batch: int, logs: dict | None = None) -> None:  # noqa: ARG002
        if self.fitting_since is None:
            self.fitting_since = self.clock.seconds()
            self.record["setup_seconds"] = self.record["setup_seconds"] or self.fitting_since

    def on_epoch_end(self, epoch: int, logs: dict | None = None) -> None:
        now = self.clock.seconds()
        row = {"epoch": epoch + 1, **{key: float(value) for key, value in logs.items()}, "seconds": now - self.began}
        self.record["rows"].append(row)
        self.record["fit_seconds"] += now - self.fitting_since
        self.fitting_since = now
        progress.log(
            f"{self.stage}: epoch {epoch + 1}/{self.params['epochs']}, loss {logs['loss']:.4f}, accuracy "
            f"{logs['accuracy']:.2%}, validation {logs['val_accuracy']:.2%}, "
            f"{progress.format_duration(row['seconds'])}",
            about=self.stage,
        )
        if not math.isfinite(logs["loss"]):
            rate = self.section.learning_rate
            raise FloatingPointError(f"{self.stage}: the training loss is not finite; lower learning_rate={rate}")
        self.checkpoint.save(self.model, self.record)


def fit(
    model: keras.Model,
    data: Data,
    how: Training,
    seed: int,
    stage: str,
    clock: progress.Clock,
    callbacks: Sequence[keras.callbacks.Callback] = (),
    checkpoint: Checkpoint = NO_CHECKPOINT,
) -> Fit:
    """Train `model` in place on the training split, validated on the validation split after each epoch.

    `clock` was started before the model was wrapped, so that wrapping counts as set-up. Batches come in an order that
    depends on `seed` and the epoch alone, so that training goes on from `checkpoint` as though it had never stopped.
    Raises FloatingPointError after an epoch whose loss is not finite.
    """
    if not how.epochs:
        return Fit(pd.DataFrame(columns=COLUMNS), clock.seconds(), 0.0)
    compile_model(model, data, how)
    watch = _Watch(stage, how, clock, checkpoint, checkpoint.restore(model))
    finished = len(watch.record["rows"])
    if finished:
        progress.log(f"{stage}: going on after epoch {finished}/{how.epochs}, where it was stopped", about=stage)
    train = data.train if how.augment else dataclasses.replace(data.train, augment=None)
    if finished < how.epochs:
        with drop_log_records("triggered tf.function retracing"):  # each stage is another model, traced once
            model.fit(
                train.training_batches(how.batch_size, seed, range(finished, how.epochs)),
                steps_per_epoch=math.ceil(len(train) / how.batch_size),
                initial_epoch=finished,
                epochs=how.epochs,
                validation_data=data.validation.batches(max(how.batch_size, 256)),
                callbacks=[*callbacks, watch],
                verbose=0,
            )
    return Fit(
        pd.DataFrame(watch.record["rows"], columns=COLUMNS), watch.record["setup_seconds"], watch.record["fit_seconds"]
    )
