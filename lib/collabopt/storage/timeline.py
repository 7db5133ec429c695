"""timeline.csv of a report: when each notebook ran and each stage was trained or taken from the store."""

import hashlib
from pathlib import Path
from typing import Any

import pandas as pd

from collabopt.config import loading
from collabopt.runtime import progress
from collabopt.storage import atomic, store

_KEY = ["notebook", "stage", "scheme", "seed"]
COLUMNS = [*_KEY, "began", "ended", "origin"]


def lock(directory: Path) -> Any:
    """Return a context in which only one process writes the tables of the report in `directory`."""
    name = hashlib.sha256(str(directory).encode()).hexdigest()[:16]
    return store.lock(loading.DATA / "locks" / f"{name}.lock")


def record(directory: Path, began: str, origin: str, notebook: str, **row: Any) -> None:
    """Write what ran until now. A row of the same notebook, stage, scheme and seed is replaced.

    Args:
        directory: The report directory.
        began: When it began, ISO 8601.
        origin: "notebook", "trained" or "store".
        notebook: Name of the notebook; empty for a run by hand.
        **row: `stage, scheme, seed`, where the row is about a stage.
    """
    new = {"notebook": notebook, **row, "began": began, "ended": progress.now("milliseconds"), "origin": origin}
    with lock(directory):
        rows = read(directory)
        own = [str(new.get(name, "")) for name in _KEY]
        rows = pd.concat([rows[(rows[_KEY] != own).any(axis=1)], pd.DataFrame([new]).reindex(columns=COLUMNS)])
        atomic.write(directory / "timeline.csv", rows.to_csv(index=False))


def read(directory: Path) -> pd.DataFrame:
    """Return timeline.csv in `directory` as text; no rows if it cannot be read."""
    try:
        return pd.read_csv(directory / "timeline.csv", dtype=str, keep_default_na=False).reindex(columns=COLUMNS)
    except (OSError, ValueError):
        return pd.DataFrame(columns=COLUMNS)
