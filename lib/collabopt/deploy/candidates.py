"""The files that a search over settings can train, and what each would be without training.

A candidate is a stage with settings. Before any training its kernels are those of the baseline, pruned and clustered
nearly as the stage would begin: weights matter as in the baseline, and clusters are ours in every scheme. Their drop
on validation and their entropy predict which candidates are worth a training.
"""

import dataclasses
import itertools
import json
from collections.abc import Mapping
from typing import Any

import numpy as np

from collabopt.analysis import allocation, sensitivity
from collabopt.config import loading, per_layer
from collabopt.config.experiment import Experiment
from collabopt.config.stages import Stage, get_lineage
from collabopt.run import Run
from collabopt.runtime import progress
from collabopt.runtime.tensorflow import keras
from collabopt.techniques import filter_pruning, layers, objectives, patterns
from collabopt.tflite import sizes

_NOT_CLUSTERED = 256


@dataclasses.dataclass(frozen=True)
class Candidate:
    """A stage with settings.

    Attributes:
        experiment: The experiment with the settings.
        setting: The settings that apply to the stage, as readers see them: "sparsity 0.8, clusters 8".
        trainings: Names of the trained stages that it needs, the baseline first and itself last.
        strength: How much each setting compresses each kernel. A candidate with no smaller number compresses at least
            as much.
        kernel_bytes: Zero-order entropy of its int8 kernels without training.
        drop: Drop on validation without training, in units of the score's column.
    """

    stage: Stage
    experiment: Experiment
    setting: str
    trainings: tuple[str, ...]
    strength: tuple[float, ...]
    kernel_bytes: float
    drop: float

    @property
    def key(self) -> str:
        """Name of the trained stage."""
        return self.trainings[-1]

    def compresses_as_much_as(self, other: "Candidate") -> bool:
        """Return whether no setting compresses less than that of the `other` candidate."""
        return all(own >= one for own, one in zip(self.strength, other.strength, strict=True))


def list_candidates(run: Run) -> dict[str, Candidate]:
    """Return the candidates of the search of `run` by key, measured without training; the baseline comes first."""
    found, untrained = dict[str, Candidate](), _Untrained(run)
    for settings in _list_settings(run):
        experiment = loading.change(run.experiment, search={}, **settings)
        for stage in experiment.tree.values():
            trainings = _name_trainings(stage, experiment)
            if trainings[-1] in found:
                continue
            applied = _select_settings(stage, experiment)
            figures = untrained.measure(experiment, applied)
            strength = _compute_strength(applied, untrained.kernels)
            text = _format_setting({name: applied[name] for name in applied if name in settings})
            found[trainings[-1]] = Candidate(stage, experiment, text, trainings, strength, *figures)
    return found


def _list_settings(run: Run) -> list[dict[str, Any]]:
    """The combinations to try. With `per_layer`, each is followed by values per layer of as many bytes."""
    search = run.experiment.search
    values = dict(search.grid)
    if search.per_layer:
        values = {name: (per_layer.get_value(getattr(run.experiment, name)),) for name in allocation.LEVELS} | values
    combinations = [dict(zip(values, one, strict=True)) for one in itertools.product(*values.values())]
    for one in combinations:
        if "filter_sparsity" in one:
            one["filter_sparsity"] = one["filter_sparsity"] or None  # 0 leaves the stage out
    if not search.per_layer:
        return combinations
    table, allocated = allocation.measure(run), {}
    for name in table["setting"].unique():
        for number in values[name]:
            uniform = run.experiment.model_copy(update={name: number})
            allocated[name, number] = allocation.allocate(table, name, uniform).value
    names = list(allocation.LEVELS)
    pairs = [(one, one | {name: allocated.get((name, one[name]), one[name]) for name in names}) for one in combinations]
    return [one for uniform, layered in pairs for one in ([uniform, layered] if layered != uniform else [uniform])]


class _Untrained:
    """The baseline, compressed without training. Each combination of settings is measured once."""

    def __init__(self, run: Run) -> None:
        self.run, self.baseline = run, sensitivity.restore_baseline(run)
        self.kernels = [layer.name for layer in self.baseline.layers if layers.is_eligible(layer)]
        self._smaller = dict[Any, tuple[keras.Model, dict[str, np.ndarray]]]()
        self._figures = dict[str, tuple[float, float]]()
        self.validation = run.data.validation.take_counted()
        self.score = objectives.score_model(self.baseline, self.validation, run.data.task).mean(dtype=float)

    def measure(self, experiment: Experiment, applied: Mapping[str, Any]) -> tuple[float, float]:
        """Entropy of the int8 kernels in bytes, and drop on validation, with the settings that apply to a stage."""
        key = json.dumps(applied)
        if key not in self._figures:
            progress.log(f"search: without training, {_format_setting(applied) or 'the baseline'}", "search")
            self._figures[key] = self._measure(experiment, applied)
        return self._figures[key]

    def _measure(self, experiment: Experiment, applied: Mapping[str, Any]) -> tuple[float, float]:
        data, (model, importance) = self.run.data, self._get_model(experiment, applied.get("filter_sparsity"))
        given, total = patterns.exclude_skipped(experiment, model), 0.0
        before = {layer.name: layers.read_layer_kernels(layer) for layer in model.layers if layers.get_kind(layer)}
        for layer in (layer for layer in model.layers if layers.is_eligible(layer)):
            for setting, prefix in (("sparsity", "pruned"), ("number_of_clusters", "clustered")):
                if setting in applied:
                    kernels = sensitivity.compress_layer(layer, given, prefix, importance, "sparsity" in applied)
                    layers.assign_kernels(layer, kernels or layers.read_layer_kernels(layer))
        for name in before:
            per_channel = "number_of_clusters" not in applied or name in given.exclude.clustering
            kernels = layers.read_layer_kernels(model.get_layer(name)).values()
            total += sizes.compute_entropy_bytes([allocation.quantize(kernel, per_channel) for kernel in kernels])
        after = objectives.score_model(model, self.validation, data.task).mean(dtype=float)
        for name, kernels in before.items():
            layers.assign_kernels(model.get_layer(name), kernels)
        return total, float(data.task.score.compute_drop(self.score, after))

    def _get_model(
        self, experiment: Experiment, filter_sparsity: float | None
    ) -> tuple[keras.Model, dict[str, np.ndarray]]:
        """The model without filters, and what errors of its weights cost."""
        if filter_sparsity not in self._smaller:
            model = self.baseline
            if filter_sparsity:
                filters = filter_pruning.find_filters(model, experiment.exclude.pruning)
                model = filter_pruning.remove(model, filters.channels, filter_pruning.choose(filters, filter_sparsity))
            importance = sensitivity.compute_importance(model, self.run.data, experiment)
            self._smaller[filter_sparsity] = layers.make_gammas_positive(model), importance
        return self._smaller[filter_sparsity]


def _name_trainings(stage: Stage, experiment: Experiment) -> tuple[str, ...]:
    lineage = get_lineage(stage.name, experiment.tree)
    parts = [json.dumps([one.name, *(getattr(experiment, name) for name in one.settings)]) for one in lineage]
    return tuple(" ".join(parts[: number + 1]) for number in range(len(parts)))


def _select_settings(stage: Stage, experiment: Experiment) -> dict[str, Any]:
    """The settings that decide a stage or its ancestors, of those that a search tries."""
    names = {name for one in get_lineage(stage.name, experiment.tree) for name in one.settings}
    wanted = [name for name in ("filter_sparsity", "sparsity", "number_of_clusters") if name in names]
    return {name: getattr(experiment, name) for name in wanted}


def _compute_strength(applied: Mapping[str, Any], kernels: list[str]) -> tuple[float, ...]:
    sparsity, number = applied.get("sparsity", 0.0), applied.get("number_of_clusters", _NOT_CLUSTERED)
    zeros = [per_layer.get_value(sparsity, name) for name in kernels]
    values = [-per_layer.get_value(number, name) for name in kernels]
    return (applied.get("filter_sparsity") or 0.0, *zeros, *values)


def _format_setting(settings: Mapping[str, Any]) -> str:
    titles = {"filter_sparsity": "filter sparsity", "sparsity": "sparsity", "number_of_clusters": "clusters"}
    return ", ".join(
        f"{titles[name]} {per_layer.get_value(value):g}" + " per layer" * isinstance(value, Mapping)
        for name, value in settings.items()
        if value is not None
    )
