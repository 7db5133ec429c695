"""What people wait for besides training: set-up, conversion, pictures from disk, long pages, and memory that stays.

    python benchmarks/waits.py            # a quarter of an hour on two cores
    python benchmarks/waits.py setup page       # some measurements

Each measurement has a process of its own. Ratios are between times of the same process.
"""

import argparse
import json
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import batches
import chains
import numpy as np
import psutil
import table
import yaml

STEPS = 20
"""Timed training steps."""
CONVERSIONS = 40
KERNELS = 200
PICTURES = 600


def time_setup() -> dict[str, float]:
    """Set-up of a QAT stage ÷ the first step of the plain model, and a QAT step ÷ a step in float32, on `digits`."""
    from collabopt import datasets
    from collabopt.config import loading
    from collabopt.config.stages import STAGES
    from collabopt.runtime import tensorflow
    from collabopt.techniques import quantization, registry, training

    experiment = loading.load("digits")
    tensorflow.configure(experiment.threads)
    data = datasets.load(experiment)
    section = experiment.training("qat")
    inputs = list(data.train.training_batches(section.batch_size, 0, range(section.epochs)).take(STEPS + 1))

    def measure(make: Callable) -> tuple[float, float]:
        tensorflow.seed_everything(0)
        plain = registry.build_initial_model(experiment, data)
        began = time.perf_counter()
        model = training.compile_model(make(plain), data, section)
        model.train_on_batch(*inputs[0])
        first, took = time.perf_counter() - began, []
        for batch in inputs[1:]:
            began = time.perf_counter()
            model.train_on_batch(*batch)
            took.append(time.perf_counter() - began)
        return first, statistics.median(took)

    measure(lambda model: model)  # TensorFlow's own first step
    first, step = measure(lambda model: model)
    preserved = quantization.get_preservation(STAGES["qat"], experiment)
    qat_first, qat_step = measure(lambda model: quantization.wrap(model, preserved))
    return {"setup": qat_first / first, "step": qat_step / step}


def time_conversion() -> dict[str, float]:
    """Conversion and evaluation of MobileNet-v1 in every format ÷ one epoch of its training, on CIFAR-10."""
    from collabopt import datasets
    from collabopt.analysis import scoring
    from collabopt.config import formats, loading
    from collabopt.runtime import tensorflow
    from collabopt.techniques import registry, training
    from collabopt.tflite import convert

    experiment = loading.load("cifar10-mobilenet_v1")
    tensorflow.configure(experiment.threads)
    data, section = datasets.load(experiment), experiment.training("qat")
    tensorflow.seed_everything(0)
    model = registry.build_initial_model(experiment, data)
    calibration = next(iter(data.train.batches(experiment.calibration_examples)))[0].numpy()
    began = time.perf_counter()
    files = [convert.convert_to_int8(model, calibration)]
    files += [convert.convert(model, name) for name in formats.STANDARD if name not in formats.CALIBRATED]
    for file in files:
        scoring.score_file(file, data.test, data.task, experiment.threads, False)
    took = time.perf_counter() - began
    training.compile_model(model, data, section)
    inputs = list(data.train.training_batches(section.batch_size, 0, range(1)).take(STEPS + 1))
    model.train_on_batch(*inputs[0])
    began = time.perf_counter()
    for batch in inputs[1:]:
        model.train_on_batch(*batch)
    epoch = (time.perf_counter() - began) / STEPS * len(data.train) / section.batch_size
    return {"ratio": took / epoch}


def measure_conversions() -> dict[str, float]:
    """Resident memory after many conversions ÷ after one (tensorflow/tensorflow #122598)."""
    from collabopt import datasets
    from collabopt.config import loading
    from collabopt.techniques import registry
    from collabopt.tflite import convert

    experiment = loading.load("digits")
    data = datasets.load(experiment)
    model = registry.build_initial_model(experiment, data)
    calibration = next(iter(data.train.batches(100)))[0].numpy()
    resident = []
    for _ in range(CONVERSIONS):
        convert.convert_to_int8(model, calibration)
        resident.append(psutil.Process().memory_info().rss)
    return {"ratio": resident[-1] / resident[0]}


def time_pictures() -> dict[str, float]:
    """Batches of 224×224 pixels from JPEG files ÷ decoding the files alone, and ÷ decoding and resizing them alone.

    All use as many threads. The files are as large as those of ImageNet, 95 kB. The fastest of ten rounds counts: on
    two virtual cores, every such stream now and then takes twice as long, as if on one.
    """
    from PIL import Image

    from collabopt.config.sections import Dataset
    from collabopt.config.tasks import TASKS
    from collabopt.datasets import pictures
    from collabopt.runtime import tensorflow
    from collabopt.runtime.tensorflow import tf

    tensorflow.configure(2)
    generator = np.random.default_rng(0)
    with tempfile.TemporaryDirectory() as place:
        for index in range(PICTURES):
            folder = Path(place, ("train", "test")[index % 6 == 0], f"class_{index % 4 // 2}")
            folder.mkdir(parents=True, exist_ok=True)
            coarse = Image.fromarray(generator.integers(0, 255, (64, 64, 3), np.uint8))
            smooth = np.asarray(coarse.resize((500, 375), Image.Resampling.BICUBIC))
            noisy = np.clip(smooth + generator.integers(-12, 12, (375, 500, 1)), 0, 255).astype(np.uint8)
            Image.fromarray(noisy).save(folder / f"{index}.jpg", quality=90)
        split = pictures.read(Path(place), Dataset(path=place, image_size=224), TASKS["classification"]).train
        files = tf.data.Dataset.from_tensor_slices(split.examples)
        decoded = files.map(pictures.decode, tf.data.AUTOTUNE)
        resized = files.map(lambda path: tf.image.resize(pictures.decode(path), (224, 224)), tf.data.AUTOTUNE)
        took = []
        for _ in range(10):
            seconds = []
            for stream in (split.batches(32), decoded, resized):
                began = time.perf_counter()
                for _ in stream:
                    pass
                seconds.append(time.perf_counter() - began)
            took.append(seconds)
    pipeline, *alone = np.min(took, axis=0)
    return {name: float(pipeline / one) for name, one in zip(("decoded", "resized"), alone, strict=True)}


def measure_long_page() -> dict[str, float]:
    """Seconds and bytes of the page of `pqat` for a network of many kernels; its stages are in the store."""
    with tempfile.TemporaryDirectory() as name:
        place = Path(name)
        (place / "deep.py").write_text(
            "from collabopt.runtime.tensorflow import keras\n\n\n"
            "def build(input_shape, outputs):\n"
            "    inputs = x = keras.Input(input_shape)\n"
            f"    for index in range({KERNELS - 1}):\n"
            "        x = keras.layers.Conv2D(4, 3, padding='same', name=f'conv_{index}')(x)\n"
            "        x = keras.layers.ReLU()(keras.layers.BatchNormalization()(x))\n"  # else the signal vanishes
            "    x = keras.layers.GlobalAveragePooling2D()(x)\n"
            "    return keras.Model(inputs, keras.layers.Dense(outputs, name='fc')(x))\n"
        )
        stages = ("baseline", "qat", "pruned", "pqat")
        experiment = {
            "dataset": {"name": "digits"},
            "model": {"function": "deep:build"},
            "sparsity": 0.5,
            "train_fraction": 0.1,
            "stages": {stage: {"epochs": 1, "learning_rate": 1e-4, "optimizer": "adam"} for stage in stages},
        }
        (place / "deep.yaml").write_text(yaml.safe_dump(experiment))
        took = time_notebook("pqat", str(place / "deep.yaml"), place)
        return {"seconds": took["page"], "megabytes": took["bytes"] / 1e6}


def time_notebook(notebook: str, experiment: str, place: Path) -> dict[str, float]:
    """Seconds of a notebook whose stages are in the store, by bare papermill, after a run that trains them.

    Returns:
        `first`: until the first table is there; `complete`: until papermill ends; `page` and `bytes`: time and size of
        the page.
    """
    import os
    import subprocess
    import sys

    from collabopt.config import loading

    executed = place / f"{notebook}.ipynb"
    run = [str(Path(sys.executable).with_name("papermill")), str(loading.ROOT / "notebooks" / f"{notebook}.ipynb")]
    run += [str(executed), "-p", "experiment", experiment, "--no-progress-bar"]
    for _ in range(2):
        began = time.time()
        complete = batches.time_command(run, place)
        while _writes_page(executed):
            time.sleep(0.1)
    cells = json.loads(executed.read_text(encoding="utf-8"))["cells"]
    ends = [
        cell["metadata"]["papermill"]["end_time"] for cell in cells if "text/html" in json.dumps(cell.get("outputs"))
    ]
    first = np.datetime64(ends[0].removesuffix("+00:00")).astype("datetime64[us]").astype(float) / 1e6
    for path in (place / "reports").rglob("*.html"):
        path.unlink()
    began_page = time.perf_counter()
    command = [sys.executable, "-m", "collabopt", "page", str(executed)]
    subprocess.run(command, env=os.environ | batches.make_environment(place), check=True, stdout=subprocess.DEVNULL)
    (page,) = (place / "reports").rglob(f"{notebook}.html")
    return {
        "first": first - began,
        "complete": complete,
        "page": time.perf_counter() - began_page,
        "bytes": page.stat().st_size,
    }


def _writes_page(executed: Path) -> bool:
    """Whether a process that papermill has left still writes the page of a notebook."""
    commands = [process.info["cmdline"] or () for process in psutil.process_iter(["cmdline"])]
    return any({"page", str(executed)} <= {*command} for command in commands)


def time_stored() -> dict[str, float]:
    """The notebook `pqat` of `digits` with everything in the store."""
    with tempfile.TemporaryDirectory() as name:
        return time_notebook("pqat", "digits", Path(name))


MEASUREMENTS = {
    "stored": time_stored,
    "setup": time_setup,
    "conversion": time_conversion,
    "memory": measure_conversions,
    "pictures": time_pictures,
    "page": measure_long_page,
}
FIGURES = (  # measurement, key, figure, subject, goal
    ("stored", "first", "first table of a notebook from the store, papermill (s)", "digits, pqat", 8),
    ("stored", "complete", "complete notebook from the store, papermill (s)", "digits, pqat", 12),
    ("setup", "setup", "set-up of QAT ÷ first step of the plain model", "digits", 2),
    ("setup", "step", "plain QAT step ÷ float step", "digits", None),
    ("conversion", "ratio", "conversion and evaluation in all formats ÷ one epoch", "cifar10-mobilenet_v1", 0.5),
    ("memory", "ratio", f"memory after {CONVERSIONS} conversions ÷ after one", "digits", 1.1),
    ("pictures", "decoded", "224×224 JPEG batches ÷ decoding alone, 2 cores", f"{PICTURES} pictures", 1.1),
    ("pictures", "resized", "224×224 JPEG batches ÷ decoding and resizing alone, 2 cores", f"{PICTURES} pictures", 1.1),
    ("page", "seconds", "page of a network, from its notebook (s)", f"pqat, {KERNELS} kernels", 10),
    ("page", "megabytes", "page of a network (MB)", f"pqat, {KERNELS} kernels", 5),
)


def measure_figures(names: Sequence[str] = tuple(MEASUREMENTS)) -> Iterator[dict]:
    """Yield one row per figure of the named measurements, when it is measured."""
    for name in names:
        found = chains.run_in_process(__file__, "--one", name)
        for measurement, key, figure, subject, goal in FIGURES:
            if measurement == name and goal is None:
                yield table.make_row(figure, subject, found[key])
            elif measurement == name:
                yield table.make_bounded_row(figure, subject, found[key], goal)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("names", nargs="*", help=f"some of {', '.join(MEASUREMENTS)}; all by default")
    parser.add_argument("--one", choices=list(MEASUREMENTS))
    words = parser.parse_args()
    if words.one:
        print(json.dumps(MEASUREMENTS[words.one]()))
    else:
        table.record(measure_figures(words.names or tuple(MEASUREMENTS)))
