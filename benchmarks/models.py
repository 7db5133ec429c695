"""The import of users' models: published ones, and the time and memory of a MobileNet v2 of Keras 3.

The published models are read from $COLLABOPT_MODELS, or from ../shared/models. Each import has a process of its own.
"""

import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import psutil
import table
import trees
from batches import measure_memory

from collabopt.config import loading

FOLDER = Path(os.environ.get("COLLABOPT_MODELS", loading.ROOT.parent / "shared" / "models"))
WITH_ARCHITECTURE = 11
SAVE = """
import keras
keras.utils.set_random_seed(0)
keras.applications.MobileNetV2(weights=None).save({path!r})
"""


def measure_figures() -> list[dict]:
    """The published models one by one and together, MobileNet v2, and the deployment trees of the published models."""
    files = sorted(path for path in FOLDER.glob("*") if path.suffix in (".keras", ".h5", ".hdf5"))
    results = {path.name: import_file(path) for path in files}
    rows = [describe(name, found) for name, (found, _, _) in results.items()]
    accepted = sum(found["accepted"] for found, _, _ in results.values())
    total = {"figure": "models accepted with equal outputs", "subject": f"{len(files)} published models"}
    rows.append(total | {"value": accepted, "goal": f"≥ {WITH_ARCHITECTURE}", "met": accepted >= WITH_ARCHITECTURE})
    good = [path for path in files if results[path.name][0]["accepted"]]
    return rows + measure_import() + trees.measure_trees(good)


def describe(name: str, found: dict) -> dict:
    """The largest difference of a model's outputs; empty for a refused one, whose reason is printed."""
    if not found["accepted"]:
        print(f"{name}: {found['reason']}. {found['remedy']}")
    figure = "import: largest difference of outputs, relative"
    return {"figure": figure, "subject": name, "value": found.get("largest_difference")}


def measure_import() -> list[dict]:
    """Seconds and memory of the import of MobileNet v2, 224×224, 1000 classes, 3.5 million weights."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "mobilenet_v2.keras"
        environment = os.environ | {"KERAS_BACKEND": "tensorflow", "TF_USE_LEGACY_KERAS": "0"}
        command = [sys.executable, "-c", SAVE.format(path=str(path))]
        subprocess.run(command, env=environment, stderr=subprocess.DEVNULL, check=True)
        found, seconds, peak = import_file(path)
    if not found["accepted"]:
        raise RuntimeError(f"{found['reason']}. {found['remedy']}")
    about = "MobileNet v2 of Keras 3, .keras"
    return [
        table.make_bounded_row("import (s)", about, seconds, 10),
        table.make_bounded_row("peak memory of an import (GB)", about, peak / 1e9, 2),
    ]


def import_file(path: Path) -> tuple[dict, float, int]:
    """Run `python -m collabopt import`.

    Args:
        path: The file.

    Returns:
        What it prints, seconds, and the peak memory of all its processes in bytes.
    """
    began, peak = time.monotonic(), 0
    command = [sys.executable, "-m", "collabopt", "import", str(path)]
    process = psutil.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    while process.poll() is None:
        peak = max(peak, measure_memory(process))
        time.sleep(1)  # measuring memory takes 50 ms
    return json.loads(process.stdout.read().splitlines()[-1]), time.monotonic() - began, peak


if __name__ == "__main__":
    table.record(measure_figures())
