"""Finds labels of a figure that cover another label, a marker or an axis, or leave the figure."""

import itertools

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure, SubFigure
from matplotlib.text import Text

_LEAST = 1.0
"""Pixels by which boxes must overlap in every direction."""


def find_overlaps(figure: Figure) -> list[str]:
    """Return one line per pair of a label and what it covers."""
    figure.draw_without_rendering()
    panels, texts = _list_panels(figure), list(_list_texts(figure))
    corners = [(text, find_corners(text)) for text in texts]
    found = [
        f"{one.get_text()!r} and {other.get_text()!r}"
        for (one, box), (other, other_box) in itertools.combinations(corners, 2)
        if share_area(box, other_box)
    ]
    for axes in panels:
        for name, box in [*_list_marks(axes), *_list_spines(axes)]:
            found += [f"{text.get_text()!r} and a {name}" for text, own in corners if share_area(own, box)]
        for one, line in _list_lines(axes):
            crossed = [text for text, own in corners if text is not one and _crosses(line, own)]
            found += [f"the line of {one.get_text()!r} crosses {text.get_text()!r}" for text in crossed]
    width, height = figure.bbox.size
    for text, own in corners:
        if own.min() < -1 or own[:, 0].max() > width + 1 or own[:, 1].max() > height + 1:
            found.append(f"{text.get_text()!r} leaves the figure")
    return found


def _list_panels(figure: Figure | SubFigure) -> list[Axes]:
    return [*figure.get_axes()]


def _list_texts(figure: Figure | SubFigure):
    """The texts that are drawn. Ticks outside the axes have texts, too, and are not."""
    legends = list(figure.legends)
    own = [*figure.texts, figure._suptitle, figure._supxlabel, figure._supylabel]
    for part in figure.subfigs:
        yield from _list_texts(part)
    for axes in figure.axes if not figure.subfigs else []:
        own += [*axes.texts, axes.title, axes._left_title, axes._right_title]
        legends += [axes.get_legend()]
        if axes.axison:
            for axis in (axes.xaxis, axes.yaxis):
                own.append(axis.label)
                own += [label for tick in axis._update_ticks() for label in (tick.label1, tick.label2)]
                own.append(axis.offsetText)
    for legend in filter(None, legends):
        own += legend.get_texts()
    # A text that is in two lists, such as the super label of a figure, is one text.
    seen = {id(text): text for text in own if text is not None and text.get_visible() and text.get_text().strip()}
    yield from seen.values()


def find_corners(text: Text) -> np.ndarray:
    """Corners (4, 2) of the box around a text, which may be turned around its anchor."""
    angle = text.get_rotation()
    if angle % 90:
        text.set_rotation(0)
    (left, low), (right, high) = Text.get_window_extent(text).get_points()  # without the line of an annotation
    text.set_rotation(angle)
    corners = np.array([(left, low), (right, low), (right, high), (left, high)])
    if angle % 90:
        anchor = text.get_transform().transform(text.get_unitless_position())
        sine, cosine = np.sin(np.radians(angle)), np.cos(np.radians(angle))
        corners = anchor + (corners - anchor) @ np.array([[cosine, sine], [-sine, cosine]])
    return corners


def share_area(one: np.ndarray, other: np.ndarray) -> bool:
    """Whether two rectangles (4, 2), turned or not, overlap by more than a pixel along each of their sides."""
    for rectangle in (one, other):
        for side in (rectangle[1] - rectangle[0], rectangle[3] - rectangle[0]):
            length = np.hypot(*side)
            if length:
                spans = [corners @ (side / length) for corners in (one, other)]
                if min(span.max() for span in spans) - max(span.min() for span in spans) < _LEAST:
                    return False
    return True


def _box(left: float, low: float, right: float, high: float) -> np.ndarray:
    return np.array([(left, low), (right, low), (right, high), (left, high)])


def _list_marks(axes: Axes):
    for line in axes.lines:
        if line.get_marker() in ("None", "none", "", None, " ") or not line.get_visible():
            continue
        points = line.get_transform().transform(np.column_stack([line.get_xdata(), line.get_ydata()]).astype(float))
        half = line.get_markersize() / 2 * axes.figure.dpi / 72
        for x, y in points[np.isfinite(points).all(axis=1)]:
            yield "marker", _box(x - half, y - half, x + half, y + half)


def _list_lines(axes: Axes):
    """The lines from names to their points, as points (n, 2)."""
    for text in axes.texts:
        if getattr(text, "arrow_patch", None) is not None:
            end = axes.transData.transform(text.xy)
            (left, low), (right, high) = Text.get_window_extent(text).get_points()
            middle = np.array([left + right, low + high]) / 2
            yield text, middle + (end - middle) * np.linspace(0, 1, 60)[:, None]


def _crosses(line: np.ndarray, corners: np.ndarray) -> bool:
    """Whether a line of points passes through an upright box."""
    inside = (line > corners.min(0) + _LEAST) & (line < corners.max(0) - _LEAST)
    return bool(inside.all(-1).any())


def _list_spines(axes: Axes):
    if axes.axison:
        for spine in axes.spines.values():
            if spine.get_visible():
                points = spine.get_transform().transform(spine.get_path().vertices)
                (left, low), (right, high) = points.min(0) - _LEAST, points.max(0) + _LEAST
                yield "axis", _box(left, low, right, high)
