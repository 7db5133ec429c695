"""What pages read of a report directory, where any file may be absent, of an older version, or made by hand."""

import dataclasses
import json
from functools import cached_property
from pathlib import Path
from typing import Any
from urllib.parse import quote

import bs4
import pandas as pd

from collabopt.analysis import comparison
from collabopt.config.experiment import Experiment
from collabopt.config.stages import STAGES
from collabopt.figures import style
from collabopt.report import report_tables, sweep_page
from collabopt.storage import results


def read_run(directory: Path) -> dict[str, Any]:
    """run.json; empty where there is none that can be read."""
    try:
        told = json.loads((directory / "run.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return told if isinstance(told, dict) else {"run": told}


def get_experiment(told: dict[str, Any]) -> dict[str, Any]:
    """The experiment in a run.json; empty where it is not there."""
    found = told.get("experiment")
    return found if isinstance(found, dict) else {}


def get_scheme(told: dict[str, Any]) -> str:
    """The scheme that a run took where it did not say which."""
    return get_experiment(told).get("scheme") or Experiment.model_fields["scheme"].default


def read_rows(path: Path, needed: str) -> pd.DataFrame:
    """The rows of a CSV file as text, `stage`s in the order of the tree; empty where it lacks the `needed` column."""
    try:
        table = pd.read_csv(path, dtype=str, keep_default_na=False)
    except (OSError, ValueError):
        return pd.DataFrame()
    if not {"stage", needed} <= set(table):
        return pd.DataFrame()
    order = {stage: position for position, stage in enumerate(STAGES)}
    return table.sort_values("stage", key=lambda stages: stages.map(order), kind="stable", ignore_index=True)


def select_seed(table: pd.DataFrame, seed: object) -> pd.DataFrame:
    """The rows of one seed, where a column tells of seeds and the run of its own."""
    if seed is None or "seed" not in table or str(seed) not in set(table["seed"]):
        return table
    return table[table["seed"] == str(seed)].reset_index(drop=True)


def read_comparison(directory: Path) -> pd.DataFrame:
    """The figures of comparison.csv that were published, each with its verdict; empty where there are none."""
    try:
        verdicts = comparison.judge(comparison.read(directory))
    except (OSError, ValueError, KeyError, TypeError):
        return pd.DataFrame()
    return verdicts[verdicts["published"].notna()]


def read_head(page: Path) -> dict[str, str]:
    """What the head of a page tells of it: name, href, title, description, failure."""
    try:
        text = page.read_text(encoding="utf-8").partition("</head>")[0]
    except OSError:
        return {"name": page.stem, "title": page.stem.replace("_", " ")}
    parsed = bs4.BeautifulSoup(text, "html.parser")
    told = {tag["name"]: tag.get("content", "") for tag in parsed.find_all("meta", attrs={"name": True})}
    title = parsed.title.get_text(strip=True) if parsed.title else ""
    return {**told, "name": page.stem, "href": quote(page.name), "title": title or page.stem}


TABLES = "results.csv", "run.json", "sweep.csv"
"""A directory with one of these is a report."""


TOLERANCE = 0.01
"""Validation accuracy that the best file of a report may lose against the baseline."""


@dataclasses.dataclass(frozen=True)
class Report:
    """A report or a sweep. place: its directory below `root`, that of all reports."""

    root: Path
    place: Path

    @property
    def directory(self) -> Path:
        return self.root / self.place

    @property
    def setting(self) -> str:
        """What it overrides of its experiment."""
        return "/".join(self.place.parts[1:])

    @property
    def is_sweep(self) -> bool:
        return _is_sweep(self.directory)

    @cached_property
    def run(self) -> dict[str, Any]:
        """run.json; of a sweep that of its last cell."""
        if not self.is_sweep:
            return read_run(self.directory)
        cells = [read_run(file.parent) for file in sorted(self.directory.glob("*/run.json"))]
        return max(cells, key=lambda run: str(run.get("end", "")), default={})

    @cached_property
    def table(self) -> pd.DataFrame:
        """A row a stage and setting, means over seeds, with what it lost and saved against its baseline."""
        try:
            rows = results.read(self.directory / "results.csv")
        except (OSError, ValueError, TypeError):
            return pd.DataFrame()
        rows = rows.reindex(columns=rows.columns.union(results.RESULTS)).dropna(subset=["stage"])
        if not len(rows):
            return pd.DataFrame()
        return _against_baseline(sweep_page.average_over_seeds(style.to_numbers(rows, sweep_page.OVER_SEEDS)))

    @property
    def seeds(self) -> list[str]:
        try:
            found = pd.read_csv(self.directory / "results.csv", usecols=["seed"])["seed"]
        except (OSError, ValueError):
            return []
        return [str(seed).removesuffix(".0") for seed in sorted(set(found.dropna()))]

    @property
    def subject(self) -> str:
        """Model and data: "digits_cnn on digits"."""
        plan = get_experiment(self.run)
        return " on ".join(filter(None, (_called(plan.get(key)) for key in ("model", "dataset"))))

    def href(self, name: str) -> str:
        """A file of the report as a path below `root`; nothing where there is none."""
        return report_tables.find_file(self.root, (self.place / name).as_posix())

    @property
    def page(self) -> str:
        """Its index, or else its deployment tree."""
        return self.href("index.html") or self.href("deployment_tree.html")


def find_reports(directory: Path) -> list[Report]:
    """The reports and sweeps below a directory. The cells of a sweep are part of it."""
    return [Report(directory, place.relative_to(directory)) for place in _places(directory)]


def _places(directory: Path) -> list[Path]:
    found = []
    for below in sorted(one for one in directory.glob("[!.]*") if one.is_dir()):
        if _is_sweep(below) or any((below / name).is_file() for name in TABLES):
            found.append(below)
        if not _is_sweep(below):
            found += _places(below)
    return found


def _is_sweep(directory: Path) -> bool:
    return (directory / "sweep.csv").is_file() or directory.name.startswith("sweep,")


def _against_baseline(table: pd.DataFrame) -> pd.DataFrame:
    """With `lost`, `validation_lost` (of INT8 accuracy) and `saved` (of the gzipped bytes), fractions: against the
    first baseline of the same share of the training data. NaN where there is none."""
    baselines = table[table["stage"] == "baseline"].drop_duplicates("train_fraction")
    columns = ["accuracy_int8", "validation_accuracy_int8", "gzip_bytes"]
    base = table[["train_fraction"]].merge(baselines[["train_fraction", *columns]], how="left", on="train_fraction")
    return table.assign(
        lost=base["accuracy_int8"] - table["accuracy_int8"],
        validation_lost=base["validation_accuracy_int8"] - table["validation_accuracy_int8"],
        saved=1 - table["gzip_bytes"] / base["gzip_bytes"],
    )


def find_trade_off(report: Report) -> list[dict]:
    """The row of the baseline, and that of the smallest file by the report's own scheme that loses at most `TOLERANCE`
    against it on validation, where that is another one."""
    table = report.table
    baselines = table[table["stage"] == "baseline"] if len(table) else table
    if not len(baselines):
        return []
    own = table["scheme"].isna() | (table["scheme"] == get_scheme(report.run))
    near = table[own & (table["validation_lost"] <= TOLERANCE) & (table["saved"] > 0)]
    best = near.nlargest(1, "saved").to_dict("records")
    return [baselines.iloc[0].to_dict(), *best]


def _called(section: object) -> str:
    """The name of a model or data set, be it ours or one's own."""
    found = section if isinstance(section, dict) else {}
    return next((str(found[key]) for key in ("name", "function", "path") if found.get(key)), "")
