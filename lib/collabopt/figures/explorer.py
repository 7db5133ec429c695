"""Figures to play with in JupyterLab, from what is stored and without training; on a page they stand still.

    explorer.kernels(run.stages("pruned", "pcqat"))
    explorer.targets(leaves, run.experiment.targets)

An output holds the widget and the picture that it begins with: JupyterLab shows the widget, and what knows no widgets,
such as a page of the report, the picture. In a batch it holds the picture alone: a widget does not outlive its kernel,
and JupyterLab would show an error in its place.
"""

import base64
import functools
import html
import os
from collections.abc import Callable, Sequence

import ipywidgets
import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from collabopt.config.experiment import Targets
from collabopt.config.stages import get_label
from collabopt.deploy import targets as bounds
from collabopt.deploy.targets import BOUNDS
from collabopt.figures import density
from collabopt.figures.targets import draw_verdicts

STEPS = 100
"""Positions of a slider."""


class Explorer:
    """Controls above the picture that `draw` makes of their values, drawn again at every new value.

    controls: by the names that `draw` has for them, a dict a line. widget: all of it, as JupyterLab shows it.
    """

    def __init__(self, lines: Sequence[dict[str, ipywidgets.ValueWidget]], draw: Callable[..., Figure]) -> None:
        self.controls = {name: control for line in lines for name, control in line.items()}
        self._draw = draw
        self._said = ipywidgets.HTML()
        self._picture = ipywidgets.Image(format="png", layout={"max_width": "100%", "align_self": "flex-start"})
        boxes = [ipywidgets.HBox(list(line.values())) for line in lines]
        self.widget = ipywidgets.VBox([*boxes, self._said, self._picture])
        for control in self.controls.values():
            control.observe(self._renew, "value")
        self._renew()

    @property
    def png(self) -> bytes:
        """The picture that is shown."""
        return bytes(self._picture.value)

    @property
    def said(self) -> str:
        """What the picture shows, in words."""
        return self._figure.alt

    def _renew(self, change: object = None) -> None:  # noqa: ARG002
        self._figure = self._draw(**{name: control.value for name, control in self.controls.items()})
        self._said.value = html.escape(self.said)
        # At its size in inches of 96 dots, with more dots than that: sharp, and type as large as was meant.
        self._picture.width = str(round(96 * self._figure.get_figwidth()))
        self._picture.value = self._figure.png()

    def _repr_mimebundle_(self, **_) -> tuple[dict, dict]:
        widget = {} if os.environ.get("COLLABOPT_NOTEBOOK") else self.widget._repr_mimebundle_()
        picture = {"image/png": base64.b64encode(self.png).decode(), "text/plain": self.said}
        return widget | picture, {"alt": self.said}


def kernels(finished: Sequence, kernel: str | None = None) -> Explorer:
    """Pick a stage and a kernel: its density, sparsity, unique values and entropy, of the model and of the int8 file.

    finished: stages as `Run.stages` gives them. It begins with the last of them and with `kernel`; None takes that of
    most weights that pruning and clustering touch.
    Raises ValueError where there is no stage, or no such kernel.
    """
    if not finished:
        raise ValueError("finished=[]: expected at least one finished stage")
    weights = finished[-1].layers.set_index("layer")["weights"]
    chosen = kernel or weights[finished[-1].eligible_layers()].idxmax()
    if chosen not in weights.index:
        raise ValueError(f"kernel={chosen}: expected one of {', '.join(weights.index)}")
    stages = [(one.stage.title, place) for place, one in enumerate(finished)]
    line = {
        "stage": ipywidgets.Dropdown(options=stages, value=len(finished) - 1, description="Stage"),
        "layer": ipywidgets.Dropdown(options=list(weights.index), value=chosen, description="Kernel"),
    }

    @functools.cache
    def stored(stage: int) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
        return finished[stage].kernels(), finished[stage].int8_values()

    def draw(stage: int, layer: str) -> Figure:
        own, codes = stored(stage)
        name = get_label(finished[stage].stage.name)
        return density.draw_density({name: own[layer], f"{name} int8": codes[layer]}, layer)

    return Explorer([line], draw)


def targets(leaves: pd.DataFrame, wanted: Targets) -> Explorer:
    """Move the targets and see which leaf is chosen, and what the others miss.

    `leaves` has the columns of leaves.csv. A target that is not ticked bounds nothing, and one whose cost no leaf tells
    is left out. It begins with the targets as they are.
    """
    base, asked, lines = bounds.get_baseline_accuracy(leaves), bounds.list_targets(wanted), []
    for target, bound in BOUNDS.items():
        spent = [bounds.get_cost(leaf, target, base) / bound.size for leaf in leaves.to_dict("records")]
        known = [amount for amount in spent if np.isfinite(amount)]
        if known or target in asked:
            limit = asked[target] / bound.size if target in asked else max(known)
            lines.append(_line(target, [*known, limit], limit, target in asked))

    def draw(**values: float) -> Figure:
        names = [name for line in lines for name in line if name in BOUNDS and values[f"{name}_asked"]]
        return draw_verdicts(leaves, _targets({name: values[name] * BOUNDS[name].size for name in names}))

    return Explorer(lines, draw)


def _line(target: str, amounts: list[float], limit: float, asked: bool) -> dict[str, ipywidgets.ValueWidget]:
    """A slider, from a little below the least of the amounts to a little above the largest, and whether it counts."""
    bound = BOUNDS[target]
    least, most = min((amount for amount in amounts if amount > 0), default=1.0), max(amounts)
    margin = 0.05 * max(most - least, least)
    low, high = max(least - margin, least / 2), max(most, least) + margin
    if target == "max_accuracy_drop":
        low, high = 0.0, min(high, 99.99)
    form = {"readout_format": f",.{bound.digits}f", "continuous_update": False, "style": {"description_width": "12em"}}
    slider = ipywidgets.FloatSlider(
        limit, min=low, max=high, step=(high - low) / STEPS, description=f"{bound.title} ({bound.unit})",
        disabled=not asked, layout={"width": "36em"}, **form,
    )  # fmt: skip
    tick = ipywidgets.Checkbox(asked, description=f"limit {bound.title}", indent=False)
    ipywidgets.dlink((tick, "value"), (slider, "disabled"), lambda on: not on)
    return {target: slider, f"{target}_asked": tick}


def _targets(limits: dict[str, float]) -> Targets:
    whole = {"max_tflite_bytes", "max_gzip_bytes"}
    return Targets(**{name: max(1, round(limit)) if name in whole else limit for name, limit in limits.items()})
