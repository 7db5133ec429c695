"""Validation split off train, and subsets of train: drawn by seed, in stored order.

Class indices (n,) are stratified; all other labels are drawn at random. Groups, such as speakers, stay together.
"""

from pathlib import Path

import numpy as np

from collabopt.datasets.dataset import DatasetError
from collabopt.datasets.split import Split

# Independent random streams of one seed.
VALIDATION, _SUBSET = 0, 1


def draw_stratified_order(labels: np.ndarray, seed: int | tuple[int, ...]) -> np.ndarray:
    """Draw a random order in which every prefix has the class proportions, to about one example per class.

    For one seed, a smaller prefix is part of every larger one.

    Args:
        labels: Class indices (n,). The order is plainly random for labels of any other form.
        seed: Seed of the draw.

    Returns:
        Indices (n,) into `labels`.
    """
    draw = np.random.default_rng(seed)
    strata, position = _get_strata(labels), np.empty(len(labels))
    for label in np.unique(strata):
        members = draw.permutation(np.flatnonzero(strata == label))
        position[members] = (np.arange(len(members)) + draw.random()) / len(members)
    return np.argsort(position, kind="stable")


def hold_out(
    train: Split,
    fraction: float,
    seed: int | tuple[int, ...],
    groups: np.ndarray | None = None,
    setting: str = "validation_fraction",
) -> tuple[Split, Split]:
    """Split a fraction off the training examples, stratified by class, or by group.

    Args:
        train: Training examples.
        fraction: Share of `train` to hold out, in (0, 1).
        seed: Seed of the draw.
        groups: Group of each example (n,). No group is on both sides.
        setting: Name of the parameter that gives the fraction, for errors.

    Returns:
        Train without the held-out examples, and these as validation.

    Raises:
        DatasetError: Either would be empty, or there are fewer than two groups.
    """
    count = round(fraction * len(train))
    if not 0 < count < len(train):
        raise DatasetError(
            f"{setting}={fraction}: {count} of {len(train)} training examples; expected a fraction that leaves at "
            "least one on each side"
        )
    if groups is not None:
        return _split_at(train, np.flatnonzero(draw_groups(train.labels, groups, count, seed)))
    return _split_at(train, draw_stratified_order(train.labels, seed)[:count])


def draw_groups(labels: np.ndarray, groups: np.ndarray, count: int, seed: int | tuple[int, ...]) -> np.ndarray:
    """Draw whole groups with about `count` examples, such that every class stays among the other groups.

    Args:
        labels: Labels (n, ...); class indices (n,) count as classes.
        groups: Group of each example (n,).
        count: Wanted number of examples.
        seed: Seed of the draw.

    Returns:
        Whether each example is in a drawn group (n,) bool.

    Raises:
        DatasetError: There are fewer than two groups, or each has a class that no other has.
    """
    names, group = np.unique(groups, return_inverse=True)
    if len(names) < 2:
        raise DatasetError(
            f"groups: all {len(groups)} training examples are in group {names[0]}; expected at least two groups, or no "
            "groups for a random split"
        )
    classes = np.unique(_get_strata(labels), return_inverse=True)[1]
    counts = np.zeros((len(names), classes.max() + 1), int)  # examples by group and class
    np.add.at(counts, (group, classes), 1)
    order = np.random.default_rng(seed).permutation(len(names))
    drawn = _choose_groups(counts[order], count)
    if not drawn:
        raise DatasetError(
            f"groups: each of the {len(names)} groups has a class that no other group has, so none can be held out; "
            "expected groups that share classes, or no groups for a random split"
        )
    return np.isin(group, order[drawn])


def _choose_groups(counts: np.ndarray, count: int) -> list[int]:
    """Choose rows of counts (groups, classes) with about `count` in all, and more than nothing left of every class."""
    left, drawn, sizes = counts.sum(axis=0), [], counts.sum(axis=1)
    for number, size in enumerate(sizes):
        missing = count - sizes[drawn].sum()
        if abs(missing - size) < abs(missing) and (left > counts[number]).all():
            drawn.append(number)
            left = left - counts[number]
    if drawn:
        return drawn
    return [number for number in np.argsort(sizes, kind="stable") if (left > counts[number]).all()][:1]


def _get_strata(labels: np.ndarray) -> np.ndarray:
    """Class indices (n,), or one stratum for all other labels, such as integers that differ nearly everywhere."""
    if labels.ndim == 1 and labels.dtype.kind in "iub" and 2 * len(np.unique(labels)) <= len(labels):
        return labels
    return np.zeros(len(labels), np.int64)


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
    """Take a fraction of the training examples, stratified by class.

    Args:
        train: Training examples.
        fraction: Share of `train` to keep, in (0, 1].
        seed: Seed of the draw. A smaller fraction is part of every larger one.
        classes: Number of classes; 0 for tasks without classes.

    Returns:
        The examples, in stored order.

    Raises:
        DatasetError: Fewer examples than classes would be left.
    """
    if fraction == 1:
        return train
    count = round(fraction * len(train))
    if count < max(classes, 1):
        raise DatasetError(
            f"train_fraction={fraction}: leaves {count} of {len(train)} training examples for {classes} classes; "
            f"expected at least {max(classes, 1) / len(train):.2g}"
        )
    return train.take(np.sort(draw_stratified_order(train.labels, (seed, _SUBSET))[:count]))


def _split_at(train: Split, indices: np.ndarray) -> tuple[Split, Split]:
    held_out = np.zeros(len(train), bool)
    held_out[indices] = True
    return train.take(np.flatnonzero(~held_out)), train.take(np.flatnonzero(held_out))
