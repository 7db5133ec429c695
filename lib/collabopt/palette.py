"""How every figure looks: the colours and names of the stages, the type, and the figure's data beside it as CSV.

The colours are Okabe and Ito's, told apart by colour-blind readers. A stage and its quantization-aware descendant share
a hue, light and dark, and also differ in marker: circle for float, square for quantization-aware training.
"""

import io
from contextlib import AbstractContextManager
from pathlib import Path

import matplotlib as mpl
import matplotlib.pyplot as plt
import pandas as pd
from matplotlib.figure import Figure

from collabopt import store

NAMES = {
    "baseline": "baseline",
    "pruned": "pruned",
    "clustered": "clustered",
    "sparse_clustered": "sparse clustered",
    "qat": "QAT",
    "pqat": "PQAT",
    "cqat": "CQAT",
    "pcqat": "PCQAT",
}
PALETTE = {
    "baseline": "#8a8a8a",
    "qat": "#333333",
    "pruned": "#e69f00",
    "pqat": "#a34700",
    "clustered": "#56b4e9",
    "cqat": "#0063a3",
    "sparse_clustered": "#cc79a7",
    "pcqat": "#8a2065",
}
INK, MUTED, FAINT, ALARM = "#1d1d1f", "#5f6368", "#d5d7da", "#c1121f"


def _style() -> AbstractContextManager:
    """The type and lines of every figure; text set smaller than this is not legible in print."""
    return mpl.rc_context(
        {
            "font.family": "DejaVu Sans",
            "font.size": 9,
            "axes.titlesize": 10,
            "axes.labelsize": 9,
            "axes.labelcolor": INK,
            "axes.edgecolor": MUTED,
            "axes.spines.top": False,
            "axes.spines.right": False,
            "axes.titlelocation": "left",
            "axes.grid": False,
            "grid.color": FAINT,
            "grid.linewidth": 0.6,
            "text.color": INK,
            "xtick.color": MUTED,
            "ytick.color": MUTED,
            "figure.dpi": 150,
            "figure.facecolor": "white",
            "axes.facecolor": "white",
            "axes.unicode_minus": True,
            "legend.frameon": False,
        }
    )


def name(stage: str) -> str:
    """The stage as it is written: `sparse_clustered` is "sparse clustered", `pcqat` is "PCQAT"."""
    return NAMES.get(stage, stage)


def stage_of(label: str) -> str | None:
    """The stage a label such as "PCQAT int8" or "sparse_clustered" begins with; None when it begins with no stage."""
    text = str(label).lower().replace("_", " ").replace("-", " ")
    fitting = [stage for stage, written in NAMES.items() if text.startswith(written.lower())]
    return max(fitting, key=len, default=None)


def colour(label: str) -> str:
    return PALETTE.get(stage_of(label), MUTED)


def marker(label: str) -> str:
    return "s" if (stage_of(label) or "").endswith("qat") else "o"


def preserved(value) -> bool | None:
    """What a `preserved` cell says, be it of a frame or of a CSV file; None where it is empty."""
    return {"true": True, "1": True, "1.0": True, "false": False, "0": False, "0.0": False}.get(str(value).lower())


def numbers(rows: pd.DataFrame, columns: list[str]) -> pd.DataFrame:
    """`rows` with those columns as floats, NaN where a cell is empty or a column is absent."""
    return rows.assign(**{column: pd.to_numeric(rows.get(column, float("nan")), errors="coerce") for column in columns})


def literal(text: str) -> str:
    """Text as it stands: matplotlib reads what is between two dollar signs as mathematics."""
    return str(text).replace("$", r"\$")


def blank(width: float, height: float) -> Figure:
    """An empty figure of that size in inches. pyplot makes it, or a notebook would not show it; and forgets it at once,
    or a notebook would show it twice and a batch would keep every figure in memory."""
    figure = plt.figure(figsize=(width, height), layout="constrained")
    plt.close(figure)
    return figure


def keep(figure: Figure, data: pd.DataFrame, csv: Path | None) -> Figure:
    """The figure, saved as PNG with its data as CSV beside it where `csv` names a file."""
    if csv is not None:
        picture = io.BytesIO()
        figure.savefig(picture, format="png", metadata={"Software": None})
        store.write(Path(csv).with_suffix(".png"), picture.getvalue())
        store.write(Path(csv), data.to_csv(index=False, lineterminator="\n"))
    return figure
