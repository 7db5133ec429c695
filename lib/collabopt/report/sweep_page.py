"""The page of a sweep: the metrics of every cell, averaged over seeds, with their Pareto front."""

from pathlib import Path

import pandas as pd
from matplotlib.figure import Figure

from collabopt.config import loading, overriding, sweep
from collabopt.config.scores import find_score
from collabopt.figures.pareto import draw_pareto
from collabopt.report import html, tables
from collabopt.report.directory import find_file
from collabopt.report.summary import average_over_seeds, find_varied_settings, format_setting
from collabopt.report.verdict import make_sweep_verdict
from collabopt.storage import atomic, results

_IN_COLUMNS = ("sparsity", *results.KEY, *results.OPTIONAL_KEY)
"""Parameters that have a column in results.csv."""


def write(directory: Path, experiment: str, states: dict[str, str], home: Path | None = None) -> Path:
    """Write index.html, sweep.csv and results.csv of a sweep of `experiment` to `directory`, and return the page.

    `states` is "ok" or why it is not complete, by cell. `home` is the page of all reports.
    """
    rows = _read_rows(directory, list(states))
    name = loading.find_experiment(experiment).stem
    means = average_over_seeds(rows) if len(rows) else rows
    if len(rows):
        atomic.write(directory / "results.csv", rows.to_csv(index=False))
        atomic.write(directory / "sweep.csv", means.to_csv(index=False))
    return html.write_index(
        directory,
        "sweep.html.j2",
        f"Sweep of {name}",
        f"Quality and size of {name} over a grid of parameters",
        home,
        grid=_parse_grid(states),
        verdict=make_sweep_verdict(directory, name, list(states)),
        table=tables.results(means, directory) if len(means) else None,
        figure=html.make_picture(_draw, means, "Quality on validation against compressed size", "sweep.csv"),
        cells=[(cell, find_file(directory, f"{cell}/deployment_tree.html"), state) for cell, state in states.items()],
        files=[file for file in ("sweep.csv", "results.csv") if (directory / file).is_file()],
    )


def _read_rows(directory: Path, cells: list[str]) -> pd.DataFrame:
    """The rows of every cell that has results."""
    paths = [directory / cell / "results.csv" for cell in cells]
    frames = [
        results.read(path).assign(cell=path.parent.name, setting=_find_setting(path.parent))
        for path in paths
        if path.is_file()
    ]
    return pd.concat(frames, ignore_index=True) if frames else pd.DataFrame()


def _find_setting(cell: Path) -> str:
    """What of a cell's name no column of results.csv tells: "stages.pruned.epochs=3". A long name is cut: run.json has
    all.
    """
    words = cell.name.split(",")
    if overriding.is_shortened(cell.name):
        settings = results.read_run(cell).get("settings", {})
        words = [f"{key}={overriding.format_value(value)}" for key, value in settings.items()]
    return sweep.decode(",".join(word for word in words if word.partition("=")[0] not in _IN_COLUMNS))


def _draw(means: pd.DataFrame) -> Figure:
    settings = find_varied_settings(means)
    labels = pd.Series([format_setting(row, settings) for row in means.to_dict("records")], means.index, dtype=object)
    up = find_score(means).validation_int8
    return draw_pareto(means, up=up, labels=labels.where(means["front"], ""), error=f"{up}_std")


def _parse_grid(states: dict[str, str]) -> sweep.Grid:
    """The values of every parameter, from the names of the cells."""
    words = [word.partition("=")[::2] for cell in states for word in cell.split(",")]
    return {key: list(dict.fromkeys(value for name, value in words if name == key)) for key, _ in words}
