"""The size waterfall: what each step on the way from a float32 file to the int8 file that is deployed leaves of it.

Pruning and clustering change no byte of a file's length; what they win shows when the file is compressed. So every step
after the first is a size after gzip: of the float32 files as they get sparse and clustered, then of the int8 file.
"""

from pathlib import Path

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from collabopt.config.formats import get_format_label
from collabopt.config.stages import BASELINE, STAGES, get_label, get_lineage
from collabopt.figures import style
from collabopt.figures.style import INK, MUTED, get_colour, use_style

WIDTH = 0.62


ROOM = 0.1
"""Share of the axis that a size takes which stands in the dashed part of a column."""


def draw_waterfall(leaves: pd.DataFrame, stage: str | None = None, csv: Path | None = None) -> Figure:
    """Sizes in kB of 1,000 bytes on the way to the int8 file of `stage`; None: as far to PCQAT as there are leaves, and
    where a walk ended before an int8 file, to the smallest that it came to.

    `leaves` has the columns of leaves.csv; of several settings the first is taken, ours before TFMOT's.
    Raises ValueError where a leaf on the way is missing.
    """
    steps = _steps(leaves, stage)
    with use_style():
        figure = style.make_figure(max(1.3 + 1.2 * len(steps), 5.0), 3.9)
        axes = figure.subplots()
        axes.set(ylabel="size (kB)", ylim=(0, 1.18 * steps["kilobytes"].max()), xlim=(-0.55, len(steps) - 0.45))
        for at, row in enumerate(steps.itertuples()):
            _column(axes, at, row, steps["kilobytes"].iloc[max(at - 1, 0)])
        axes.set_xticks(range(len(steps)), [step.replace(" (", "\n(") for step in steps["step"]])
        axes.tick_params(axis="x", length=0, colors=INK)
        axes.yaxis.set_major_formatter("{x:,.0f}")
        axes.set_title(f"{_times(steps):.1f} times smaller", fontweight="bold")
        figure.supxlabel(
            "Sizes after gzip from the second column on: pruning and clustering leave a file as long as it was.\n"
            "In another order each step would save another share.",
            fontsize=8,
            color=MUTED,
        )
    return style.save(figure, steps, csv, _alt(steps))


def _steps(leaves: pd.DataFrame, stage: str | None) -> pd.DataFrame:
    """A row a column of the figure: `step, stage, format, raw_bytes, gzip_bytes, kilobytes` drawn, `saved` share."""
    rows = style.select_first_setting(style.to_numbers(leaves, ["tflite_bytes", "gzip_bytes"]), "stage", "format")
    known = rows.dropna(subset=["tflite_bytes", "gzip_bytes"]).set_index(["stage", "format"])
    way = _as_far_as(known["gzip_bytes"]) if stage is None else [*_floats(stage), (stage, "int8")]
    missing = [f"{name} {form}" for name, form in way if (name, form) not in known.index]
    if missing:
        raise ValueError(f"leaves: without {', '.join(missing)}; expected every leaf on the way to {way[-1][0]}'s file")
    found = []
    for name, form in way:
        raw, packed = known.loc[(name, form), ["tflite_bytes", "gzip_bytes"]]
        sizes = {"stage": name, "format": form, "raw_bytes": int(raw), "gzip_bytes": int(packed)}
        if not found:
            found.append({"step": "float32 file"} | sizes | {"kilobytes": raw / 1000})
        found.append({"step": _said(name, form)} | sizes | {"kilobytes": packed / 1000})
    steps = pd.DataFrame(found)
    return steps.assign(saved=1 - steps["kilobytes"] / steps["kilobytes"].shift())


def _floats(stage: str) -> list[tuple[str, str]]:
    """The leaves that lead to a stage: a float32 file of each that is not quantized."""
    return [(one.name, "float32") for one in get_lineage(stage) if not one.quantizes]


def _as_far_as(gzip_bytes: pd.Series) -> list[tuple[str, str]]:
    """The variants up to the farthest stage on the longest path: to its int8 file, else to its smallest."""
    deepest = max(STAGES, key=lambda name: len(get_lineage(name)))
    for end in [stage.name for stage in reversed(get_lineage(deepest))]:
        quantized = [leaf for leaf in gzip_bytes.index if leaf[0] == end and leaf[1] != "float32"]
        if set(_floats(end)) <= set(gzip_bytes.index) and (quantized or not STAGES[end].quantizes):
            last = (end, "int8") if (end, "int8") in quantized else min(quantized, key=gzip_bytes.get, default=None)
            return [*_floats(end), *([last] if last else [])]
    return _floats(BASELINE)


def _said(stage: str, form: str) -> str:
    if form != "float32":
        return f"quantized ({get_label(stage) if STAGES[stage].quantizes else get_format_label(form) + ' PTQ'})"
    return {"baseline": "compressed (gzip)", "sparse_clustered": "clustered"}.get(stage, get_label(stage))


def _column(axes: Axes, at: int, row: tuple, before: float) -> None:
    """What is left, filled, below what the step took away, dashed."""
    colour = get_colour(row.stage) if at else style.FAINT
    axes.bar(at, row.kilobytes, WIDTH, color=colour, edgecolor=INK, linewidth=0.6)
    size = f"{row.kilobytes:,.0f} kB" if row.kilobytes >= 100 else f"{row.kilobytes:,.1f} kB"
    if not at:
        _write(axes, at, row.kilobytes, size)
        return
    low, top = sorted((row.kilobytes, before))
    axes.bar(at, top - low, WIDTH, low, facecolor="none", edgecolor=MUTED, linewidth=0.8, linestyle=(0, (3, 2)))
    axes.plot([at - 1 + WIDTH / 2, at - WIDTH / 2], [before, before], color=MUTED, linewidth=0.8)
    took = f"{-100 * row.saved:+.0f} %".replace("-", "−")
    if top - row.kilobytes > ROOM * axes.get_ylim()[1]:
        _write(axes, at, row.kilobytes, size)
        _write(axes, at, top, took)
    else:
        _write(axes, at, top, f"{size}\n{took}")


def _write(axes: Axes, at: int, height: float, said: str) -> None:
    axes.annotate(said, (at, height), (0, 3), textcoords="offset points", ha="center", va="bottom", color=INK)


def _times(steps: pd.DataFrame) -> float:
    return steps["kilobytes"].iloc[0] / steps["kilobytes"].iloc[-1]


def _alt(steps: pd.DataFrame) -> str:
    said = [
        f"{row.step} {row.kilobytes:,.1f} kB" + ("" if pd.isna(row.saved) else f" ({-100 * row.saved:+.0f} %)")
        for row in steps.itertuples()
    ]
    return f"File size step by step: {'; '.join(said)}. In all {_times(steps):.1f} times smaller."
