"""What quantization loses on difficult data: inputs far from zero, and one extreme example.

    python benchmarks/robustness.py         # within 15 minutes on two cores

Each subject is run through the library into a directory that is deleted. Scores are on the test split. Costs of the
remedies come last: the trial of all stages before training, and files with a static batch.
"""

import statistics
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import table

OUTLIER = 300
"""Factor of the one extreme training example."""
WITHOUT_NORM = {"model": '{function: "robustness:build_network"}', "density_kernel": "conv_2"}
PARENTS = {"qat": "baseline", "pqat": "pruned", "cqat": "clustered", "pcqat": "sparse_clustered"}
EXPERIMENT = "extends: digits\nname: {name}\ndataset: {{path: {name}.npz}}\n"


def build_network(input_shape: tuple[int, ...], classes: int):
    """A convolutional network without batch norm, so that the scale of the inputs reaches every activation."""
    from collabopt.runtime.tensorflow import keras

    inputs = x = keras.Input(input_shape, name="input")
    for number, channels in enumerate((16, 32), start=1):
        x = keras.layers.Conv2D(channels, 3, padding="same", activation="relu", name=f"conv_{number}")(x)
        x = keras.layers.MaxPooling2D(2, name=f"pool_{number}")(x)
    outputs = keras.layers.Dense(classes, name="fc")(keras.layers.Flatten(name="flatten")(x))
    return keras.Model(inputs, outputs, name="without_norm")


def make_scaled(scale: float = 40.0, offset: float = 200.0) -> dict[str, np.ndarray]:
    """The digits with mean `offset` and standard deviation `scale`, as from a sensor without calibration."""
    from collabopt import datasets
    from collabopt.config import loading

    data = datasets.load(loading.load("digits"))
    pixels = data.train.prepare(data.train.examples).numpy()
    center, spread = pixels.mean(), pixels.std()
    return {
        f"{letter}_{name}": (
            (split.prepare(split.examples).numpy() - center) / spread * scale + offset
            if letter == "x"
            else split.labels
        )
        for name, split in (("train", data.train), ("validation", data.validation), ("test", data.test))
        for letter in "xy"
    }


def make_outlier(factor: float = OUTLIER) -> dict[str, np.ndarray]:
    """510 training examples of three patterns with noise, one of them times `factor`; 300 each to validate and test."""
    generator = np.random.default_rng(0)
    patterns, arrays = generator.normal(size=(3, 8, 8, 1)), {}
    for name, count in (("train", 510), ("validation", 300), ("test", 300)):
        labels = np.arange(count) % 3
        arrays[f"x_{name}"] = patterns[labels] + generator.normal(0, 0.7, (count, 8, 8, 1))
        arrays[f"y_{name}"] = labels
    arrays["x_train"][0] *= factor
    return {name: array.astype(np.float32 if name[0] == "x" else np.int64) for name, array in arrays.items()}


def run(name: str, arrays: dict[str, np.ndarray] | None, directory: Path, **settings: object):
    """A finished run of every stage of an experiment, on other data if `arrays` are given."""
    from collabopt.config import loading
    from collabopt.config.stages import STAGES
    from collabopt.run import Run

    experiment = name
    if arrays is not None:
        np.savez(directory / f"{name}.npz", **arrays)
        experiment = str(directory / f"{name}.yaml")
        lines = "".join(f"{key}: {value}\n" for key, value in settings.items())
        Path(experiment).write_text(EXPERIMENT.format(name=name) + lines)
    loading.DATA = directory  # locks
    finished = Run(loading.load(experiment), None, loading.find_experiment(experiment), directory / "stages")
    finished.stages(*STAGES)
    return finished


def compute_gap(finished, stage: str) -> float:
    """Int8 accuracy of a QAT stage minus that of its parent's PTQ, in points, the mean over seeds."""
    pairs = [(one.stage(stage).result, one.stage(PARENTS[stage]).result) for one in finished.with_every_seed()]
    return float(np.mean([100 * (own["accuracy_int8"] - parent["accuracy_int8"]) for own, parent in pairs]))


def compute_unused_share(tflite: bytes) -> float:
    """The largest share of the int8 values of a ReLU's output that stand for negative numbers (%)."""
    from ai_edge_litert.interpreter import Interpreter

    interpreter = Interpreter(model_content=tflite)
    outputs = [
        details["quantization"][1]
        for details in interpreter.get_tensor_details()
        if "relu" in details["name"].lower() and details["dtype"] == np.int8
    ]
    return 100 * max((zero_point + 128) / 256 for zero_point in outputs)


def load_initial(name: str):
    """An experiment with its data and its initial model."""
    from collabopt import datasets
    from collabopt.config import loading
    from collabopt.techniques import registry

    experiment = loading.load(name)
    data = datasets.load(experiment)
    return experiment, data, registry.build_initial_model(experiment, data)


def time_trial() -> float:
    """Seconds of the trial of MobileNet-v1 before training."""
    from collabopt.analysis import trial

    experiment, data, model = load_initial("cifar10-mobilenet_v1")
    began = time.perf_counter()
    trial.try_stages(model, data, experiment)
    return time.perf_counter() - began


def measure_static_batch(rounds: int = 5) -> tuple[dict, float]:
    """Vela's estimate of DS-CNN-L's int8 file, and its evaluation time ÷ that of a file with a dynamic batch."""
    from collabopt.runtime.tensorflow import tf
    from collabopt.techniques import calibration
    from collabopt.tflite import convert, interpreter, vela

    experiment, data, model = load_initial("speech_commands-ds_cnn_l")
    sample = calibration.draw_examples(model, data.train, 100, experiment.seed)
    converter = tf.lite.TFLiteConverter.from_keras_model(model)
    converter.optimizations = [tf.lite.Optimize.DEFAULT]
    convert.set_calibration(converter, "int8", {model.input_names[0]: sample.inputs})
    files = {"static": convert.convert(model, "int8", sample.inputs), "dynamic": converter.convert()}
    seconds = {name: [] for name in files}
    for _ in range(rounds):
        for name, file in files.items():
            began = time.perf_counter()
            interpreter.compute_outputs(file, data.test)
            seconds[name].append(time.perf_counter() - began)
    ratio = statistics.median(one / other for one, other in zip(seconds["static"], seconds["dynamic"], strict=True))
    return vela.estimate(files["static"], "ethos-u55-128"), ratio


def measure_figures() -> Iterator[dict]:
    """Yield one row per figure, when it is measured."""
    from collabopt.runtime import tensorflow

    tensorflow.configure(1)
    with tempfile.TemporaryDirectory() as place:
        # Batch norm would bring the activations back to a scale of one.
        scaled = run("scaled", make_scaled(), Path(place), repeat_seeds=[1, 2], **WITHOUT_NORM)
        for stage in PARENTS:
            figure, gap = "int8 accuracy minus its parent's PTQ (points, three seeds)", compute_gap(scaled, stage)
            yield table.make_least_row(figure, f"digits, scale 40, offset 200, {stage}", gap, -0.5)
    with tempfile.TemporaryDirectory() as place:
        # One such example spoils the statistics of a batch norm, also in float32.
        outlier = run("outlier", make_outlier(), Path(place), **WITHOUT_NORM)
        for stage in ("baseline", "qat"):
            accuracy = 100 * outlier.stage(stage).result["accuracy_int8"]
            about = f"one of 510 training examples × {OUTLIER}, {stage}"
            yield table.make_least_row("int8 accuracy (%)", about, accuracy, 98)
    with tempfile.TemporaryDirectory() as place:
        digits = run("digits", None, Path(place))
        for stage in PARENTS:
            unused = compute_unused_share(digits.stage(stage).tflite.read_bytes())
            figure = "int8 values of a ReLU's output that cannot occur (%)"
            yield table.make_bounded_row(figure, f"digits, {stage}", unused, 5)
    npu, ratio = measure_static_batch()
    about = "DS-CNN-L, baseline int8"
    on_cpu = 100 * (1 - npu["npu_operators"])
    yield table.make_bounded_row("operators on the CPU beside an Ethos-U55 (%)", about, on_cpu, 0)
    yield table.make_bounded_row("NPU cycles", about, npu["npu_cycles"], 680_616)
    yield table.make_bounded_row("evaluation time ÷ that with a dynamic batch", about, ratio, 1.05)
    yield table.make_bounded_row("trial of all stages before training (s)", "MobileNet-v1", time_trial(), 20)


if __name__ == "__main__":
    for row in measure_figures():
        print(row)
