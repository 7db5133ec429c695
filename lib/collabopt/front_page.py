"""The page of all reports: what each experiment wins, all stages in one table, and published figures beside ours.

    front_page.write(experiment.REPORTS)  # reports/index.html

It is made anew from the tables that are there; nothing here imports TensorFlow.
"""

import dataclasses
from functools import cached_property
from pathlib import Path
from typing import Any

import pandas as pd

from collabopt import experiment, page_table, palette, report_files, report_tables, results, shell, store, sweep_page
from collabopt.page_table import Cell, Column, Table, percent

TABLES = "results.csv", "run.json", "sweep.csv"
"""A directory with one of these is a report."""
TOLERANCE = 0.01
"""Validation accuracy that the best file of a report may lose against the baseline."""
NOTE = (
    "Mean ± standard deviation over seeds; accuracy is top-1 on the test split, of the full-integer .tflite file. Lost "
    "and saved: against the baseline's int8 file of the same report, accuracy in points, gzipped bytes in per cent. "
    "Sizes in kB of 1,000 bytes. Preserved: what the parent stage won, zeros or clusters, is all still there."
)


@dataclasses.dataclass(frozen=True)
class Report:
    """A report or a sweep. place: its directory below `reports`."""

    reports: Path
    place: Path

    @property
    def directory(self) -> Path:
        return self.reports / self.place

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
        except (OSError, ValueError):
            return pd.DataFrame()
        if "stage" not in rows or not len(rows):
            return pd.DataFrame()
        measured = palette.numbers(rows.reindex(columns=rows.columns.union(results.RESULTS)), sweep_page.OVER_SEEDS)
        return _against_baseline(sweep_page.over_seeds(measured))

    @property
    def seeds(self) -> list[str]:
        try:
            found = pd.read_csv(self.directory / "results.csv", usecols=["seed"])["seed"]
        except (OSError, ValueError):
            return []
        return [str(seed) for seed in sorted(set(found.dropna()))]

    def href(self, name: str) -> str:
        """A file of the report as a path below `reports`; nothing where there is none."""
        return report_tables.existing(self.reports, (self.place / name).as_posix())

    @property
    def page(self) -> str:
        """Its index, or else its deployment tree."""
        return self.href("index.html") or self.href("deployment_tree.html")


def path(reports: Path) -> Path:
    """Where the page of all reports below `reports` is, or will be."""
    return reports / "index.html"


def write(reports: Path) -> Path:
    """Write the page of all reports and sweeps below `reports` and return its path.

    One that was removed is no longer on it. Of several batches at once, each waits until it alone reads and writes.
    """
    with store.locked(experiment.DATA / "locks" / "front_page.lock"):
        found = [Report(reports, directory.relative_to(reports)) for directory in find(reports)]
        stages, published = _stages(found), _published(found)
        headings = {"experiments": "Experiments"}
        headings |= {"published": "Published beside ours"} if published else {}
        headings |= {"stages": "All stages"} if stages else {}
        text = shell.render(
            "front.html.j2",
            title="Reports",
            description="Experiments in collaborative model optimization: what each stage costs, and what it saves",
            contents=shell.contents(headings),
            experiments=_experiments(found),
            tolerance=f"{100 * TOLERANCE:.1f}",
            published=published,
            stages=stages,
        )
        store.write(path(reports), text)
    return path(reports)


def find(directory: Path) -> list[Path]:
    """The directories of reports and sweeps below a directory. The cells of a sweep are part of it."""
    found = []
    for below in sorted(one for one in directory.glob("[!.]*") if one.is_dir()):
        if _is_sweep(below) or any((below / name).is_file() for name in TABLES):
            found.append(below)
        if not _is_sweep(below):
            found += find(below)
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


def trade_off(table: pd.DataFrame) -> list[dict]:
    """The row of the baseline, and that of the smallest file that loses at most `TOLERANCE` against it on validation,
    where that is another one."""
    baselines = table[table["stage"] == "baseline"] if len(table) else table
    if not len(baselines):
        return []
    near = table[(table["validation_lost"] <= TOLERANCE) & (table["saved"] > 0)]
    best = near.nlargest(1, "saved").to_dict("records")
    return [baselines.iloc[0].to_dict(), *best]


def _experiments(reports: list[Report]) -> list[dict]:
    """What the page says of every experiment: its report, and its runs with other parameters."""
    groups: dict[str, list[Report]] = {}
    for report in reports:
        groups.setdefault(report.place.parts[0], []).append(report)
    return [
        {
            "name": name,
            "id": f"experiment-{number}",
            "report": next((_told(report) for report in group if not report.setting), None),
            "others": [_told(report) for report in group if report.setting],
        }
        for number, (name, group) in enumerate(groups.items(), 1)
    ]


def _told(report: Report) -> dict:
    """What the page says of one report."""
    rows = trade_off(report.table)
    head = report_files.head(report.directory / "index.html") if report.href("index.html") else {}
    return {
        "page": report.page,
        "setting": report.setting.replace("sweep,", "sweep ", 1),
        "description": head.get("description", ""),
        "subject": _subject(report),
        "about": _about(report),
        "rows": [_trade_off_row(row) for row in rows],
        "best": _in_a_line(rows),
    }


def _about(report: Report) -> list[str]:
    """Seeds, date, and commit of a report, as far as they are known."""
    seeds = f"seed{'s' if len(report.seeds) > 1 else ''} {', '.join(report.seeds)}" if report.seeds else ""
    commit, _, changed = str(report.run.get("commit", "")).partition("+")
    made = f"commit {commit[:10]}{' with changes' if changed else ''}" if commit else ""
    return list(filter(None, (seeds, str(report.run.get("end", ""))[:10], made)))


def _subject(report: Report) -> str:
    """Model and data: "digits_cnn on digits"."""
    plan = report_files.plan(report.run)
    return " on ".join(filter(None, (_called(plan.get(key)) for key in ("model", "dataset"))))


def _called(section: object) -> str:
    """The name of a model or data set, be it ours or one's own."""
    found = section if isinstance(section, dict) else {}
    return next((str(found[key]) for key in ("name", "function", "path") if found.get(key)), "")


def _trade_off_row(row: dict) -> dict:
    return {
        "stage": page_table.stage(row["stage"]),
        "accuracy": sweep_page.with_deviation(row, "accuracy_int8", 100),
        "size": sweep_page.with_deviation(row, "gzip_bytes", 1e-3, 1),
        "share": percent(1 - row["saved"], 1),
        "saved": "" if row["stage"] == "baseline" else f"{percent(row['saved'], 1)} % saved",
    }


def _in_a_line(rows: list[dict]) -> str:
    """The trade-off in words: "PCQAT saves 58.1 % and loses 0.3 points"."""
    if len(rows) < 2:
        return "no results yet" if not rows else "nothing is smaller and as good"
    best, points = rows[1], 100 * rows[1]["lost"]
    saved = f"{palette.name(best['stage'])} saves {percent(best['saved'], 1)} %"
    if pd.isna(points):  # test was not read
        return saved
    return f"{saved} and {'loses' if points >= 0 else 'gains'} {abs(points):.1f} points"


def _stages(reports: list[Report]) -> Table | None:
    """A row a stage and setting of every report."""
    lines = [_line(report, row) for report in reports for row in report.table.to_dict("records")]
    numbers = "INT8 accuracy (%)", "lost (points)", "gzip (kB)", "saved (%)", "sparsity (%)", "unique weights"
    columns = [Column("experiment"), *map(Column, ("run", "stage"))]
    columns += [*(Column(title, number=True) for title in numbers), Column("preserved"), Column("file")]
    return Table("stages", "Every stage of every report", columns, lines, NOTE) if lines else None


def _line(report: Report, row: dict) -> list[Cell]:
    scheme = "" if pd.isna(row["scheme"]) else row["scheme"]
    own = report_files.own_scheme(report.run)
    name = palette.name(row["stage"]) + (f" by {scheme}" if scheme not in ("", own) else "")
    # Each cell of a sweep is a run of its own.
    cell = Path(row.get("cell", "")) if report.is_sweep else Path()
    at = report.directory / cell, row["stage"], scheme, scheme if report.is_sweep else own
    page, model = (report.href(f"{cell}/{find(*at)}") for find in (report_tables.page_of, report_tables.model_of))
    varied = sweep_page.setting(row, sweep_page.varied(report.table))
    return [
        Cell(report.place.parts[0], href=report.page),
        Cell(f"sweep: {varied}".removesuffix(": ") if report.is_sweep else report.setting),
        dataclasses.replace(page_table.stage(row["stage"], page), text=name),
        *_trade_off_cells(row),
        page_table.number(row["sparsity"], lambda share: percent(share, 1)),
        page_table.number(row["unique_weights"], page_table.count),
        page_table.preserved(row["preserved"]),
        page_table.file(model, name),
    ]


def _trade_off_cells(row: dict) -> list[Cell]:
    return [
        sweep_page.with_deviation(row, "accuracy_int8", 100),
        page_table.number(row["lost"], percent),
        sweep_page.with_deviation(row, "gzip_bytes", 1e-3, 1),
        page_table.number(row["saved"], lambda share: percent(share, 1)),
    ]


def _published(reports: list[Report]) -> Table | None:
    """The figures of every report that were published, beside ours."""
    judged = [(report, report_files.judged(report.directory)) for report in reports]
    of = [Cell(report.place.as_posix(), href=report.page) for report, rows in judged for _ in range(len(rows))]
    return report_tables.compared(pd.concat([rows for _, rows in judged]), of) if of else None
