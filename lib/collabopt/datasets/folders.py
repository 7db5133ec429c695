"""Data sets of files: one folder per class, with or without a folder per split.

    mine/train/cat/1.png, mine/validation/cat/2.png, mine/test/dog/3.png, …    or    mine/cat/1.png, mine/dog/2.png, …

Without test/, the test split is drawn from the other files; without validation/, so is validation. `NAMES` has other
names of these folders.
"""

import dataclasses
import re
from collections.abc import Callable
from pathlib import Path

import numpy as np

from collabopt.config.tasks import Task
from collabopt.datasets import splitting
from collabopt.datasets.dataset import DatasetError, Mistakes
from collabopt.runtime import progress

LAYOUT = "<class>/<file>, or train/<class>/<file> and test/<class>/<file>"

NAMES = {
    "train": ("train", "training", "training_set", "train_set"),
    "validation": ("validation", "val", "valid", "validation_set", "val_set"),
    "test": ("test", "testing", "test_set"),
}
"""Names of the folders of splits, in lower case."""

_NAMED = 5
"""Files that a note names."""


@dataclasses.dataclass(frozen=True)
class Listing:
    """The files of a data set.

    Attributes:
        files: Files by split: train, test and perhaps validation.
        labels: Class indices (n,) int64 by split; for a reconstruction 1 where train has no such class.
        classes: Names of the classes; empty for a reconstruction.
        groups: Group of each training file (n,), or None.
    """

    files: dict[str, list[Path]]
    labels: dict[str, np.ndarray]
    classes: tuple[str, ...]
    groups: np.ndarray | None


def list_files(
    directory: Path,
    endings: tuple[str, ...],
    task: Task,
    group: str | None = None,
    test_fraction: float | None = None,
    find_faults: Callable[[list[Path]], dict[Path, str]] = lambda _: {},
) -> Listing:
    """List the files of a data set.

    Args:
        directory: The folder.
        endings: Endings of the files, in lower case.
        task: Classification, binary, or reconstruction, which regards the classes of train as normal.
        group: Regular expression; what it matches in a path below the class is the group of the file.
        test_fraction: Share of the test split if there is no folder test; None takes a fifth.
        find_faults: As in `list_classes`.

    Returns:
        The files and their labels, sorted by class and path.

    Raises:
        DatasetError: One line per folder that is missing, empty or unexpected, or `group` does not match.
    """
    if task.name not in ("classification", "binary", "reconstruction"):
        raise DatasetError(
            f"task={task.name}: {directory} has one folder per class; expected task classification, binary or "
            "reconstruction, or a dataset.function for other labels"
        )
    folders = _find_splits(directory)
    by_class = {split: list_classes(folder, endings, find_faults) for split, folder in folders.items()}
    classes, mistakes = tuple(by_class["train"]), Mistakes()
    for split, found in by_class.items():
        if not found and split != "train":
            remedy = f"{folders[split].name}/<class>/<file>; without this folder the split is drawn from train"
            mistakes.append(f"{folders[split]}: no class folders; expected {remedy}")
            continue
        unknown = sorted(set(found) - set(classes))
        if unknown and task.name != "reconstruction":
            mistakes.append(f"{folders[split] / unknown[0]}: train has no class {unknown[0]}; expected {LAYOUT}")
        if task.name != "reconstruction" and (absent := sorted(set(classes) - set(found))):
            remedy = f"add some; without the folder {folders[split].name} the split is drawn from train"
            mistakes.append(f"{folders[split]}: no files of class {absent[0]}; {remedy}")
    minimum = {"classification": 2, "binary": 2, "reconstruction": 1}[task.name]
    if len(classes) < minimum or (task.name == "binary" and len(classes) > 2):
        number = "two" if task.name == "binary" else f"at least {minimum}"
        mistakes.append(
            f"{folders['train']}: {len(classes)} class folders ({', '.join(classes) or 'none'}); expected {number} for "
            f"task={task.name}, as {LAYOUT}"
        )
    mistakes.raise_any()
    files = {split: [file for name in found for file in found[name]] for split, found in by_class.items()}
    labels = {split: _make_labels(found, classes, task) for split, found in by_class.items()}
    groups = _find_groups(files["train"], folders["train"], group) if group else None
    if "test" not in files:
        files, labels, groups = _split_off_test(files, labels, groups, test_fraction, directory)
    elif test_fraction is not None:
        raise DatasetError(f"dataset.test_fraction={test_fraction}: {directory} has a folder test; remove the key")
    return Listing(files, labels, () if task.name == "reconstruction" else classes, groups)


def _find_splits(directory: Path) -> dict[str, Path]:
    """The folders of the splits, by any of their `NAMES`; the directory itself is train if it has no such folder."""
    folders = {path.name.lower(): path for path in sorted(directory.iterdir()) if path.is_dir()}
    found = {split: [folders[name] for name in names if name in folders] for split, names in NAMES.items()}
    if not found["train"]:
        for path in (path for paths in found.values() for path in paths):
            if any(one.is_dir() for one in path.iterdir()):  # else it may be a class
                raise DatasetError(f"{directory}: a folder {path.name} but none named train; expected {LAYOUT}")
        return {"train": directory}
    return {split: chosen[0] for split, chosen in found.items() if chosen}


def list_classes(
    folder: Path, endings: tuple[str, ...], find_faults: Callable[[list[Path]], dict[Path, str]] = lambda _: {}
) -> dict[str, list[Path]]:
    """List the files of each class. Empty and faulty files are left out, and a note names and counts them.

    Args:
        folder: Folder of the class folders.
        endings: Endings of the files, in lower case.
        find_faults: Returns why files cannot be read, for those that cannot.

    Returns:
        Files by class, in order.

    Raises:
        DatasetError: One line per class without files.
    """
    mistakes, found, ignored, faults = Mistakes(), {}, [], {}
    for path in sorted(path for path in folder.iterdir() if path.is_dir() and not path.name.startswith(".")):
        files = sorted(one for one in path.rglob("*") if one.is_file() and not one.name.startswith("."))
        known = [one for one in files if one.suffix.lower() in endings]
        whole = [one for one in known if one.stat().st_size]
        wrong = dict.fromkeys(known, "empty file") | dict.fromkeys(whole, "") | find_faults(whole)
        wrong = {one: fault for one, fault in wrong.items() if fault}
        found[path.name] = [one for one in known if one not in wrong]
        faults |= wrong
        ignored += [one for one in files if one.suffix.lower() not in endings]
        if not found[path.name]:
            reasons = _list_faults(wrong, path)
            which = (
                f"none of its files can be read: {reasons}" if wrong else f"no files that end in {', '.join(endings)}"
            )
            mistakes.append(f"{path}: {which}; add some, or delete the folder")
    mistakes.raise_any()
    if ignored:
        progress.note(
            f"{folder}: {len(ignored)} files do not end in {', '.join(endings)} and are ignored: {ignored[0]}"
        )
    if faults:
        count = sum(map(len, found.values())) + len(faults)
        progress.note(
            f"{folder}: {len(faults)} of {count} files cannot be read and are left out: {_list_faults(faults, folder)}"
        )
    return found


def _list_faults(faults: dict[Path, str], folder: Path) -> str:
    names = ", ".join(f"{one.relative_to(folder)} ({fault})" for one, fault in [*faults.items()][:_NAMED])
    return f"{names} and {len(faults) - _NAMED} more" if len(faults) > _NAMED else names


def _make_labels(found: dict[str, list[Path]], classes: tuple[str, ...], task: Task) -> np.ndarray:
    index = {name: 0 if task.name == "reconstruction" else number for number, name in enumerate(classes)}
    return np.array([index.get(name, 1) for name, files in found.items() for _ in files], np.int64)


def _find_groups(files: list[Path], folder: Path, pattern: str) -> np.ndarray:
    try:
        compiled = re.compile(pattern)
    except re.error as error:
        raise DatasetError(f"dataset.group={pattern}: not a regular expression ({error})") from error
    groups = []
    for file in files:
        below = "/".join(file.relative_to(folder).parts[1:])
        match = compiled.search(below)
        if not match or not match.group():
            raise DatasetError(
                f"dataset.group={pattern}: matches nothing in {below}; expected a regular expression for the part that "
                "names the group, such as ^[^_]+ for the text before the first _"
            )
        groups.append(match.group())
    return np.array(groups)


def _split_off_test(
    files: dict[str, list[Path]],
    labels: dict[str, np.ndarray],
    groups: np.ndarray | None,
    fraction: float | None,
    directory: Path,
) -> tuple[dict[str, list[Path]], dict[str, np.ndarray], np.ndarray | None]:
    is_test = splitting.draw_test(labels["train"], fraction, groups, str(directory))
    chosen = {"train": ~is_test, "test": is_test}
    files = files | {split: [files["train"][number] for number in np.flatnonzero(one)] for split, one in chosen.items()}
    labels = labels | {split: labels["train"][one] for split, one in chosen.items()}
    return files, labels, None if groups is None else groups[~is_test]
