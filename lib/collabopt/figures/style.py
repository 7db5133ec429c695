"""Style of every figure: colours and markers of the stages, type, and the figure's data beside it as CSV.

The colours are those of Okabe and Ito, which colour-blind readers can tell apart. A stage and its quantization-aware
child share a hue, light and dark, and also differ in marker: circle and square.
"""

import base64
import contextlib
import html
import io
import re
from collections.abc import Iterator
from pathlib import Path

import matplotlib as mpl
import matplotlib.pyplot as plt
import pandas as pd
from matplotlib.artist import Artist
from matplotlib.figure import Figure

from collabopt.config.stages import Stage, list_stages
from collabopt.runtime import progress
from collabopt.storage import atomic

_STYLE = mpl.rc_params_from_file(Path(__file__).with_suffix(".mplstyle"), use_default_template=False)
INK, MUTED, FAINT = (_STYLE[setting] for setting in ("text.color", "xtick.color", "grid.color"))
ALARM = "#c1121f"
_NUMBER = re.compile(r"(\d\.\d)\d+")


@contextlib.contextmanager
def use_style() -> Iterator[None]:
    """Give figures the style of this package, and say that one is drawn."""
    progress.advance("drawing")
    with mpl.rc_context(_STYLE):
        yield
    progress.advance("")


def find_stage(label: str) -> Stage | None:
    """Return the stage that a `label`, such as "PCQAT int8" or "sparse_clustered", begins with, or None."""
    text = str(label).lower().replace("_", " ").replace("-", " ")
    fitting = [stage for stage in list_stages().values() if text.startswith(stage.label.lower())]
    return max(fitting, key=lambda stage: len(stage.label), default=None)


def get_colour(label: str) -> str:
    """Return the colour of the stage that a `label` begins with, or grey."""
    stage = find_stage(label)
    return stage.colour if stage else MUTED


def get_marker(label: str) -> str:
    """Return the marker of the stage of a `label`: a square for quantization-aware training, else a circle."""
    stage = find_stage(label)
    return "s" if stage and stage.quantizes else "o"


def escape(text: str) -> str:
    """Return a `text` with dollar signs escaped, between which matplotlib reads mathematics."""
    return str(text).replace("$", r"\$")


class Described(Figure):
    """A figure with a text for readers who cannot see it.

    Attributes:
        alt: The text. A notebook stores it in the metadata of the output.
        hovers: Texts that a page shows where the pointer is over a part of the figure, by id (`add_hover`). A figure
            with such texts is inline SVG on a page.
    """

    alt = ""
    _png: bytes | None = None

    def __init__(self, *args, **kwargs) -> None:
        super().__init__(*args, **kwargs)
        self.hovers: dict[str, str] = {}

    def png(self) -> bytes:
        """Return the figure as a PNG file. The same figure gives the same bytes; only a changed one is drawn again."""
        if self._png is None or self.stale:
            picture = io.BytesIO()
            self.savefig(picture, format="png", metadata={"Software": None})
            self._png, self.stale = picture.getvalue(), False
        return self._png

    def svg(self) -> str:
        """Return the figure as an `svg` element for a page. Text stays text, and no font is embedded.

        The ids in it begin with "svg-"; a page with several figures replaces that (`number_ids`).
        """
        file = io.StringIO()
        with mpl.rc_context({"svg.fonttype": "none", "svg.hashsalt": "collabopt"}):
            self.savefig(file, format="svg", metadata=dict.fromkeys(("Date", "Creator", "Format", "Type")))
        element = re.sub(r"<metadata>.*?</metadata>\s*|<!--.*?-->\s*", "", file.getvalue(), flags=re.DOTALL)
        element = element[element.index("<svg ") :].replace("'DejaVu Sans'", "'DejaVu Sans', Verdana, sans-serif")
        for name, text in self.hovers.items():
            element = element.replace(f'<g id="{name}">', f'<g id="{name}"><title>{html.escape(text)}</title>')
        element = re.sub(r'(\bid="|href="#|url\(#)', r"\1svg-", element)
        element = re.sub(r'\b(?:d|x|y|transform)="[^"]*"', lambda found: _NUMBER.sub(r"\1", found[0]), element)
        pixels = f'width="{96 * self.get_figwidth():.0f}" height="{96 * self.get_figheight():.0f}" role="img" '
        head, _, rest = element.partition(">")
        head = re.sub(r'\b(width|height|xmlns(:xlink)?|version)="[^"]*"\s*', "", head)
        return f'{head} {pixels}aria-label="{html.escape(self.alt)}">{rest}'

    def _ipython_display_(self) -> None:
        """Show the PNG file that already exists. IPython's own formatter would draw the figure twice more."""
        from IPython.display import display  # only here: pages of figures are made without it

        shown = {"image/png": base64.b64encode(self.png()).decode(), "text/plain": self.alt or repr(self)}
        about = {"alt": self.alt} if self.alt else {}
        if self.hovers:
            about["inline_svg"] = self.svg()  # for the page; a notebook shows the PNG file
        display(shown, metadata=about, raw=True)


def add_hover(artist: Artist, text: str) -> None:
    """Let a page show a `text` where the pointer is over an `artist`, which is already in its figure."""
    figure = artist.get_figure(root=True)
    name = f"hover{len(figure.hovers)}"
    artist.set_gid(name)
    figure.hovers[name] = text


def number_ids(svg: str, name: str) -> str:
    """Return `svg` of `Described.svg` with ids that begin with `name`, which no other figure of the page has."""
    return re.sub(r'(\bid="|href="#|url\(#)svg-', rf"\1{name}-", svg)


def select_largest(weights: pd.Series, most: int, what: str) -> tuple[list[str], list[str]]:
    """Return the names of the layers with most weights, in their order, and a line on those that are left out.

    Args:
        weights: Number of weights by name.
        most: Number of layers that a figure can show.
        what: What they are, such as "kernels".

    Returns:
        At most `most` names; no line if nothing is left out.
    """
    weights = weights.fillna(0)  # not known
    chosen = weights.nlargest(most)
    if len(chosen) == len(weights):
        return list(weights.index), []
    share = 100 * chosen.sum() / max(weights.sum(), 1)
    line = f"the {most} largest of {len(weights)} {what}, with {share:.0f} % of the weights; the CSV file has all"
    return [name for name in weights.index if name in chosen], [line]


def make_figure(width: float, height: float) -> Described:
    """Return an empty figure, `width` × `height` inches."""
    # pyplot makes it, or a notebook would not show it. pyplot forgets it at once, or a notebook would show it twice and
    # a batch would keep every figure in memory.
    figure = plt.figure(figsize=(width, height), layout="constrained", FigureClass=Described)
    plt.close(figure)
    return figure


def save(figure: Described, data: pd.DataFrame, csv: Path | None, alt: str = "") -> Described:
    """Describe a figure and save it as PNG with its data as CSV.

    Args:
        figure: The figure.
        data: The numbers that it shows.
        csv: File for the data. The PNG file has the same name with another suffix. None saves nothing.
        alt: Text for readers who cannot see the figure.

    Returns:
        The same figure.
    """
    figure.alt = alt
    if csv is not None:
        atomic.write(Path(csv).with_suffix(".png"), figure.png())
        atomic.write(Path(csv), data.to_csv(index=False, lineterminator="\n"))
    return figure
