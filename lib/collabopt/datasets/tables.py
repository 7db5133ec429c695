"""Tables: one row per example, numbers in columns of features, and one or more columns of targets.

Features reach the model unscaled. Begin it with `keras.layers.Normalization`, adapted to the training features: it
stays in the deployed file.
"""

import dataclasses
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from collabopt.config.loading import suggest
from collabopt.config.sections import Dataset
from collabopt.config.tasks import Task
from collabopt.datasets import arrays, labels, splitting
from collabopt.datasets.dataset import DatasetError, Mistakes, Parts
from collabopt.datasets.presentation import Presentation
from collabopt.runtime import progress

ENDINGS = (".csv", ".tsv", ".parquet")
_SEPARATORS = ",;\t"


def read(path: Path, dataset: Dataset, task: Task) -> Parts:
    """Read a table, or a folder with the tables train, test and perhaps validation.

    Args:
        path: A .csv, .tsv or .parquet file, or the folder of such files.
        dataset: Gives `target`, `features` (by default all other columns, or columns by input name), `group` and
            `test_fraction`.

    Returns:
        The data set. Examples are (n, features) float32.

    Raises:
        DatasetError: One line per column that is missing or wrong.
    """
    frames = {split: _read_frame(file) for split, file in _find_files(path).items()}
    targets = _as_tuple(dataset.target)
    if not targets and task.name != "reconstruction":
        columns = list(frames["train"].columns)
        raise DatasetError(
            f"dataset.target: missing. Name the column of {path} that the model predicts, such as target: "
            f"{columns[-1]} in the section dataset, or make shrink TARGET={columns[-1]}. It has {', '.join(columns)}"
        )
    by_input = _find_features(frames["train"], dataset, targets)
    used = [*(name for columns in by_input.values() for name in columns), *targets]
    twice = sorted(name for name in set(used) if name in targets and used.count(name) > 1)
    mistakes = Mistakes(f"dataset.features: {name} is also the target; remove it from one of them" for name in twice)
    for split, frame in frames.items():
        with mistakes.collect():
            _check_columns(frame, used, [dataset.group] if dataset.group and split == "train" else [], split, path)
    mistakes.raise_any()
    given: dict[str, Any] = {}
    for split, frame in frames.items():
        with mistakes.collect():
            source = f"{path}: {split}" if len(frames) > 1 else str(path)
            x = {name: _read_features(frame, columns, source) for name, columns in by_input.items()}
            given[f"x_{split}"] = x.get("", x)
        if targets:
            given[f"y_{split}"] = _read_targets(frame, targets)
    mistakes.raise_any()
    if dataset.group:
        given["groups_train"] = frames["train"][dataset.group].to_numpy()
    if task.name == "classification" and len(targets) == 1:
        _name_classes(given, list(frames))
    if "x_test" not in given:
        given = _split_off_test(given, dataset.test_fraction, str(path), task)
    elif dataset.test_fraction is not None:
        raise DatasetError(f"dataset.test_fraction={dataset.test_fraction}: {path} has a test table; remove the key")
    presentation = Presentation(columns=next(iter(by_input.values())))
    return dataclasses.replace(arrays.make_parts(given, str(path), task), presentation=presentation)


def has_tables(folder: Path) -> bool:
    """Return whether a `folder` holds a table of training examples."""
    return any((folder / f"train{ending}").is_file() for ending in ENDINGS)


def _find_files(path: Path) -> dict[str, Path]:
    if not path.is_dir():
        return {"train": path}
    names = ("train", "validation", "test")
    files = {
        name: [path / f"{name}{ending}" for ending in ENDINGS if (path / f"{name}{ending}").is_file()] for name in names
    }
    return {name: found[0] for name, found in files.items() if found}


def _read_frame(path: Path) -> pd.DataFrame:
    try:
        frame = pd.read_parquet(path) if path.suffix.lower() == ".parquet" else _read_csv(path)
    except ImportError as error:
        raise DatasetError(
            f"{path}: reading Parquet needs the package pyarrow; install it (pip install pyarrow), or save the table "
            "as .csv"
        ) from error
    except (OSError, ValueError, pd.errors.ParserWarning) as error:
        reason = " ".join(str(error).split())
        raise DatasetError(
            f"{path}: no readable table ({reason}); expected a header and one row per example"
        ) from error
    if frame.empty:
        raise DatasetError(f"{path}: no rows; expected a header and one row per example")
    frame.columns = [str(name).strip() for name in frame.columns]
    unnamed = [name for name in frame.columns if not name or name.startswith("Unnamed: ")]
    if unnamed:  # such as the index that pandas.DataFrame.to_csv writes, which tells the order of the rows
        progress.note(f"{path}: {len(unnamed)} columns without a name are ignored")
    return frame.drop(columns=unnamed)


def _read_csv(path: Path) -> pd.DataFrame:
    with path.open(encoding="utf-8-sig") as file:
        header = file.readline()
    with warnings.catch_warnings():
        warnings.simplefilter("error", pd.errors.ParserWarning)  # rows that are longer than the header
        separator = max(_SEPARATORS, key=header.count)
        form = {"encoding": "utf-8-sig", "skipinitialspace": True, "index_col": False}
        return pd.read_csv(path, sep=separator, keep_default_na=False, na_values=[""], **form)  # "None" may be a class


def _as_tuple(names: str | tuple[str, ...] | None) -> tuple[str, ...]:
    return (names,) if isinstance(names, str) else tuple(names or ())


def _find_features(frame: pd.DataFrame, dataset: Dataset, targets: tuple[str, ...]) -> dict[str, tuple[str, ...]]:
    """Return the columns of each input; the only one is named by the empty text."""
    if isinstance(dataset.features, dict):
        return dataset.features
    others = tuple(name for name in frame.columns if name not in (*targets, dataset.group))
    return {"": _as_tuple(dataset.features) or others}


def _check_columns(frame: pd.DataFrame, used: list[str], groups: list[str], split: str, path: Path) -> None:
    known, mistakes = list(frame.columns), Mistakes()
    mistakes.extend(
        f"{path}: {split} has no column {name}{suggest(name, known)}" for name in (*used, *groups) if name not in known
    )
    for name in dict.fromkeys((*used, *groups)):
        if name in known and (count := int(frame[name].isna().sum())):
            first = int(np.flatnonzero(frame[name].isna())[0])
            mistakes.append(
                f"{path}: column {name} is empty in {count} of {len(frame)} rows, first in row {first + 1} after the "
                "header; fill the cells or delete the rows"
            )
    mistakes.raise_any()


def _read_features(frame: pd.DataFrame, columns: tuple[str, ...], source: str) -> np.ndarray:
    mistakes = Mistakes()
    for name in columns:
        with mistakes.collect():
            _check_feature(frame[name], f"{source}: column {name}")
    mistakes.raise_any()
    return frame[list(columns)].to_numpy(np.float64).astype(np.float32)


def _check_feature(column: pd.Series, name: str) -> None:
    if not (pd.api.types.is_numeric_dtype(column) or pd.api.types.is_bool_dtype(column)):
        texts = column[pd.to_numeric(column, errors="coerce").isna()]
        value = (texts if len(texts) else column).iloc[0]
        raise DatasetError(
            f"{name} holds {value!r}; expected numbers. Turn categories into columns of 0 and 1 "
            "(pandas.get_dummies), or leave the column out of dataset.features"
        )
    labels.check_finite(column.to_numpy(np.float64), name)


def _read_targets(frame: pd.DataFrame, targets: tuple[str, ...]) -> np.ndarray:
    if len(targets) == 1:
        return frame[targets[0]].to_numpy()
    return frame[list(targets)].to_numpy()


def _name_classes(given: dict[str, Any], splits: list[str]) -> None:
    """Take whole numbers that are not 0 to n - 1 for names of classes, such as grades from 3 to 8."""
    train = given["y_train"]
    if train.dtype.kind not in "iu":
        return
    values = np.unique(train)
    if np.array_equal(values, np.arange(len(values))):
        return
    given["classes"] = values.astype(str)
    for split in splits:
        given[f"y_{split}"] = given[f"y_{split}"].astype(str)


def _split_off_test(given: dict[str, Any], fraction: float | None, source: str, task: Task) -> dict[str, Any]:
    """Move a fraction of the training examples to the test split, stratified for tasks with classes."""
    x, y, groups = given["x_train"], given.get("y_train"), given.get("groups_train")
    count = len(next(iter(x.values())) if isinstance(x, dict) else x)
    is_stratified = task.has_classes and y is not None and y.ndim == 1
    strata = np.unique(y, return_inverse=True)[1] if is_stratified else np.zeros(count, np.int64)
    is_test = splitting.draw_test(strata, fraction, groups, source)

    def take(chosen: np.ndarray) -> tuple[Any, Any]:
        some = {name: one[chosen] for name, one in x.items()} if isinstance(x, dict) else x[chosen]
        return some, None if y is None else y[chosen]

    for split, chosen in (("train", ~is_test), ("test", is_test)):
        given[f"x_{split}"], given[f"y_{split}"] = take(chosen)
    if groups is not None:
        given["groups_train"] = groups[~is_test]
    return {key: values for key, values in given.items() if values is not None}
