"""The deployment tree as a picture: every stage a card with its INT8 accuracy and its size, joined to its parent, and
where there are targets whether its int8 file meets them."""

import textwrap
from pathlib import Path

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import FancyBboxPatch, Rectangle

from collabopt.config.formats import get_format_label
from collabopt.config.stages import STAGES, get_label
from collabopt.deploy.targets import BOUNDS
from collabopt.figures import style
from collabopt.figures.style import ALARM, FAINT, INK, MUTED, get_colour, parse_preserved, use_style

CARD = 1.95, 0.98  # inches: width, height


STEP = 2.55, 1.2  # inches from card to card, right and down


LINE = 0.24  # inches by which a line of text more makes cards taller


def draw_tree(results: pd.DataFrame, csv: Path | None = None, verdicts: pd.DataFrame | None = None) -> Figure:
    """The tree of `results`, which has the columns `stage, parent, accuracy_int8, gzip_bytes, preserved`.

    Where a stage has several settings, the first row is drawn, our scheme's before TFMOT's own. Stages of the standard
    tree that `results` lacks are drawn as empty, dashed cards. Sizes are in kB of 1,000 bytes. verdicts: leaves as
    `leaf_verdicts.judged` tells of them: a card then says what its int8 file misses, and the chosen one has a frame.
    """
    numbers = ["accuracy_int8", "validation_accuracy_int8", "gzip_bytes"]
    rows = style.select_first_setting(style.to_numbers(results, numbers), "stage")
    nodes = _with_verdicts({row["stage"]: row for row in rows.to_dict("records")}, verdicts)
    standard = {stage.name: stage.parent for stage in STAGES.values()}
    parents = standard | {stage: _parent(row) for stage, row in nodes.items()}
    at, more = _places(parents), 0.0 if verdicts is None else LINE
    across, down = 1 + max(column for column, _ in at.values()), 1 + max(row for _, row in at.values())
    width, height = CARD[0] + STEP[0] * (across - 1), CARD[1] + more + (STEP[1] + more) * (down - 1)
    with use_style():
        figure = style.make_figure(width + 0.2, height + 0.5 + more)
        axes = figure.subplots()
        axes.set(xlim=(-0.1, width + 0.1), ylim=(height + 0.1, -0.1), aspect="equal")
        axes.set_axis_off()
        corners = {stage: (STEP[0] * column, (STEP[1] + more) * row) for stage, (column, row) in at.items()}
        for stage, parent in parents.items():
            if parent in at:
                _edge(axes, corners[parent], corners[stage], CARD[1] + more, stage in nodes)
        largest = max((row["gzip_bytes"] for row in nodes.values() if pd.notna(row.get("gzip_bytes"))), default=0)
        for stage, corner in corners.items():
            _card(axes, corner, CARD[1] + more, stage, nodes.get(stage), largest)
        told = "INT8 accuracy and gzip size of every stage's int8 .tflite file; bars compare the sizes"
        if verdicts is not None:
            told += "\n✗: the targets that this file misses; val: accuracy on validation"
        figure.supxlabel(told, color=MUTED, fontsize=8)
    columns = ["stage", "parent", "scheme", "accuracy_int8", "gzip_bytes", "preserved"]
    columns += [] if verdicts is None else ["validation_accuracy_int8", "verdict", "chosen"]
    return style.save(figure, pd.DataFrame(nodes.values()).reindex(columns=columns), csv, _alt(nodes))


def _with_verdicts(nodes: dict[str, dict], verdicts: pd.DataFrame | None) -> dict[str, dict]:
    """The nodes, each with `missed` and `verdict` of its int8 leaf and `chosen`, the format where one is chosen.

    What a node lacks is taken from that leaf: test is not read of every stage, so its accuracy may be of validation.
    """
    if verdicts is None:
        return nodes
    rows = style.select_first_setting(verdicts, "stage", "format")
    own = ["stage", "gzip_bytes", "validation_accuracy_int8", "missed", "verdict"]
    of_int8 = rows[rows["format"] == "int8"].rename(columns={"validation_accuracy": "validation_accuracy_int8"})
    int8 = {row["stage"]: row for row in of_int8[own].to_dict("records")}
    chosen = rows[rows["chosen"]].set_index("stage")["format"].to_dict()
    found = {}
    for stage in [*nodes, *(stage for stage in int8 if stage not in nodes)]:
        known = {key: value for key, value in nodes.get(stage, {}).items() if pd.notna(value)}
        found[stage] = {"stage": stage} | int8.get(stage, {}) | known | {"chosen": chosen.get(stage)}
    return found


def _parent(row: dict) -> str | None:
    known = STAGES.get(row["stage"])
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


def _edge(axes: Axes, start: tuple, end: tuple, height: float, present: bool) -> None:
    left, right = start[0] + CARD[0], end[0]
    top, bottom = (corner[1] + height / 2 for corner in (start, end))
    bend = left + 0.28
    # What is not run is drawn below what is, or its dashes would show on the lines they share.
    form = {"color": "#a8adb3", "zorder": 1} if present else {"color": FAINT, "linestyle": (0, (3, 2)), "zorder": 0}
    axes.plot([left, bend, bend, right], [top, top, bottom, bottom], linewidth=1.8, solid_joinstyle="round", **form)


def _card(axes: Axes, corner: tuple, height: float, stage: str, row: dict | None, largest: float) -> None:
    x, y = corner
    kept = parse_preserved(row.get("preserved")) if row else None
    edge = {"edgecolor": ALARM, "linewidth": 2.4} if kept is False else {"edgecolor": FAINT, "linewidth": 1.2}
    dashed = {} if row else {"linestyle": (0, (3, 2))}
    shape = _box(axes, x, y, height, facecolor="white", **edge, **dashed)
    stripe = Rectangle((x, y), 0.09, height, facecolor=get_colour(stage) if row else FAINT, zorder=2)
    axes.add_patch(stripe)
    stripe.set_clip_path(shape)
    left = x + 0.2
    shade = INK if row else "#80868b"
    title = textwrap.shorten(get_label(stage), 18, placeholder="…") or get_label(stage)[:17] + "…"
    axes.text(left, y + 0.2, style.escape(title), fontsize=10.5, fontweight="bold", va="center", color=shade)
    if not row:
        axes.text(left, y + 0.5, "not run", va="center", color=shade)
        return
    if kept is not None:
        said, colour, weight = ("✓ preserved", MUTED, "normal") if kept else ("✗ NOT preserved", ALARM, "bold")
        axes.text(left, y + 0.84, said, fontsize=8.5, va="center", color=colour, fontweight=weight)
    _numbers(axes, left, y + 0.46, row, stage, largest)
    _verdict(axes, x, y, height, row)


def _box(axes: Axes, x: float, y: float, height: float, pad: float = 0.0, **form) -> FancyBboxPatch:
    box = FancyBboxPatch((x, y), CARD[0], height, f"round,pad={pad},rounding_size=0.07", **form)
    return axes.add_patch(box)


def _verdict(axes: Axes, x: float, y: float, height: float, row: dict) -> None:
    """What the int8 file misses, or that a file of the stage is the chosen one."""
    if row.get("chosen"):
        _box(axes, x, y, height, 0.045, facecolor="none", edgecolor=INK, linewidth=2.2)
        said, colour = f"▶ chosen: {get_format_label(row['chosen'])} file", INK
    elif isinstance(row.get("missed"), dict):
        names = [BOUNDS[target].title.removesuffix(" drop") for target in row["missed"]]
        said, colour = (f"✗ {_listed(names)}", ALARM) if names else ("✓ meets all targets", INK)
    else:
        return
    axes.text(x + 0.2, y + height - 0.14, said, fontsize=8.5, va="center", color=colour, fontweight="bold")


def _listed(names: list[str], most: int = 23) -> str:
    """As many names as a card has room for, and how many more there are: "accuracy, gzip + 2"."""
    said = [
        ", ".join(names[:count]) + (f" + {len(names) - count}" if count < len(names) else "")
        for count in range(len(names), 0, -1)
    ]
    return next((one for one in said if len(one) <= most), said[-1])


def _numbers(axes: Axes, left: float, y: float, row: dict, stage: str, largest: float) -> None:
    accuracy, size = _accuracy(row), row.get("gzip_bytes")
    right = left + CARD[0] - 0.34
    if accuracy:
        axes.text(left, y, accuracy, fontsize=12 if "val" not in accuracy else 10.5, va="center")
    if pd.notna(size):
        axes.text(right, y, f"{size / 1000:,.0f} kB", fontsize=10.5, va="center", ha="right")
        for part, colour in ((1, "#eceef0"), (size / largest, get_colour(stage))):
            axes.add_patch(Rectangle((left, y + 0.17), part * (right - left), 0.06, facecolor=colour, zorder=2))


def _accuracy(row: dict) -> str:
    """93.0 % on test; 97.3 % val where only validation is known; else nothing."""
    for key, split in (("accuracy_int8", ""), ("validation_accuracy_int8", " val")):
        if pd.notna(row.get(key)):
            return f"{100 * row[key]:.1f} %{split}"
    return ""


def _alt(nodes: dict[str, dict]) -> str:
    said = []
    for stage, row in nodes.items():
        told = [
            _accuracy(row) and f"{_accuracy(row)} INT8",
            f"{row['gzip_bytes'] / 1000:,.0f} kB gzip" if pd.notna(row.get("gzip_bytes")) else "",
            "NOT preserved" if parse_preserved(row.get("preserved")) is False else "",
            row.get("verdict", ""),
            f"chosen as {get_format_label(row['chosen'])}" if row.get("chosen") else "",
        ]
        said.append(f"{get_label(stage)} {', '.join(filter(None, told))}")
    return f"Deployment tree. {'; '.join(said)}."
