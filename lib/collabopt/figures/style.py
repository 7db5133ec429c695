"""How every figure looks: the colours and names of the stages, the type, and the figure's data beside it as CSV.

The colours are Okabe and Ito's, told apart by colour-blind readers. A stage and its quantization-aware descendant share
a hue, light and dark, and also differ in marker: circle for float, square for quantization-aware training.
"""

import base64
import io
from contextlib import AbstractContextManager
from pathlib import Path

import matplotlib as mpl
import matplotlib.pyplot as plt
import pandas as pd
from matplotlib.figure import Figure

from collabopt.config.stages import STAGES, Stage
from collabopt.storage import atomic

INK, MUTED, FAINT, ALARM = "#1d1d1f", "#5f6368", "#d5d7da", "#c1121f"


def use_style() -> AbstractContextManager:
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


def find_stage(label: str) -> Stage | None:
    """Return the stage that a label such as "PCQAT int8" or "sparse_clustered" begins with, or None."""
    text = str(label).lower().replace("_", " ").replace("-", " ")
    fitting = [stage for stage in STAGES.values() if text.startswith(stage.label.lower())]
    return max(fitting, key=lambda stage: len(stage.label), default=None)


def get_colour(label: str) -> str:
    """Return the colour of the stage that a label begins with, or grey."""
    stage = find_stage(label)
    return stage.colour if stage else MUTED


def get_marker(label: str) -> str:
    """Return the marker of a label's stage: a square for quantization-aware training, else a circle."""
    stage = find_stage(label)
    return "s" if stage and stage.quantizes else "o"


def parse_preserved(value) -> bool | None:
    """What a `preserved` cell says, be it of a frame or of a CSV file; None where it is empty."""
    return {"true": True, "1": True, "1.0": True, "false": False, "0": False, "0.0": False}.get(str(value).lower())


def to_numbers(rows: pd.DataFrame, columns: list[str]) -> pd.DataFrame:
    """`rows` with those columns as floats, NaN where a cell is empty or a column is absent."""
    return rows.assign(**{column: pd.to_numeric(rows.get(column, float("nan")), errors="coerce") for column in columns})


def select_first_setting(rows: pd.DataFrame, *key: str) -> pd.DataFrame:
    """One row of each `key`: the first setting or seed, our scheme's before TFMOT's own; in the order of `rows`."""
    stock = rows["scheme"].eq("tfmot") if "scheme" in rows else pd.Series(False, index=rows.index)
    rows = rows.assign(_at=range(len(rows)), _stock=stock)
    kept = rows.sort_values("_stock", kind="stable").drop_duplicates([*key])
    return kept.sort_values("_at").drop(columns=["_at", "_stock"])


def escape(text: str) -> str:
    """Text as it stands: matplotlib reads what is between two dollar signs as mathematics."""
    return str(text).replace("$", r"\$")


class Described(Figure):
    """A figure that a notebook keeps with its text for those who cannot see it, in the output's metadata as `alt`."""

    alt = ""
    _png: bytes | None = None

    def png(self) -> bytes:
        """The figure as a PNG file, drawn again only where it was changed; the same figure gives the same bytes."""
        if self._png is None or self.stale:
            picture = io.BytesIO()
            self.savefig(picture, format="png", metadata={"Software": None})
            self._png, self.stale = picture.getvalue(), False
        return self._png

    def _ipython_display_(self) -> None:
        """Show the picture that there is already: what IPython has for figures would draw it twice more."""
        from IPython.display import display  # only here: pages of figures are made without it

        shown = {"image/png": base64.b64encode(self.png()).decode(), "text/plain": self.alt or repr(self)}
        display(shown, metadata={"alt": self.alt} if self.alt else {}, raw=True)


def make_figure(width: float, height: float) -> Described:
    """An empty figure of that size in inches. pyplot makes it, or a notebook would not show it; and forgets it at once,
    or a notebook would show it twice and a batch would keep every figure in memory."""
    figure = plt.figure(figsize=(width, height), layout="constrained", FigureClass=Described)
    plt.close(figure)
    return figure


def save(figure: Described, data: pd.DataFrame, csv: Path | None, alt: str = "") -> Figure:
    """The figure, with `alt` as its text for those who cannot see it, saved as PNG with its data as CSV beside it
    where `csv` names a file."""
    figure.alt = alt
    if csv is not None:
        atomic.write(Path(csv).with_suffix(".png"), figure.png())
        atomic.write(Path(csv), data.to_csv(index=False, lineterminator="\n"))
    return figure
