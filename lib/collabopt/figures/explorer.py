"""Interactive figures for JupyterLab, drawn from stored results without training. On a page they are pictures.

    explorer.show_kernels(run.stages("pruned", "pcqat"))
    explorer.show_targets(variants, run.experiment.targets)

An output holds the widget and its first picture. JupyterLab shows the widget; a program without widgets, such as a page
of the report, shows the picture. In a batch the output holds only the picture, because a widget does not outlive its
kernel and JupyterLab would show an error in its place.
"""

import base64
import functools
import html
import os
from collections.abc import Callable, Sequence

import ipywidgets
import numpy as np
import pandas as pd

from collabopt.config.experiment import Targets
from collabopt.config.metrics import get_targets
from collabopt.config.scores import ACCURACY, find_score
from collabopt.deploy import targets
from collabopt.figures.density import draw_density
from collabopt.figures.style import Described
from collabopt.figures.targets import draw_verdicts

_STEPS = 100
"""Positions of a slider."""


class Explorer:
    """Controls above a figure, which is drawn again at every new value.

    Args:
        lines: The controls of each line, by name.
        draw: Draws the figure, with the values of the controls as keyword arguments.

    Attributes:
        controls: The controls by name.
        widget: Controls and figure as JupyterLab shows them.
    """

    def __init__(self, lines: Sequence[dict[str, ipywidgets.ValueWidget]], draw: Callable[..., Described]) -> None:
        self.controls = {name: control for line in lines for name, control in line.items()}
        self._draw = draw
        self._text = ipywidgets.HTML()
        self._picture = ipywidgets.Image(format="png", layout={"max_width": "100%", "align_self": "flex-start"})
        boxes = [ipywidgets.HBox(list(line.values())) for line in lines]
        self.widget = ipywidgets.VBox([*boxes, self._text, self._picture])
        for control in self.controls.values():
            control.observe(self._redraw, "value")
        self._redraw()

    @property
    def png(self) -> bytes:
        """The shown picture."""
        return bytes(self._picture.value)

    @property
    def alt(self) -> str:
        """The shown figure in words."""
        return self._figure.alt

    def _redraw(self, change: object = None) -> None:  # noqa: ARG002
        self._figure = self._draw(**{name: control.value for name, control in self.controls.items()})
        self._text.value = html.escape(self.alt)
        # 96 dots are an inch on a page. The picture has more dots than that, so it is sharp at its intended size.
        self._picture.width = str(round(96 * self._figure.get_figwidth()))
        self._picture.value = self._figure.png()

    def _repr_mimebundle_(self, **_) -> tuple[dict, dict]:
        widget = {} if os.environ.get("COLLABOPT_NOTEBOOK") else self.widget._repr_mimebundle_()
        picture = {"image/png": base64.b64encode(self.png).decode(), "text/plain": self.alt}
        return widget | picture, {"alt": self.alt}


def show_kernels(finished: Sequence, kernel: str | None = None) -> Explorer:
    """Return an explorer of the density of a `kernel`, by default the largest, of `finished` stages, the last first.

    Raises:
        ValueError: There is no stage, or no such kernel.
    """
    finished = [one for one in finished if not one.unavailable]
    if not finished:
        raise ValueError("finished=[]: expected at least one finished stage")
    weights = finished[-1].layers.set_index("layer")["weights"]
    first = kernel or weights[finished[-1].eligible_layers()].idxmax()
    if first not in weights.index:
        raise ValueError(f"kernel={first}: expected one of {', '.join(weights.index)}")
    stages = [(one.stage.title, number) for number, one in enumerate(finished)]
    line = {
        "stage": ipywidgets.Dropdown(options=stages, value=len(finished) - 1, description="Stage"),
        "layer": ipywidgets.Dropdown(options=list(weights.index), value=first, description="Kernel"),
    }

    @functools.cache
    def read(stage: int) -> dict[str, dict[str, np.ndarray]]:
        one = finished[stage]
        return {one.stage.label: one.kernels(), f"{one.stage.label} int8": one.int8_values()}

    def draw(stage: int, layer: str) -> Described:
        panels = {label: kernels[layer] for label, kernels in read(stage).items() if layer in kernels}
        return draw_density(panels, layer)

    return Explorer([line], draw)


def show_targets(variants: pd.DataFrame, wanted: Targets) -> Explorer:
    """Return an explorer of `variants` against the targets, first `wanted`, with a slider for each target.

    A target counts only if it is ticked. One that is not set has no slider if no variant has a value for it.
    """
    base, first, lines = targets.get_baseline_score(variants), targets.list_targets(wanted), []
    unused = "max_metric_drop" if find_score(variants) is ACCURACY else "max_accuracy_drop"  # they would say the same
    for target, metric in get_targets().items():
        if target == unused and target not in first:
            continue
        costs = [targets.get_cost(variant, target, base) / metric.scale for variant in variants.to_dict("records")]
        known = [cost for cost in costs if np.isfinite(cost)]
        if known or target in first:
            limit = first[target] / metric.scale if target in first else max(known)
            lines.append(_make_line(target, [*known, limit], limit, target in first))

    def draw(**values: float) -> Described:
        asked = {target: metric for target, metric in get_targets().items() if values.get(f"{target}_asked")}
        limits = {target: values[target] * metric.scale for target, metric in asked.items()}
        counts = {target: max(1, round(limits[target])) for target in limits if asked[target].name.endswith("_bytes")}
        return draw_verdicts(variants, Targets(**limits | counts))

    return Explorer(lines, draw)


def _make_line(target: str, costs: list[float], limit: float, is_set: bool) -> dict[str, ipywidgets.ValueWidget]:
    """A slider, from a little below the least cost to a little above the largest, and a tick whether it counts."""
    metric = get_targets()[target]
    least, most = min((cost for cost in costs if cost > 0), default=1.0), max(costs)
    margin = 0.05 * max(most - least, least)
    low, high = max(least - margin, least / 2), max(most, least) + margin
    if metric.unit == "points":
        low, high = 0.0, min(high, 99.99)
    form = {"readout_format": f",.{metric.digits}f", "continuous_update": False, "style": {"description_width": "12em"}}
    slider = ipywidgets.FloatSlider(
        limit, min=low, max=high, step=(high - low) / _STEPS, description=metric.heading,
        disabled=not is_set, layout={"width": "36em"}, **form,
    )  # fmt: skip
    tick = ipywidgets.Checkbox(is_set, description=f"limit {metric.title}", indent=False)
    ipywidgets.dlink((tick, "value"), (slider, "disabled"), lambda on: not on)
    return {target: slider, f"{target}_asked": tick}
