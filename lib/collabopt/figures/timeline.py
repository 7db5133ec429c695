"""What ran when in a batch: one line per notebook, with the stages that it trained."""

from pathlib import Path

import pandas as pd
from matplotlib.figure import Figure
from matplotlib.patches import Patch

from collabopt.config.stages import get_label, list_stages
from collabopt.figures import style
from collabopt.figures.style import FAINT, INK, MUTED, get_colour, use_style
from collabopt.runtime.progress import format_duration

_UNITS = (("s", 1, 180), ("min", 60, 3 * 3600), ("h", 3600, float("inf")))


def select_batch(rows: pd.DataFrame, start: str) -> pd.DataFrame:
    """Return `rows` of timeline.csv since `start`, `began` and `ended` in seconds; none if a time cannot be read."""
    times = {
        name: pd.to_datetime(rows[name], errors="coerce", utc=True, format="ISO8601") for name in ("began", "ended")
    }
    first = pd.to_datetime(start, errors="coerce", utc=True)
    kept = times["began"].notna() & times["ended"].notna() & ~(times["began"] < first)
    origin = times["began"][kept].min()
    seconds = {name: (one[kept] - origin).dt.total_seconds() for name, one in times.items()}
    return rows[kept].assign(**seconds).sort_values("began", kind="stable")


@use_style()
def draw_timeline(rows: pd.DataFrame, csv: Path | None = None) -> Figure:
    """Draw and return when notebooks in `rows` of `select_batch` ran, and what they trained. `csv` is for the data."""
    names = list(dict.fromkeys(rows["notebook"]))
    end = rows["ended"].max()
    unit, seconds, _ = next(one for one in _UNITS if end <= one[2])
    figure = style.make_figure(8.6, 0.95 + 0.3 * len(names))
    axes = figure.subplots()
    for height, name in enumerate(names):
        own = rows[rows["notebook"] == name]
        spans = own[own["origin"] == "notebook"] if (own["origin"] == "notebook").any() else own
        start, lasted = own["began"].min(), spans["ended"].max() - own["began"].min()
        (span,) = axes.barh(height, lasted / seconds, 0.62, start / seconds, color="#eef0f2", edgecolor=FAINT)
        style.add_hover(span, f"{name or 'by hand'}: {format_duration(lasted)}")
        for row in own[own["origin"] == "trained"].to_dict("records"):
            lasted = row["ended"] - row["began"]
            (bar,) = axes.barh(height, lasted / seconds, 0.62, row["began"] / seconds, color=get_colour(row["stage"]))
            style.add_hover(bar, f"{name}: {get_label(row['stage'])} trained in {format_duration(lasted)}")
        stored = own.loc[own["origin"] == "store", "began"] / seconds
        axes.plot(stored, [height] * len(stored), "|", color=MUTED, markersize=7)
    axes.set_yticks(range(len(names)), [style.escape(name or "by hand") for name in names])
    axes.set(ylim=(len(names) - 0.4, -0.6), xlim=(0, max(end / seconds, 1e-3)))
    axes.set_xlabel(f"{unit} since the first notebook began")
    axes.tick_params(axis="y", length=0, colors=INK)
    trained = [
        stage
        for stage in list_stages().values()
        if ((rows["stage"] == stage.name) & (rows["origin"] == "trained")).any()
    ]
    marks = {stage.label: Patch(color=stage.colour) for stage in trained}
    if marks:
        figure.legend(marks.values(), marks, loc="outside upper left", ncols=8, handlelength=1, columnspacing=1.2)
    return style.save(figure, rows, csv, _describe(rows))


def _describe(rows: pd.DataFrame) -> str:
    trained = [
        f"{get_label(row.stage)} in {format_duration(row.ended - row.began)}"
        for row in rows[rows["origin"] == "trained"].itertuples()
    ]
    stored = (rows["origin"] == "store").sum()
    count = rows["notebook"].nunique()
    return (
        f"{count} notebook{'s' * (count > 1)} in {format_duration(rows['ended'].max())}. "
        f"Trained: {', '.join(trained) or 'nothing'}. Stages from the store: {stored}."
    )
