"""The deployment tree of published models: whether all eight stages are preserved, and what their int8 files compute.

The inputs are random, and the labels are what each model says about them, so no data set is needed.

python benchmarks/trees.py FILE     # one model; prints one line of JSON last
"""

import json
import subprocess
import sys
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
RANGES = ((0, 1), (-1, 1), (-10, 10), (0, 255))  # of inputs, of which each model gets what it tells apart best
SECTION = {"epochs": 1, "batch_size": 16, "optimizer": "adam", "learning_rate": 1e-4}
MOST_POINTS = 2.0


def measure_trees(files: list[Path]) -> list[dict]:
    """Rows over the models that have only layers with quantization-aware training, and one row per model.

    Args:
        files: Models that can be imported.

    Returns:
        Rows for `table.record`. A model whose process fails counts as not preserved.
    """
    found = {file.name: measure_in_process(file) for file in files}
    whole = {name: one for name, one in found.items() if not one.get("unavailable")}
    subject = f"{len(whole)} published models of convolutions and dense layers"
    measured = {name: one for name, one in whole.items() if "error" not in one}
    good = sum(one["preserved"] and one["gap"] <= MOST_POINTS for one in measured.values())
    total = {
        "figure": f"all eight stages preserved, int8 within {MOST_POINTS:g} points of fake int8",
        "subject": subject,
    }
    rows = [total | {"value": good, "goal": f"≥ {len(whole)}", "met": good == len(whole)}]
    pairs = max((one["conversions"] for one in measured.values()), default=0)
    rows.append(table.make_bounded_row("DEQUANTIZE operators in an int8 file, most", subject, pairs, 0))
    figure = "int8 − fake int8 over the stages, largest (points)"
    for name, one in whole.items():
        failed = {"figure": figure, "subject": name, "value": one.get("error"), "goal": "a result", "met": False}
        rows.append(failed if "error" in one else table.make_row(figure, name, one["gap"]))
    return rows


def measure_in_process(file: Path) -> dict:
    """Measure a model in a process of its own, which may die.

    Args:
        file: The model.

    Returns:
        As `measure_tree`; {"error": how the process ended} if it failed.
    """
    command = [sys.executable, __file__, str(file)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        last = (done.stderr.strip().splitlines() or [""])[-1][:200]
        found = {"error": f"signal {-done.returncode}" if done.returncode < 0 else last}
    else:
        found = json.loads(done.stdout.splitlines()[-1])
    print(file.name, found, flush=True)
    return found


def measure_tree(file: Path, folder: Path) -> dict:
    """Train every stage of a model for one epoch.

    Args:
        file: The model.
        folder: For data and stages.

    Returns:
        `unavailable`: whether it has layers without quantization-aware training; `classes`: examples per class, of a
        classifier; `scores`: of the stages; `preserved`: of every stage; `gap`: largest difference between the scores
        of an int8 file and of fake quantization, in points, or in per cent of an error; `conversions`: largest number
        of DEQUANTIZE operators in a file.
    """
    section = Model(path=str(file))
    about = models.describe(section)
    task = about.list_tasks()[0]
    classes = write_data(file, task, about, folder / "data.npz")
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
        "classes": classes,
        "scores": [round(float(one.result[score.test]), 4) for one in trained],
        "preserved": all(one.result["preserved"] is not False for one in trained),
        "gap": round(100 * max(gaps, default=0.0) / (1 if score.unit == "%" else max(abs(base), 1e-9)), 6),
        "conversions": max(count_conversions(one.tflite.read_bytes()) for one in trained if one.tflite),
    }


def write_data(file: Path, task: str, about: models.Description, path: Path) -> list[int]:
    """Write random examples with the labels that the model gives them, as evenly spread as any range makes them.

    Where all labels are equal, no score could show what an int8 file computes.

    Returns:
        Examples per class; empty for other tasks.
    """
    (shape,) = about.inputs
    section = {"name": file.stem, "dataset": {"name": "digits"}, "model": {"path": str(file)}, "task": task}
    model = models.get_imported(experiment.validate(section).model, shape, about.output).model
    drawn = [draw_inputs(shape, *limits) for limits in RANGES]
    outputs = [model.predict(inputs, batch_size=32, verbose=0) for inputs in drawn]
    labels, arrays, counts, best = outputs, {}, [], 0
    if task in ("classification", "binary"):
        labels = [
            array.argmax(axis=-1) if task == "classification" else (array[:, 0] > 0).astype(int) for array in outputs
        ]
        best = int(np.argmax([compute_entropy(array) for array in labels]))
        counts = np.bincount(labels[best]).tolist()
        arrays["classes"] = np.arange(max(2, outputs[0].shape[-1])).astype(str)
    elif task == "reconstruction":
        labels = [np.zeros(TRAIN + TEST, int)]
    for name, part in (("train", slice(TRAIN)), ("test", slice(TRAIN, None))):
        arrays |= {f"x_{name}": drawn[best][part], f"y_{name}": labels[best][part]}
    np.savez(path, **arrays)
    return counts


def draw_inputs(shape: tuple[int, ...], low: float, high: float) -> np.ndarray:
    """Draw examples that differ in level, contrast and noise: uniform around a level per example and channel."""
    generator = np.random.default_rng(0)
    count = TRAIN + TEST
    level, noise = (
        generator.uniform(size=(count, *[1] * (len(shape) - 1), shape[-1])),
        generator.uniform(size=(count, *shape)),
    )
    contrast = generator.uniform(size=(count, *[1] * len(shape)))
    return (low + (high - low) * (level + contrast * (noise - level))).astype(np.float32)


def compute_entropy(labels: np.ndarray) -> float:
    """Compute how evenly labels are spread, in bits."""
    shares = np.bincount(labels)[np.unique(labels)] / len(labels)
    return float(-(shares * np.log2(shares)).sum())


def count_conversions(tflite: bytes) -> int:
    """Count the conversions to float in a file."""
    interpreter = Interpreter(model_content=tflite)
    return sum(one["op_name"] == "DEQUANTIZE" for one in interpreter._get_ops_details())


if __name__ == "__main__":
    tensorflow.configure(2)
    with tempfile.TemporaryDirectory() as temporary:
        print(json.dumps(measure_tree(Path(sys.argv[1]), Path(temporary))))
