"""A run of an experiment over the deployment tree: each stage is trained once, measured once, and kept in the store."""

from __future__ import annotations

import functools
import importlib
import os
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from collabopt import datasets, models
from collabopt.analysis import finished
from collabopt.analysis.finished import Finished
from collabopt.config import loading
from collabopt.config.experiment import Experiment
from collabopt.config.stages import BASELINE, Stage, get_lineage
from collabopt.models import mobilenet
from collabopt.runtime import devices, progress, tensorflow
from collabopt.runtime.tensorflow import keras
from collabopt.storage import atomic, results, retention, store
from collabopt.techniques import registry

if TYPE_CHECKING:
    from collabopt.analysis.preflight import Finding
    from collabopt.models.importing import Imported


_SCARCE = 10
"""Fewer examples of a class than this tell little of its accuracy."""


def start(name: str, reports: str | None = None, **overrides: Any) -> Run:
    """Start a run of an experiment and return it. Sets the threads of this process and shows progress.

    Args:
        name: Name of an experiment of the workbook, or path of another file.
        reports: Directory for tables and pages, relative to the workbook's root. None takes reports/<experiment>/, or
            a directory below it that is named by the overrides.
        **overrides: Parameters that replace the experiment's own; None keeps them.

    Raises:
        ExperimentError: The experiment or a parameter is not valid.
    """
    experiment = loading.load(name, **overrides)
    tensorflow.configure(experiment.threads)
    if not loading.gives_stages(name):
        experiment = loading.load(name, registry.suggest_defaults(experiment), **overrides)
    if experiment.devices > 1:
        devices.list_devices(experiment.devices)
    if experiment.initial_weights:
        mobilenet.ensure_imagenet_weights(datasets.locate(experiment.initial_weights.path, loading.DATA))
    progress.attach(os.environ.get("COLLABOPT_NOTEBOOK", experiment.name))
    directory = loading.ROOT / reports if reports else loading.find_report_directory(name, **overrides)
    run = Run(experiment, directory, loading.find_experiment(name), loading.DATA / "stages")
    run.settings = loading.list_overrides(name, **overrides)
    return run


class Run:
    """The stages of an experiment. A stage that is not in the store is trained when it is asked for.

    Attributes:
        directory: Where rows, files and pages go; None leaves no report.
        source: The experiment's file.
        store_directory: The store.
        given, settings: Experiment and overrides as the run was started with; it may have another scheme or seed.
        reads_test: Whether stages are measured on the test split.
    """

    def __init__(self, experiment: Experiment, directory: Path | None, source: Path, store_directory: Path) -> None:
        self.experiment, self.directory, self.source = experiment, directory, source
        self.store_directory, self.given, self.reads_test = store_directory, experiment, True
        retention.hold(store_directory, experiment.name)
        self.began, self.settings = progress.now(), dict[str, Any]()
        self._finished, self._trained_here = dict[str, Finished](), set[str]()

    @functools.cached_property
    def data(self) -> datasets.Data:
        """The data set, loaded when it is first needed."""
        return registry.fit_to_model(datasets.load(self.experiment), self.experiment)

    @property
    def figures(self) -> Path:
        """Where the data of figures goes."""
        return self.directory / "figures"

    def stage(self, name: str) -> Finished:
        """Return the finished stage `name`, trained with its ancestors if missing; `unavailable` if that is impossible.

        Raises:
            KeyError: There is no such stage.
            PreservationError: The run is strict, and the stage lost zeros or clusters.
        """
        if name not in self.experiment.tree:
            raise KeyError(f"stage={name}: expected one of {', '.join(self.experiment.tree)}")
        lineage = get_lineage(name, self.experiment.tree)
        if any(one.name not in self._finished or self._finished[one.name].stage != one for one in lineage):
            one = self._finished[name] = self._finish(self.experiment.tree[name])
            if self.directory:
                self._record(one)
            one.log(self.experiment, self.given, name in self._trained_here, self.data.task.score, self.reads_test)
        if self.experiment.strict:
            self._finished[name].check_preserved()
        return self._finished[name]

    def stages(self, *names: str) -> list[Finished]:
        """Return the finished stages `names`."""
        return [self.stage(name) for name in names]

    def results(self, *names: str) -> pd.DataFrame:
        """Return one row per stage of `names`, as in results.csv."""
        return pd.DataFrame([one.row for one in self.stages(*names)])

    def layers(self, *names: str) -> pd.DataFrame:
        """Return one row per stage of `names` and kernel."""
        return pd.concat([self.stage(name).layers.assign(stage=name) for name in names], ignore_index=True)

    def histories(self, *names: str) -> dict[str, pd.DataFrame]:
        """Return the training histories of the stages `names`, one row per epoch."""
        return {name: self.stage(name).history for name in names}

    def model(self, name: str) -> keras.Model:
        """Return the Keras model of the stage `name`, plain or quantize-wrapped, from its stored weights."""
        return self._restore(self.stage(name).stage, self.stage(name).trained)

    def kernel(self, name: str | None = None) -> str:
        """Return the layer whose weight density is drawn: `name`, the experiment's choice, or that with most weights.

        Raises:
            ValueError: The model has no such kernel that can be pruned and clustered.
        """
        *_, last = (stage for stage in self.experiment.tree.values() if stage.reshapes or stage.name == BASELINE)
        return self.stage(last.name).find_kernel(name or self.experiment.density_kernel)

    def export(self, name: str, format: str = "int8", directory: Path | str | None = None) -> Path:
        """Export Keras model, `.tflite` file, C source and card (`deploy.export.export`), and return the folder.

        Args:
            name: Name of the stage.
            format: Format of the `.tflite` file.
            directory: The folder; None takes `exports/<stage>/` in the report.
        """
        return importlib.import_module("collabopt.deploy.export").export(self, name, format, directory)

    def imported(self) -> Imported | None:
        """Return what the import of the user's model did; None for a built-in model."""
        return models.get_imported(self.experiment.model, *registry.get_ends(self.data))

    def preflight(self) -> list[Finding]:
        """Return what would go wrong with the experiment's model."""
        from collabopt.analysis import preflight

        tensorflow.seed_everything(self.experiment.seed)
        return preflight.find_problems(self._build_start(None), self.data, self.experiment, self.store_directory)

    def describe(self) -> dict[str, Any]:
        """Return the content of run.json."""
        data = {"name": self.data.name, "fingerprint": self.data.fingerprint}
        data |= {split: len(getattr(self.data, split)) for split in ("train", "validation", "test")}
        if scarce := _count_scarce_classes(self.data):
            data["scarce_classes"] = scarce
        digests = {"model_digest": models.compute_code_digest(self.experiment.model)}
        if not isinstance(self.experiment.task, str):
            digests["task_digest"] = " ".join(registry.describe_task(self.data.task))
        return results.describe_run(self.given, self.settings, self.source, data, digests, self.began)

    def without_test(self) -> Run:
        """Return the same run with stages measured on validation only. Both share the store and the report."""
        other = self._copy()
        other.reads_test = False
        return other

    def without_report(self, **settings: Any) -> Run:
        """Return a run with other `settings`, which trains into the store and leaves no report."""
        return Run(
            loading.change(self.experiment, **{"search": {}, **settings}), None, self.source, self.store_directory
        )

    def with_scheme(self, scheme: str) -> Run:
        """Return the same run with another `scheme`, "collabopt" or "tfmot". Both share the store and the report."""
        return self._copy(scheme=scheme)

    def with_every_seed(self) -> list[Run]:
        """Return this run, and one for each of `repeat_seeds`. All share the store and the report."""
        return [self, *(self._copy(seed=seed) for seed in self.experiment.repeat_seeds)]

    def _copy(self, **changes: Any) -> Run:
        other = Run(self.experiment.model_copy(update=changes), self.directory, self.source, self.store_directory)
        other.given, other.settings, other.reads_test = self.given, self.settings, self.reads_test
        other.began = self.began
        other.__dict__ |= {} if "seed" in changes else {"data": self.data}  # the seed decides what validation is
        return other

    def _finish(self, stage: Stage) -> Finished:
        if stage.function:
            importlib.import_module("collabopt.techniques.user_stage").apply(stage, self._build_start(None))
        parent = self.stage(stage.parent) if stage.parent else None
        self._began = progress.now("milliseconds")
        if unavailable := finished.make_unavailable(stage, parent, self.experiment):
            return unavailable
        trained, model = self._train(stage, parent)

        def make(directory: Path) -> None:
            from collabopt.analysis import evaluate

            if model is None:
                # Layer names are part of the int8 file, and Keras counts them up until its state is cleared.
                tensorflow.seed_everything(self.experiment.seed)
            kernels = parent.kernels() if stage.keeps_zeros or stage.clusters else None
            network = model or self._restore(stage, trained)
            evaluate.write_measurements(directory, stage, network, self.data, self.experiment, kernels, self.reads_test)

        material = finished.describe_measurement(stage, trained, self.experiment, self.data, self.reads_test)
        measured = self.get_or_make(f"{stage.name}-measured", material, make)
        return finished.read(stage, trained, measured, self.experiment)

    def _train(self, stage: Stage, parent: Finished | None) -> tuple[Path, keras.Model | None]:
        """The entry of the trained stage, and its model if it was trained just now."""
        fresh: list[keras.Model] = []
        material = registry.describe_training(stage, parent and parent.trained.name, self.experiment, self.data)
        unfinished = store.get_unfinished_directory(self.store_directory, stage.name, material)

        def make(directory: Path) -> None:
            from collabopt.analysis import preflight
            from collabopt.techniques.trained import write_trained

            start, checkpoint = functools.partial(self._build_start, parent), unfinished / "epoch.npz"
            preflight.check(preflight.find_unknown_names(start(), self.experiment) if parent else self.preflight())
            model = write_trained(directory, stage, start, self.data, self.experiment, checkpoint, self.model)
            if self.experiment.devices == 1:  # a model on several devices is restored for conversion
                fresh.append(model)
            self._trained_here.add(stage.name)

        return self.get_or_make(stage.name, material, make), fresh[0] if fresh else None

    def get_or_make(self, name: str, material: dict[str, Any], make: Callable[[Path], None]) -> Path:
        """Return an entry of the store, made if it is missing, and note that the experiment uses it.

        Args:
            name: Name of the entry.
            material: All that decides its content.
            make: Fills an empty directory with it.
        """
        entry = store.get_or_make(self.store_directory, name, material, make)
        retention.note_use(self.store_directory, entry, self.experiment.name)
        return entry

    def _build_start(self, parent: Finished | None) -> keras.Model:
        if parent:
            return self._restore(parent.stage, parent.trained)
        return registry.build_initial_model(self.experiment, self.data)

    def _restore(self, stage: Stage, trained: Path) -> keras.Model:
        parent = self._finished[stage.parent] if registry.needs_parent(stage, self.experiment) else None
        parent_model = self._restore(parent.stage, parent.trained) if parent else None
        with np.load(trained / "weights.npz") as arrays:
            return registry.restore_model(stage, dict(arrays), parent_model, self.experiment, self.data)

    def _record(self, one: Finished) -> None:
        """Write the rows of a stage to the report, and its int8 file if the run's own seed trained it."""
        times = (self._began, "trained" if one.stage.name in self._trained_here else "store")
        results.record(self.directory, one.row, one.layers, self.describe(), times)
        is_trial = self.experiment.search != self.given.search  # a search over settings writes the files itself
        if self.experiment.seed == self.given.seed and one.tflite and not is_trial:
            is_other = self.experiment.scheme != self.given.scheme and one.stage.has_schemes
            name = f"{one.stage.name}-{self.experiment.scheme}" if is_other else one.stage.name
            atomic.write(self.directory / "models" / f"{name}.tflite", one.tflite.read_bytes())


def _count_scarce_classes(data: datasets.Data) -> dict[str, dict[str, int]]:
    """Per split, the examples of each class that has too few; splits without such a class are left out."""
    if not data.task.has_classes or data.validation.labels.ndim > 2:  # one class per pixel
        return {}
    counts = {
        split: np.bincount(getattr(data, split).labels.reshape(-1).astype(int), minlength=len(data.classes))
        for split in ("validation", "test")
    }
    scarce = {
        split: {str(name): int(count) for name, count in zip(data.classes, found, strict=False) if count < _SCARCE}
        for split, found in counts.items()
    }
    return {split: found for split, found in scarce.items() if found}
