"""What changed from the baseline to the chosen file: accuracy per class, and the examples whose verdict flipped."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from collabopt.config.metrics import get_metric
from collabopt.deploy import targets
from collabopt.report.table import Cell, Table

if TYPE_CHECKING:
    from collabopt.deploy.search import Search

_TASKS = "classification", "binary"
_MOST = 20
"""Flipped examples in the table; more are counted only."""


def classes(found: Search) -> Table:
    """Tabulate accuracy per class on validation, of the float32 baseline and of the chosen file.

    Args:
        found: A finished search.

    Returns:
        The table, one row per class; without rows if the task has no class per example.
    """
    data = found.run.data
    if data.task.name not in _TASKS:
        return Table("The task has no class per example, so there is no accuracy per class.", [])
    before, after, labels = *_get_scores(found), data.validation.labels.reshape(-1)
    metric, name = get_metric("accuracy"), targets.format_variant(found.table.loc[found.nearest])
    rows = []
    for label in np.unique(labels):
        own, title = labels == label, data.classes[int(label)] if len(data.classes) > int(label) else str(label)
        rows.append(
            {
                "Class": str(title),
                "Examples": Cell(f"{own.sum():,}", int(own.sum()), kind="number"),
                "Baseline float32 (%)": Cell.from_number(before[own].mean(), metric),
                f"{name} (%)": Cell.from_number(after[own].mean(), metric),
                "Newly wrong": _make_count((before > after)[own].sum()),
                "Newly right": _make_count((after > before)[own].sum()),
            }
        )
    return Table("What changed, by class of validation", rows)


def flips(found: Search) -> Table:
    """Tabulate the validation examples that only one of the float32 baseline and the chosen file gets right.

    Args:
        found: A finished search.

    Returns:
        The table, one row per example: its place in the split, its file if it is one, and its class.
    """
    data = found.run.data
    before, after = _get_scores(found)
    if data.task.name not in _TASKS:
        return Table("The task has no class per example, so no verdict on one can flip.", [])
    flipped, labels = np.flatnonzero(before != after), data.validation.labels.reshape(-1)
    rows = []
    for place in flipped[:_MOST]:
        label = int(labels[place])
        row = {"Example": str(place), "File": _find_name(data.validation.examples, place)}
        row["Class"] = str(data.classes[label] if len(data.classes) > label else label)
        row["Verdict"] = "newly wrong" if before[place] > after[place] else "newly right"
        rows.append(row)
    more = f" The first {_MOST} of {len(flipped)} are shown." if len(flipped) > _MOST else ""
    caption = f"Examples of validation whose verdict flipped.{more}" if rows else "No verdict on an example flipped."
    return Table(caption, rows).drop_empty_columns()


def _get_scores(found: Search) -> tuple[np.ndarray, np.ndarray]:
    """Whether the float32 baseline and the chosen file get each validation example right (n,)."""
    baseline = targets.find_baseline(found.table)
    return found.tried[str(baseline)].scores, found.tried[found.nearest].scores


def _find_name(examples: object, place: int) -> str:
    """The name of the file that an example is, or nothing."""
    first = next(iter(examples.values())) if isinstance(examples, dict) else examples
    if getattr(first, "dtype", None) is None or first.ndim != 1 or first.dtype.kind not in "OUS":
        return ""
    name = first[place]
    return (name.decode() if isinstance(name, bytes) else str(name)).replace("\\", "/").rpartition("/")[2]


def _make_count(count: int) -> Cell:
    return Cell(str(count) if count else "", int(count), kind="number")
