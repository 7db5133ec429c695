"""Validation carved from train, and a subset of train: by class and seed, and stored order kept."""

from pathlib import Path

import numpy as np

from collabopt.datasets.parts import DatasetError
from collabopt.datasets.split import Split

# So that the two draws of one seed do not follow each other.
_VALIDATION, _SUBSET = 0, 1


def stratified_order(labels: np.ndarray, seed: int | tuple[int, ...]) -> np.ndarray:
    """Indices (n,) in a random order, any beginning of which holds the classes in their proportions (to about one
    example each). Of one seed, a smaller subset is therefore part of every larger one."""
    draw = np.random.default_rng(seed)
    position = np.empty(len(labels))
    for label in np.unique(labels):
        members = draw.permutation(np.flatnonzero(labels == label))
        position[members] = (np.arange(len(members)) + draw.random()) / len(members)
    return np.argsort(position, kind="stable")


def hold_out(train: Split, fraction: float, seed: int) -> tuple[Split, Split]:
    """Train without, and with only, the given fraction of its examples: train and validation.

    Raises DatasetError when either would be empty.
    """
    count = round(fraction * len(train))
    if not 0 < count < len(train):
        raise DatasetError(
            f"validation_fraction={fraction}: {count} of {len(train)} training examples; expected a fraction that "
            "leaves some on both sides"
        )
    return _divided(train, stratified_order(train.labels, (seed, _VALIDATION))[:count])


def hold_out_listed(train: Split, path: Path) -> tuple[Split, Split]:
    """Train without, and with only, the examples whose indices are in the .npy file at `path`: train and validation.

    Raises DatasetError when the file is missing or damaged, or holds no distinct indices into `train`.
    """
    named = f"validation_indices={path}"
    try:
        indices = np.load(path, allow_pickle=False)
    except FileNotFoundError:
        raise DatasetError(f"{named}: no such file; expected an .npy file of indices into the training split") from None
    except (OSError, ValueError, EOFError) as error:
        raise DatasetError(f"{named}: not a readable .npy file ({error}); expected an array of integers") from error
    if not isinstance(indices, np.ndarray) or indices.ndim != 1 or not np.issubdtype(indices.dtype, np.integer):
        raise DatasetError(f"{named}: expected one array of integers, of shape (n,)")
    bad = indices[(indices < 0) | (indices >= len(train))]
    if len(bad):
        raise DatasetError(f"{named}: {bad[0]} is out of range; expected 0 to {len(train) - 1}, the training examples")
    if len(np.unique(indices)) != len(indices):
        raise DatasetError(f"{named}: holds an index twice; expected each once")
    if not 0 < len(indices) < len(train):
        raise DatasetError(f"{named}: holds {len(indices)} of {len(train)} training examples; expected some of them")
    return _divided(train, indices)


def subset(train: Split, fraction: float, seed: int, classes: int) -> Split:
    """The given fraction of `train`.

    Raises DatasetError when that leaves fewer examples than there are classes.
    """
    if fraction == 1:
        return train
    count = round(fraction * len(train))
    if count < classes:
        raise DatasetError(
            f"train_fraction={fraction}: leaves {count} of {len(train)} training examples for {classes} classes; "
            f"expected at least {classes / len(train):.2g}"
        )
    return train.take(np.sort(stratified_order(train.labels, (seed, _SUBSET))[:count]))


def _divided(train: Split, indices: np.ndarray) -> tuple[Split, Split]:
    held_out = np.zeros(len(train), bool)
    held_out[indices] = True
    return train.take(np.flatnonzero(~held_out)), train.take(np.flatnonzero(held_out))
