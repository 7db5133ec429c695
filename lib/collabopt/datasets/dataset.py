"""A data set as it is stored, before validation is split off."""

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from collabopt.config.loading import ROOT
from collabopt.datasets.split import Split


class DatasetError(ValueError):
    """A data set cannot be used. The message names the parameter, array or file, its value, and what would be right."""


@dataclass(frozen=True)
class Parts:
    """The parts of a stored data set.

    Attributes:
        train: Training examples.
        validation: Validation examples, or None to split them off `train`.
        test: Test examples.
        classes: Names of the classes, by label.
        fingerprint: Hex digest of all examples and labels.
        input_shape: Shape of one model input, as `Split.prepare` returns it, without batch.
    """

    train: Split
    validation: Split | None
    test: Split
    classes: tuple[str, ...]
    fingerprint: str
    input_shape: tuple[int, ...]


def compute_fingerprint(splits: Iterable[Split | None], classes: Iterable[str]) -> str:
    """Compute the hex digest of a data set.

    Args:
        splits: Splits of the data set. The order matters.
        classes: Names of the classes.

    Returns:
        32 hex digits.
    """
    digest = hashlib.blake2b(digest_size=16)
    for split in splits:
        digest.update(b"-" if split is None else split.fingerprint().encode())
    digest.update(repr(tuple(classes)).encode())
    return digest.hexdigest()


def locate(path: str, data_directory: Path) -> Path:
    """Find the file or folder that an experiment names.

    Args:
        path: Absolute path, or a path below `data_directory` if it begins with data/, else below the project, else
            below the current directory.
        data_directory: Folder of the data sets.

    Returns:
        The path, which need not exist.
    """
    given = Path(path).expanduser()
    if given.parts[:1] == ("data",):
        return data_directory.joinpath(*given.parts[1:])
    here = Path.cwd() / given
    return here if here.exists() and not (ROOT / given).exists() else ROOT / given
