"""Names beside the points of a figure, each where it covers nothing."""

from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.transforms import IdentityTransform

from collabopt.figures import style
from collabopt.figures.style import MUTED

_DIRECTIONS = (1, 0), (-1, 0), (0, 1), (0, -1), (0.7, 0.8), (-0.7, 0.8), (0.7, -0.8), (-0.7, -0.8)
_DISTANCES = 10, 21, 32, 44, 60
_OFFSETS = np.array([(distance * x, distance * y) for distance in _DISTANCES for x, y in _DIRECTIONS])
"""Places of a name, in 1/72 inch to the right of its point and above it, the best first."""
_FAR = 15
"""A name farther away, in 1/72 inch, has a line to its point."""

_REACH = 6
"""Half the side of the square that a marker covers, in 1/72 inch."""

_WEIGHT = 3
"""Covering a name, or space outside the axes where ticks and titles stand, counts this many times a covered marker."""

_CROSSED = 50
"""A part of a line that crosses a name counts as so many square pixels."""

_ROUNDS = 3


def place(
    axes: Axes,
    points: np.ndarray,
    names: Sequence[str],
    colours: Sequence[str],
    away: Sequence[float],
    others: np.ndarray,
) -> None:
    """Write names beside points, where they cover no name, no point and no space outside the axes.

    A name without such a place is left out: colour and marker tell what the point is, and so does hovering.

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
    pixel = axes.figure.dpi / 72
    centres = axes.transData.transform(np.concatenate([points, others]))
    offsets = pixel * _OFFSETS * np.asarray(away)[:, None, None]
    texts = [axes.text(0, 0, style.escape(name), transform=IdentityTransform(), fontsize=8.5) for name in names]
    sizes = np.array([text.get_window_extent().size for text in texts])[:, None]
    corners = centres[: len(points), None] + offsets + sizes * (np.sign(np.round(offsets)) - 1) / 2
    boxes = np.concatenate([corners, corners + sizes], -1)
    reach = pixel * _REACH * np.concatenate([away, np.ones(len(others))])[:, None] * np.array([-1, -1, 1, 1])
    # Parts of the lines from the points to the names, in the places of far names.
    starts, ways = centres[: len(points), None], corners + sizes / 2 - centres[: len(points), None]
    parts = starts[:, :, None] + ways[:, :, None] * np.linspace(0.1, 0.9, 17)[:, None]
    parts[:, np.hypot(*_OFFSETS.T) <= _FAR] = np.nan
    outside = np.prod(sizes, -1) - _intersect(boxes, axes.bbox.extents[None]).sum(-1)
    cover = _intersect(boxes, np.tile(centres, 2) + reach).sum(-1) + _WEIGHT * outside
    chosen, rows = cover.argmin(1), np.arange(len(points))

    def count(row: int) -> np.ndarray:
        names_of_others, lines = boxes[rows, chosen][rows != row], parts[rows, chosen][rows != row].reshape(-1, 2)
        crossed = _count_inside(parts[row].reshape(-1, 2), names_of_others).reshape(len(_OFFSETS), -1).sum(-1)
        crossed += _count_inside(lines, boxes[row], axis=0)
        return cover[row] + _WEIGHT * _intersect(boxes[row], names_of_others).sum(-1) + _CROSSED * crossed

    for row in np.tile(rows, _ROUNDS):
        chosen[row] = count(row).argmin()
    for row, text in enumerate(texts):
        text.remove()
        if count(row)[chosen[row]] > 1:  # square pixel
            boxes[row, chosen[row]] = parts[row, chosen[row]] = np.nan  # covers nothing
            continue
        across, up = offsets[row, chosen[row]] / pixel
        line = {"arrowstyle": "-", "color": MUTED, "linewidth": 0.6, "shrinkA": 0, "shrinkB": 4}
        is_far = np.hypot(across, up) > _FAR * away[row]
        form = {"ha": _align(across, "right left"), "va": _align(up, "top bottom"), "color": colours[row]}
        form |= {"fontsize": 8.5, "multialignment": "left" if across > 0 else "right" if across < 0 else "center"}
        form |= {"arrowprops": line} if is_far else {}
        axes.annotate(style.escape(names[row]), points[row], (across, up), textcoords="offset points", **form)


def _align(offset: float, sides: str) -> str:
    low, high = sides.split()
    return high if offset > 0.5 else low if offset < -0.5 else "center"


def _intersect(boxes: np.ndarray, others: np.ndarray) -> np.ndarray:
    """Areas that boxes (…, 4) share with others (m, 4), in square pixels: (…, m). Corners: left, bottom, right, top."""
    low = np.maximum(boxes[..., None, :2], others[:, :2])
    high = np.minimum(boxes[..., None, 2:], others[:, 2:])
    return np.nan_to_num(np.prod(np.maximum(high - low, 0), -1))


def _count_inside(points: np.ndarray, boxes: np.ndarray, axis: int = 1) -> np.ndarray:
    """How many of boxes (m, 4) hold each of points (n, 2): (n,); or, along axis 0, how many points each box holds."""
    inside = (points[:, None] > boxes[:, :2]) & (points[:, None] < boxes[:, 2:])
    return inside.all(-1).sum(axis)
