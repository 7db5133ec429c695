"""The page of a sweep: every cell's figures over its seeds, and which of them no other beats in accuracy and size."""

from pathlib import Path

import pandas as pd
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from collabopt.config import loading, sweep
from collabopt.config.stages import STAGES, get_label
from collabopt.figures import style
from collabopt.figures.pareto import find_front
from collabopt.figures.style import FAINT, INK, MUTED, get_colour, use_style
from collabopt.report import html, index_page, report_tables
from collabopt.report.table import Cell, Column, Table, file_cell, number_cell, preserved_cell, stage_cell
from collabopt.storage import atomic, results

OVER_SEEDS = [
    "validation_accuracy",
    "validation_accuracy_int8",
    "accuracy",
    "accuracy_int8",
    "gzip_bytes",
    "zip_bytes",
    "tflite_bytes",
    "sparsity",
    "unique_weights",
]
"""The figures of which sweep.csv has the mean and the standard deviation."""


def write(directory: Path, plan: str, states: dict[str, str], home: Path | None = None) -> Path:
    """Write index.html, sweep.csv, results.csv and the figure of a sweep; returns the page's path.

    states: "ok" of every cell, or why it is not whole. home: the page of all reports.
    """
    rows = _rows(directory, list(states))
    name = loading.find_experiment(plan).stem
    table = average_over_seeds(rows) if len(rows) else rows
    if len(rows):
        atomic.write(directory / "results.csv", rows.to_csv(index=False))
        atomic.write(directory / "sweep.csv", table.to_csv(index=False))
    text = html.render(
        "sweep.html.j2",
        title=f"Sweep of {name}",
        description=f"Accuracy and size of {name} over a grid of parameters",
        name=name,
        grid=[(key, ", ".join(map(str, values))) for key, values in _grid(states).items()],
        links=index_page.make_links(home, directory),
        contents=html.make_contents({"results": "Results", "cells": "Cells", "files": "Files"}),
        table=_table(table, directory) if len(table) else None,
        figure=index_page.make_picture(pareto, table, _alt(table), "Accuracy against compressed size", "sweep.csv"),
        cells=[_cell(directory, cell, said) for cell, said in states.items()],
        files=[file for file in ("sweep.csv", "results.csv") if (directory / file).is_file()],
    )
    atomic.write(directory / "index.html", text)
    return directory / "index.html"


def _rows(directory: Path, cells: list[str]) -> pd.DataFrame:
    """results.csv of every cell that has one."""
    tables = [directory / cell / "results.csv" for cell in cells]
    read = [results.read(table).assign(cell=table.parent.name) for table in tables if table.is_file()]
    rows = pd.concat(read, ignore_index=True) if read else pd.DataFrame()
    return rows[rows["scheme"].isna() | (rows["scheme"] != "tfmot")] if len(rows) else rows


def average_over_seeds(rows: pd.DataFrame) -> pd.DataFrame:
    """A row a stage and setting: `<figure>` is the mean over seeds, `<figure>_std` the standard deviation, `seeds` how
    many there are, `preserved` whether every seed's is, `cell` the first cell of a sweep that has it, and `front`
    whether it is on the Pareto front."""
    key = [column for column in results.KEY if column != "seed"]
    rows = rows.drop_duplicates([*key, "seed"])
    groups = rows.groupby(key, dropna=False, sort=False)
    table = groups.size().rename("seeds").to_frame()
    for column in OVER_SEEDS:
        table[column], table[f"{column}_std"] = groups[column].mean(), groups[column].std()
    table["preserved"] = groups["preserved"].agg(_all)
    if "cell" in rows:
        table["cell"] = groups["cell"].first()
    table = table.reset_index()
    table["front"] = find_front(table["gzip_bytes"], table["accuracy_int8"])
    order = {stage: position for position, stage in enumerate(STAGES)}
    return table.sort_values("stage", key=lambda stages: stages.map(order), kind="stable", ignore_index=True)


def _all(values: pd.Series) -> object:
    told = {style.parse_preserved(value) for value in values} - {None}
    return None if not told else told == {True}


def pareto(table: pd.DataFrame, csv: Path | None = None) -> Figure:
    """Gzip size (kB, 1,000 bytes) against INT8 accuracy (%), a point a row of `over_seeds`, with the standard deviation
    over seeds, and the Pareto front drawn."""
    shown, told = table.sort_values("gzip_bytes"), find_varied_settings(table)
    with use_style():
        figure = style.make_figure(7.2, 4.6)
        axes = figure.subplots()
        axes.set(xlabel="gzip size of the int8 .tflite (kB)", ylabel="INT8 accuracy (%)")
        axes.set_axisbelow(True)
        axes.grid()
        best = shown[shown["front"]].drop_duplicates(["gzip_bytes", "accuracy_int8"])
        axes.step(
            best["gzip_bytes"] / 1000, 100 * best["accuracy_int8"], where="post", color=INK, linewidth=1, zorder=1
        )
        for row in shown.itertuples():
            colour = get_colour(row.stage)
            axes.errorbar(
                row.gzip_bytes / 1000,
                100 * row.accuracy_int8,
                yerr=None if pd.isna(row.accuracy_int8_std) else 100 * row.accuracy_int8_std,
                fmt=style.get_marker(row.stage),
                color=colour,
                ecolor=FAINT,
                markersize=8 if row.front else 5,
                markeredgecolor=INK if row.front else "white",
                alpha=1 if row.front else 0.75,
            )
            if row.front:
                at, said = (row.gzip_bytes / 1000, 100 * row.accuracy_int8), format_setting(row._asdict(), told)
                axes.annotate(said, at, (6, -4), textcoords="offset points", fontsize=8, va="top", color=MUTED)
        marks = [
            Line2D([], [], color=get_colour(stage), linestyle="", marker=style.get_marker(stage), markersize=7)
            for stage in STAGES
            if stage in set(shown["stage"])
        ]
        names = [get_label(stage) for stage in STAGES if stage in set(shown["stage"])]
        line = Line2D([], [], color=INK, linewidth=1)
        figure.legend([*marks, line], [*names, "Pareto front"], loc="outside upper center", ncols=5, labelcolor=MUTED)
    return style.save(figure, shown, csv)


NOTE = (
    "Mean ± standard deviation over seeds. Accuracy is top-1 on the test split; INT8 is the full-integer .tflite file; "
    "sizes in kB of 1,000 bytes. On the Pareto front (●): no other file is at least as small and as accurate, and "
    "better in one of the two. The links lead to the first cell that has the stage."
)


SETTINGS = {
    "target_sparsity": "sparsity",
    "number_of_clusters": "clusters",
    "cluster_per_channel": "per channel",
    "scheme": "scheme",
    "train_fraction": "train fraction",
}


def _table(table: pd.DataFrame, directory: Path) -> Table:
    """A row a stage and setting; settings that are the same in all rows are left out."""
    told = find_varied_settings(table)
    lines = []
    for row in table.to_dict("records"):
        scheme = "" if pd.isna(row["scheme"]) else row["scheme"]
        at = directory / row["cell"], row["stage"], scheme, scheme
        stage = stage_cell(row["stage"], _below(row["cell"], report_tables.find_page(*at)))
        model = file_cell(_below(row["cell"], report_tables.find_model(*at)), stage.text)
        settings = [Cell() if pd.isna(row[column]) else Cell(str(row[column]), kind="number") for column in told]
        measured = [deviation_cell(row, column, 100) for column in ("accuracy", "accuracy_int8")]
        measured.append(deviation_cell(row, "gzip_bytes", 1e-3, 1))
        lines.append([stage, *settings, Cell(str(row["seeds"]), kind="number"), *measured])
        lines[-1] += [preserved_cell(row["preserved"]), Cell("●" if row["front"] else ""), model]
    numbers = [*(SETTINGS[column] for column in told), "seeds", "accuracy (%)", "INT8 accuracy (%)", "gzip (kB)"]
    columns = [Column("stage"), *(Column(title, number=True) for title in numbers)]
    columns += map(Column, ("preserved", "Pareto front", "file"))
    return Table("results", "Results of every cell", columns, lines, NOTE)


def _below(directory: str, name: str) -> str:
    return f"{directory}/{name}" if name else ""


def find_varied_settings(table: pd.DataFrame) -> list[str]:
    """The settings that differ among the rows."""
    return [column for column in SETTINGS if len(set(table[column].dropna())) > 1]


def format_setting(row: dict, told: list[str]) -> str:
    """A row's values of those settings: "sparsity 0.5, clusters 8"."""
    return ", ".join(f"{SETTINGS[column]} {row[column]}" for column in told if not pd.isna(row[column]))


def deviation_cell(row: dict, column: str, scale: float, digits: int = 2) -> Cell:
    """The mean over seeds of a figure of `over_seeds` times `scale`, ± its standard deviation."""
    deviation = row[f"{column}_std"]
    aside = "" if pd.isna(deviation) else f" ± {scale * deviation:,.{digits}f}"
    return number_cell(row[column], lambda mean: f"{scale * mean:,.{digits}f}{aside}")


def _alt(table: pd.DataFrame) -> str:
    if not len(table):
        return ""
    best = table[table["front"]].sort_values("gzip_bytes")
    said = [
        f"{get_label(row.stage)} {100 * row.accuracy_int8:.1f} % at {row.gzip_bytes / 1000:.0f} kB"
        for row in best.itertuples()
    ]
    return f"INT8 accuracy against gzip size of {len(table)} models. On the Pareto front: {'; '.join(said)}."


def _grid(states: dict[str, str]) -> sweep.Grid:
    """The values of every parameter, from the names of the cells."""
    grid: dict[str, list] = {}
    for cell in states:
        for word in cell.split(","):
            key, _, value = word.partition("=")
            grid.setdefault(key, [])
            if value not in grid[key]:
                grid[key].append(value)
    return grid


def _cell(directory: Path, cell: str, said: str) -> dict:
    page = report_tables.find_file(directory / cell, "deployment_tree.html")
    return {"name": cell, "href": _below(cell, page), "said": said}
