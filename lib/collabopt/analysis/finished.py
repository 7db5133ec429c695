"""A finished stage as the store holds it, and the key under which its measurements are stored."""

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from collabopt.config import per_layer
from collabopt.config.experiment import Experiment
from collabopt.config.scores import Score
from collabopt.config.stages import Stage, get_lineage
from collabopt.datasets import Data
from collabopt.runtime import progress
from collabopt.storage.results import FROZEN, make_key
from collabopt.techniques import registry
from collabopt.tflite import flatbuffer

_LOGGED = set[str]()
"""Measurements that this process has logged."""


class PreservationError(RuntimeError):
    """A stage lost zeros or clusters that it must keep, or has no pattern of zeros, and the run is strict."""


@dataclasses.dataclass(frozen=True)
class Finished:
    """A stage that is trained, converted and measured.

    Attributes:
        trained: Its stored weights, history and times; None if the stage is not available.
        measured: Its stored files and measurements (`evaluate.write_measurements`); None likewise.
        history: One row per epoch.
        result: Its columns of results.csv.
        layers: One row per kernel.
        key: Its key columns of results.csv: experiment, scheme, seed and settings.
    """

    stage: Stage
    trained: Path | None
    measured: Path | None
    history: pd.DataFrame
    result: dict[str, Any]
    layers: pd.DataFrame
    key: dict[str, Any]

    @property
    def row(self) -> dict[str, Any]:
        """Its row of results.csv."""
        return self.key | {"parent": self.stage.parent} | self.result

    @property
    def unavailable(self) -> str:
        """Why the stage is not available, such as "GRU"; empty if it is."""
        return "" if self.trained else self.result["unavailable"]

    @property
    def without_qat(self) -> dict[str, str]:
        """What has no int8 form in quantization-aware training, by layer; only of stages before QAT."""
        return json.loads((self.measured / "without_qat.json").read_text())

    @property
    def tflite(self) -> Path | None:
        """The full-integer file, with int8 input and output; None without one."""
        file = self.measured / "int8.tflite" if self.measured else None
        return file if file and file.is_file() else None

    def kernels(self) -> dict[str, np.ndarray]:
        """Return the float32 kernels by name; of a QAT stage as its fake quantization sees them."""
        if self.unavailable:
            return {}
        with np.load(self.measured / "kernels.npz") as arrays:
            return dict(arrays)

    def int8_values(self) -> dict[str, np.ndarray]:
        """Return the int8 values of the kernels by name, in the layout of Keras; none of kernels left in float."""
        return self._read_int8_values(self.tflite)

    def int8_values_with_channel_ranges(self) -> dict[str, np.ndarray]:
        """Return the int8 values if each channel has its own range. Only for stages whose channels share one."""
        return self._read_int8_values(self.measured / "int8-channel_ranges.tflite")

    def eligible_layers(self) -> list[str]:
        """Return the layers whose kernels can be pruned and clustered."""
        return list(self.layers.loc[self.layers["kind"] != "depthwise", "layer"])

    def find_kernel(self, name: str | None = None) -> str:
        """Return the layer `name`, or that with most weights, which can be pruned and clustered.

        Raises:
            ValueError: There is no such kernel.
        """
        weights = self.layers[self.layers["kind"] != "depthwise"].set_index("layer")["weights"]
        chosen = name or weights.idxmax()
        if chosen not in weights.index:  # the layer may have been split
            parts = weights[[one for one in weights.index if one.rpartition("_")[0] == chosen]]
            chosen = parts.idxmax() if len(parts) else chosen
        if chosen not in weights.index:
            raise ValueError(f"kernel={chosen}: expected one of {', '.join(weights.index)}")
        return chosen

    def log(self, experiment: Experiment, given: Experiment, is_new: bool, score: Score, with_test: bool) -> None:
        """Log once per process that the stage was trained (`is_new`) or stored, with seed and scheme where `experiment`
        differs from that of the report, `given`. Notebooks leave out the figures (`with_test` as in `summarize`).
        """
        name = self.stage.name
        if self.unavailable:
            return progress.log(f"{name}: not available: {self.unavailable}", about=name, last=True)
        if not is_new and self.measured.name in _LOGGED:
            return None
        _LOGGED.add(self.measured.name)
        source = f" (seed {experiment.seed})" if experiment.seed != given.seed else ""
        if experiment.scheme != given.scheme and self.stage.has_schemes:
            source += f" by {experiment.scheme}"
        took = progress.format_duration(self.result["setup_seconds"] + self.result["fit_seconds"])
        origin = f"{self.result['epochs']} epochs took {took}" if is_new else "from the store"
        figures = f"; {self.summarize(score, with_test)}"
        return progress.log(f"{name}{source}: {origin}", about=name, last=True, figures=figures)

    def summarize(self, score: Score, reads_test: bool) -> str:
        """Return scores (on test if `reads_test`, else on validation), sizes and preservation in one line."""
        columns = (score.test, score.test_int8) if reads_test else (score.validation, score.validation_int8)
        split, values = "" if reads_test else "validation ", [self.result[column] for column in columns]
        text = f"{split}{score.title} {score.format(values[0])}, INT8 "
        if self.tflite:
            sizes = f"{self.result['tflite_bytes']:,} → {self.result['gzip_bytes']:,} bytes"
            text += f"{score.format(values[1])}, {sizes}"
        text += f"not available: {self.result['unavailable']}" if self.result["unavailable"] else ""
        text += f", FAULT: {self.result['int8_faults']}" if self.result["int8_faults"] else ""
        return text + (", NOT PRESERVED" if self.result["preserved"] is False else "")

    def check_preserved(self) -> None:
        """Refuse a stage with kernels that are not as they must be.

        Raises:
            PreservationError: At least one kernel has a defect.
        """
        if self.result["preserved"] is False:
            lost = "; ".join(f"{row.layer}: {row.defect}" for row in self.layers.itertuples() if row.defect)
            raise PreservationError(f"{self.stage.name} does not preserve what {self.stage.parent} had: {lost}")

    def scores(self) -> dict[str, np.ndarray]:
        """Return the score of each example that counts (n,), by split and file (`evaluate.write_measurements`)."""
        with np.load(self.measured / "scores.npz") as arrays:
            return dict(arrays)

    def _read_int8_values(self, tflite: Path | None) -> dict[str, np.ndarray]:
        if tflite is None:
            return {}
        shapes = {name: kernel.shape for name, kernel in self.kernels().items()}
        return flatbuffer.read_layer_kernels(tflite.read_bytes(), shapes, in_float=shapes)


def read(stage: Stage, trained: Path, measured: Path, experiment: Experiment) -> Finished:
    """Return a finished stage, read from its store entries `trained` and `measured`."""
    result = json.loads((measured / "result.json").read_text()) | json.loads((trained / "fit.json").read_text())
    layers = pd.read_csv(measured / "layers.csv", keep_default_na=False)
    history, key = pd.read_csv(trained / "history.csv"), make_key(experiment, stage)
    return Finished(stage, trained, measured, history, result, layers, key)


def make_unavailable(stage: Stage, parent: Finished | None, experiment: Experiment) -> Finished | None:
    """Return a stage that cannot be trained, because layers of the model have no int8 form in it.

    Args:
        parent: Its finished parent; None for the root.
        experiment: Says which layers are left in float32 on purpose.

    Returns:
        The stage without figures, rows and files, and with the reason, such as "GRU". None if it can be trained.
    """
    if parent is None:
        return None
    if experiment.has_binary_weights and stage.clusters and stage.keeps_zeros:
        reason = parent.unavailable or "binary weights have no zero to preserve; set number_of_clusters to 3"
        return _make_without_figures(stage, parent, experiment, reason)
    if experiment.scheme == "tfmot" and experiment.symmetric and stage.clusters:
        return _make_without_figures(stage, parent, experiment, "TFMOT has no symmetric clusters")
    if experiment.scheme == "tfmot" and stage.clusters and not stage.quantizes:
        eligible = parent.layers[(parent.layers["kind"] != "depthwise")]
        eligible = eligible[~eligible["layer"].isin(experiment.exclude.clustering) & (eligible["skipped"] != FROZEN)]
        wanted = [per_layer.get_value(experiment.number_of_clusters, name) for name in eligible["layer"]]
        small = eligible.assign(wanted=wanted)[eligible["weights"] < np.array(wanted)]
        if len(small):  # its k-means needs as many weights
            row = small.iloc[0]
            reason = f"TFMOT cannot cluster the {row['weights']} weights of {row['layer']} to {row['wanted']} values"
            return _make_without_figures(stage, parent, experiment, reason)
    without_qat = parent.without_qat if stage.quantizes and not parent.unavailable else {}
    kinds = [what for layer, what in without_qat.items() if layer not in experiment.exclude.quantization]
    reason = parent.unavailable or ", ".join(dict.fromkeys(kinds))
    return _make_without_figures(stage, parent, experiment, reason) if reason else None


def _make_without_figures(stage: Stage, parent: Finished, experiment: Experiment, reason: str) -> Finished:
    result, key = dict.fromkeys(parent.result) | {"unavailable": reason}, make_key(experiment, stage)
    return Finished(stage, None, None, parent.history[:0], result, parent.layers[:0], key)


def describe_measurement(
    stage: Stage, trained: Path, experiment: Experiment, data: Data, reads_test: bool
) -> dict[str, Any]:
    """Return what decides the measurements of the entry `trained`, on test if `reads_test`, as the key of the store."""
    lineage = get_lineage(stage.name, experiment.tree)
    return {
        "trained": trained.name,
        "calibration": [experiment.calibration, experiment.calibration_examples],
        "clusters": [experiment.number_of_clusters if stage.clusters else None, experiment.cluster_per_channel],
        "path": [[one.prunes, one.keeps_zeros, one.clusters, one.quantizes] for one in lineage],
        "scheme": experiment.scheme if stage.has_schemes else None,
        "exclude": experiment.exclude.model_dump(mode="json"),
        "output": experiment.model.output,
        "test": data.test.fingerprint() if reads_test else None,
        "task": registry.describe_task(data.task),
        "code": registry.compute_code_digests(experiment, data, "collabopt.analysis.evaluate:write_measurements"),
    }
