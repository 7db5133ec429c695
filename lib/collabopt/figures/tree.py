"""The deployment tree: one card per stage, with the score and size of its int8 file and whether it meets targets."""

import textwrap
from pathlib import Path
from typing import Any

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import FancyBboxPatch, Rectangle

from collabopt.config.formats import get_format_label
from collabopt.config.metrics import get_metric, get_targets
from collabopt.config.scores import Score, find_score
from collabopt.config.stages import build_tree, get_label
from collabopt.figures import style
from collabopt.figures.style import ALARM, FAINT, INK, MUTED, get_colour, use_style
from collabopt.storage.results import parse_preserved, select_first_setting, to_numbers

_CARD = 1.95, 0.98  # inches: width, height
_STEP = 2.55, 1.2  # inches from card to card, right and down
_LINE = 0.24  # inches by which one more line of text makes cards taller
_LONGEST = 23  # characters of a line


@use_style()
def draw_tree(results: pd.DataFrame, csv: Path | None = None, verdicts: pd.DataFrame | None = None) -> Figure:
    """Draw the deployment tree. Other stages of the tree are dashed, empty cards.

    Args:
        results: Rows of results.csv with `stage, parent, gzip_bytes, preserved` and the score. One setting per
            stage is drawn.
        csv: File for the data.
        verdicts: Rows of `targets.judge`. Cards then name the targets that the int8 file misses, and the card of the
            chosen variant has a frame.

    Returns:
        The figure.
    """
    score = find_score(results)
    numbers = [score.test_int8, score.validation_int8, "gzip_bytes"]
    numbers += [name for name in (f"{score.test_int8}_error", f"{score.validation_int8}_error") if name in results]
    rows = select_first_setting(to_numbers(results, numbers), "stage")
    nodes = _add_verdicts({row["stage"]: row for row in rows.to_dict("records")}, verdicts, score)
    parents = {stage.name: stage.parent for stage in build_tree(nodes).values()}
    for stage, row in nodes.items():
        parent = row.get("parent", parents.get(stage))
        parents[stage] = None if pd.isna(parent) or parent in ("", stage) else parent
    places, more = _arrange(parents), 0.0 if verdicts is None else _LINE
    card, step = _CARD[1] + more, _STEP[1] + more
    across, down = (1 + max(place[axis] for place in places.values()) for axis in (0, 1))
    width, height = _CARD[0] + _STEP[0] * (across - 1), card + step * (down - 1)
    figure = style.make_figure(width + 0.2, height + 0.5 + more)
    axes = figure.subplots()
    axes.set(xlim=(-0.1, width + 0.1), ylim=(height + 0.1, -0.1), aspect="equal")
    axes.set_axis_off()
    corners = {stage: (_STEP[0] * column, step * row) for stage, (column, row) in places.items()}
    for stage, parent in parents.items():
        if parent in corners:
            _draw_edge(axes, corners[parent], corners[stage], card, stage in nodes)
    largest = max((row["gzip_bytes"] for row in nodes.values() if pd.notna(row.get("gzip_bytes"))), default=0)
    for stage, corner in corners.items():
        shape = _draw_card(axes, corner, card, stage, nodes.get(stage), largest, score)
        style.add_hover(shape, _describe_node(stage, nodes[stage], score) if stage in nodes else f"{stage}: not run")
    note = f"INT8 {score.title} and gzip size of every stage's int8 .tflite file; bars compare the sizes"
    note += "; ± two standard errors" if any(name.endswith("_error") for name in numbers) else ""
    if verdicts is not None:
        note += "\n✗: the targets that this file misses; val: on validation"
    figure.supxlabel(note, color=MUTED)
    columns = ["stage", "parent", "scheme", score.test_int8, "gzip_bytes", "preserved"]
    columns += [] if verdicts is None else [score.validation_int8, "verdict", "chosen"]
    return style.save(figure, pd.DataFrame(nodes.values()).reindex(columns=columns), csv, _describe(nodes, score))


def _add_verdicts(nodes: dict[str, dict], verdicts: pd.DataFrame | None, score: Score) -> dict[str, dict]:
    """Add `missed` and `verdict` of the stage's int8 variant, and `chosen`, the format if one is chosen.

    The variant also supplies what a node lacks: not every stage is evaluated on test, so its score may be that on
    validation.
    """
    if verdicts is None:
        return nodes
    rows = select_first_setting(verdicts, "stage", "format")
    columns = ["stage", "gzip_bytes", score.validation_int8, "missed", "verdict"]
    of_int8 = rows[rows["format"] == "int8"].rename(columns={score.validation: score.validation_int8})
    int8 = {row["stage"]: row for row in of_int8[columns].to_dict("records")}
    chosen = rows[rows["chosen"]].set_index("stage")["format"].to_dict()
    found = {}
    for stage in dict.fromkeys([*nodes, *int8]):
        known = {key: value for key, value in nodes.get(stage, {}).items() if pd.notna(value)}
        found[stage] = {"stage": stage} | int8.get(stage, {}) | known | {"chosen": chosen.get(stage)}
    return found


def _arrange(parents: dict[str, str | None]) -> dict[str, tuple[float, float]]:
    """Column and row of every stage: one column per generation, parents level with the middle of their children.

    A stage with an unknown parent is a root.
    """
    places: dict[str, tuple[float, float]] = {}
    free_rows = iter(range(len(parents)))

    def place(stage: str, column: int) -> float:
        places[stage] = column, 0
        children = [child for child, parent in parents.items() if parent == stage and child not in places]
        rows = [place(child, column + 1) for child in children]
        places[stage] = column, (rows[0] + rows[-1]) / 2 if rows else next(free_rows)
        return places[stage][1]

    for stage, parent in parents.items():
        if parent not in parents:
            place(stage, 0)
    return places


def _draw_edge(axes: Axes, start: tuple, end: tuple, height: float, present: bool) -> None:
    left, right = start[0] + _CARD[0], end[0]
    top, bottom = (corner[1] + height / 2 for corner in (start, end))
    bend = left + 0.28
    # Edges to empty cards are below the others, or their dashes would show on shared lines.
    form = {"color": "#a8adb3", "zorder": 1} if present else {"color": FAINT, "linestyle": (0, (3, 2)), "zorder": 0}
    axes.plot([left, bend, bend, right], [top, top, bottom, bottom], linewidth=1.8, solid_joinstyle="round", **form)


def _draw_card(
    axes: Axes, corner: tuple, height: float, stage: str, row: dict | None, largest: float, score: Score
) -> FancyBboxPatch:
    x, y = corner
    left, shade = x + 0.2, INK if row else "#80868b"
    preserved = parse_preserved(row.get("preserved")) if row else None
    edge = {"edgecolor": ALARM, "linewidth": 2.4} if preserved is False else {"edgecolor": FAINT, "linewidth": 1.2}
    dashes = {} if row else {"linestyle": (0, (3, 2))}
    shape = _draw_box(axes, x, y, height, facecolor="white", **edge, **dashes)
    stripe = Rectangle((x, y), 0.09, height, facecolor=get_colour(stage) if row else FAINT, zorder=2)
    axes.add_patch(stripe)
    stripe.set_clip_path(shape)
    title = textwrap.shorten(get_label(stage), 18, placeholder="…") or get_label(stage)[:17] + "…"
    axes.text(left, y + 0.2, style.escape(title), fontsize=10.5, fontweight="bold", va="center", color=shade)
    reason = row.get("unavailable") if row else None
    if not row or (isinstance(reason, str) and reason):
        text = f"not available:\n{textwrap.shorten(reason, _LONGEST, placeholder='…')}" if row else "not run"
        axes.text(left, y + 0.5, style.escape(text), va="center", color=shade)
        return shape
    if preserved is not None:
        text, colour, weight = ("✓ preserved", MUTED, "normal") if preserved else ("✗ NOT preserved", ALARM, "bold")
        axes.text(left, y + 0.84, text, fontsize=8.5, va="center", color=colour, fontweight=weight)
    _write_numbers(axes, left, y + 0.46, row, stage, largest, score)
    if row.get("chosen"):
        _draw_box(axes, x, y, height, 0.045, facecolor="none", edgecolor=INK, linewidth=2.2)
    text, colour = _format_verdict(row)
    axes.text(left, y + height - 0.14, text, fontsize=8.5, va="center", color=colour, fontweight="bold")
    return shape


def _draw_box(axes: Axes, x: float, y: float, height: float, pad: float = 0.0, **form) -> FancyBboxPatch:
    box = FancyBboxPatch((x, y), _CARD[0], height, f"round,pad={pad},rounding_size=0.07", **form)
    return axes.add_patch(box)


def _format_verdict(row: dict[str, Any]) -> tuple[str, str]:
    """Text and colour: the chosen format, or the targets that the int8 file misses."""
    if row.get("chosen"):
        return f"▶ chosen: {get_format_label(row['chosen'])} file", INK
    if not isinstance(row.get("missed"), dict):
        return "", INK
    known = get_targets()  # a file that predicts one class misses this instead
    names = [known[one].title.removesuffix(" drop") if one in known else one for one in row["missed"]]
    return (f"✗ {_join(names)}", ALARM) if names else ("✓ meets all targets", INK)


def _join(names: list[str]) -> str:
    """Join as many names as fit on a card, and count the others: "accuracy, gzip + 2"."""
    texts = [", ".join(names)]
    texts += [f"{', '.join(names[:count])} + {len(names) - count}" for count in range(len(names) - 1, 0, -1)]
    return next((text for text in texts if len(text) <= _LONGEST), texts[-1])


def _write_numbers(axes: Axes, left: float, y: float, row: dict, stage: str, largest: float, score: Score) -> None:
    text, size = _format_score(row, score), row.get("gzip_bytes")
    right = left + _CARD[0] - 0.34
    if text:
        axes.text(left, y, text, fontsize=12 if len(text) < 8 else 9.5, va="center")
    if pd.notna(size):
        axes.text(right, y, _format_kb(size), fontsize=10.5, va="center", ha="right")
        for part, colour in ((1, "#eceef0"), (size / largest, get_colour(stage))):
            axes.add_patch(Rectangle((left, y + 0.17), part * (right - left), 0.06, facecolor=colour, zorder=2))


def _format_kb(size: float) -> str:
    """Bytes in kB, with at least three significant digits, so that small files do not look alike."""
    return f"{size / 1000:,.0f} kB" if size >= 100_000 else f"{get_metric('gzip_bytes').format(size)} kB"


def _format_score(row: dict[str, Any], score: Score) -> str:
    """93.0±0.6 % on test; 97.3±0.4 % val if only validation is known; else nothing."""
    for key, split in ((score.test_int8, ""), (score.validation_int8, " val")):
        if pd.notna(row.get(key)):
            error = row.get(f"{key}_error")
            spread = "" if pd.isna(error) else f"±{2 * error / score.scale:.{score.digits - 1}f}"
            return f"{row[key] / score.scale:.{score.digits - 1}f}{spread} {score.unit}".rstrip() + split
    return ""


def _describe(nodes: dict[str, dict], score: Score) -> str:
    return f"Deployment tree. {'; '.join(_describe_node(stage, row, score) for stage, row in nodes.items())}."


def _describe_node(stage: str, row: dict[str, Any], score: Score) -> str:
    reason = row.get("unavailable")
    known = [
        _format_score(row, score) and f"{'' if score.unit else f'{score.title} '}{_format_score(row, score)} INT8",
        f"{_format_kb(row['gzip_bytes'])} gzip" if pd.notna(row.get("gzip_bytes")) else "",
        "NOT preserved" if parse_preserved(row.get("preserved")) is False else "",
        row.get("verdict", ""),
        f"chosen as {get_format_label(row['chosen'])}" if row.get("chosen") else "",
        f"not available: {reason}" if isinstance(reason, str) and reason else "",
    ]
    return f"{get_label(stage)} {', '.join(filter(None, known))}"
