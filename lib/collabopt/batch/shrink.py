"""One command from a trained model to the file to deploy: `make shrink MODEL=mine.keras DATA=mine.npz`.

It writes an experiment file with defaults that suit the model and the data, runs its report, and recommends a file.
"""

import dataclasses
import difflib
import os
import re
import shlex
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from pydantic import ValidationError

from collabopt.config import defaults, loading
from collabopt.config.experiment import Experiment, ExperimentError, validate
from collabopt.config.stages import STAGES
from collabopt.config.tasks import TASKS
from collabopt.deploy.recommendation import Recommendation, recommend
from collabopt.storage import atomic

_COMMENTS = {
    "image_size": "height and width of a model input; pixel_range: its values for black and white",
    "dataset": "also a folder of pictures or WAV files per class, a table (.csv, .tsv, .parquet), or a function",
    "task": f"one of {', '.join(TASKS)}",
    "validation_fraction": "share of the training examples that decides between files, unless the data has its own",
    "sparsity": "fraction of each kernel's weights that pruning sets to zero",
    "number_of_clusters": "distinct values per kernel after clustering; cluster_rate, the price of a bit, follows it",
}
_SECTION_COMMENTS = {"baseline": "0 epochs: the given weights", "pruned": "sparsity rises until end_epoch"}


def shrink(
    model: str | Path,
    data: str | Path | Mapping[str, Any],
    task: str | None = None,
    name: str | None = None,
    cores: str = "all",
    trust_code: bool = False,
    custom_objects: Sequence[str] = (),
    **dataset: Any,
) -> Recommendation:
    """Shrink a trained model: write an experiment file if there is none yet, run its report, and recommend a file.

    Args:
        model: A saved Keras model, or "module:function".
        data: A data set as an experiment names it: an .npz file, a folder of classes, a table, or "module:function".
            In a notebook also the arrays themselves: x_train, y_train, x_test, y_test.
        task: One of `tasks.TASKS`; None finds out from the model's output and the labels.
        name: Name of the experiment; None takes that of the model's file.
        cores: Number of CPU cores, or "all".
        trust_code: Whether Python code inside the model's file may run, such as that of a Lambda layer.
        custom_objects: Classes of the user's own layers, each "module:Class".
        **dataset: Further keys of the `dataset` section, such as `target` of a table.

    Returns:
        The recommended file.

    Raises:
        ExperimentError: The model or the data cannot be used; one line per mistake.
        RuntimeError: The report stopped before its files were measured.
    """
    from collabopt.batch import scheduler

    experiment, began = write_experiment(model, data, task, name, trust_code, custom_objects, **dataset), time.time()
    status, report = scheduler.run_report(experiment.stem, "", cores), loading.REPORTS / experiment.stem
    table = report / "variants.csv"
    is_new = table.is_file() and table.stat().st_mtime >= began
    if not table.is_file() or (status not in (0, scheduler.MISSED_TARGETS) and not is_new):
        raise RuntimeError(f"the report of {experiment.stem} has no new table of files; the lines above say why")
    if status == 1:
        print("a notebook failed after the files were measured; the lines above name it", file=sys.stderr)
    return dataclasses.replace(recommend(report), experiment=experiment)


def parse_dataset(text: str) -> dict[str, Any]:
    """Return keys of the `dataset` section from a `text` "image_size=96 pixel_range=[0,1]".

    Raises:
        ExperimentError: A word is malformed.
    """
    values = {}
    for word in shlex.split(text):
        key, equals, value = word.partition("=")
        if not equals:
            raise ExperimentError(f"DATASET: {word}: expected key=value, separated by blanks, such as image_size=96")
        values[key] = loading.parse_value(value, f"DATASET: {key}")
    return values


def print_shrunk(*arguments: Any, **options: Any) -> int:
    """Shrink a model with `arguments` and `options` of `shrink`, print the recommendation, and return the exit status.

    It is 0, 1 if a notebook failed, or 3 if no file meets the targets of the experiment.
    """
    from collabopt.batch import scheduler

    try:
        shrunk = shrink(*arguments, **options)
    except RuntimeError as error:
        print(error, file=sys.stderr)
        return 1
    if not shrunk.misses:  # the batch has named the report, and the nearest file
        print(shrunk.format_lines())
    return scheduler.MISSED_TARGETS if shrunk.misses else 0


def write_experiment(
    model: str | Path,
    data: str | Path | Mapping[str, Any],
    task: str | None = None,
    name: str | None = None,
    trust_code: bool = False,
    custom_objects: Sequence[str] = (),
    **dataset: Any,
) -> Path:
    """Write a commented experiment file, once model and data pass the check of a report, and return it.

    Arguments are those of `shrink`: `model`, `data`, `task`, `name`, `trust_code`, `custom_objects` and `dataset`.

    One that exists stays as it is, since its values are the user's.

    Raises:
        ExperimentError: The model or the data cannot be used, or the file is of another model.
    """
    if not str(model) or (isinstance(data, str) and not data):
        raise ExperimentError("expected a model and data: make shrink MODEL=mine.keras DATA=mine.npz")
    name = name or Path(str(model).rpartition(":")[2]).stem
    if not re.fullmatch(r"\w[\w.-]*", name):
        raise ExperimentError(f"NAME={name}: expected letters, digits, and _ . - only")
    file = loading.EXPERIMENTS / f"{name}.yaml"
    shown = os.path.relpath(file)
    if task is not None and task not in TASKS:
        raise ExperimentError(f"task={task}: unknown{loading.suggest(task, TASKS)}")
    values = {"dataset": _name_source(_save_arrays(data, name), "dataset") | dataset}
    options = {"trust_code": True} if trust_code else {}
    options |= {"custom_objects": list(custom_objects)} if custom_objects else {}
    values |= {"model": _name_source(model, "model") | options} | ({"task": task} if task else {})
    if file.exists():
        known = yaml.safe_load(file.read_text(encoding="utf-8"))
        for key, value in values.items():
            if known.get(key) != value and not (
                isinstance(value, dict) and value.items() <= known.get(key, {}).items()
            ):
                given = f"{known.get(key)} there, {value} given"
                raise ExperimentError(f"{key}: {shown} is of another run: {given}; delete it, or give another NAME")
        print(f"{shown} exists and is used as it is; delete it to write it anew", flush=True)
        return file
    print("importing the model and reading the data", flush=True)
    atomic.write(file, _describe(values, task, name))
    print(f"wrote {shown}: change any value there, and run the command again", flush=True)
    return file


def _describe(values: dict[str, Any], task: str | None, name: str) -> str:
    """The content of the experiment file, with defaults by the size of model and data."""
    from collabopt import datasets, models
    from collabopt.batch import check

    def make(**more: Any) -> Experiment:
        folders = dict.fromkeys(values, loading.EXPERIMENTS)
        try:
            return loading.resolve_paths(validate(values | {"name": name} | more), folders)
        except ValidationError as error:
            raise ExperimentError("\n".join(loading.explain(error))) from None

    try:
        experiment = make()
        if experiment.model.path:
            size = models.describe(experiment.model)
            _complete_pictures(values["dataset"], experiment, size.inputs)
            chosen, data = _load_data(make, [task] if task else size.list_tasks())
        else:  # the function builds a model for the data
            chosen, data = _load_data(make, [task] if task else ["classification", "regression"])
            size = models.describe(experiment.model, data.input_shape, data.outputs)
    except (models.ModelError, datasets.DatasetError) as error:
        raise ExperimentError(str(error)) from error
    except ExperimentError:
        raise
    except Exception as error:  # a function of the user raises anything
        raise ExperimentError(check.describe_error(error)) from error
    if not task:
        print(f"the labels suit task={chosen}; another one: TASK={'|'.join(TASKS)}", flush=True)
    suggested = defaults.suggest(size.weights, len(data.train), is_trained=experiment.model.is_trained)
    if mistakes := check.find_mistakes(make(task=chosen, **suggested), data):
        raise ExperimentError("\n".join(mistakes))
    counts = f"{size.weights:,} weights; {len(data.train):,} training examples"
    lines = [
        f"# {Path(str(next(iter(values['model'].values())))).name}: {counts}.",
        "# Written by make shrink. Every value is yours to change.",
        f"# Command: make report EXPERIMENT={name}",
    ]
    split = {"validation_fraction": make().validation_fraction}
    for key, value in (values | {"task": chosen} | split | suggested).items():
        if key != "stages":
            comment = "image_size" if key == "dataset" and "image_size" in value else key
            lines.append(_format(key, value, _COMMENTS.get(comment, "")))
    lines += ["", "stages:"]
    lines += [f"  {_format(stage, suggested['stages'][stage], _SECTION_COMMENTS.get(stage, ''))}" for stage in STAGES]
    return "\n".join(lines) + "\n"


def _complete_pictures(section: dict[str, Any], experiment: Experiment, inputs: tuple) -> None:
    """Give pictures the size of the model's input, and the range of their pixels, in the section `dataset`."""
    from collabopt import datasets

    is_picture = len(inputs) == 1 and len(inputs[0]) == 3 and None not in inputs[0]
    if not is_picture or not experiment.dataset.path or not datasets.custom.has_pictures(Path(experiment.dataset.path)):
        return
    given = dict(section)
    channels = {"channels": inputs[0][2]} if inputs[0][2] in (1, 3) else {}
    section |= {"image_size": list(inputs[0][:2]), **channels, "pixel_range": [0, 255]} | given
    low, high = section["pixel_range"]
    print(f"pixels reach the model as {low} to {high}; for another range: DATASET='pixel_range=[-1,1]'", flush=True)


def _load_data(make: Callable[..., Experiment], tasks: list[str]) -> tuple[str, Any]:
    """The first task whose labels the data has, with the data."""
    from collabopt import datasets

    mistakes = []
    for task in tasks:
        try:
            return task, datasets.load(make(task=task))
        except datasets.DatasetError as error:
            mistakes.append(error)
    raise mistakes[-1 if tasks[0] == "binary" else 0]  # numbers with mistakes are no classes


def _format(key: str, value: Any, comment: str) -> str:
    text = yaml.safe_dump(value, default_flow_style=True, sort_keys=False, width=1_000).strip().removesuffix("\n...")
    return f"{key}: {text}" + (f"  # {comment}" if comment else "")


def _name_source(source: str | Path, section: str) -> dict[str, str]:
    """The key of a section that names a source: a function, or a path relative to the experiment files."""
    text = str(source)
    if section == "dataset" and text in ("digits", "mnist", "fashion_mnist", "cifar10", "speech_commands"):
        return {"name": text}
    path = Path(text).expanduser()
    if not path.exists() and ":" in text:
        return {"function": text}
    if not path.exists():
        folder = path.absolute().parent
        near = (
            difflib.get_close_matches(path.name, [one.name for one in folder.iterdir()], 1) if folder.is_dir() else ()
        )
        suggestion = f"; did you mean {path.with_name(near[0])}?" if near else ""
        raise ExperimentError(f"{section}={text}: no such file or folder, from {Path.cwd()}{suggestion}")
    path = path.resolve()
    inside = path.is_relative_to(loading.ROOT)
    return {"path": os.path.relpath(path, loading.EXPERIMENTS) if inside else str(path)}


def _save_arrays(data: str | Path | Mapping[str, Any], name: str) -> str | Path:
    """The data set itself, or the file that arrays are saved to."""
    if not isinstance(data, Mapping):
        return data
    path = loading.DATA / "shrink" / f"{name}.npz"
    with atomic.write_file(path) as file:
        np.savez_compressed(file, **{key: np.asarray(value) for key, value in data.items()})
    return path
