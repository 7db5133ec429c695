"""The sensitivity of layers: what pruning or clustering one layer alone costs, on validation and without training.

Each layer in turn is pruned or clustered as its stage would begin, all others stay as they are, and the model is
evaluated (Han et al. 2015, arXiv:1506.02626, figure 6). The drops rank the layers. They do not add up, and training
recovers most of them, so they do not predict what a stage costs.
"""

import dataclasses
from collections.abc import Callable, Mapping
from types import MappingProxyType

import numpy as np
import pandas as pd
import yaml

from collabopt.analysis import comparison
from collabopt.config import per_layer
from collabopt.config.experiment import Experiment
from collabopt.config.scores import ACCURACY, SCORES, Score
from collabopt.config.sections import Exclude
from collabopt.config.stages import BASELINE
from collabopt.config.tasks import TASKS, Task
from collabopt.datasets import Data, Split
from collabopt.runtime import progress, tensorflow
from collabopt.runtime.tensorflow import keras
from collabopt.techniques import clustering, layers, objectives, patterns

TECHNIQUES = {"pruned": "pruning", "clustered": "clustering"}
"""Prefix of the table's columns, and key of `exclude` in an experiment."""

COLUMNS = [
    *("layer", "kind", "weights", "examples", "score", "baseline_score"),
    *(f"{prefix}_{figure}" for prefix in TECHNIQUES for figure in ("score", "drop", "error")),
]
"""The table: one row per layer. `score` names the task's score. Drops against the baseline and their standard errors,
paired by example, are in the unit that readers see (points of accuracy); they are empty where the layer is excluded
from the technique."""


def restore_baseline(run) -> keras.Model:
    """Return the plain model of the baseline of `run`, which is trained if the store does not hold it."""
    run.stage(BASELINE)
    tensorflow.seed_everything(run.experiment.seed)  # Keras numbers unnamed layers from one again
    return run.model(BASELINE)


def measure(run) -> pd.DataFrame:
    """Return `measure_layers` of the stored baseline of `run`."""
    return measure_stored(run, measure_layers, "sensitivity")


def measure_stored(run, measure_table: Callable[..., pd.DataFrame], about: str) -> pd.DataFrame:
    """Return what `measure_table` says of the stored baseline of `run`: a function such as `measure_layers`.

    `about` names it in progress lines.
    """
    model, clock = restore_baseline(run), progress.Clock()
    importance = compute_importance(model, run.data, run.experiment)
    split = run.data.validation.take_counted()
    table = measure_table(model, split, run.experiment, run.data.task, importance)
    took = progress.format_duration(clock.seconds())
    progress.log(f"{about}: {table['layer'].nunique()} layers took {took}", about, last=True)
    return table


def compute_importance(model: keras.Model, data: Data, experiment: Experiment) -> dict[str, np.ndarray]:
    """Return what the squared error of each weight of a plain `model` costs when it is clustered, by kernel."""
    return clustering.make_settings(experiment, False).compute_importance(model, data, experiment.seed)


def measure_layers(
    model: keras.Model,
    split: Split,
    experiment: Experiment,
    task: Task = TASKS["classification"],
    importance: Mapping[str, np.ndarray] = MappingProxyType({}),
) -> pd.DataFrame:
    """Measure what pruning and clustering each layer alone costs.

    Args:
        model: A plain model; it stays as it is.
        split: Examples to evaluate on.
        experiment: Gives sparsity, settings of clustering, excluded layers and seed.
        task: Decides the score.
        importance: What `compute_importance` returned; without it, each weight takes the nearest centroid.

    Returns:
        One row per eligible layer (`COLUMNS`), in network order, without layers excluded from both techniques.
    """
    # Clustering starts from this copy, which computes the same. One model is traced once, whatever its kernels hold.
    scratch, experiment = layers.make_gammas_positive(model), patterns.exclude_skipped(experiment, model)
    scores, rows = objectives.score_model(scratch, split, task), []
    eligible = [layer for layer in scratch.layers if layers.is_eligible(layer)]
    for number, layer in enumerate(eligible, start=1):
        weights = sum(kernel.size for kernel in layers.read_layer_kernels(layer).values())
        row = {"layer": layer.name, "kind": layers.get_kind(layer), "weights": weights}
        row |= {"examples": len(split), "score": task.score.name, "baseline_score": scores.mean(dtype=float)}
        compressed = {prefix: compress_layer(layer, experiment, prefix, importance) for prefix in TECHNIQUES}
        if any(compressed.values()):
            progress.log(f"sensitivity: layer {number} of {len(eligible)}, {layer.name}", "sensitivity")
            for prefix, kernels in ((prefix, kernels) for prefix, kernels in compressed.items() if kernels):
                row |= compute_drop(prefix, scores, score_with(scratch, layer, kernels, split, task), task.score)
            rows.append(row)
    return pd.DataFrame(rows, columns=COLUMNS)


def compress_layer(
    layer: keras.layers.Layer,
    experiment: Experiment,
    prefix: str,
    importance: Mapping[str, np.ndarray] = MappingProxyType({}),
    preserve_sparsity: bool = False,
) -> dict[str, np.ndarray]:
    """Return a layer's kernels by name as a technique's stage would begin; empty if the layer is excluded from it.

    Args:
        layer: An eligible layer; it stays as it is.
        experiment: Gives the settings of the technique, excluded layers and seed.
        prefix: A key of `TECHNIQUES`.
        importance: What `compute_importance` returned; without it, each weight takes the nearest centroid.
        preserve_sparsity: Whether clustering keeps zeros.
    """
    if prefix == "clustered":
        settings = clustering.make_settings(experiment, preserve_sparsity)
        if not settings.is_eligible(layer):
            return {}
        return settings.cluster(layer, experiment.seed, settings.price(layer, importance))
    if layer.name in experiment.exclude.pruning:
        return {}
    options = per_layer.get_value(experiment.sparsity, layer.name), experiment.sparsity_pattern
    return {name: patterns.prune_kernel(kernel, *options) for name, kernel in layers.read_layer_kernels(layer).items()}


def score_with(
    model: keras.Model, layer: keras.layers.Layer, kernels: dict[str, np.ndarray], split: Split, task: Task
) -> np.ndarray:
    """Return the score of each example (n,) while a layer of `model` holds other `kernels`, given by name."""
    original = layers.read_layer_kernels(layer)
    layers.assign_kernels(layer, kernels)
    try:
        return objectives.score_model(model, split, task)
    finally:
        layers.assign_kernels(layer, original)


def compute_drop(prefix: str, before: np.ndarray, after: np.ndarray, score: Score) -> dict[str, float]:
    """Return columns of the technique `prefix`: score `after` (n,), drop from `before` (n,), its standard error."""
    lost = score.compute_drop(before.astype(float), after) / score.scale
    return {
        f"{prefix}_score": after.mean(dtype=float),
        f"{prefix}_drop": lost.mean(),
        f"{prefix}_error": comparison.compute_standard_error(lost[None]),
    }


@dataclasses.dataclass(frozen=True)
class Recommendation:
    """Layers to exclude, with reasons.

    Attributes:
        rows: One row per layer and technique that costs too much: technique, layer, drop, error, share of
            the weights, leave_out, reason.
        exclude: All layers to exclude, with those that the experiment already excludes.
        note: What the figures cannot tell.
    """

    rows: pd.DataFrame
    exclude: Exclude
    note: str

    @property
    def yaml(self) -> str:
        """The lines of an experiment file that exclude the layers."""
        return format_exclude(self.exclude)

    def _repr_html_(self) -> str:
        left = {"text-align": "left", "white-space": "normal"}
        table = self._to_table().style.hide(axis="index").format(escape="html").set_properties(**left)
        table.set_table_styles([{"selector": "th", "props": "text-align: left"}])
        return (table.to_html() if len(self.rows) else "") + f"<p>{self.note}</p>"

    def __repr__(self) -> str:
        return (f"{self._to_table().to_string(index=False)}\n" if len(self.rows) else "") + self.note

    def _to_table(self) -> pd.DataFrame:
        proposals = self.rows["leave_out"].map({True: "leave out", False: "keep"})
        columns = {"Technique": self.rows["technique"], "Layer": self.rows["layer"], "Proposal": proposals}
        return pd.DataFrame(columns | {"Why": self.rows["reason"]})


def format_exclude(exclude: Exclude) -> str:
    """Return the lines of an experiment file that `exclude` layers, as YAML."""
    chosen = {technique: list(names) for technique, names in exclude.model_dump().items() if names}
    return yaml.safe_dump({"exclude": chosen}, default_flow_style=None, sort_keys=False, width=110).strip()


def get_tolerance(table: pd.DataFrame) -> float:
    """Return an acceptable drop of one layer in a `table` of `measure_layers`: half a point, or 2 % of the error."""
    score = _get_score(table)
    return 0.5 if score.unit == "%" or table.empty else 0.02 * abs(table["baseline_score"].iloc[0]) / score.scale


def recommend(table: pd.DataFrame, exclude: Exclude, tolerance: float, most_weights: float = 0.1) -> Recommendation:
    """Return the layers to exclude: their drop exceeds a tolerance by more than two standard errors.

    Of many layers, some exceed the tolerance by chance: one in forty, if each costs exactly the tolerance.

    Args:
        table: The table of `measure_layers`.
        exclude: Layers that the experiment already excludes.
        tolerance: Acceptable drop of one layer, in the unit of the table's drops.
        most_weights: Largest share of the table's weights, in [0, 1], that the layers excluded from one technique may
            hold together. Layers with the highest drop per weight come first.

    Raises:
        ValueError: The tolerance is negative, or the share is not in [0, 1].
    """
    if not tolerance >= 0:
        raise ValueError(f"tolerance={tolerance}: expected an acceptable drop, 0 or more")
    if not 0 <= most_weights <= 1:
        raise ValueError(f"most_weights={most_weights}: expected a fraction in [0, 1]")
    costs = pd.concat([_list_costs(table, prefix) for prefix in TECHNIQUES], ignore_index=True)
    above = costs[costs["drop"] > tolerance]
    is_certain = above["drop"] - 2 * above["error"] > tolerance
    rows = above[is_certain].reset_index(drop=True)
    rows["leave_out"] = _choose(rows, most_weights)
    rows["reason"] = [_explain(row, most_weights, _get_score(table)) for row in rows.itertuples()]
    chosen = rows[rows["leave_out"]].groupby("technique")["layer"].agg(tuple)
    names = {technique: (*getattr(exclude, technique), *chosen.get(technique, ())) for technique in TECHNIQUES.values()}
    note = _write_note(table, tolerance, len(rows), sum(~is_certain))
    return Recommendation(rows, exclude.model_copy(update=names), note)


def _get_score(table: pd.DataFrame) -> Score:
    return SCORES[table["score"].iloc[0]] if len(table) else ACCURACY


def _list_costs(table: pd.DataFrame, prefix: str) -> pd.DataFrame:
    """One row per layer: what one technique costs in it, and its share of the weights."""
    columns = {"technique": TECHNIQUES[prefix], "layer": table["layer"], "drop": table[f"{prefix}_drop"]}
    columns |= {"error": table[f"{prefix}_error"], "share": table["weights"] / table["weights"].sum()}
    return pd.DataFrame(columns)


def _choose(rows: pd.DataFrame, most_weights: float) -> pd.Series:
    """Which layers to exclude: per technique, greedily by drop per weight, while together they hold few weights."""
    is_chosen, held = pd.Series(False, rows.index), dict.fromkeys(TECHNIQUES.values(), 0.0)
    by_weight = (rows["drop"] / rows["share"]).sort_values(ascending=False, kind="stable")
    for row in rows.loc[by_weight.index].itertuples():
        if held[row.technique] + row.share <= most_weights:
            is_chosen[row.Index] = True
            held[row.technique] += row.share
    return is_chosen


def _explain(row: tuple, most_weights: float, score: Score) -> str:
    drop, error = (f"{value:.{score.digits}f}" for value in (row.drop, 2 * row.error))
    cost = f"{drop} ± {error} {score.drop_unit or score.title} alone, and {row.share:.1%} of the weights"
    return cost if row.leave_out else f"{cost}; with it, more than {most_weights:.0%} of them would be left out"


def _write_note(table: pd.DataFrame, tolerance: float, certain: int, uncertain: int) -> str:
    if table.empty:
        return "No layer is pruned or clustered: there is nothing to leave out."
    amount = f"{tolerance:.3g} {_get_score(table).drop_unit or _get_score(table).title}"
    note = "" if certain else f"No layer alone costs surely more than {amount}. "
    note += f"± is two standard errors on {table['examples'].iloc[0]:,} validation examples."
    return note + (f" {uncertain} more drops above {amount} may be chance." if uncertain else "")
