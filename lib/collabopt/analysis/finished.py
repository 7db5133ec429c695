"""A finished stage as the store holds it, and the key under which its measurements are stored."""

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from collabopt.analysis import evaluate
from collabopt.config.experiment import Experiment
from collabopt.config.stages import Stage, get_lineage
from collabopt.datasets import Data
from collabopt.storage.results import make_key
from collabopt.techniques import registry
from collabopt.tflite import flatbuffer


@dataclasses.dataclass(frozen=True)
class Finished:
    """A stage that is trained, converted and measured.

    Attributes:
        stage: The stage.
        trained: Its stored weights, history and times.
        measured: Its stored files and measurements (`evaluate.write_measurements`).
        history: One row per epoch.
        result: Its columns of results.csv.
        layers: One row per kernel.
        key: Its key columns of results.csv: experiment, scheme, seed and settings.
    """

    stage: Stage
    trained: Path
    measured: Path
    history: pd.DataFrame
    result: dict[str, Any]
    layers: pd.DataFrame
    key: dict[str, Any]

    @property
    def tflite(self) -> Path:
        """The full-integer file, with int8 input and output."""
        return self.measured / "int8.tflite"

    def kernels(self) -> dict[str, np.ndarray]:
        """Return the float32 kernels by layer; of a QAT stage as its fake quantization sees them."""
        with np.load(self.measured / "kernels.npz") as arrays:
            return dict(arrays)

    def int8_values(self) -> dict[str, np.ndarray]:
        """Return the int8 values of the kernels by layer, in the layout of Keras."""
        return self._read_int8_values(self.tflite)

    def int8_values_with_channel_ranges(self) -> dict[str, np.ndarray]:
        """Return the int8 values if each channel has its own range. Only for stages whose channels share one."""
        return self._read_int8_values(self.measured / "int8-channel_ranges.tflite")

    def eligible_layers(self) -> list[str]:
        """Return the layers whose kernels can be pruned and clustered."""
        return list(self.layers.loc[self.layers["kind"] != "depthwise", "layer"])

    def scores(self) -> dict[str, np.ndarray]:
        """Return the score of each example (n,), by split and file (`evaluate.write_measurements`)."""
        with np.load(self.measured / "scores.npz") as arrays:
            return dict(arrays)

    def _read_int8_values(self, tflite: Path) -> dict[str, np.ndarray]:
        shapes = {name: kernel.shape for name, kernel in self.kernels().items()}
        return flatbuffer.read_layer_kernels(tflite.read_bytes(), shapes)


def read(stage: Stage, trained: Path, measured: Path, experiment: Experiment) -> Finished:
    """Return a finished stage, read from its store entries.

    Args:
        stage: The stage.
        trained: Entry of the trained stage.
        measured: Entry of its measurements.
        experiment: The experiment.
    """
    result = json.loads((measured / "result.json").read_text()) | json.loads((trained / "fit.json").read_text())
    layers = pd.read_csv(measured / "layers.csv", keep_default_na=False)
    history, key = pd.read_csv(trained / "history.csv"), make_key(experiment, stage)
    return Finished(stage, trained, measured, history, result, layers, key)


def describe_measurement(
    stage: Stage, trained: Path, experiment: Experiment, data: Data, reads_test: bool
) -> dict[str, Any]:
    """Return all that decides the measurements of a trained stage, as the key of the store.

    Args:
        stage: The stage.
        trained: Entry of the trained stage.
        experiment: The experiment.
        data: The data set.
        reads_test: Whether the test split is measured.
    """
    lineage = get_lineage(stage.name)
    return {
        "trained": trained.name,
        "calibration_examples": experiment.calibration_examples,
        "clusters": [experiment.number_of_clusters if stage.clusters else None, experiment.cluster_per_channel],
        "path": [[one.prunes, one.keeps_zeros, one.clusters, one.quantizes] for one in lineage],
        "scheme": experiment.scheme if stage.has_schemes else None,
        "exclude": experiment.exclude.model_dump(mode="json"),
        "test": data.test.fingerprint() if reads_test else None,
        "task": registry.describe_task(data.task),
        "code": registry.compute_code_digests(experiment, data, evaluate.write_measurements),
    }
