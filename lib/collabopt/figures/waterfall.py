"""The size waterfall: how each step from a float32 file to the deployed int8 file reduces the size.

Pruning and clustering do not change the length of a file. Their effect shows when the file is compressed. So every step
after the first is a size after gzip: of the float32 files of the stages, then of the int8 file.
"""

from pathlib import Path

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from collabopt.config.formats import get_format_label
from collabopt.config.stages import BASELINE, Stage, build_tree, get_lineage, list_stages
from collabopt.figures import style
from collabopt.figures.style import INK, MUTED, get_colour, use_style
from collabopt.storage.results import select_first_setting, to_numbers

_WIDTH = 0.62
_ROOM = 0.1
"""Share of the axis that a size needs to stand in the dashed part of a column."""


@use_style()
def draw_waterfall(variants: pd.DataFrame, stage: str | None = None, csv: Path | None = None) -> Figure:
    """Draw and return the sizes of `variants` on the way to a stage's int8 file, in kB of 1,000 bytes.

    `stage` is by default the farthest on the longest path that has a variant. If a search ended before its int8 file,
    the smallest quantized file takes its place. `csv` is for the data.

    Raises:
        ValueError: A variant on the way is missing.
    """
    steps = _make_steps(variants, stage)
    times_smaller = steps["kilobytes"].iloc[0] / steps["kilobytes"].iloc[-1]
    figure = style.make_figure(max(1.3 + 1.2 * len(steps), 5.0), 3.9)
    axes = figure.subplots()
    axes.set(ylabel="size (kB)", ylim=(0, 1.18 * steps["kilobytes"].max()), xlim=(-0.55, len(steps) - 0.45))
    for at, row in enumerate(steps.itertuples()):
        _draw_column(axes, at, row, steps["kilobytes"].iloc[max(at - 1, 0)])
    axes.set_xticks(range(len(steps)), [step.replace(" (", "\n(") for step in steps["step"]])
    axes.tick_params(axis="x", length=0, colors=INK)
    axes.yaxis.set_major_formatter("{x:,.0f}")
    axes.set_title(f"{times_smaller:.1f} times smaller")
    note = "Sizes after gzip from the second column on: pruning and clustering do not change the length of a file.\n"
    figure.supxlabel(f"{note}In another order each step would save another share.", color=MUTED)
    told = [
        f"{row.step} {row.kilobytes:,.1f} kB" + ("" if pd.isna(row.saved) else f" ({-100 * row.saved:+.0f} %)")
        for row in steps.itertuples()
    ]
    alt = f"File size step by step: {'; '.join(told)}. In all {times_smaller:.1f} times smaller."
    return style.save(figure, steps, csv, alt)


def _make_steps(variants: pd.DataFrame, stage: str | None) -> pd.DataFrame:
    """One row per column: `step, stage, format, raw_bytes, gzip_bytes`, `kilobytes` drawn, `saved` in [0, 1]."""
    rows = select_first_setting(to_numbers(variants, ["tflite_bytes", "gzip_bytes"]), "stage", "format")
    known = rows.dropna(subset=["tflite_bytes", "gzip_bytes"]).set_index(["stage", "format"])
    tree = build_tree(set(rows["stage"]))
    is_given = stage is not None
    way = [*_list_floats(stage, tree), (stage, "int8")] if is_given else _find_longest_way(known["gzip_bytes"], tree)
    missing = [f"{name} {form}" for name, form in way if (name, form) not in known.index]
    if missing:
        raise ValueError(f"variants: without {', '.join(missing)}; expected every variant on the way to {way[-1][0]}")
    found = []
    for name, form in way:
        raw, packed = known.loc[(name, form), ["tflite_bytes", "gzip_bytes"]]
        sizes = {"stage": name, "format": form, "raw_bytes": int(raw), "gzip_bytes": int(packed)}
        if not found:
            found.append({"step": "float32 file"} | sizes | {"kilobytes": raw / 1000})
        found.append({"step": _describe_step(name, form)} | sizes | {"kilobytes": packed / 1000})
    steps = pd.DataFrame(found)
    return steps.assign(saved=1 - steps["kilobytes"] / steps["kilobytes"].shift())


def _list_floats(stage: str, tree: dict[str, Stage]) -> list[tuple[str, str]]:
    """The variants that lead to a stage: a float32 file of each stage that is not quantized."""
    return [(one.name, "float32") for one in get_lineage(stage, tree) if not one.quantizes]


def _find_longest_way(gzip_bytes: pd.Series, tree: dict[str, Stage]) -> list[tuple[str, str]]:
    """The variants to the farthest stage on the longest path, then its int8 file or else its smallest quantized one."""
    deepest = max(tree, key=lambda name: len(get_lineage(name, tree)))
    for end in reversed(get_lineage(deepest, tree)):
        quantized = [key for key in gzip_bytes.index if key[0] == end.name and key[1] != "float32"]
        floats = _list_floats(end.name, tree)
        if set(floats) <= set(gzip_bytes.index) and (quantized or not end.quantizes):
            int8 = [key for key in quantized if key[1] == "int8"]
            return [*floats, *(int8 or sorted(quantized, key=gzip_bytes.get)[:1])]
    return _list_floats(BASELINE, tree)


def _describe_step(name: str, form: str) -> str:
    stage = list_stages()[name]
    if form != "float32":
        return f"quantized ({stage.label if stage.quantizes else get_format_label(form) + ' PTQ'})"
    return "compressed (gzip)" if name == BASELINE else "clustered" if stage.clusters else stage.label


def _draw_column(axes: Axes, at: int, row: tuple, before: float) -> None:
    """Fill the remaining size; the size that the step removes stands above it, dashed."""
    colour = get_colour(row.stage) if at else style.FAINT
    axes.bar(at, row.kilobytes, _WIDTH, color=colour, edgecolor=INK, linewidth=0.6)
    size = f"{row.kilobytes:,.{0 if row.kilobytes >= 100 else 1 if row.kilobytes >= 10 else 2}f} kB"
    if not at:
        _write(axes, at, row.kilobytes, size)
        return
    low, top = sorted((row.kilobytes, before))
    axes.bar(at, top - low, _WIDTH, low, facecolor="none", edgecolor=MUTED, linewidth=0.8, linestyle=(0, (3, 2)))
    axes.plot([at - 1 + _WIDTH / 2, at - _WIDTH / 2], [before, before], color=MUTED, linewidth=0.8)
    change = f"{-100 * row.saved:+.0f} %".replace("-", "−")
    if top - row.kilobytes > _ROOM * axes.get_ylim()[1]:
        _write(axes, at, row.kilobytes, size)
        _write(axes, at, top, change)
    else:
        _write(axes, at, top, f"{size}\n{change}")


def _write(axes: Axes, at: int, height: float, text: str) -> None:
    axes.annotate(text, (at, height), (0, 3), textcoords="offset points", ha="center", va="bottom", color=INK)
