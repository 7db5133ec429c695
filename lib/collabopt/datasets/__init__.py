"""Data sets, checked and split into train, validation and test by the experiment's seed.

data = datasets.load(experiment.load("digits"))
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from collabopt.config.experiment import Dataset, Experiment
from collabopt.config.loading import DATA
from collabopt.datasets import cifar10, custom, digits, imagenet, mnist, speech_commands, splitting
from collabopt.datasets.dataset import DatasetError, Parts, locate
from collabopt.datasets.split import Split
from collabopt.runtime.tensorflow import tf

__all__ = ["Data", "DatasetError", "Split", "load", "locate"]

_BY_NAME = {
    "digits": digits.read,
    "mnist": mnist.read,
    "cifar10": cifar10.read,
    "speech_commands": speech_commands.read,
}


@dataclass(frozen=True)
class Data:
    """A data set ready for training.

    Attributes:
        name: Name of the data set, or its function or file.
        classes: Names of the classes, by label.
        train: Training examples.
        validation: Validation examples.
        test: Test examples. They depend on no parameter of the experiment.
        fingerprint: Hex digest of the whole data set, before validation is split off.
        input_shape: Shape of one model input, without batch.
        augmentation: Maps model inputs and a seed (2,) int32 to model inputs, in training; that of an imported model.
    """

    name: str
    classes: tuple[str, ...]
    train: Split
    validation: Split
    test: Split
    fingerprint: str
    input_shape: tuple[int, ...]
    augmentation: Callable[[tf.Tensor, tf.Tensor], tf.Tensor] | None = None


def load(experiment: Experiment, data_directory: Path = DATA) -> Data:
    """Load the data set of an experiment.

    The validation split is the data set's own if it has one. Otherwise it is split off train: the examples that
    `initial_weights.validation_indices` lists, else a stratified random fraction. Train is then reduced to
    `train_fraction`.

    Args:
        experiment: The experiment.
        data_directory: Folder of the data sets.

    Returns:
        The splits and what describes them.

    Raises:
        DatasetError: The data set is missing or wrong, or does not fit the experiment.
    """
    dataset = experiment.dataset
    parts = _read(dataset, Path(data_directory))
    train, validation = _hold_out_validation(parts, experiment, Path(data_directory))
    train = splitting.take_fraction(train, experiment.train_fraction, experiment.seed, len(parts.classes))
    name = dataset.name or dataset.function or dataset.path
    return Data(name, parts.classes, train, validation, parts.test, parts.fingerprint, parts.input_shape)


def _read(dataset: Dataset, data_directory: Path) -> Parts:
    if dataset.name == "imagenet":
        if dataset.directory is None:
            raise DatasetError(
                "dataset.directory: missing; imagenet is not downloaded. Set it to the folder that has "
                "train/<class>/*.JPEG and validation/<class>/*.JPEG"
            )
        return imagenet.read(locate(dataset.directory, data_directory), dataset.image_size or imagenet.IMAGE_SIZE)
    for key in ("directory", "image_size"):
        if getattr(dataset, key) is not None:
            raise DatasetError(f"dataset.{key}={getattr(dataset, key)}: only imagenet takes it; remove the key")
    if dataset.path is not None:
        return custom.read(locate(dataset.path, data_directory))
    if dataset.function is not None:
        return custom.call(dataset.function, data_directory)
    return _BY_NAME[dataset.name](data_directory)


def _hold_out_validation(parts: Parts, experiment: Experiment, data_directory: Path) -> tuple[Split, Split]:
    """Return train and validation."""
    weights = experiment.initial_weights
    listed = weights.validation_indices if weights else None
    if parts.validation is None:
        if listed is None:
            return splitting.hold_out(parts.train, experiment.validation_fraction, experiment.seed)
        return splitting.hold_out_listed(parts.train, locate(listed, data_directory))
    if listed is not None:
        raise DatasetError(f"validation_indices={listed}: the data set has its own validation split; remove the key")
    return parts.train, parts.validation
