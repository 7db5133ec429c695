"""All four techniques: our batch beside TFMOT's guides (`chains`), and how the batch spends its time.

    python benchmarks/whole.py            # all subjects, an hour and a half
    python benchmarks/whole.py digits

Batches run in temporary directories with an empty store. Steps and int8 evaluation are timed in turn within one
process, so that other load on the machine affects both sides alike.
"""

import argparse
import json
import math
import shutil
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import batches
import chains
import numpy as np
import pandas as pd
import table
import yaml

from collabopt.config import loading

FIGURES = {
    "whole": "all four techniques: ours ÷ four chains, wall time",
    "overhead": "batch wall time ÷ sum of its own fit_seconds",
    "cores": "batch wall time, 2 cores ÷ 1 core",
    "step": "training step ÷ bare model.fit step on arrays in memory, baseline stage",
    "int8": "int8 evaluation ÷ loop over single examples, same file",
}
MNIST_SIZED = "mnist_cnn-sized"
GOALS = {
    "digits": {"whole": 0.5, "step": 1.05},
    MNIST_SIZED: {"whole": 0.5},
    "speech_commands-ds_cnn_l": {"whole": 0.45, "overhead": 1.25, "cores": 0.6, "step": 1.05, "int8": 0.5},
}
SEED = 0
"""The only seed; as an override it also clears `repeat_seeds`."""
ROUNDS = {"digits": 3}
"""How often the batch and the chains run in turn; once for other subjects."""
PAIRS = {"digits": 15}
"""How often training and int8 evaluation are timed on both sides. Five times are enough for other subjects, because
their epochs are long compared with a busy moment of the machine."""
NOTEBOOKS = "pqat cqat sparse_clustering pcqat"
"""The notebooks of the batch, besides those that they wait for. Notebooks without a counterpart in the guides are left
out: `preservation`, `sensitivity` and `deployment_tree`."""
MNIST_TESTED = 3_000
"""Test examples of an int8 file in the guides."""
NOT_DATA = {"locks", "runs", "snakemake", "stages"}
"""Directories that batches make in the data directory."""


def time_batch(subject: str, place: Path, cores: int = 1) -> float:
    """Seconds of a batch with an empty store on some `cores`, with its data and reports below `place`."""
    link_data(place / "data")
    command = [sys.executable, "-m", "collabopt", "report", "--experiment", subject]
    command += ["--set", f"seed={SEED}", "--cores", str(cores), "--notebooks", NOTEBOOKS]
    return batches.time_command(command, place)


def link_data(directory: Path) -> None:
    """Make a data directory with links to the data sets, without the directories of batches."""
    directory.mkdir(parents=True)
    for path in loading.DATA.iterdir():
        if path.name not in NOT_DATA:
            (directory / path.name).symlink_to(path.resolve())


def write_mnist_sized(place: Path) -> str:
    """Write an experiment like that of the guides with other pictures, and return its path.

    MNIST is not available everywhere. The pictures are 60,000 of CIFAR-10, in grey and cut to 28 × 28, with as many
    test examples as in the guides.
    """
    with np.load(loading.DATA / "cifar10.npz") as arrays:
        pictures = np.concatenate([arrays["x_train"], arrays["x_test"]])[:, 2:30, 2:30].mean(axis=-1, keepdims=True)
        labels = np.concatenate([arrays["y_train"], arrays["y_test"]]).ravel()
    x, cut = (pictures / 255).astype(np.float32), len(pictures) - MNIST_TESTED
    np.savez(place / "pictures.npz", x_train=x[:cut], y_train=labels[:cut], x_test=x[cut:], y_test=labels[cut:])
    experiment = yaml.safe_load(loading.find_experiment("mnist").read_text()) | {
        "dataset": {"path": f"{place}/pictures.npz"}
    }
    (place / "mnist_sized.yaml").write_text(yaml.safe_dump(experiment))
    return str(place / "mnist_sized.yaml")


def read_results(place: Path) -> pd.DataFrame:
    """The results.csv of the batch at `place`."""
    (path,) = (place / "reports").rglob("results.csv")
    return pd.read_csv(path)


def compute_shares(subject: str, place: Path, seconds: float) -> dict[str, float]:
    """Shares of the `seconds` of the batch at `place` by activity.

    They come from the times of cells in its notebooks, from results.csv, and from measuring its stages again.
    """
    spent, inside = time_notebooks(place)
    jobs = sum(json.loads(path.read_text())["seconds"] for path in (place / "data" / "runs").rglob("*.done"))
    spent |= {"pages in HTML": jobs - inside, "Snakemake and starts of processes": seconds - jobs}
    spent |= time_training(read_results(place))
    spent |= chains.run_in_process(__file__, subject, "--measure", str(place))
    return compute_fractions(spent, seconds, "the rest: data, preflight, Keras accuracy, audit, store")


def compute_fractions(spent: dict[str, float], seconds: float, rest: str) -> dict[str, float]:
    """The spent seconds as fractions of all `seconds`, and the remainder under the name `rest`."""
    return {activity: took / seconds for activity, took in {**spent, rest: seconds - sum(spent.values())}.items()}


def time_notebooks(place: Path) -> tuple[dict[str, float], float]:
    """Seconds of the notebooks executed at `place` by activity that is no work on a model, and in all."""
    spent, inside = dict.fromkeys(("imports", "kernel starts", "plots"), 0.0), 0.0
    for path in (place / "data" / "runs").rglob("*.ipynb"):
        notebook = json.loads(path.read_text(encoding="utf-8"))
        cells = [
            ("".join(cell["source"]), _get_seconds(cell)) for cell in notebook["cells"] if cell["cell_type"] == "code"
        ]
        spent["imports"] += sum(took for source, took in cells if "from collabopt import" in source)
        spent["plots"] += sum(took for source, took in cells if "figures.draw_" in source)
        spent["kernel starts"] += _get_seconds(notebook) - sum(took for _, took in cells)
        inside += _get_seconds(notebook)
    return spent, inside


def time_training(trained: pd.DataFrame) -> dict[str, float]:
    """Seconds of training, from results.csv with one row per training."""
    return {"training (fit)": trained["fit_seconds"].sum(), "set-up and tracing": trained["setup_seconds"].sum()}


def _get_seconds(part: dict) -> float:
    """Seconds that papermill recorded for a cell or a notebook."""
    return part["metadata"]["papermill"]["duration"]


def measure_again(subject: str, place: Path) -> dict[str, float]:
    """Seconds that conversion and int8 evaluation of the batch at `place` take, from a copy of its trained stages.

    The result represents the batch only if the machine is as busy as it was then. Otherwise the remainder in
    `compute_shares` may be negative.
    """
    from collabopt.analysis import scoring
    from collabopt.run import Run
    from collabopt.runtime import tensorflow
    from collabopt.tflite import convert

    experiment, parts, store_directory = loading.load(subject, seed=SEED), chains.Parts(), place / "measured_again"
    tensorflow.configure(experiment.threads)
    shutil.copytree(place / "data" / "stages", store_directory, ignore=shutil.ignore_patterns("*-measured-*"))

    def timed(activity: str, function: Callable) -> Callable:
        def call(*arguments, **keywords):
            with parts.timed(activity):
                return function(*arguments, **keywords)

        return call

    convert.convert_to_int8 = timed("conversion", convert.convert_to_int8)
    convert.convert_as_trained = timed("conversion", convert.convert_as_trained)
    scoring.score_file = timed("int8 evaluation", scoring.score_file)
    run = Run(experiment, None, loading.find_experiment(subject), store_directory)
    for scheme, rows in read_results(place).fillna({"scheme": experiment.scheme}).groupby("scheme"):
        run.with_scheme(scheme).stages(*rows["stage"])
    return parts


def compare_steps_and_evaluation(subject: str) -> dict[str, float]:
    """Our time ÷ theirs for a training step and for int8 evaluation of the test split; medians over pairs."""
    from collabopt import datasets
    from collabopt.runtime import tensorflow
    from collabopt.techniques import registry
    from collabopt.tflite import convert
    from collabopt.tflite.interpreter import score_examples

    experiment = loading.load(subject, seed=SEED)
    tensorflow.configure(experiment.threads)
    data = datasets.load(experiment)
    pairs = range(PAIRS.get(subject, 5))
    steps = [_time_our_step(experiment, data) / _time_bare_step(experiment, data) for _ in pairs]
    calibration, (test, _) = (
        chains.make_arrays(data.train)[0][: experiment.calibration_examples],
        chains.make_arrays(data.test),
    )
    file, evaluations = convert.convert_to_int8(registry.build_initial_model(experiment, data), calibration), []
    for _ in pairs:
        parts = chains.Parts()
        with parts.timed("ours"):
            ours = score_examples(file, data.test, lambda _, outputs: outputs.argmax(axis=-1), experiment.threads)
        with parts.timed("theirs"):
            theirs = chains.predict_one_by_one(file, test)
        if not np.array_equal(ours, theirs):
            raise SystemExit(f"{subject}: {(ours != theirs).sum()} test examples are of another class one by one")
        evaluations.append(parts["ours"] / parts["theirs"])
    return {"step": statistics.median(steps), "int8": statistics.median(evaluations)}


def _time_our_step(experiment, data) -> float:
    """Seconds per step of the baseline's training with `training.fit`, without the validation after each epoch."""
    from collabopt.runtime import progress, tensorflow
    from collabopt.techniques import registry, training
    from collabopt.techniques.checkpoints import Checkpoint

    tensorflow.seed_everything(experiment.seed)
    model, section, watch = registry.build_initial_model(experiment, data), experiment.training("baseline"), _Watch()
    with tempfile.TemporaryDirectory() as place:
        checkpoint, clock = Checkpoint(Path(place) / "epoch.npz"), progress.Clock()
        training.fit(model, data, section, experiment.seed, "baseline", clock, [watch.callback()], checkpoint)
    return watch.epoch() / _count_steps(experiment, data)


def _time_bare_step(experiment, data) -> float:
    """The same with `model.fit` on arrays in memory and nothing else."""
    from collabopt.runtime import tensorflow
    from collabopt.runtime.tensorflow import keras
    from collabopt.techniques import registry, training

    tensorflow.seed_everything(experiment.seed)
    model, section, watch = registry.build_initial_model(experiment, data), experiment.training("baseline"), _Watch()
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(training.make_optimizer(section, _count_steps(experiment, data)), loss, metrics=["accuracy"])
    x, y = chains.make_arrays(data.train)
    settings = {"batch_size": section.batch_size, "epochs": section.epochs, "callbacks": [watch.callback()]}
    model.fit(x, y, **settings, shuffle=True, verbose=0)
    return watch.epoch() / _count_steps(experiment, data)


def _count_steps(experiment, data) -> int:
    return math.ceil(len(data.train) / experiment.training("baseline").batch_size)


class _Watch:
    """The times when epochs end, and when validation interrupts training."""

    def __init__(self) -> None:
        self.ends, self.interruptions = [], []

    def callback(self):
        from collabopt.runtime.tensorflow import keras

        now = time.perf_counter
        return keras.callbacks.LambdaCallback(
            on_epoch_end=lambda *_: self.ends.append(now()),
            on_test_begin=lambda *_: self.interruptions.append(-now()),
            on_test_end=lambda *_: self.interruptions.append(now()),
        )

    def epoch(self) -> float:
        """Seconds of training per epoch, without the first, which includes tracing."""
        training = self.ends[-1] - self.ends[0] - sum(self.interruptions[2:])
        return training / (len(self.ends) - 1)


def measure_subject(subject: str) -> Iterator[dict]:
    """Measure one subject, and yield each row when it is known."""
    wholes = []
    with tempfile.TemporaryDirectory() as directory:
        name = write_mnist_sized(Path(directory)) if subject == MNIST_SIZED else subject
        for index in range(ROUNDS.get(subject, 1)):
            place = Path(directory) / str(index)
            ours = time_batch(name, place)
            if not index:
                yield from _measure_batch(subject, name, place, ours)
            theirs = chains.run_all(name, SEED)
            wholes.append(ours / theirs["seconds"])
            print(f"{subject}: batch {ours:.1f} s; chains {json.dumps(theirs)}", flush=True)
    yield _make_row(subject, "whole", statistics.median(wholes))
    if {"step", "int8"} & set(GOALS.get(subject, {})):
        for key, value in chains.run_in_process(__file__, subject, "--ratios").items():
            yield _make_row(subject, key, value)


def _measure_batch(subject: str, name: str, place: Path, seconds: float) -> Iterator[dict]:
    """How a batch of an experiment `name` at `place` spent its `seconds`, and what a second core saves."""
    yield _make_row(subject, "overhead", seconds / read_results(place)["fit_seconds"].sum())
    if "cores" in GOALS.get(subject, {}):
        yield _make_row(subject, "cores", time_batch(name, place.with_name("cores"), cores=2) / seconds)
    for activity, share in compute_shares(name, place, seconds).items():
        yield table.make_row("share of the batch (%)", f"{subject}, {activity}", 100 * share)


def _make_row(subject: str, key: str, value: float) -> dict:
    goal = GOALS.get(subject, {}).get(key)
    return (
        table.make_bounded_row(FIGURES[key], subject, value, goal)
        if goal
        else table.make_row(FIGURES[key], subject, value)
    )


def measure_figures(subjects: tuple[str, ...] = tuple(GOALS)) -> Iterator[dict]:
    """Yield one row per figure. Figures without a goal are for comparison."""
    for subject in subjects:
        yield from measure_subject(subject)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("subject", nargs="?", help=f"one of {', '.join(GOALS)}; all by default")
    parser.add_argument("--ratios", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("--measure", type=Path, help=argparse.SUPPRESS)
    words = parser.parse_args()
    if words.ratios:
        print(json.dumps(compare_steps_and_evaluation(words.subject)))
    elif words.measure:
        print(json.dumps(measure_again(words.subject, words.measure)))
    else:
        table.record(measure_figures((words.subject,)) if words.subject else measure_figures())
