"""The deployment tree as a picture: every stage a card with its INT8 accuracy and its size, joined to its parent."""

import textwrap
from pathlib import Path

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import FancyBboxPatch, Rectangle

from collabopt import palette
from collabopt.palette import ALARM, FAINT, INK, MUTED, _style, preserved
from collabopt.stages import TREE

CARD = 1.95, 0.98  # inches: width, height
STEP = 2.55, 1.2  # inches from card to card, right and down


def tree(results: pd.DataFrame, csv: Path | None = None) -> Figure:
    """The tree of `results`, which has the columns `stage, parent, accuracy_int8, gzip_bytes, preserved`.

    Where a stage has several settings, the first row is drawn, our scheme's before TFMOT's own. Stages of the standard
    tree that `results` lacks are drawn as empty, dashed cards. Sizes are in kB of 1,000 bytes.
    """
    nodes = _one_a_stage(palette.numbers(results, ["accuracy_int8", "gzip_bytes"]))
    standard = {stage.name: stage.parent for stage in TREE.values()}
    parents = standard | {stage: _parent(row) for stage, row in nodes.items()}
    at = _places(parents)
    across, down = 1 + max(column for column, _ in at.values()), 1 + max(row for _, row in at.values())
    width, height = CARD[0] + STEP[0] * (across - 1), CARD[1] + STEP[1] * (down - 1)
    with _style():
        figure = palette.blank(width + 0.2, height + 0.5)
        axes = figure.subplots()
        axes.set(xlim=(-0.1, width + 0.1), ylim=(height + 0.1, -0.1), aspect="equal")
        axes.set_axis_off()
        for stage, parent in parents.items():
            if parent in at:
                _edge(axes, at[parent], at[stage], stage in nodes)
        largest = max((row["gzip_bytes"] for row in nodes.values() if pd.notna(row.get("gzip_bytes"))), default=0)
        for stage, place in at.items():
            _card(axes, place, stage, nodes.get(stage), largest)
        figure.supxlabel(
            "INT8 accuracy and gzip size of every stage's int8 .tflite file; bars compare the sizes",
            color=MUTED,
            fontsize=8,
        )
    columns = ["stage", "parent", "scheme", "accuracy_int8", "gzip_bytes", "preserved"]
    return palette.keep(figure, pd.DataFrame(nodes.values()).reindex(columns=columns), csv)


def _one_a_stage(results: pd.DataFrame) -> dict[str, dict]:
    rows = results.to_dict("records")
    rows = sorted(rows, key=lambda row: row.get("scheme") == "tfmot")
    return {row["stage"]: row for row in reversed(rows)}


def _parent(row: dict) -> str | None:
    known = TREE.get(row["stage"])
    parent = row.get("parent", known.parent if known else None)
    return None if pd.isna(parent) or parent in ("", row["stage"]) else parent


def _places(parents: dict[str, str | None]) -> dict[str, tuple[float, float]]:
    """Column and row of every stage: a column a generation, a row a leaf, parents level with the middle of theirs.

    A stage whose parent is not among the stages stands as a root.
    """
    at: dict[str, tuple[float, float]] = {}
    leaves = iter(range(len(parents)))

    def place(stage: str, column: int) -> float:
        at[stage] = column, 0
        rows = [place(child, column + 1) for child, parent in parents.items() if parent == stage and child not in at]
        at[stage] = column, (rows[0] + rows[-1]) / 2 if rows else next(leaves)
        return at[stage][1]

    for stage, parent in parents.items():
        if parent not in parents:
            place(stage, 0)
    return at


def _edge(axes: Axes, start: tuple, end: tuple, present: bool) -> None:
    left, right = STEP[0] * start[0] + CARD[0], STEP[0] * end[0]
    top, bottom = (STEP[1] * place[1] + CARD[1] / 2 for place in (start, end))
    bend = left + 0.28
    # What is not run is drawn below what is, or its dashes would show on the lines they share.
    form = {"color": "#a8adb3", "zorder": 1} if present else {"color": FAINT, "linestyle": (0, (3, 2)), "zorder": 0}
    axes.plot([left, bend, bend, right], [top, top, bottom, bottom], linewidth=1.8, solid_joinstyle="round", **form)


def _card(axes: Axes, place: tuple, stage: str, row: dict | None, largest: float) -> None:
    x, y, (width, height) = STEP[0] * place[0], STEP[1] * place[1], CARD
    kept = preserved(row.get("preserved")) if row else None
    edge = {"edgecolor": ALARM, "linewidth": 2.4} if kept is False else {"edgecolor": FAINT, "linewidth": 1.2}
    dashed = {} if row else {"linestyle": (0, (3, 2))}
    shape = FancyBboxPatch((x, y), width, height, "round,pad=0,rounding_size=0.07", facecolor="white", **edge, **dashed)
    axes.add_patch(shape)
    stripe = Rectangle((x, y), 0.09, height, facecolor=palette.colour(stage) if row else FAINT, zorder=2)
    axes.add_patch(stripe)
    stripe.set_clip_path(shape)
    left = x + 0.2
    shade = INK if row else "#80868b"
    title = textwrap.shorten(palette.name(stage), 18, placeholder="…") or palette.name(stage)[:17] + "…"
    axes.text(left, y + 0.2, palette.literal(title), fontsize=10.5, fontweight="bold", va="center", color=shade)
    if not row:
        axes.text(left, y + 0.5, "not run", va="center", color=shade)
        return
    if kept is not None:
        said, colour, weight = ("✓ preserved", MUTED, "normal") if kept else ("✗ NOT preserved", ALARM, "bold")
        axes.text(left, y + 0.84, said, fontsize=8.5, va="center", color=colour, fontweight=weight)
    _numbers(axes, left, y + 0.46, row, stage, largest)


def _numbers(axes: Axes, left: float, y: float, row: dict, stage: str, largest: float) -> None:
    accuracy, size = row.get("accuracy_int8"), row.get("gzip_bytes")
    right = left + CARD[0] - 0.34
    if pd.notna(accuracy):
        axes.text(left, y, f"{100 * accuracy:.1f} %", fontsize=12, va="center")
    if pd.notna(size):
        axes.text(right, y, f"{size / 1000:,.0f} kB", fontsize=10.5, va="center", ha="right")
        for part, colour in ((1, "#eceef0"), (size / largest, palette.colour(stage))):
            axes.add_patch(Rectangle((left, y + 0.17), part * (right - left), 0.06, facecolor=colour, zorder=2))
