"""Knowledge distillation: the float32 baseline teaches a stage with its outputs, beside the labels.

The soft outputs of a teacher tell which classes are alike (Hinton et al. 2015, arXiv:1503.02531). They help networks of
few bits most (Mishra and Marr 2018, arXiv:1711.05852). The teacher runs inside the training step, on the same augmented
examples as the student. It is not part of the student: it is neither trained nor saved.
"""

import contextlib
from collections.abc import Iterator

from collabopt.config.sections import Training
from collabopt.config.tasks import Task
from collabopt.datasets import Data
from collabopt.runtime.tensorflow import keras, tf
from collabopt.techniques.objectives import Objective


def make_imitation_loss(task: Task, temperature: float) -> Objective:
    """Make the loss that compares the outputs of a student with those of its teacher.

    Args:
        temperature: T, by which logits are divided. A higher one shows more of the improbable classes.

    Returns:
        A function (teacher's outputs, student's outputs) -> losses of the outputs' shape, for classes without the last
        axis: T² times the Kullback-Leibler divergence of classes or of independent labels, or the squared error where
        outputs are no logits.
    """

    def compare_classes(taught: tf.Tensor, outputs: tf.Tensor) -> tf.Tensor:
        wanted, found = (tf.nn.log_softmax(logits / temperature) for logits in (taught, outputs))
        return temperature**2 * tf.reduce_sum(tf.exp(wanted) * (wanted - found), axis=-1)

    def compare_labels(taught: tf.Tensor, outputs: tf.Tensor) -> tf.Tensor:
        divergence = 0.0
        for sign in (1, -1):  # the label is 1, or 0
            wanted, found = (tf.math.log_sigmoid(sign * logits / temperature) for logits in (taught, outputs))
            divergence += tf.exp(wanted) * (wanted - found)
        return temperature**2 * divergence

    if not task.takes_logits:
        return tf.math.squared_difference
    return compare_classes if task.name in ("classification", "segmentation") else compare_labels


@contextlib.contextmanager
def teach(model: keras.Model, data: Data, section: Training) -> Iterator[None]:
    """Let the training steps of a model add the teacher's outputs to the loss, within the context.

    The loss is (1 − weight) × the task's, penalties of layers included, + weight × that of `make_imitation_loss`. The
    reported loss is the task's.

    Args:
        model: A compiled model.
        data: Gives the task and the teacher.
        section: How to train. Without `distill`, or with a weight of 0, the model trains as without a teacher.

    Raises:
        ValueError: There is no teacher.
    """
    if not (section.distill and section.distill.weight):
        yield
        return
    if data.teacher is None:
        raise ValueError("distill: expected data with a teacher; a run takes its baseline")
    weight, imitation_loss = section.distill.weight, make_imitation_loss(data.task, section.distill.temperature)

    def train_step(batch: tuple) -> dict[str, tf.Tensor]:
        inputs, labels, example_weights = keras.utils.unpack_x_y_sample_weight(batch)
        taught = data.teacher(inputs, training=False)
        devices = tf.distribute.get_strategy().num_replicas_in_sync  # each has its part of the batch
        with tf.GradientTape() as tape:
            outputs = model(inputs, training=True)
            task_loss = model.compute_loss(inputs, labels, outputs, example_weights)
            loss = (1 - weight) * task_loss + weight * tf.reduce_mean(imitation_loss(taught, outputs)) / devices
        model.optimizer.minimize(loss, model.trainable_variables, tape=tape)
        return model.compute_metrics(inputs, labels, outputs, example_weights)

    model.train_step = train_step
    try:
        yield
    finally:
        del model.train_step
