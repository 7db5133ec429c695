"""The table of all figures, reports/benchmarks.csv. A measurement replaces the row of the same figure and subject."""

from collections.abc import Iterable

import pandas as pd

from collabopt.config import loading
from collabopt.storage import atomic, results

COLUMNS = ["figure", "subject", "value", "goal", "met", "commit"]


def record(rows: Iterable[dict]) -> None:
    """Replace the rows of the same figure and subject, and print the table at the end.

    Each row is written when `rows` yields it, so that a failed measurement loses none before it.

    Args:
        rows: figure, subject and value; with a goal ("≤ 2") also goal and met.
    """
    path, commit = loading.REPORTS / "benchmarks.csv", results.read_commit()[:7]
    table = pd.DataFrame(columns=COLUMNS)
    for row in rows:
        if path.is_file():  # another benchmark may have recorded a row since
            table = pd.read_csv(path)
        others = (table["figure"] != row["figure"]) | (table["subject"] != row["subject"])
        new = pd.DataFrame([{**row, "commit": commit}]).reindex(columns=COLUMNS)
        table = pd.concat([table[others].astype(object), new.astype(object)])
        atomic.write(path, table.to_csv(index=False))
    print(table.to_string(index=False))


def make_bounded_row(figure: str, subject: str, value: float, goal: float) -> dict:
    """A row with an upper limit for the value."""
    return {"figure": figure, "subject": subject, "value": round(value, 3), "goal": f"≤ {goal}", "met": value <= goal}


def make_least_row(figure: str, subject: str, value: float, goal: float) -> dict:
    """A row with a lower limit for the value."""
    return {"figure": figure, "subject": subject, "value": round(value, 3), "goal": f"≥ {goal}", "met": value >= goal}


def make_row(figure: str, subject: str, value: float) -> dict:
    """A row without a goal, for comparison."""
    return {"figure": figure, "subject": subject, "value": round(value, 3)}
