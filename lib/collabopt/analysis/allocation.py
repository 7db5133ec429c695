"""Settings per layer within a budget of bytes: layers that tolerate more are compressed more.

Each layer in turn is pruned to several sparsities, or clustered to several numbers of values, without training
(`sensitivity`). Then a greedy search changes the layer that loses the least accuracy per byte saved, until the kernels
fit the budget. Drops of single layers do not add up, so the sum only ranks. Drops are measured on validation; how much
a weight matters comes from training examples.
"""

import dataclasses
from collections.abc import Mapping
from types import MappingProxyType

import numpy as np
import pandas as pd
import yaml

from collabopt.analysis import sensitivity
from collabopt.config import loading, per_layer
from collabopt.config.experiment import Experiment
from collabopt.config.scores import SCORES
from collabopt.config.tasks import TASKS, Task
from collabopt.datasets import Split
from collabopt.runtime import progress
from collabopt.runtime.tensorflow import keras
from collabopt.techniques import layers, objectives, patterns
from collabopt.tflite import sizes

LEVELS = {"sparsity": (0.0, 0.3, 0.5, 0.7, 0.8, 0.9), "number_of_clusters": (64, 32, 16, 8, 5, 3)}
"""The values that are tried, by setting, the least compression first. That of the experiment is tried, too."""

COLUMNS = ["setting", "layer", "value", "score", "drop", "bytes"]
"""The table: one row per setting, layer and value. `score` names the task's score. `drop` is that of the layer alone on
validation, in the unit that readers see; `bytes` is the zero-order entropy of its int8 kernels."""


def measure(run) -> pd.DataFrame:
    """Return `measure_layers` of the stored baseline of `run`, which is trained if the store does not hold it."""
    return sensitivity.measure_stored(run, measure_layers, "allocation")


def measure_layers(
    model: keras.Model,
    split: Split,
    experiment: Experiment,
    task: Task = TASKS["classification"],
    importance: Mapping[str, np.ndarray] = MappingProxyType({}),
) -> pd.DataFrame:
    """Measure what each value of a setting costs and saves in each layer alone.

    Args:
        model: A plain model; it stays as it is.
        split: Examples to evaluate on.
        experiment: Gives the settings of clustering, excluded layers and seed.
        task: Decides the score.
        importance: What `sensitivity.compute_importance` returned; without it, each weight takes the nearest centroid.

    Returns:
        One row per setting, eligible layer and value (`COLUMNS`). Settings of kernels with symmetric values, and the
        sparsity of 2:4, are fixed and have no rows.
    """
    scratch, experiment = layers.make_gammas_positive(model), patterns.exclude_skipped(experiment, model)
    before, rows = objectives.score_model(scratch, split, task), []
    settings = [
        (setting, prefix, value, loading.change(experiment, **{setting: value}))
        for setting, prefix in (("sparsity", "pruned"), ("number_of_clusters", "clustered"))
        for value in list_levels(setting, experiment)
    ]
    for layer in filter(layers.is_eligible, scratch.layers):
        progress.log(f"allocation: layer {layer.name}", "allocation")
        for setting, prefix, value, changed in settings:
            kernels = sensitivity.compress_layer(layer, changed, prefix, importance)
            if not kernels:
                continue
            after = sensitivity.score_with(scratch, layer, kernels, split, task)
            drop = sensitivity.compute_drop(prefix, before, after, task.score)[f"{prefix}_drop"]
            int8 = [quantize(kernel, setting == "sparsity") for kernel in kernels.values()]
            rows.append([setting, layer.name, value, task.score.name, drop, sizes.compute_entropy_bytes(int8)])
    return pd.DataFrame(rows, columns=COLUMNS)


def list_levels(setting: str, experiment: Experiment) -> list[float]:
    """Return the values of a `setting` in `LEVELS`, the experiment and its search, the least compression first."""
    if setting == "number_of_clusters" and experiment.symmetric:
        return []
    if setting == "sparsity" and experiment.sparsity_pattern == "2:4":
        return []
    own = per_layer.list_values(getattr(experiment, setting))
    tried = getattr(experiment.search, setting) or ()
    return sorted({*LEVELS[setting], *own, *tried}, reverse=setting == "number_of_clusters")


def quantize(kernel: np.ndarray, per_channel: bool) -> np.ndarray:
    """Return the int8 values of a `kernel` (..., out) float32, with a range per output channel if `per_channel`."""
    axes = tuple(range(kernel.ndim - 1)) if per_channel else None
    reach = np.abs(kernel).max(axis=axes, keepdims=True)
    return np.round(np.divide(127 * kernel, reach, out=np.zeros_like(kernel), where=reach > 0)).astype(np.int8)


@dataclasses.dataclass(frozen=True)
class Allocation:
    """Values by layer that fit a budget.

    Attributes:
        setting: "sparsity" or "number_of_clusters".
        rows: One row per layer, in network order: layer, value, drop, bytes.
        default: Value of the experiment, for layers that have no row.
        note: How many bytes the kernels take, and what they take as given.
    """

    setting: str
    rows: pd.DataFrame
    default: float
    note: str

    @property
    def value(self) -> float | dict[str, float]:
        """The value of the setting, as `start` takes it."""
        other, kind = self.rows[self.rows["value"] != self.default], type(self.default)
        changed = {layer: kind(value) for layer, value in zip(other["layer"], other["value"], strict=True)}
        return {per_layer.DEFAULT: self.default, **changed} if changed else self.default

    @property
    def yaml(self) -> str:
        """The line of an experiment file."""
        return yaml.safe_dump({self.setting: self.value}, default_flow_style=None, sort_keys=False, width=110).strip()

    def __repr__(self) -> str:
        return f"{self.rows.to_string(index=False)}\n{self.note}"

    def _repr_html_(self) -> str:
        heads = {"layer": "Layer", "value": self.setting.replace("_", " ").capitalize(), "drop": "Drop"}
        rows = self.rows.rename(columns=heads | {"bytes": "Entropy (bytes)"}).style.hide(axis="index")
        rows.format({"Entropy (bytes)": "{:,.0f}"}, escape="html", precision=2)
        return f"{rows.to_html()}<p>{self.note}</p>"


def allocate(table: pd.DataFrame, setting: str, experiment: Experiment, budget: float | None = None) -> Allocation:
    """Choose a value for each layer by accuracy lost per byte saved.

    Args:
        table: The table of `measure_layers`.
        setting: "sparsity" or "number_of_clusters".
        experiment: Gives the value of layers without rows.
        budget: Bytes that the kernels may take; None takes as many as with the experiment's own setting.

    Returns:
        The values. If no choice fits the budget, the note says so.

    Raises:
        ValueError: The table has no rows of the setting.
    """
    rows = table[table["setting"] == setting]
    if rows.empty and setting in LEVELS and not list_levels(setting, experiment):
        note = f"Other settings of the experiment decide the {setting.replace('_', ' ')}: there is nothing to choose."
        chosen = pd.DataFrame(columns=["layer", "value", "drop", "bytes"])
        return Allocation(setting, chosen, per_layer.get_value(getattr(experiment, setting)), note)
    if rows.empty:
        raise ValueError(f"setting={setting!r}: expected one that the table has: {', '.join({*table['setting']})}")
    own = getattr(experiment, setting)
    given = rows[[row.value == per_layer.get_value(own, row.layer) for row in rows.itertuples()]]
    budget = given["bytes"].sum() if budget is None else budget
    options = {layer: part.reset_index(drop=True) for layer, part in rows.groupby("layer", sort=False)}
    chosen = _search(options, budget)
    found = pd.DataFrame([options[layer].loc[place] for layer, place in chosen.items()])
    score = SCORES[table["score"].iloc[0]]
    figures = [
        f"{part['bytes'].sum():,.0f} bytes, drops add up to {score.format_drop(part['drop'].sum() * score.scale)}"
        for part in (found, given)
    ]
    note = f"Entropy of the int8 kernels: {figures[0]}; with the experiment's own setting {figures[1]}."
    note += "" if found["bytes"].sum() <= budget else f" No values of the table fit {budget:,.0f} bytes."
    value = per_layer.get_value(own)
    return Allocation(setting, found[["layer", "value", "drop", "bytes"]].astype({"value": type(value)}), value, note)


def _search(options: dict[str, pd.DataFrame], budget: float) -> dict[str, int]:
    """The chosen row of each layer's table, from the first ones on, until their bytes fit the budget."""
    chosen = dict.fromkeys(options, 0)
    while sum(options[layer]["bytes"][place] for layer, place in chosen.items()) > budget:
        steps = []
        for layer, place in chosen.items():
            rest = options[layer].loc[place + 1 :]
            saved = options[layer]["bytes"][place] - rest["bytes"]
            price = (rest["drop"] - options[layer]["drop"][place])[saved > 0] / saved[saved > 0]
            steps += [(price[index], layer, index) for index in price.index]
        if not steps:
            break
        _, layer, index = min(steps)
        chosen[layer] = index
    return chosen
