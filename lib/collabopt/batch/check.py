"""Checks of an experiment's data and model, the first job of a batch: all mistakes at once, before any training."""

import math
import traceback
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from collabopt import datasets, models
from collabopt.analysis import preflight, scoring
from collabopt.batch.plan import CHECK_FAILURE
from collabopt.config import loading
from collabopt.config.experiment import Experiment
from collabopt.datasets import DatasetError
from collabopt.datasets.dataset import Shapes
from collabopt.models import ModelError, mobilenet
from collabopt.runtime import progress, tensorflow, user_modules
from collabopt.runtime.tensorflow import keras, tf
from collabopt.techniques import objectives, registry

_EXAMPLES = 64  # of each split, which are made into model inputs
_FEW = 16  # numbers of an example
_SCORED = 256  # training examples on which a saved model is tried


def run_check(name: str, overrides: dict[str, Any], done: Path) -> int:
    """Check an experiment, as a job of a batch.

    Args:
        name: Name or path of the experiment.
        overrides: Parameters that replace the experiment's own.
        done: The file that marks success; mistakes are written to `CHECK_FAILURE` beside it.

    Returns:
        The exit status.
    """
    progress.attach("check")
    clock, experiment = progress.Clock(), loading.load(name, **overrides)
    tensorflow.configure(experiment.threads)
    done.with_name(CHECK_FAILURE).unlink(missing_ok=True)
    mistakes = find_mistakes(experiment)
    if mistakes:
        done.with_name(CHECK_FAILURE).write_text("\n".join(mistakes), encoding="utf-8")
        return 1
    progress.log(f"data and model checked in {progress.format_duration(clock.seconds())}")
    done.touch()
    return 0


def find_mistakes(experiment: Experiment, data: datasets.Data | None = None) -> list[str]:
    """Return what is wrong with `data`, if it is loaded, and the model of an `experiment`, one line per mistake.

    The model is checked in spite of wrong data, where its shapes are known.
    """
    mistakes: list[str] = []
    shapes: Shapes | datasets.Data | None = None
    try:
        is_read = data is None
        data = data or datasets.load(experiment)
        shapes = data
        # Each notebook calls the function again.
        if is_read and experiment.dataset.function and datasets.load(experiment).fingerprint != data.fingerprint:
            mistakes.append(
                f"dataset.function={experiment.dataset.function}: returns other arrays each time; give its generators "
                "of random numbers a seed"
            )
        for name in ("train", "validation", "test"):
            _check_inputs(getattr(data, name), name, data.input_shape)
    except DatasetError as error:
        mistakes += str(error).splitlines()
        shapes = shapes or error.shapes
    except Exception as error:  # a function of the user raises anything
        mistakes.append(f"dataset: {describe_error(error)}")
    # A function builds the model for a number of outputs.
    is_buildable = experiment.model.path or not isinstance(experiment.task, str)
    if not shapes or not (shapes.outputs or is_buildable):
        return [*mistakes, "model: not checked, because the data does not tell the shapes of its input and output"]
    try:
        tensorflow.seed_everything(experiment.seed)
        if experiment.initial_weights:
            mobilenet.ensure_imagenet_weights(datasets.locate(experiment.initial_weights.path, loading.DATA))
        shapes = registry.fit_to_model(shapes, experiment)
        model = registry.build_initial_model(experiment, shapes)
        if isinstance(shapes, datasets.Data):
            preflight.check(preflight.find_problems(model, shapes, experiment, loading.DATA / "stages"))
        else:
            preflight.check(preflight.find_known_problems(model, experiment))
        imported = models.get_imported(experiment.model, *registry.get_ends(shapes))
        for line in imported.rewrites if imported else ():
            progress.note(f"import: {line}")
        for line in _find_shared(data) if data else ():
            progress.note(line)
        if experiment.model.is_trained and not mistakes:
            for line in _find_doubts(model, shapes):
                progress.note(line)
    except (ModelError, preflight.PreflightError) as error:
        mistakes += [f"model: {line}" for line in str(error).splitlines()]
    except Exception as error:
        mistakes.append(f"model: {describe_error(error)}")
    return mistakes


def _find_shared(data: datasets.Data) -> Iterator[str]:
    """A line if a split has examples of those before it. Examples of few numbers are equal by chance."""
    shapes = data.input_shape.values() if isinstance(data.input_shape, dict) else [data.input_shape]
    if sum(map(math.prod, shapes)) < _FEW:
        return
    known, others = {*data.train.compute_digests()}, "train"
    for name, split in (("validation", data.validation), ("test", data.test)):
        digests = split.compute_digests()
        shared = [place for place, digest in enumerate(digests) if digest in known]
        if shared:
            first = shared[0] if split.places is None else split.places[shared[0]]
            yield (
                f"CAUTION: {len(shared):,} of {len(split):,} {name} examples are in {others}, too, such as example "
                f"{first}. Scores on {name} are better than on new examples. Remove the copies"
            )
        known, others = known.union(digests), f"{others} or {name}"


def _find_doubts(model: keras.Model, data: datasets.Data) -> list[str]:
    """A line if a trained model is no better than one that always gives the same answer."""
    some = data.train.take(np.unique(np.linspace(0, len(data.train) - 1, _SCORED).astype(int)))
    match data.task.name:
        case "classification" | "binary":
            constant = np.bincount(some.labels).max() / len(some)
        case "regression":
            constant = np.abs(some.labels - np.median(some.labels, axis=0)).mean()
        case _:
            return []
    score, found = data.task.score, scoring.summarize(objectives.score_model(model, some, data.task), some)
    if score.compute_drop(constant, found) < 0:
        return []
    return [
        f"CAUTION: the model's {score.title} on {len(some)} training examples is {score.format(found)}, no better than "
        f"the {score.format(constant)} of a constant answer. Are inputs scaled and classes ordered as in training? "
        "If the model is to learn these data first, give stages.baseline some epochs"
    ]


def _check_inputs(split: datasets.Split, name: str, input_shape: Any) -> None:
    """Make model inputs of some examples, which shows pictures that cannot be decoded."""
    some = split.take(np.unique(np.linspace(0, len(split) - 1, _EXAMPLES).astype(int)))
    try:
        inputs = some.prepare(tf.nest.map_structure(tf.constant, some.examples))
    except tf.errors.OpError as error:
        raise DatasetError(f"{name}: an example cannot be read: {' '.join(error.message.split())}") from error
    found = tf.nest.map_structure(lambda one: tuple(one.shape[1:]), inputs)
    if found != input_shape:
        raise DatasetError(f"{name}: model inputs have shape {found}; expected {input_shape}")


def describe_error(error: Exception) -> str:
    """Return an unexpected `error` in a line, with its place in the user's code if it has one there."""
    last = traceback.extract_tb(error.__traceback__)[-1]
    line = user_modules.find_line(error) or f"{last.filename}, line {last.lineno}"
    return f"{type(error).__name__}: {' '.join(str(error).split())} ({line})"
