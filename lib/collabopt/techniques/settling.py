"""The end of a training with moving assignments: they freeze, and the learning rate falls to zero.

Centroids then settle on weights that no longer move. The training step decides alone, so a training that continues from
a checkpoint ends as one that was never stopped does.
"""

from collabopt.config.sections import Training
from collabopt.runtime.tensorflow import keras, tf
from collabopt.techniques import training

SETTLING = 0.2
"""Share of the training steps, the last ones, in which assignments are frozen."""


def set_reassigning(model: keras.Model, reassigns: bool) -> None:
    """Set whether training steps of a wrapped `model` assign weights to centroids again, which `reassigns` says."""
    for variable in model.non_trainable_variables:
        if variable.name.endswith("_reassigns:0"):
            variable.assign(reassigns)


class _Settling(keras.optimizers.schedules.LearningRateSchedule):
    """A schedule that falls linearly to zero in the last steps."""

    def __init__(self, schedule: keras.optimizers.schedules.LearningRateSchedule, steps: int) -> None:
        self.schedule, self.steps = schedule, steps

    def __call__(self, step: tf.Tensor) -> tf.Tensor:
        left = 1 - tf.cast(step, tf.float32) / self.steps
        return self.schedule(step) * tf.clip_by_value(left / SETTLING, 0.0, 1.0)


class Settling(keras.callbacks.Callback):
    """Lets training steps assign weights again (`kernel_state`), except for the last ones."""

    def __init__(self, section: Training) -> None:
        super().__init__()
        self._supports_tf_logs = True  # otherwise Keras would read the loss after each step
        self.section, self.reassigns = section, None

    def on_train_begin(self, logs: dict | None = None) -> None:  # noqa: ARG002
        """Let the learning rate fall to zero at the end."""
        steps = self.params["steps"]
        schedule = training.make_learning_rate(self.section, steps)
        self.model.optimizer.learning_rate = _Settling(schedule, steps * self.params["epochs"])

    def on_epoch_begin(self, epoch: int, logs: dict | None = None) -> None:  # noqa: ARG002
        """Note where the epoch begins."""
        self.first_step = epoch * self.params["steps"]

    def on_train_batch_begin(self, batch: int, logs: dict | None = None) -> None:  # noqa: ARG002
        """Freeze the assignments in the last steps."""
        reassigns = self.first_step + batch < (1 - SETTLING) * self.params["steps"] * self.params["epochs"]
        if reassigns != self.reassigns:
            self.reassigns = reassigns
            set_reassigning(self.model, reassigns)
