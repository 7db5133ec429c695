"""Data sets: read, checked, and cut into train, validation and test by the experiment's seed.

data = datasets.load(experiment.load("digits"))
"""

from dataclasses import dataclass
from pathlib import Path

from collabopt.config.experiment import Dataset, Experiment
from collabopt.config.loading import DATA
from collabopt.datasets import carve, cifar10, digits, imagenet, mnist, own, speech_commands
from collabopt.datasets.parts import DatasetError, Parts, located
from collabopt.datasets.split import Split

__all__ = ["Data", "DatasetError", "Split", "load", "located"]

_BY_NAME = {
    "digits": digits.read,
    "mnist": mnist.read,
    "cifar10": cifar10.read,
    "speech_commands": speech_commands.read,
}


@dataclass(frozen=True)
class Data:
    """A data set ready for training.

    fingerprint: hex digest of the whole data set, before validation was carved.
    input_shape: shape of one model input, without batch.
    """

    name: str
    classes: tuple[str, ...]
    train: Split
    validation: Split
    test: Split
    fingerprint: str
    input_shape: tuple[int, ...]


def load(experiment: Experiment, data_directory: Path = DATA) -> Data:
    """The experiment's data set.

    Validation is the data set's own, else the listed examples that initial weights never saw, else carved from train by
    seed; then train is cut to `train_fraction`. Test depends on no parameter.
    Raises DatasetError, which names what is wrong and what would be right.
    """
    dataset = experiment.dataset
    parts = _read(dataset, Path(data_directory))
    train, validation = _held_out(parts, experiment, Path(data_directory))
    train = carve.subset(train, experiment.train_fraction, experiment.seed, len(parts.classes))
    name = dataset.name or dataset.function or dataset.path
    return Data(name, parts.classes, train, validation, parts.test, parts.fingerprint, parts.input_shape)


def _read(dataset: Dataset, data_directory: Path) -> Parts:
    if dataset.name == "imagenet":
        if dataset.directory is None:
            raise DatasetError(
                "dataset.directory: missing; imagenet is not downloaded: name the folder that has train/<class>/*.JPEG "
                "and validation/<class>/*.JPEG"
            )
        return imagenet.read(located(dataset.directory, data_directory), dataset.image_size or imagenet.IMAGE_SIZE)
    for key in ("directory", "image_size"):
        if getattr(dataset, key) is not None:
            raise DatasetError(f"dataset.{key}={getattr(dataset, key)}: only imagenet has one; remove the key")
    if dataset.path is not None:
        return own.read(located(dataset.path, data_directory))
    if dataset.function is not None:
        return own.call(dataset.function, data_directory)
    return _BY_NAME[dataset.name](data_directory)


def _held_out(parts: Parts, experiment: Experiment, data_directory: Path) -> tuple[Split, Split]:
    """Train and validation."""
    weights = experiment.initial_weights
    listed = weights.validation_indices if weights else None
    if parts.validation is None:
        if listed is None:
            return carve.hold_out(parts.train, experiment.validation_fraction, experiment.seed)
        return carve.hold_out_listed(parts.train, located(listed, data_directory))
    if listed is not None:
        raise DatasetError(f"validation_indices={listed}: the data set has its own validation split; remove the key")
    return parts.train, parts.validation
