"""Validation split off train, and subsets of train: drawn by seed, in stored order.

Class indices (n,) are stratified; all other labels are drawn at random. Groups, such as speakers, stay together.
"""

from pathlib import Path

import numpy as np

from collabopt.datasets.dataset import DatasetError
from collabopt.datasets.split import Split
from collabopt.runtime import progress

# Independent random streams of one seed.
VALIDATION, _SUBSET = 0, 1

TEST_FRACTION = 0.2
# Independent of the experiment's seed, so that results of all seeds are on the same test examples.
TEST_SEED = 1797


def draw_stratified_order(labels: np.ndarray, seed: int | tuple[int, ...]) -> np.ndarray:
    """Return a random order (n,) of `labels` by `seed` whose prefixes have the class proportions, to about one each.

    For one seed, a smaller prefix is part of every larger one.
    """
    draw = np.random.default_rng(seed)
    strata, position = _get_strata(labels), np.empty(len(labels))
    for label in np.unique(strata):
        members = draw.permutation(np.flatnonzero(strata == label))
        position[members] = (np.arange(len(members)) + draw.random()) / len(members)
    return np.argsort(position, kind="stable")


def hold_out(
    train: Split, fraction: float, seed: int | tuple[int, ...], groups: np.ndarray | None = None
) -> tuple[Split, Split]:
    """Split a fraction off the training examples, stratified by class, or by group.

    Args:
        train: Training examples.
        fraction: Share of `train` to hold out, in (0, 1).
        seed: Seed of the draw.
        groups: Group of each example (n,). No group is on both sides.

    Returns:
        Train without the held-out examples, and these as validation.

    Raises:
        DatasetError: Either would be empty, or there are fewer than two groups.
    """
    return _split_at(train, draw_held_out(train.labels, fraction, seed, groups, "validation_fraction"))


def draw_held_out(
    labels: np.ndarray, fraction: float, seed: int | tuple[int, ...], groups: np.ndarray | None, setting: str
) -> np.ndarray:
    """Draw the examples of a held-out split.

    Args:
        labels: Labels (n, ...); class indices (n,) are stratified.
        fraction: Share of the examples, in (0, 1).
        seed: Seed of the draw.
        groups: Group of each example (n,), which stay together; None for single examples.
        setting: Name of the parameter that gives the fraction, for errors.

    Returns:
        Indices (m,).

    Raises:
        DatasetError: Either side would be empty, or there are fewer than two groups.
    """
    count = round(fraction * len(labels))
    if not 0 < count < len(labels):
        raise DatasetError(
            f"{setting}={fraction}: {count} of {len(labels)} training examples; expected a fraction that leaves at "
            "least one on each side, or more examples"
        )
    if groups is not None:
        return np.flatnonzero(draw_groups(labels, groups, count, seed))
    return draw_stratified_order(labels, seed)[:count]


def draw_test(labels: np.ndarray, fraction: float | None, groups: np.ndarray | None, source: str) -> np.ndarray:
    """Draw the test split of a data set that has none. It is the same for all seeds of an experiment.

    Args:
        labels: Labels (n, ...).
        fraction: Share of the examples; None takes a fifth.
        groups: Group of each example (n,), or None.
        source: Origin of the data, for the log.

    Returns:
        Whether each example is in the test split (n,) bool.

    Raises:
        DatasetError: Either side would be empty, or there are fewer than two groups.
    """
    fraction = TEST_FRACTION if fraction is None else fraction
    chosen = np.isin(
        np.arange(len(labels)), draw_held_out(labels, fraction, TEST_SEED, groups, "dataset.test_fraction")
    )
    kept_together = "" if groups is None else ", whole groups"
    progress.note(
        f"{source}: no test split; {chosen.sum()} of {len(labels)} examples{kept_together} are drawn for it "
        f"(dataset.test_fraction={fraction})"
    )
    return chosen


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
            f"groups (groups_train or dataset.group): all {len(groups)} training examples are in group {names[0]}; "
            "expected at least two groups, or no groups for a random split"
        )
    classes = np.unique(_get_strata(labels), return_inverse=True)[1]
    counts = np.zeros((len(names), classes.max() + 1), int)  # examples by group and class
    np.add.at(counts, (group, classes), 1)
    order = np.random.default_rng(seed).permutation(len(names))
    drawn = _choose_groups(counts[order], count)
    if not drawn:
        raise DatasetError(
            f"groups (groups_train or dataset.group): each of the {len(names)} groups has a class that no other group "
            "has, so none can be held out; expected groups that share classes, or no groups for a random split"
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
    """Split the indices (m,) in the .npy file `path` off the examples `train`. Return both, these as validation.

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
