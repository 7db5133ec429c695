"""One command from a trained model to the file to deploy: `make shrink MODEL=mine.keras DATA=mine.npz`.

It writes an experiment file with defaults that suit the model and the data, runs its report, and recommends a file.
"""

import dataclasses
import html
import os
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import yaml

from collabopt.config import defaults, loading
from collabopt.config.experiment import ExperimentError, validate
from collabopt.config.metrics import get_metric
from collabopt.config.scores import find_score
from collabopt.config.stages import STAGES
from collabopt.config.tasks import TASKS
from collabopt.deploy import targets
from collabopt.storage import atomic

_COMMENTS = {
    "dataset": "also a folder of pictures or WAV files per class, a CSV or Parquet table, or a function",
    "task": f"one of {', '.join(TASKS)}",
    "sparsity": "fraction of each kernel's weights that pruning sets to zero",
    "number_of_clusters": "distinct values per kernel after clustering",
}
_SECTION_COMMENTS = {"baseline": "0 epochs: the given weights", "pruned": "sparsity rises until end_epoch"}


@dataclasses.dataclass(frozen=True)
class Shrunk:
    """The recommended file of a finished report. A notebook shows it as a sentence with links.

    Attributes:
        tflite: The file.
        variant: Its row of variants.csv.
        baseline: The row of the float32 baseline.
        report: The index page of the report.
        experiment: The experiment file.
    """

    tflite: Path
    variant: dict[str, Any]
    baseline: dict[str, Any]
    report: Path
    experiment: Path

    def __str__(self) -> str:
        score, size = find_score(self.variant), get_metric("gzip_bytes")
        small, large = (f"{size.format(row[size.name])} {size.unit}" for row in (self.variant, self.baseline))
        factor = self.baseline[size.name] / self.variant[size.name]
        before, after = (score.format(row[score.validation]) for row in (self.baseline, self.variant))
        on_test = score.format(self.variant[score.test])
        return (
            f"Recommended: {targets.format_variant(self.variant)}, {small} after gzip instead of {large} ({factor:.1f} "
            f"times smaller); validation {score.title} {after} instead of {before}; test {score.title} {on_test}"
        )

    def _repr_html_(self) -> str:
        links = " · ".join(
            f'<a href="{html.escape(os.path.relpath(path))}">{html.escape(path.name)}</a>'
            for path in (self.tflite, self.report, self.experiment)
        )
        return f"<p>{html.escape(str(self))}.</p><p>{links}</p>"


def shrink(
    model: str | Path,
    data: str | Path | Mapping[str, Any],
    task: str | None = None,
    name: str | None = None,
    cores: str = "all",
    **dataset: Any,
) -> Shrunk:
    """Shrink a trained model: write an experiment file if there is none yet, run its report, and recommend a file.

    Args:
        model: A saved Keras model, or "module:function".
        data: A data set as an experiment names it: an .npz file, a folder of classes, a table, or "module:function".
            In a notebook also the arrays themselves: x_train, y_train, x_test, y_test.
        task: One of `tasks.TASKS`; None finds out from the model's output and the labels.
        name: Name of the experiment; None takes that of the model's file.
        cores: Number of CPU cores, or "all".
        **dataset: Further keys of the `dataset` section, such as `target` of a table.

    Returns:
        The recommended file.

    Raises:
        ExperimentError: The model or the data cannot be used; one line per mistake.
        RuntimeError: A notebook of the report failed.
    """
    from collabopt.batch import scheduler

    experiment = write_experiment(model, data, task, name, **dataset)
    status, report = scheduler.run_report(experiment.stem, "", cores), loading.REPORTS / experiment.stem
    table, began = report / "variants.csv", experiment.stat().st_mtime
    if not table.is_file() or table.stat().st_mtime < began:
        raise RuntimeError(f"the report of {experiment.stem} has no table of files; the lines above say why")
    if status:  # such as the comparison with TFMOT's schemes
        print("a notebook failed; the files do not depend on it", file=sys.stderr)
    return recommend(report, experiment)


def print_shrunk(*arguments: Any, **options: Any) -> int:
    """Shrink a model, and print the recommendation.

    Args:
        *arguments: As in `shrink`.
        **options: As in `shrink`.

    Returns:
        The exit status: 0, or 1 if a notebook failed.
    """
    try:
        shrunk = shrink(*arguments, **options)
    except RuntimeError as error:
        print(error, file=sys.stderr)
        return 1
    print(f"{shrunk}\nfile: {os.path.relpath(shrunk.tflite)}\nreport: {os.path.relpath(shrunk.report)}")
    return 0


def recommend(report: Path, experiment: Path) -> Shrunk:
    """Recommend the file of a finished report that `targets.recommend` names.

    Args:
        report: The report directory, with variants.csv.
        experiment: The experiment file.

    Returns:
        The recommendation.
    """
    rows = pd.read_csv(report / "variants.csv")
    chosen, base = rows.loc[targets.recommend(rows)].to_dict(), rows.loc[targets.find_baseline(rows)].to_dict()
    return Shrunk(report / chosen["tflite"], chosen, base, report / "index.html", experiment)


def write_experiment(
    model: str | Path,
    data: str | Path | Mapping[str, Any],
    task: str | None = None,
    name: str | None = None,
    **dataset: Any,
) -> Path:
    """Write a commented experiment file. One that exists stays as it is, since its values are the user's.

    Args:
        model: As in `shrink`.
        data: As in `shrink`.
        task: As in `shrink`.
        name: As in `shrink`.
        **dataset: As in `shrink`.

    Returns:
        The file in notebooks/experiments/.

    Raises:
        ExperimentError: The model or the data cannot be used, or the file is of another model.
    """
    if not str(model) or (isinstance(data, str) and not data):
        raise ExperimentError("expected a model and data: make shrink MODEL=mine.keras DATA=mine.npz")
    name = name or Path(str(model).rpartition(":")[2]).stem
    file = loading.EXPERIMENTS / f"{name}.yaml"
    shown = os.path.relpath(file)
    if task is not None and task not in TASKS:
        raise ExperimentError(f"task={task}: unknown{loading.suggest(task, TASKS)}")
    values = {"dataset": _name_source(_save_arrays(data, name), "dataset") | dataset}
    values |= {"model": _name_source(model, "model")} | ({"task": task} if task else {})
    if file.exists():
        known = yaml.safe_load(file.read_text(encoding="utf-8"))
        for key, value in values.items():
            if known.get(key) != value and not (isinstance(value, dict) and value.items() <= known[key].items()):
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
    from collabopt import models
    from collabopt.datasets import DatasetError

    try:
        size = models.describe(validate(values | {"name": name}).model)
        tasks = [task] if task else size.list_tasks()
        chosen, data = _load_data(values, tasks, name)
    except (models.ModelError, DatasetError, ValueError) as error:
        raise ExperimentError(str(error)) from error
    suggested = defaults.suggest(size.weights, len(data.train), is_trained=True)
    counts = f"{size.weights:,} weights; {len(data.train):,} training examples"
    lines = [
        f"# {Path(str(next(iter(values['model'].values())))).name}: {counts}.",
        "# Written by `make shrink`. Every value is yours to change.",
        f"# Command: make report EXPERIMENT={name}",
    ]
    for key, value in (values | {"task": chosen} | suggested).items():
        if key != "stages":
            lines.append(_format(key, value, _COMMENTS.get(key, "")))
    lines += ["", "stages:"]
    lines += [f"  {_format(stage, suggested['stages'][stage], _SECTION_COMMENTS.get(stage, ''))}" for stage in STAGES]
    return "\n".join(lines) + "\n"


def _load_data(values: dict[str, Any], tasks: list[str], name: str) -> tuple[str, Any]:
    """The first task whose labels the data has, with the data."""
    from collabopt import datasets

    mistakes = []
    for task in tasks:
        try:
            return task, datasets.load(validate(values | {"task": task, "name": name}))
        except datasets.DatasetError as error:
            mistakes.append(error)
    raise mistakes[0]


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
        raise ExperimentError(f"{section}={text}: no such file or folder, from {Path.cwd()}")
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
