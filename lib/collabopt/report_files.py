"""What pages read of a report directory, where any file may be absent, of an older version, or made by hand."""

import json
from pathlib import Path
from typing import Any
from urllib.parse import quote

import bs4
import pandas as pd

from collabopt import comparison, palette
from collabopt.experiment import Experiment


def run(directory: Path) -> dict[str, Any]:
    """run.json; empty where there is none that can be read."""
    try:
        told = json.loads((directory / "run.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return told if isinstance(told, dict) else {"run": told}


def plan(told: dict[str, Any]) -> dict[str, Any]:
    """The experiment in a run.json; empty where it is not there."""
    found = told.get("experiment")
    return found if isinstance(found, dict) else {}


def own_scheme(told: dict[str, Any]) -> str:
    """The scheme that a run took where it did not say which."""
    return plan(told).get("scheme") or Experiment.model_fields["scheme"].default


def rows(path: Path, needed: str) -> pd.DataFrame:
    """The rows of a CSV file as text, `stage`s in the order of the tree; empty where it lacks the `needed` column."""
    try:
        table = pd.read_csv(path, dtype=str, keep_default_na=False)
    except (OSError, ValueError):
        return pd.DataFrame()
    if not {"stage", needed} <= set(table):
        return pd.DataFrame()
    order = {stage: position for position, stage in enumerate(palette.NAMES)}
    return table.sort_values("stage", key=lambda stages: stages.map(order), kind="stable", ignore_index=True)


def of_seed(table: pd.DataFrame, seed: object) -> pd.DataFrame:
    """The rows of one seed, where a column tells of seeds and the run of its own."""
    if seed is None or "seed" not in table or str(seed) not in set(table["seed"]):
        return table
    return table[table["seed"] == str(seed)].reset_index(drop=True)


def judged(directory: Path) -> pd.DataFrame:
    """The figures of comparison.csv that were published, each with its verdict; empty where there are none."""
    try:
        verdicts = comparison.verdicts(comparison.read(directory))
    except (OSError, ValueError, KeyError, TypeError):
        return pd.DataFrame()
    return verdicts[verdicts["published"].notna()]


def head(page: Path) -> dict[str, str]:
    """What the head of a page tells of it: name, href, title, description, failure."""
    try:
        text = page.read_text(encoding="utf-8").partition("</head>")[0]
    except OSError:
        return {"name": page.stem, "title": page.stem.replace("_", " ")}
    parsed = bs4.BeautifulSoup(text, "html.parser")
    told = {tag["name"]: tag.get("content", "") for tag in parsed.find_all("meta", attrs={"name": True})}
    title = parsed.title.get_text(strip=True) if parsed.title else ""
    return {**told, "name": page.stem, "href": quote(page.name), "title": title or page.stem}
