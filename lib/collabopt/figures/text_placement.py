"""Names beside the points of a figure, each where it covers least."""

from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.text import Annotation

from collabopt.figures import style

PLACES = (10, 0), (-10, 0), (0, 9), (0, -9), (7, 8), (-7, 8), (7, -8), (-7, -8)
"""Where a name may stand: points (1/72 inch) to the right of and above what it names, the best first."""


REACH = 6
"""Half the side of the square, in 1/72 inch, that a marker is taken to cover."""


def place(
    axes: Axes,
    named: np.ndarray,
    names: Sequence[str],
    colours: Sequence[str],
    away: Sequence[float] | float = 1.0,
    others: np.ndarray | None = None,
) -> None:
    """Write `names` beside the points `named` (n, 2), in data coordinates, at the one of `PLACES` where each covers
    least of names, of all points and of what is outside the axes.

    away: how many times as far off as `PLACES`. others: points (m, 2) without a name, which are not covered either.
    """
    axes.figure.draw_without_rendering()
    reach = REACH * axes.figure.dpi / 72
    points = named if others is None else np.concatenate([named, others])
    taken = [(x - reach, y - reach, x + reach, y + reach) for x, y in axes.transData.transform(points)]
    for at, name, colour, times in zip(named, names, colours, np.broadcast_to(away, len(named)), strict=True):
        tried = [_beside(axes, name, at, (times * x, times * y), colour) for x, y in PLACES]
        tried.sort(key=lambda text: _covered(text.get_window_extent().extents, taken, axes.bbox.extents))
        taken.append(tuple(tried[0].get_window_extent().extents))
        for text in tried[1:]:
            text.remove()


def _beside(axes: Axes, name: str, at: np.ndarray, place: tuple[float, float], colour: str) -> Annotation:
    across, up = {-1: "right", 0: "center", 1: "left"}, {-1: "top", 0: "center_baseline", 1: "bottom"}
    form = {"ha": across[int(np.sign(place[0]))], "va": up[int(np.sign(place[1]))], "color": colour}
    return axes.annotate(style.escape(name), at, place, textcoords="offset points", **form)


def _covered(box: np.ndarray, taken: list[tuple], inside: np.ndarray) -> float:
    """Square pixels of `box` that lie on a `taken` box or outside of `inside`: (left, bottom, right, top) each."""

    def shared(other: tuple) -> float:
        width, height = min(box[2], other[2]) - max(box[0], other[0]), min(box[3], other[3]) - max(box[1], other[1])
        return max(width, 0) * max(height, 0)

    return sum(map(shared, taken)) + (box[2] - box[0]) * (box[3] - box[1]) - shared(inside)
