"""The deployment tree of published models: whether all eight stages are preserved, and what their int8 files compute.

The inputs are random, and the labels are what each model says about them, so no data set is needed.
"""

import tempfile
from pathlib import Path

import numpy as np
import table
from ai_edge_litert.interpreter import Interpreter

from collabopt import models
from collabopt.config import experiment, loading
from collabopt.config.sections import Model
from collabopt.config.stages import STAGES
from collabopt.run import Run
from collabopt.runtime import tensorflow

TRAIN, TEST = 80, 200  # examples
SECTION = {"epochs": 1, "batch_size": 16, "optimizer": "adam", "learning_rate": 1e-4}
MOST_POINTS = 2.0


def measure_trees(files: list[Path]) -> list[dict]:
    """Rows over the models that have only layers with quantization-aware training, and one row per model.

    Args:
        files: Models that can be imported.

    Returns:
        Rows for `table.record`.
    """
    tensorflow.configure(2)
    found = {}
    for file in files:
        with tempfile.TemporaryDirectory() as folder:
            found[file.name] = measure_tree(file, Path(folder))
        print(file.name, found[file.name], flush=True)
    whole = {name: one for name, one in found.items() if not one["unavailable"]}
    subject = f"{len(whole)} published models of convolutions and dense layers"
    good = sum(one["preserved"] and one["gap"] <= MOST_POINTS for one in whole.values())
    total = {
        "figure": f"all eight stages preserved, int8 within {MOST_POINTS:g} points of fake int8",
        "subject": subject,
    }
    rows = [total | {"value": good, "goal": f"≥ {len(whole)}", "met": good == len(whole)}]
    pairs = max(one["conversions"] for one in whole.values())
    rows.append(table.make_bounded_row("DEQUANTIZE operators in an int8 file, most", subject, pairs, 0))
    figure = "int8 − fake int8 over the stages, largest (points)"
    return rows + [table.make_row(figure, name, one["gap"]) for name, one in whole.items()]


def measure_tree(file: Path, folder: Path) -> dict:
    """Train every stage of a model for one epoch.

    Args:
        file: The model.
        folder: For data and stages.

    Returns:
        `unavailable`: whether it has layers without quantization-aware training; `preserved`: of every stage; `gap`:
        largest difference between the scores of an int8 file and of fake quantization, in points, or in per cent of an
        error; `conversions`: largest number of DEQUANTIZE operators in a file.
    """
    section = Model(path=str(file))
    about = models.describe(section)
    task = about.list_tasks()[0]
    write_data(file, task, about, folder / "data.npz")
    values = {
        "name": file.stem,
        "dataset": {"path": str(folder / "data.npz")},
        "model": {"path": str(file)},
        "task": task,
        "threads": 2,
        "validation_fraction": 0.2,
        "calibration_examples": 64,
        "stages": {**dict.fromkeys(STAGES, SECTION), "baseline": SECTION | {"epochs": 0}},
    }
    run = Run(experiment.validate(values), None, loading.find_experiment("digits"), folder / "stages")
    score, stages = run.data.task.score, run.stages(*STAGES)
    trained = [one for one in stages if not one.unavailable]
    gaps = [abs(one.result[score.test_int8] - one.result[score.test]) for one in trained if one.stage.quantizes]
    base = stages[0].result[score.test]
    return {
        "unavailable": len(trained) < len(stages),
        "preserved": all(one.result["preserved"] is not False for one in trained),
        "gap": 100 * max(gaps, default=0.0) / (1 if score.unit == "%" else max(abs(base), 1e-9)),
        "conversions": max(count_conversions(one.tflite.read_bytes()) for one in trained if one.tflite),
    }


def write_data(file: Path, task: str, about: models.Description, path: Path) -> None:
    """Write random examples with the labels that the model gives them."""
    (shape,) = about.inputs
    inputs = np.random.default_rng(0).uniform(0, 1, (TRAIN + TEST, *shape)).astype(np.float32)
    section = {"name": file.stem, "dataset": {"name": "digits"}, "model": {"path": str(file)}, "task": task}
    imported = models.get_imported(experiment.validate(section).model, shape, about.output)
    outputs = imported.model.predict(inputs, batch_size=32, verbose=0)
    arrays = {}
    if task == "classification":
        labels, arrays["classes"] = outputs.argmax(axis=-1), np.arange(outputs.shape[-1]).astype(str)
    elif task in ("binary", "multilabel"):
        labels = (outputs > np.median(outputs, axis=0)).astype(int)
        labels = labels[:, 0] if task == "binary" else labels
    else:
        labels = np.zeros(TRAIN + TEST, int) if task == "reconstruction" else outputs
    for name, part in (("train", slice(TRAIN)), ("test", slice(TRAIN, None))):
        arrays |= {f"x_{name}": inputs[part], f"y_{name}": labels[part]}
    np.savez(path, **arrays)


def count_conversions(tflite: bytes) -> int:
    """Count the conversions to float in a file."""
    interpreter = Interpreter(model_content=tflite)
    return sum(one["op_name"] == "DEQUANTIZE" for one in interpreter._get_ops_details())
