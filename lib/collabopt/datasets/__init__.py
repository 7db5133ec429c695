"""Data sets, checked and split into train, validation and test by the experiment's seed.

data = datasets.load(experiment.load("digits"))
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path

import numpy as np

from collabopt.config.experiment import Experiment
from collabopt.config.loading import DATA, locate
from collabopt.config.sections import Dataset
from collabopt.config.tasks import TASKS, Task
from collabopt.datasets import cifar10, custom, digits, fashion_mnist, imagenet, mnist, speech_commands, splitting
from collabopt.datasets.dataset import DatasetError, Parts, Shape, Shapes
from collabopt.datasets.presentation import PLAIN, Presentation
from collabopt.datasets.split import Split
from collabopt.runtime.tensorflow import keras, tf

__all__ = ["Data", "DatasetError", "Split", "load", "locate"]

_BY_NAME = {
    "digits": digits.read,
    "mnist": mnist.read,
    "fashion_mnist": fashion_mnist.read,
    "cifar10": cifar10.read,
    "speech_commands": speech_commands.read,
}


@dataclasses.dataclass(frozen=True)
class Data:
    """A data set ready for training.

    Attributes:
        name: Name of the data set, or its function or file.
        classes: Names of the classes, by label; empty for tasks without classes.
        train: Training examples.
        validation: Validation examples.
        test: Test examples. They depend on no parameter of the experiment.
        fingerprint: Hex digest of the whole data set, before validation is split off.
        input_shape: Shape of one model input, without batch; a dict by input name for several inputs.
        outputs: Shape of one model output, without batch; None if the task leaves it open.
        task: What outputs mean and how they are scored.
        augmentation: Maps model inputs and a seed (2,) int32 to model inputs, in training; that of an imported model.
        teacher: The model whose outputs stages with `distill` imitate.
        presentation: How readers see the examples.
    """

    name: str
    classes: tuple[str, ...]
    train: Split
    validation: Split
    test: Split
    fingerprint: str
    input_shape: Shape | dict[str, Shape]
    outputs: Shape | None = None
    task: Task = TASKS["classification"]
    augmentation: Callable[[tf.Tensor, tf.Tensor], tf.Tensor] | None = None
    teacher: keras.Model | None = None
    presentation: Presentation = PLAIN

    def with_channel_axis(self, *inputs: str) -> Data:
        """Return the data with a last axis of size 1, for all or some `inputs` and the output of a reconstruction."""

        def extend(split: Split) -> Split:
            if not isinstance(split.examples, dict):
                return dataclasses.replace(split, examples=split.examples[..., np.newaxis])
            changed = {name: split.examples[name][..., np.newaxis] for name in inputs}
            return dataclasses.replace(split, examples=split.examples | changed)

        splits = {name: extend(getattr(self, name)) for name in ("train", "validation", "test")}
        shapes = Shapes(self.input_shape, self.outputs, self.task).with_channel_axis(*inputs)
        return dataclasses.replace(self, **splits, input_shape=shapes.input_shape, outputs=shapes.outputs)


def load(experiment: Experiment, data_directory: Path = DATA) -> Data:
    """Load the data set of an experiment from `data_directory`, and return it.

    The validation split is the data set's own if it has one. Otherwise it is split off train: the examples that
    `initial_weights.validation_indices` lists, else a random fraction, which is stratified by class and keeps groups
    together. Train is then reduced to `train_fraction`.

    Raises:
        DatasetError: The data set is missing or wrong, or does not fit the experiment.
    """
    dataset, task = experiment.dataset, experiment.get_task()
    parts = _read(dataset, task, Path(data_directory))
    try:
        train, validation = _hold_out_validation(parts, experiment, Path(data_directory))
        train = splitting.take_fraction(train, experiment.train_fraction, experiment.seed, len(parts.classes))
    except DatasetError as error:
        error.shapes = parts.get_shapes(task)
        raise
    splits = [train, validation, parts.test]
    if task.name == "reconstruction":
        splits = [dataclasses.replace(split, reconstructs=True) for split in splits]
    name = dataset.name or dataset.function or Path(dataset.path).name
    about = parts.fingerprint, parts.input_shape, parts.outputs, task
    return Data(name, parts.classes, *splits, *about, presentation=parts.presentation)


def _read(dataset: Dataset, task: Task, data_directory: Path) -> Parts:
    if dataset.path is not None:
        return custom.read(locate(dataset.path, data_directory), dataset, task)
    custom.check_keys(dataset, dataset.name or "functions")
    if dataset.function is not None:
        return custom.call(dataset.function, data_directory, task)
    parts = _read_built_in(dataset, data_directory)
    if task == TASKS["classification"]:
        return dataclasses.replace(parts, outputs=(len(parts.classes),))
    if task.name != "reconstruction":
        raise DatasetError(
            f"task={task.name}: dataset.name={dataset.name} has classes; expected task classification or reconstruction"
        )
    normal = {
        name: split and dataclasses.replace(split, labels=np.zeros_like(split.labels))
        for name, split in (("train", parts.train), ("validation", parts.validation), ("test", parts.test))
    }
    return dataclasses.replace(parts, **normal, classes=(), outputs=parts.input_shape)


def _read_built_in(dataset: Dataset, data_directory: Path) -> Parts:
    if dataset.name == "imagenet":
        if dataset.directory is None:
            raise DatasetError(
                "dataset.directory: missing; imagenet is not downloaded. Set it to the folder that has "
                "train/<class>/*.JPEG and validation/<class>/*.JPEG"
            )
        if isinstance(dataset.image_size, tuple):
            raise DatasetError(
                f"dataset.image_size={list(dataset.image_size)}: imagenet needs one number; give the side"
            )
        return imagenet.read(locate(dataset.directory, data_directory), dataset.image_size or imagenet.IMAGE_SIZE)
    return _BY_NAME[dataset.name](data_directory)


def _hold_out_validation(parts: Parts, experiment: Experiment, data_directory: Path) -> tuple[Split, Split]:
    """Return train and validation."""
    weights = experiment.initial_weights
    listed = weights.validation_indices if weights else None
    if parts.validation is None:
        if listed is None:
            seed = (experiment.seed, splitting.VALIDATION)
            return splitting.hold_out(parts.train, experiment.validation_fraction, seed, parts.groups)
        return splitting.hold_out_listed(parts.train, locate(listed, data_directory))
    if listed is not None:
        raise DatasetError(f"validation_indices={listed}: the data set has its own validation split; remove the key")
    return parts.train, parts.validation
