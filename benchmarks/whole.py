"""All four techniques, whole: our batch beside TFMOT's guides (`chains`), and where its time goes.

    python benchmarks/whole.py            # all subjects; an hour and a half
    python benchmarks/whole.py digits

Batches run in directories of their own, so that they are cold. Steps and int8 evaluation are timed in turn within one
process, so that what else the machine does falls on both sides alike.
"""

import argparse
import json
import math
import shutil
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
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
    "step": "training step ÷ bare model.fit step on arrays in memory, baseline stage",
    "int8": "int8 evaluation ÷ loop over single examples, same file",
}
MNIST_SIZED = "mnist_cnn-sized"
GOALS = {
    "digits": {"whole": 0.5, "step": 1.05},
    MNIST_SIZED: {"whole": 0.5},
    "speech_commands-ds_cnn_l": {"whole": 0.45, "overhead": 1.25, "step": 1.05, "int8": 0.5},
}
SEED = 0
"""The one seed of all that is measured here; asked for, it is asked for alone."""
ROUNDS = {"digits": 3}
"""How often the batch and the chains run in turn; elsewhere once."""
PAIRS = {"digits": 15}
"""How often a training and an int8 evaluation are timed on both sides; elsewhere five times, where a busy moment of the
machine is short beside an epoch."""
NOTEBOOKS = "pqat cqat sparse_clustering pcqat published"
"""What the batch runs, with what these go on from: the techniques and the table of all. What the guides have
no counterpart of is left out: `preservation`, `sensitivity`, and what `deployment_tree` measures of every leaf."""
MNIST_TESTED = 3_000
"""Examples that the guides test an int8 file on."""
NOT_DATA = {"locks", "runs", "snakemake", "stages"}
"""What batches make in the data directory."""


def batch(subject: str, place: Path) -> float:
    """Seconds of a cold batch on one core, its data and reports below `place`."""
    linked_data(place / "data")
    command = [sys.executable, "-m", "collabopt", "report", "--experiment", subject]
    command += ["--set", f"seed={SEED}", "--cores", "1", "--notebooks", NOTEBOOKS]
    return batches.seconds(command, place)


def linked_data(directory: Path) -> None:
    """A data directory with links to the data sets and nothing that batches made."""
    directory.mkdir(parents=True)
    for path in loading.DATA.iterdir():
        if path.name not in NOT_DATA:
            (directory / path.name).symlink_to(path.resolve())


def mnist_sized(place: Path) -> str:
    """The file of an experiment that is what the guides work on, but for the pictures: MNIST cannot be had everywhere,
    so 60,000 grey ones of CIFAR-10, cut to 28 × 28, stand for it, as many to test on as the guides take."""
    with np.load(loading.DATA / "cifar10.npz") as arrays:
        pictures = np.concatenate([arrays["x_train"], arrays["x_test"]])[:, 2:30, 2:30].mean(axis=-1, keepdims=True)
        labels = np.concatenate([arrays["y_train"], arrays["y_test"]]).ravel()
    x, cut = (pictures / 255).astype(np.float32), len(pictures) - MNIST_TESTED
    np.savez(place / "pictures.npz", x_train=x[:cut], y_train=labels[:cut], x_test=x[cut:], y_test=labels[cut:])
    plan = yaml.safe_load(loading.find_experiment("mnist").read_text()) | {"dataset": {"path": f"{place}/pictures.npz"}}
    (place / "mnist_sized.yaml").write_text(yaml.safe_dump(plan))
    return str(place / "mnist_sized.yaml")


def results(place: Path) -> pd.DataFrame:
    """The results.csv of the batch at `place`."""
    (path,) = (place / "reports").rglob("results.csv")
    return pd.read_csv(path)


def shares(subject: str, place: Path, seconds: float) -> dict[str, float]:
    """What the `seconds` of the batch at `place` went into, as fractions: by the times that its notebooks hold of their
    cells, by results.csv, and by measuring its stages again."""
    spent, inside = in_notebooks(place)
    jobs = sum(json.loads(path.read_text())["seconds"] for path in (place / "data" / "runs").rglob("*.done"))
    spent |= {"pages in HTML": jobs - inside, "Snakemake and starts of processes": seconds - jobs}
    spent |= in_training(results(place))
    spent |= chains.in_process(__file__, subject, "--measure", str(place))
    return fractions(spent, seconds, "the rest: data, preflight, Keras accuracy, audit, store")


def fractions(spent: dict[str, float], seconds: float, rest: str) -> dict[str, float]:
    """What was spent as fractions of all `seconds`, and `rest`, what is left of them."""
    return {what: took / seconds for what, took in {**spent, rest: seconds - sum(spent.values())}.items()}


def in_notebooks(place: Path) -> tuple[dict[str, float], float]:
    """Seconds that the notebooks executed at `place` took for what is no work on a model, and for all."""
    spent, inside = dict.fromkeys(("imports", "kernel starts", "plots"), 0.0), 0.0
    for path in (place / "data" / "runs").rglob("*.ipynb"):
        notebook = json.loads(path.read_text(encoding="utf-8"))
        cells = [("".join(cell["source"]), _seconds(cell)) for cell in notebook["cells"] if cell["cell_type"] == "code"]
        spent["imports"] += sum(took for source, took in cells if "from collabopt import" in source)
        spent["plots"] += sum(took for source, took in cells if "plots." in source)
        spent["kernel starts"] += _seconds(notebook) - sum(took for _, took in cells)
        inside += _seconds(notebook)
    return spent, inside


def in_training(trained: pd.DataFrame) -> dict[str, float]:
    """Seconds of training in rows of results.csv, a row a training."""
    return {"training (fit)": trained["fit_seconds"].sum(), "set-up and tracing": trained["setup_seconds"].sum()}


def _seconds(part: dict) -> float:
    """What papermill took for a cell or a notebook."""
    return part["metadata"]["papermill"]["duration"]


def measured_again(subject: str, place: Path) -> dict[str, float]:
    """Seconds that conversions and int8 evaluations of the batch at `place` take, from a copy of its trained stages.

    It stands for the batch where the machine is as busy now as it was then; else `shares` leaves less than nothing.
    """
    from collabopt.run import Run
    from collabopt.runtime import tensorflow
    from collabopt.tflite import convert
    from collabopt.tflite.interpreter import predict_classes

    plan, parts, keep = loading.load(subject, seed=SEED), chains.Parts(), place / "measured_again"
    tensorflow.configure(plan.threads)
    shutil.copytree(place / "data" / "stages", keep, ignore=shutil.ignore_patterns("*-measured-*"))

    def timed(what: str, function: Callable) -> Callable:
        def called(*given, **named):
            with parts.timed(what):
                return function(*given, **named)

        return called

    convert.convert_to_int8 = timed("conversion", convert.convert_to_int8)
    convert.convert_as_trained = timed("conversion", convert.convert_as_trained)
    predict_classes = timed("int8 evaluation", predict_classes)
    run = Run(plan, None, loading.find_experiment(subject), keep)
    for scheme, rows in results(place).fillna({"scheme": plan.scheme}).groupby("scheme"):
        run.with_scheme(scheme).stages(*rows["stage"])
    return parts


def ratios(subject: str) -> dict[str, float]:
    """Ours ÷ theirs: a training step, and int8 evaluation of the test split; medians over pairs."""
    from collabopt import datasets
    from collabopt.runtime import tensorflow
    from collabopt.techniques import registry
    from collabopt.tflite import convert
    from collabopt.tflite.interpreter import predict_classes

    plan = loading.load(subject, seed=SEED)
    tensorflow.configure(plan.threads)
    data = datasets.load(plan)
    pairs = range(PAIRS.get(subject, 5))
    steps = [_our_step(plan, data) / _bare_step(plan, data) for _ in pairs]
    calibration, (test, _) = chains.in_memory(data.train)[0][: plan.calibration_examples], chains.in_memory(data.test)
    file, evaluations = convert.convert_to_int8(registry.build_initial_model(plan, data), calibration), []
    for _ in pairs:
        parts = chains.Parts()
        with parts.timed("ours"):
            ours = predict_classes(file, data.test, plan.threads)
        with parts.timed("theirs"):
            theirs = chains.one_by_one(file, test)
        if not np.array_equal(ours, theirs):
            raise SystemExit(f"{subject}: {(ours != theirs).sum()} test examples are of another class one by one")
        evaluations.append(parts["ours"] / parts["theirs"])
    return {"step": statistics.median(steps), "int8": statistics.median(evaluations)}


def _our_step(plan, data) -> float:
    """Seconds a step of the baseline's training by `training.fit`, without the validation after each epoch."""
    from collabopt.runtime import progress, tensorflow
    from collabopt.techniques import registry, training
    from collabopt.techniques.checkpoints import Checkpoint

    tensorflow.seed_everything(plan.seed)
    model, how, watch = registry.build_initial_model(plan, data), plan.training("baseline"), _Watch()
    with tempfile.TemporaryDirectory() as place:
        checkpoint, clock = Checkpoint(Path(place) / "epoch.npz"), progress.Clock()
        training.fit(model, data, how, plan.seed, "baseline", clock, [watch.callback()], checkpoint)
    return watch.epoch() / _steps(plan, data)


def _bare_step(plan, data) -> float:
    """The same by `model.fit` on arrays in memory and nothing else."""
    from collabopt.runtime import tensorflow
    from collabopt.runtime.tensorflow import keras
    from collabopt.techniques import registry, training

    tensorflow.seed_everything(plan.seed)
    model, how, watch = registry.build_initial_model(plan, data), plan.training("baseline"), _Watch()
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(training.make_optimizer(how, _steps(plan, data)), loss, metrics=["accuracy"])
    x, y = chains.in_memory(data.train)
    given = {"batch_size": how.batch_size, "epochs": how.epochs, "callbacks": [watch.callback()]}
    model.fit(x, y, **given, shuffle=True, verbose=0)
    return watch.epoch() / _steps(plan, data)


def _steps(plan, data) -> int:
    return math.ceil(len(data.train) / plan.training("baseline").batch_size)


class _Watch:
    """When epochs end, and how long validation interrupts training."""

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
        """Seconds of training an epoch. The first, in which all is traced, does not count."""
        training = self.ends[-1] - self.ends[0] - sum(self.interruptions[2:])
        return training / (len(self.ends) - 1)


def of(subject: str) -> list[dict]:
    """The rows of one subject."""
    alone = {"step", "int8"} & set(GOALS.get(subject, {}))
    wholes, values = [], chains.in_process(__file__, subject, "--ratios") if alone else {}
    with tempfile.TemporaryDirectory() as directory:
        name = mnist_sized(Path(directory)) if subject == MNIST_SIZED else subject
        for index in range(ROUNDS.get(subject, 1)):
            place = Path(directory) / str(index)
            ours, theirs = batch(name, place), chains.all_four(name, SEED)
            wholes.append(ours / theirs["seconds"])
            print(f"{subject}: batch {ours:.1f} s; chains {json.dumps(theirs)}", flush=True)
        values["whole"] = statistics.median(wholes)
        values["overhead"] = ours / results(place)["fit_seconds"].sum()
        spent = shares(name, place, ours)
    return [_row(subject, key, value) for key, value in values.items()] + [
        table.seen("share of the batch (%)", f"{subject}, {what}", 100 * part) for what, part in spent.items()
    ]


def _row(subject: str, key: str, value: float) -> dict:
    goal = GOALS.get(subject, {}).get(key)
    return table.at_most(FIGURES[key], subject, value, goal) if goal else table.seen(FIGURES[key], subject, value)


def figures(subjects: tuple[str, ...] = tuple(GOALS)) -> list[dict]:
    """A row a figure; what has no goal for a subject is there to compare with."""
    return [row for subject in subjects for row in of(subject)]


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("subject", nargs="?", help=f"one of {', '.join(GOALS)}; all without it")
    parser.add_argument("--ratios", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("--measure", type=Path, help=argparse.SUPPRESS)
    words = parser.parse_args()
    if words.ratios:
        print(json.dumps(ratios(words.subject)))
    elif words.measure:
        print(json.dumps(measured_again(words.subject, words.measure)))
    else:
        table.record(figures((words.subject,)) if words.subject else figures())
