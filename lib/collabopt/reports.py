"""The reports and sweeps below a directory, as their tables tell of them; nothing here imports TensorFlow."""

import dataclasses
from functools import cached_property
from pathlib import Path
from typing import Any

import pandas as pd

from collabopt import palette, report_files, report_tables, results, sweep_page

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
            return report_files.run(self.directory)
        cells = [report_files.run(file.parent) for file in sorted(self.directory.glob("*/run.json"))]
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
        return _against_baseline(sweep_page.over_seeds(palette.numbers(rows, sweep_page.OVER_SEEDS)))

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
        plan = report_files.plan(self.run)
        return " on ".join(filter(None, (_called(plan.get(key)) for key in ("model", "dataset"))))

    def href(self, name: str) -> str:
        """A file of the report as a path below `root`; nothing where there is none."""
        return report_tables.existing(self.root, (self.place / name).as_posix())

    @property
    def page(self) -> str:
        """Its index, or else its deployment tree."""
        return self.href("index.html") or self.href("deployment_tree.html")


def find(directory: Path) -> list[Report]:
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


def trade_off(report: Report) -> list[dict]:
    """The row of the baseline, and that of the smallest file by the report's own scheme that loses at most `TOLERANCE`
    against it on validation, where that is another one."""
    table = report.table
    baselines = table[table["stage"] == "baseline"] if len(table) else table
    if not len(baselines):
        return []
    own = table["scheme"].isna() | (table["scheme"] == report_files.own_scheme(report.run))
    near = table[own & (table["validation_lost"] <= TOLERANCE) & (table["saved"] > 0)]
    best = near.nlargest(1, "saved").to_dict("records")
    return [baselines.iloc[0].to_dict(), *best]


def _called(section: object) -> str:
    """The name of a model or data set, be it ours or one's own."""
    found = section if isinstance(section, dict) else {}
    return next((str(found[key]) for key in ("name", "function", "path") if found.get(key)), "")
