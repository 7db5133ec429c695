"""Names beside the points of a figure, each where it covers least."""

from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.text import Annotation

from collabopt.figures import style

_OFFSETS = (
    *((10, 0), (-10, 0), (0, 9), (0, -9), (7, 8), (-7, 8), (7, -8), (-7, -8)),
    *((0, 21), (0, -21), (7, 20), (-7, 20), (7, -20), (-7, -20)),
)
"""Places of a name, in 1/72 inch to the right of its point and above it, the best first."""

_REACH = 6
"""Half the side of the square that a marker covers, in 1/72 inch."""

_WEIGHT = 3
"""Covering a name, or space outside the axes where ticks and titles stand, counts this many times a covered marker."""

_ROUNDS = 3


def place(
    axes: Axes,
    points: np.ndarray,
    names: Sequence[str],
    colours: Sequence[str],
    away: Sequence[float],
    others: np.ndarray,
) -> None:
    """Write names beside points, each where it covers least of names, of points and of the space outside the axes.

    Args:
        axes: The panel. Its layout must be final.
        points: Points (n, 2) in data coordinates.
        names: n texts.
        colours: n colours.
        away: n factors on the distance between point and name.
        others: Points (m, 2) without a name, which names should not cover either.
    """
    if not len(points):
        return
    axes.figure.draw_without_rendering()
    tried = [
        [_write_beside(axes, name, point, (times * x, times * y), colour) for x, y in _OFFSETS]
        for point, name, colour, times in zip(points, names, colours, away, strict=True)
    ]
    boxes = np.array([[text.get_window_extent().extents for text in texts] for texts in tried])
    reach = _REACH * axes.figure.dpi / 72 * np.array([-1, -1, 1, 1])
    centres = axes.transData.transform(np.concatenate([points, others]))
    outside = np.prod(boxes[..., 2:] - boxes[..., :2], -1) - _intersect(boxes, axes.bbox.extents[None]).sum(-1)
    cover = _intersect(boxes, np.tile(centres, 2) + reach).sum(-1) + _WEIGHT * outside
    chosen, rows = cover.argmin(1), np.arange(len(points))
    for row in np.tile(rows, _ROUNDS):
        names_of_others = boxes[rows, chosen][rows != row]
        chosen[row] = (cover[row] + _WEIGHT * _intersect(boxes[row], names_of_others).sum(-1)).argmin()
    for row, texts in enumerate(tried):
        for text in texts[: chosen[row]] + texts[chosen[row] + 1 :]:
            text.remove()


def _write_beside(axes: Axes, name: str, point: np.ndarray, offset: tuple[float, float], colour: str) -> Annotation:
    across, up = {-1: "right", 0: "center", 1: "left"}, {-1: "top", 0: "center_baseline", 1: "bottom"}
    form = {"ha": across[int(np.sign(offset[0]))], "va": up[int(np.sign(offset[1]))], "color": colour, "fontsize": 8.5}
    return axes.annotate(style.escape(name), point, offset, textcoords="offset points", **form)


def _intersect(boxes: np.ndarray, others: np.ndarray) -> np.ndarray:
    """Areas that boxes (…, 4) share with others (m, 4), in square pixels: (…, m). Corners: left, bottom, right, top."""
    low = np.maximum(boxes[..., None, :2], others[:, :2])
    high = np.minimum(boxes[..., None, 2:], others[:, 2:])
    return np.prod(np.maximum(high - low, 0), -1)
