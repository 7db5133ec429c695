"""Training of a Keras model, plain or wrapped by a technique, as a section of an experiment says.

Every stage trains through `fit`: the loss of the task, Adam or SGD, a warm-up, then a constant or cosine learning rate.
Results depend on the seed alone, and a stopped training continues from its last finished epoch.
"""

import dataclasses
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import pandas as pd

from collabopt.config.experiment import Experiment
from collabopt.config.scores import Score
from collabopt.config.sections import Training
from collabopt.config.stages import Stage
from collabopt.datasets import Data, Split
from collabopt.runtime import progress
from collabopt.runtime.tensorflow import drop_log_records, keras, tf
from collabopt.techniques import distillation, objectives
from collabopt.techniques.checkpoints import NO_CHECKPOINT, Checkpoint

CHECKPOINT_SECONDS = 1.0
"""Least time between two checkpoints. Saving each epoch of a small network took a tenth of its training."""


@dataclasses.dataclass(frozen=True)
class Fit:
    """The record of a training.

    Attributes:
        history: One row per epoch, with the columns of `list_history_columns`.
        setup_seconds: Wrapping and tracing, up to the end of the first step.
        fit_seconds: The rest of the training.
        details: Further columns of results.csv.
    """

    history: pd.DataFrame
    setup_seconds: float
    fit_seconds: float
    details: Mapping[str, Any] = dataclasses.field(default_factory=dict)


def list_history_columns(score: Score) -> list[str]:
    """Return the columns of a history; those of the `score` carry its name. Epochs count from 1."""
    return ["epoch", "loss", score.name, "val_loss", f"val_{score.name}", "seconds"]


def train(
    stage: Stage, model: keras.Model, data: Data, experiment: Experiment, checkpoint: Checkpoint
) -> tuple[keras.Model, Fit]:
    """Train a stage that changes only the weights, such as the baseline. Return it with the record of its training.

    A trainer (`registry.find_trainer`) by the settings of `experiment`, from `checkpoint` on. `model` changes in place.
    """
    section, clock = experiment.training(stage.name), progress.Clock()
    return model, fit(model, data, section, experiment.seed, stage.name, clock, checkpoint=checkpoint)


def make_learning_rate(section: Training, steps_per_epoch: int) -> keras.optimizers.schedules.LearningRateSchedule:
    """Return the learning rate by step from 0: a linear warm-up to the peak, then constant or a cosine to zero.

    The cosine is that of Loshchilov and Hutter 2017 (arXiv:1608.03983), without restarts.

    Args:
        section: Gives the peak rate, the schedule, and the epochs of warm-up and in all.
        steps_per_epoch: Training steps per epoch.
    """
    warmup = round(section.warmup_epochs * steps_per_epoch)
    return keras.optimizers.schedules.CosineDecay(
        0.0 if warmup else section.learning_rate,
        decay_steps=max(1, section.epochs * steps_per_epoch - warmup),
        alpha=0.0 if section.schedule == "cosine" else 1.0,
        warmup_target=section.learning_rate if warmup else None,
        warmup_steps=warmup,
    )


def make_optimizer(section: Training, steps_per_epoch: int) -> keras.optimizers.Optimizer:
    """Return the optimizer of a `section` at `steps_per_epoch`, without variables. Weight decay is for kernels only."""
    settings = {
        "learning_rate": make_learning_rate(section, steps_per_epoch),
        "weight_decay": section.weight_decay or None,
    }
    optimizer = (
        keras.optimizers.SGD(momentum=section.momentum, nesterov=section.nesterov, **settings)
        if section.optimizer == "sgd"
        else keras.optimizers.Adam(**settings)
    )
    if section.weight_decay:
        optimizer.exclude_from_weight_decay(
            var_names=[r"(^|/)(bias|gamma|beta|scale|offset|alpha)(:|$)", r"centroids[^/]*$"]
        )
    return optimizer


def _add_augmentation(split: Split, augmentation: Callable[[tf.Tensor, tf.Tensor], tf.Tensor]) -> Split:
    """Append the augmentation of an imported model to that of the data set."""
    first = split.augment or (lambda examples, _: split.prepare(examples))
    return dataclasses.replace(split, augment=lambda examples, seed: augmentation(first(examples, seed), seed))


def compile_model(model: keras.Model, data: Data, section: Training) -> keras.Model:
    """Compile a `model` in place by `section` for the task of `data`, create the optimizer's variables, and return
    it.
    """
    steps = math.ceil(len(data.train) / section.batch_size)
    score = keras.metrics.MeanMetricWrapper(objectives.make_score(data.task), name=data.task.score.name)
    loss = objectives.make_loss(data.task, section.label_smoothing)
    model.compile(make_optimizer(section, steps), loss, metrics=[score])
    with model.distribute_strategy.scope():
        model.optimizer.build(model.trainable_variables)
    return model


def _shorten_memory(model: keras.Model, steps: int, stage: str) -> None:
    """Let the moving statistics of batch norms follow a short training.

    With a momentum of 0.999 they forget 4 % of the old data within 40 steps. The model would then be right in training
    and wrong in inference. A batch norm that would keep more than half of its statistics keeps a hundredth.
    """
    norms = [getattr(layer, "layer", layer) for layer in model.layers]
    norms = [one for one in norms if isinstance(one, keras.layers.BatchNormalization) and one.trainable]
    slow = [one for one in norms if one.momentum**steps > 0.5]
    for norm in slow:
        norm.momentum = 0.01 ** (1 / steps)
    if slow:
        progress.log(f"{stage}: the statistics of {len(slow)} batch norms follow the {steps} steps of training faster")


class _Recorder(keras.callbacks.Callback):
    """Times set-up and epochs, records the history, logs each epoch, and saves checkpoints after epochs.

    `record` is that of an earlier process that trained the same stage, or None.
    """

    def __init__(
        self,
        stage: str,
        score: Score,
        section: Training,
        clock: progress.Clock,
        checkpoint: Checkpoint,
        record: dict | None,
    ) -> None:
        super().__init__()
        self._supports_tf_logs = True  # as in Keras' own callbacks: no step waits for its loss
        self.stage, self.score, self.section = stage, score, section
        self.clock, self.checkpoint = clock, checkpoint
        self.record = record or {"rows": [], "setup_seconds": None, "fit_seconds": 0.0}
        self.fitting_since: float | None = None
        self.saved = -math.inf

    def on_epoch_begin(self, epoch: int, logs: dict | None = None) -> None:  # noqa: ARG002
        self.began = self.clock.seconds()

    def on_train_batch_end(self, batch: int, logs: dict | None = None) -> None:  # noqa: ARG002
        progress.advance_training(self.stage, len(self.record["rows"]), batch, **self.params)
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
            f"{self.stage}: epoch {epoch + 1}/{self.params['epochs']}, loss {logs['loss']:.4f}, {self.score.title} "
            f"{self.score.format(logs[self.score.name])}, "
            f"validation {self.score.format(logs[f'val_{self.score.name}'])}, "
            f"{progress.format_duration(row['seconds'])}",
            about=self.stage,
            curves=self.record["rows"],
        )
        if not math.isfinite(logs["loss"] + logs["val_loss"]):  # the last step may have spoilt the weights
            rate = self.section.learning_rate
            raise FloatingPointError(f"{self.stage}: the loss is not finite; lower learning_rate={rate}")
        if epoch + 1 == self.params["epochs"] or now - self.saved >= CHECKPOINT_SECONDS:
            self.checkpoint.save(self.model, self.record)
            self.saved = self.clock.seconds()


def fit(
    model: keras.Model,
    data: Data,
    section: Training,
    seed: int,
    stage: str,
    clock: progress.Clock,
    callbacks: Sequence[keras.callbacks.Callback] = (),
    checkpoint: Checkpoint = NO_CHECKPOINT,
) -> Fit:
    """Train a model in place, validate it after each epoch, and return the record.

    The order and augmentation of a batch depend on the seed and the epoch alone, so a training that continues from a
    checkpoint ends with the same weights as one that was never stopped.

    Args:
        model: A plain or wrapped model.
        data: Training and validation splits, and the teacher where the section has `distill`.
        section: How to train; with zero epochs the model stays as it is.
        seed: Decides the order of examples and their augmentation.
        stage: Name of the stage in progress lines.
        clock: Started before the model was wrapped, so that wrapping counts as set-up.
        callbacks: Further Keras callbacks, such as those of a technique.
        checkpoint: Where training continues from and saves its state.

    Raises:
        FloatingPointError: The loss of an epoch is not finite.
    """
    columns = list_history_columns(data.task.score)
    if not section.epochs:
        return Fit(pd.DataFrame(columns=columns), clock.seconds(), 0.0)
    progress.advance("building the training step", stage)
    _shorten_memory(model, section.epochs * math.ceil(len(data.train) / section.batch_size), stage)
    compile_model(model, data, section)
    recorder = _Recorder(stage, data.task.score, section, clock, checkpoint, checkpoint.restore(model))
    finished = len(recorder.record["rows"])
    if finished:
        progress.log(f"{stage}: continuing after epoch {finished}/{section.epochs}", about=stage)
    train = data.train if section.augment else dataclasses.replace(data.train, augment=None)
    if data.augmentation:
        train = _add_augmentation(train, data.augmentation)
    if finished < section.epochs:
        retracing = drop_log_records("triggered tf.function retracing")  # each stage is another model, traced once
        with retracing, distillation.teach(model, data, section):
            model.fit(
                train.training_batches(section.batch_size, seed, range(finished, section.epochs)),
                steps_per_epoch=math.ceil(len(train) / section.batch_size),
                initial_epoch=finished,
                epochs=section.epochs,
                validation_data=data.validation.batches(max(section.batch_size, 256)),
                callbacks=[*callbacks, recorder],
                verbose=0,
            )
    return Fit(
        pd.DataFrame(recorder.record["rows"], columns=columns),
        recorder.record["setup_seconds"],
        recorder.record["fit_seconds"],
    )
