"""Sensitivity: what pruning or clustering one layer alone costs, by validation and without any training.

    table = sensitivity.of(run)
    sensitivity.recommend(table, run.experiment.exclude, tolerance_points=0.5)

A layer's kernel is pruned or clustered as its stage would begin with it, every other layer stays as it is, and the
model is evaluated (Han et al. 2015, Learning both Weights and Connections, figure 6). The drops rank layers. They do
not add up, and training wins most of them back: they do not foretell what a stage costs.
"""

import dataclasses
from collections.abc import Iterator

import numpy as np
import pandas as pd
import yaml

from collabopt.analysis import comparison, evaluate
from collabopt.config.experiment import Exclude, Experiment
from collabopt.datasets import Split
from collabopt.runtime import progress, tensorflow
from collabopt.runtime.tensorflow import keras
from collabopt.techniques import kmeans, layers, registry
from collabopt.techniques.clustering import Clusters
from collabopt.techniques.layers import is_eligible

TECHNIQUES = {"pruned": "pruning", "clustered": "clustering"}
"""How the table's columns begin, and the key of `exclude` in an experiment."""


COLUMNS = [
    "layer",
    "kind",
    "weights",
    "examples",
    "baseline_accuracy",
    *(f"{one}_{what}" for one in TECHNIQUES for what in ("accuracy", "drop_points", "error_points")),
]
"""The table: a row a layer. Accuracies are fractions, drops against the baseline are points with their standard error,
paired by example; empty where the layer is left out of that technique."""


def measure(run) -> pd.DataFrame:
    """`layers` of the run's stored baseline, which is trained where the store does not hold it."""
    baseline, plan, clock = run.stage("baseline"), run.experiment, progress.Clock()
    tensorflow.seed_everything(plan.seed)  # layers without names of their own are counted from one again
    with np.load(baseline.trained / "weights.npz") as arrays:
        model = registry.restore_model(baseline.stage, dict(arrays), None, plan, run.data)
    table = measure_layers(model, run.data.validation, plan)
    progress.log(
        f"sensitivity: {len(table)} layers took {progress.format_duration(clock.seconds())}", "sensitivity", last=True
    )
    return table


def measure_layers(model: keras.Model, split: Split, plan: Experiment) -> pd.DataFrame:
    """The drops of each layer that the experiment prunes or clusters, in network order (`COLUMNS`).

    Pruned to `plan.sparsity`; clustered as our scheme begins, to `plan.number_of_clusters`. `model` is left as it is.
    Depthwise kernels are touched by neither and have no row.
    """
    # What clustering starts from; it computes the same. One model is traced once, whatever its kernels hold.
    scratch = layers.make_gammas_positive(model)
    right, rows = evaluate.predict_correct(scratch, split), []
    touched = [layer for layer in scratch.layers if is_eligible(layer)]
    for number, layer in enumerate(touched, start=1):
        altered = dict(_altered(layer, plan))
        if altered:
            progress.log(f"sensitivity: layer {number} of {len(touched)}, {layer.name}", "sensitivity")
            row = {"layer": layer.name, "kind": layers.get_kind(layer), "weights": layer.kernel.shape.num_elements()}
            row |= {"examples": len(split), "baseline_accuracy": right.mean()}
            for technique, kernel in altered.items():
                row |= _drop(technique, right, _correct_with(scratch, layer, kernel, split))
            rows.append(row)
    return pd.DataFrame(rows, columns=COLUMNS)


def prune_kernel(kernel: np.ndarray, sparsity: float) -> np.ndarray:
    """The kernel with its smallest weights set to zero, as many as TFMOT's mask of a constant `sparsity` does.

    One weight at least is kept, and of equal weights at the threshold all are.
    """
    kept = max(1, int(np.rint(np.float32(kernel.size) * (np.float32(1) - np.float32(sparsity)))))
    magnitude = np.abs(kernel)
    threshold = np.partition(magnitude, kernel.size - kept, axis=None)[kernel.size - kept]
    return np.where(magnitude < threshold, 0, kernel)


def _altered(layer: keras.layers.Layer, plan: Experiment) -> Iterator[tuple[str, np.ndarray]]:
    """The layer's kernel by each technique that it is not left out of."""
    kernel = layer.kernel.numpy()
    if layer.name not in plan.exclude.pruning:
        yield "pruned", prune_kernel(kernel, plan.sparsity)
    clusters = Clusters(
        plan.number_of_clusters,
        per_channel=plan.cluster_per_channel,
        initialization=plan.centroid_initialization,
        exclude=plan.exclude.clustering,
    )
    if clusters.is_eligible(layer):
        by_channel, start = clusters.by_channel(layer), clusters.initialization
        yield "clustered", kmeans.cluster_kernel(kernel, clusters.number, by_channel, False, start, plan.seed)


def _correct_with(model: keras.Model, layer: keras.layers.Layer, kernel: np.ndarray, split: Split) -> np.ndarray:
    """Whether each example (n,) is given its label while the layer holds that kernel."""
    own = layer.kernel.numpy()
    layer.kernel.assign(kernel)
    try:
        return evaluate.predict_correct(model, split)
    finally:
        layer.kernel.assign(own)


def _drop(technique: str, before: np.ndarray, after: np.ndarray) -> dict[str, float]:
    """The technique's columns, from whether each example (n,) was right before and is after."""
    lost = before.astype(float) - after
    return {
        f"{technique}_accuracy": after.mean(),
        f"{technique}_drop_points": 100 * lost.mean(),
        f"{technique}_error_points": 100 * comparison.compute_standard_error(lost[None]),
    }


@dataclasses.dataclass(frozen=True)
class Recommendation:
    """Layers to leave out, and why.

    rows: a row a layer and technique that costs too much, `technique, layer, drop_points, error_points, share` of the
    weights, `leave_out, reason`. exclude: those to leave out, with those that are left out already. note: what the
    figures cannot tell.
    """

    rows: pd.DataFrame
    exclude: Exclude
    note: str

    @property
    def yaml(self) -> str:
        """The lines of an experiment file that leave them out."""
        chosen = {what: list(names) for what, names in self.exclude.model_dump().items() if names}
        return yaml.safe_dump({"exclude": chosen}, default_flow_style=None, sort_keys=False, width=110).strip()

    def _repr_html_(self) -> str:
        left = {"text-align": "left", "white-space": "normal"}
        table = self._told().style.hide(axis="index").format(escape="html").set_properties(**left)
        return (table.to_html() if len(self.rows) else "") + f"<p>{self.note}</p>"

    def __repr__(self) -> str:
        return (f"{self._told().to_string(index=False)}\n" if len(self.rows) else "") + self.note

    def _told(self) -> pd.DataFrame:
        verdicts = np.where(self.rows["leave_out"], "leave out", "keep")
        columns = {"Technique": self.rows["technique"], "Layer": self.rows["layer"], "Proposal": verdicts}
        return pd.DataFrame(columns | {"Why": self.rows["reason"]})


def recommend(
    table: pd.DataFrame, exclude: Exclude, tolerance_points: float = 0.5, most_weights: float = 0.1
) -> Recommendation:
    """Proposes to leave layers out whose drop alone exceeds the tolerance by more than two standard errors.

    exclude: what the experiment leaves out already. most_weights: the share of the table's weights, in [0, 1], that the
    layers left out of a technique may hold together; those that cost most by weight come first. Of many layers looked
    at, some exceed a tolerance by chance: where all cost just as much as it, one of forty does.

    Raises ValueError for a tolerance below zero and a share that is none.
    """
    if not tolerance_points >= 0:
        raise ValueError(f"tolerance_points={tolerance_points}: expected points of accuracy, 0 or more")
    if not 0 <= most_weights <= 1:
        raise ValueError(f"most_weights={most_weights}: expected a fraction in [0, 1]")
    rows = pd.concat(
        [_dear(table, technique, tolerance_points, most_weights) for technique in TECHNIQUES], ignore_index=True
    )
    chosen = rows[rows["leave_out"].astype(bool)].groupby("technique")["layer"].agg(tuple)
    left_out = {what: (*getattr(exclude, what), *chosen.get(what, ())) for what in TECHNIQUES.values()}
    return Recommendation(rows, Exclude(**left_out), _note(table, len(rows), tolerance_points))


def _dear(table: pd.DataFrame, technique: str, tolerance: float, most: float) -> pd.DataFrame:
    """The layers that cost surely more than the tolerance, in network order."""
    drop, error = table[f"{technique}_drop_points"], table[f"{technique}_error_points"]
    columns = {"technique": TECHNIQUES[technique], "layer": table["layer"], "drop_points": drop, "error_points": error}
    rows = pd.DataFrame(columns | {"share": table["weights"] / table["weights"].sum()})[drop - 2 * error > tolerance]
    by_weight = (rows["drop_points"] / rows["share"]).sort_values(ascending=False, kind="stable").index
    left_out, held = set(), 0.0
    for index in by_weight:
        if held + rows["share"][index] <= most:
            left_out.add(index)
            held += rows["share"][index]
    leave_out = rows.index.isin(left_out)
    said = [_reason(row, out, most) for row, out in zip(rows.itertuples(), leave_out, strict=True)]
    return rows.assign(leave_out=leave_out, reason=pd.Series(said, rows.index, dtype=object))


def _reason(row: tuple, leave_out: bool, most: float) -> str:
    cost = f"{row.drop_points:.2f} ± {2 * row.error_points:.2f} points alone, and {row.share:.1%} of the weights"
    return cost if leave_out else f"{cost}: leaving it out too would exceed {most:.0%} of them"


def _note(table: pd.DataFrame, found: int, tolerance: float) -> str:
    if table.empty:
        return "No layer is pruned or clustered: there is nothing to leave out."
    unsure = int(_unsure(table, tolerance).sum())
    said = f"± is two standard errors on {table['examples'].iloc[0]:,} validation examples."
    if not found:
        said = f"No layer alone costs surely more than {tolerance:g} points. {said}"
    return said + (f" {unsure} more drops above {tolerance:g} points may be chance." if unsure else "")


def _unsure(table: pd.DataFrame, tolerance: float) -> pd.Series:
    """By technique and layer, whether the drop exceeds the tolerance by less than two standard errors."""
    columns = [(table[f"{one}_drop_points"], table[f"{one}_error_points"]) for one in TECHNIQUES]
    return pd.concat([(drop > tolerance) & (drop - 2 * error <= tolerance) for drop, error in columns])
