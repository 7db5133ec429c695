"""Validation split off train, and subsets of train: stratified by class, drawn by seed, in stored order."""

from pathlib import Path

import numpy as np

from collabopt.datasets.dataset import DatasetError
from collabopt.datasets.split import Split

# Independent random streams of one seed.
_VALIDATION, _SUBSET = 0, 1


def draw_stratified_order(labels: np.ndarray, seed: int | tuple[int, ...]) -> np.ndarray:
    """Draw a random order in which every prefix has the class proportions, to about one example per class.

    For one seed, a smaller prefix is part of every larger one.

    Args:
        labels: Class indices (n,).
        seed: Seed of the draw.

    Returns:
        Indices (n,) into `labels`.
    """
    draw = np.random.default_rng(seed)
    position = np.empty(len(labels))
    for label in np.unique(labels):
        members = draw.permutation(np.flatnonzero(labels == label))
        position[members] = (np.arange(len(members)) + draw.random()) / len(members)
    return np.argsort(position, kind="stable")


def hold_out(train: Split, fraction: float, seed: int) -> tuple[Split, Split]:
    """Split a stratified fraction off the training examples.

    Args:
        train: Training examples.
        fraction: Share of `train` to hold out, in (0, 1).
        seed: Seed of the draw.

    Returns:
        Train without the held-out examples, and these as validation.

    Raises:
        DatasetError: Either would be empty.
    """
    count = round(fraction * len(train))
    if not 0 < count < len(train):
        raise DatasetError(
            f"validation_fraction={fraction}: {count} of {len(train)} training examples; expected a fraction that "
            "leaves at least one in train and in validation"
        )
    return _split_at(train, draw_stratified_order(train.labels, (seed, _VALIDATION))[:count])


def hold_out_listed(train: Split, path: Path) -> tuple[Split, Split]:
    """Split listed examples off the training examples.

    Args:
        train: Training examples.
        path: .npy file with integer indices (m,) into `train`.

    Returns:
        Train without the listed examples, and these as validation.

    Raises:
        DatasetError: The file is missing or damaged, its indices are repeated or out of range, or either part would
            be empty.
    """
    setting = f"validation_indices={path}"
    try:
        indices = np.load(path, allow_pickle=False)
    except FileNotFoundError:
        raise DatasetError(f"{setting}: no such file; expected an .npy file of training indices") from None
    except (OSError, ValueError, EOFError) as error:
        raise DatasetError(f"{setting}: not a readable .npy file ({error}); expected an array of integers") from error
    if not isinstance(indices, np.ndarray) or indices.ndim != 1 or not np.issubdtype(indices.dtype, np.integer):
        raise DatasetError(f"{setting}: expected one array of integers of shape (n,)")
    bad = indices[(indices < 0) | (indices >= len(train))]
    if len(bad):
        raise DatasetError(f"{setting}: {bad[0]} is out of range; expected 0 to {len(train) - 1}")
    if len(np.unique(indices)) != len(indices):
        raise DatasetError(f"{setting}: holds an index twice; remove repeated indices")
    if not 0 < len(indices) < len(train):
        raise DatasetError(
            f"{setting}: holds {len(indices)} of {len(train)} training examples; expected at least one and not all"
        )
    return _split_at(train, indices)


def take_fraction(train: Split, fraction: float, seed: int, classes: int) -> Split:
    """Take a stratified fraction of the training examples.

    Args:
        train: Training examples.
        fraction: Share of `train` to keep, in (0, 1].
        seed: Seed of the draw. A smaller fraction is part of every larger one.
        classes: Number of classes.

    Returns:
        The examples, in stored order.

    Raises:
        DatasetError: Fewer examples than classes would be left.
    """
    if fraction == 1:
        return train
    count = round(fraction * len(train))
    if count < classes:
        raise DatasetError(
            f"train_fraction={fraction}: leaves {count} of {len(train)} training examples for {classes} classes; "
            f"expected at least {classes / len(train):.2g}"
        )
    return train.take(np.sort(draw_stratified_order(train.labels, (seed, _SUBSET))[:count]))


def _split_at(train: Split, indices: np.ndarray) -> tuple[Split, Split]:
    held_out = np.zeros(len(train), bool)
    held_out[indices] = True
    return train.take(np.flatnonzero(~held_out)), train.take(np.flatnonzero(held_out))
