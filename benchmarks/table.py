"""The table of all figures, reports/benchmarks.csv. A measurement replaces the row of the same figure and subject."""

import pandas as pd

from collabopt.config import loading
from collabopt.storage import atomic, results

COLUMNS = ["figure", "subject", "value", "goal", "met", "commit"]


def record(rows: list[dict]) -> None:
    """Replace the rows of the same figure and subject, and print the table.

    Args:
        rows: figure, subject and value; with a goal ("≤ 2") also goal and met.
    """
    path = loading.REPORTS / "benchmarks.csv"
    new = pd.DataFrame(rows).assign(commit=results.read_commit()[:7])
    old = pd.read_csv(path) if path.is_file() else new.iloc[:0]
    measured = set(zip(new["figure"], new["subject"], strict=True))
    others = [pair not in measured for pair in zip(old["figure"], old["subject"], strict=True)]
    table = pd.concat([old[others].astype(object), new.astype(object)]).reindex(columns=COLUMNS)
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
