"""The table of all figures, reports/benchmarks.csv: a row is replaced when it is measured again, with its commit."""

import pandas as pd

from collabopt.config import loading
from collabopt.storage import atomic, results

COLUMNS = ["figure", "subject", "value", "goal", "met", "commit"]


def record(rows: list[dict]) -> None:
    """Put rows (figure, subject, value, goal: "≤ 2", met) in place of those of the same name, and print the table."""
    path = loading.REPORTS / "benchmarks.csv"
    new = pd.DataFrame(rows).assign(commit=results.read_commit()[:7])
    old = pd.read_csv(path) if path.is_file() else new.iloc[:0]
    measured = set(zip(new["figure"], new["subject"], strict=True))
    others = [pair not in measured for pair in zip(old["figure"], old["subject"], strict=True)]
    table = pd.concat([old[others].astype(object), new.astype(object)]).reindex(columns=COLUMNS)
    atomic.write(path, table.to_csv(index=False))
    print(table.to_string(index=False))


def at_most(figure: str, subject: str, value: float, goal: float) -> dict:
    """A row whose value is to be no more than `goal`."""
    return {"figure": figure, "subject": subject, "value": round(value, 3), "goal": f"≤ {goal}", "met": value <= goal}


def seen(figure: str, subject: str, value: float) -> dict:
    """A row without a goal, to compare with."""
    return {"figure": figure, "subject": subject, "value": round(value, 3)}
