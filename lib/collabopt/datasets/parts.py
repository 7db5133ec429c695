"""What reading a data set gives, before validation is carved: its parts."""

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from collabopt.config.loading import ROOT
from collabopt.datasets.split import Split


class DatasetError(ValueError):
    """What is wrong with a data set: the parameter, array or file, its value, and what would be right."""


@dataclass(frozen=True)
class Parts:
    """A data set as it is stored.

    validation is None where it has no split of its own, and is then carved from train.
    fingerprint: hex digest of all the examples and labels.
    input_shape: shape of one model input, as `Split.prepare` returns it, without batch.
    """

    train: Split
    validation: Split | None
    test: Split
    classes: tuple[str, ...]
    fingerprint: str
    input_shape: tuple[int, ...]


def fingerprint_of(splits: Iterable[Split | None], classes: Iterable[str]) -> str:
    """Hex digest over the splits, in order, and the names of the classes."""
    digest = hashlib.blake2b(digest_size=16)
    for split in splits:
        digest.update(b"-" if split is None else split.fingerprint().encode())
    digest.update(repr(tuple(classes)).encode())
    return digest.hexdigest()


def located(path: str, data_directory: Path) -> Path:
    """Where an experiment's `path` is: below `data_directory` if it begins with data/, else below the project, else
    below the current directory. Absolute paths stay."""
    given = Path(path).expanduser()
    if given.parts[:1] == ("data",):
        return data_directory.joinpath(*given.parts[1:])
    here = Path.cwd() / given
    return here if here.exists() and not (ROOT / given).exists() else ROOT / given
