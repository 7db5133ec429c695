"""Experiments and small arrays for the tests of data sets."""

from pathlib import Path

import numpy as np

from collabopt.config.experiment import Experiment, validate
from collabopt.config.stages import STAGES

TRAINING = {"epochs": 1, "batch_size": 8, "optimizer": "adam", "learning_rate": 1e-3}


def make_experiment(validation_indices: Path | str | None = None, **values: object) -> Experiment:
    """Make an experiment on the digits, with `values` overriding."""
    if validation_indices is not None:
        values["initial_weights"] = {
            "path": "data/w.npz",
            "validation_indices": str(validation_indices),
            "training": TRAINING,
        }
    return validate(
        {
            "name": "test",
            "dataset": {"name": "digits"},
            "model": {"name": "digits_cnn"},
            "sparsity": 0.5,
            "number_of_clusters": 8,
            "stages": dict.fromkeys(STAGES, TRAINING),
            **values,
        }
    )


def make_arrays(count: int = 60, classes: int = 3) -> dict[str, np.ndarray]:
    """Make `count` training and test examples. The value of each example is its number, so that no two are equal."""
    x, y = np.arange(2.0 * count, dtype=np.float32).reshape(-1, 1), np.arange(2 * count) % classes
    return {"x_train": x[:count], "y_train": y[:count], "x_test": x[count:], "y_test": y[count:]}


def make_images(count: int = 12) -> np.ndarray:
    """Make `count` random images (count, 32, 32, 3) uint8."""
    return np.random.default_rng(0).integers(0, 256, (count, 32, 32, 3), np.uint8)


def write_npz(directory: Path, **overrides: object) -> Path:
    """Write the arrays of `make_arrays` to an .npz file. Overrides replace an array, or omit it if they are None."""
    arrays = {key: value for key, value in {**make_arrays(), **overrides}.items() if value is not None}
    np.savez(directory / "custom.npz", **arrays)
    return directory / "custom.npz"
