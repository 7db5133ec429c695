"""A run of an experiment over the deployment tree: each stage trained once, measured once, kept in the store."""

import dataclasses
import json
import os
from collections.abc import Callable
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from collabopt import datasets, models
from collabopt.analysis import evaluate, preflight
from collabopt.config import loading
from collabopt.config.experiment import Experiment
from collabopt.config.stages import STAGES, Stage, get_lineage
from collabopt.models import mobilenet
from collabopt.runtime import devices, progress, tensorflow
from collabopt.runtime.tensorflow import keras
from collabopt.storage import atomic, results, retention, store
from collabopt.storage.source_digest import compute_digest
from collabopt.techniques import registry
from collabopt.techniques.checkpoints import Checkpoint
from collabopt.tflite import flatbuffer


@dataclasses.dataclass(frozen=True)
class Finished:
    """A stage that was trained, converted and measured, as the store holds it.

    history: a row an epoch. result: its columns of results.csv. layers: a row a kernel.
    """

    stage: Stage
    trained: Path
    measured: Path
    history: pd.DataFrame
    result: dict
    layers: pd.DataFrame

    @property
    def tflite(self) -> Path:
        """The full-integer file, int8 in and out."""
        return self.measured / "int8.tflite"

    def kernels(self) -> dict[str, np.ndarray]:
        """The float32 kernels by layer; of a QAT stage what its fake quantization sees."""
        with np.load(self.measured / "kernels.npz") as arrays:
            return dict(arrays)

    def int8_values(self) -> dict[str, np.ndarray]:
        """The int8 codes of the kernels by layer, in Keras's layout."""
        return self._int8_values(self.tflite)

    def int8_values_with_channel_ranges(self) -> dict[str, np.ndarray]:
        """The same where each channel has a range of its own; only where channels share one in the file."""
        return self._int8_values(self.measured / "int8-channel_ranges.tflite")

    def eligible_layers(self) -> list[str]:
        """The layers whose kernels pruning and clustering may touch."""
        return list(self.layers.loc[self.layers["kind"] != "depthwise", "layer"])

    def _int8_values(self, tflite: Path) -> dict[str, np.ndarray]:
        return flatbuffer.read_layer_kernels(
            tflite.read_bytes(), {name: kernel.shape for name, kernel in self.kernels().items()}
        )

    def is_correct(self) -> dict[str, np.ndarray]:
        """Whether each example is given its label: `validation`, `test`, and with `_int8` by the int8 file."""
        with np.load(self.measured / "correct.npz") as arrays:
            return dict(arrays)


class PreservationError(RuntimeError):
    """A stage lost zeros or clusters that it must keep, and the run is strict."""


def start(name: str, reports: str | None = None, **overrides: Any) -> "Run":
    """A run of the experiment of that name (or file) with knobs overridden, `None` keeping the experiment's own value.

    reports: the directory for tables and pages, from the workbook's root; None takes reports/<experiment>/, or one
    below it named by what is overridden. Sets this process's threads, and shows progress.
    """
    plan = loading.load(name, **overrides)
    tensorflow.configure(plan.threads)
    devices.list_devices(plan.devices)
    if plan.initial_weights:
        mobilenet.ensure_imagenet_weights(datasets.locate(plan.initial_weights.path, loading.DATA))
    progress.attach(os.environ.get("COLLABOPT_NOTEBOOK", plan.name))
    directory = loading.ROOT / reports if reports else loading.find_report_directory(name, **overrides)
    return Run(plan, directory, loading.find_experiment(name), loading.DATA / "stages")


class Run:
    """The stages of an experiment, trained where the store does not hold them.

    directory: where their rows, files and pages go; None leaves no report. source: the experiment's file. keep: the
    store. given: the experiment as the run was started with, whatever scheme this one takes.
    """

    def __init__(self, plan: Experiment, directory: Path | None, source: Path, keep: Path) -> None:
        self.experiment, self.directory, self.source, self.keep = plan, directory, source, keep
        self.given, self.reads_test = plan, True
        retention.hold(keep, plan.name)
        self.began = progress.now()
        self._finished: dict[str, Finished] = {}
        self._trained_here: set[str] = set()

    @cached_property
    def data(self) -> datasets.Data:
        """The data set, loaded when it is first needed."""
        return datasets.load(self.experiment)

    @cached_property
    def _data_digests(self) -> list[str]:
        return [self.data.fingerprint, self.data.train.fingerprint(), self.data.validation.fingerprint()]

    def stage(self, name: str) -> Finished:
        """The finished stage; what is missing of it and its ancestors is trained. Its rows go to the report."""
        if name not in STAGES:
            raise KeyError(f"stage={name}: expected one of {', '.join(STAGES)}")
        if name not in self._finished:
            self._finished[name] = self._finish(STAGES[name])
            if self.directory:
                self._record(self._finished[name])
            self._say(self._finished[name], anew=name in self._trained_here)
        self._demand_preserved(self._finished[name])
        return self._finished[name]

    def _record(self, finished: Finished) -> None:
        """Write a finished stage's rows to the report, and its int8 file if the run's own seed trained it."""
        key, stage, scheme = results.make_key(self.experiment, finished.stage), finished.stage, self.experiment.scheme
        result = key | {"parent": stage.parent} | finished.result
        results.record(self.directory, result, finished.layers, self.describe())
        if self.experiment.seed == self.given.seed:
            name = f"{stage.name}-{scheme}" if scheme != self.given.scheme and stage.has_schemes else stage.name
            atomic.write(self.directory / "models" / f"{name}.tflite", finished.tflite.read_bytes())

    def describe(self) -> dict[str, Any]:
        """Return the content of run.json."""
        splits = {split: len(getattr(self.data, split)) for split in ("train", "validation", "test")}
        data = {"name": self.data.name, "fingerprint": self.data.fingerprint, **splits}
        return results.describe_run(self.given, self.source, data, self.began)

    def _demand_preserved(self, finished: Finished) -> None:
        if self.experiment.strict and finished.result["preserved"] is False:
            faults = finished.layers[finished.layers["defect"] != ""]
            raise PreservationError(
                f"{finished.stage.name} does not preserve what {finished.stage.parent} won: "
                + "; ".join(
                    f"{layer}: {defect}" for layer, defect in zip(faults["layer"], faults["defect"], strict=True)
                )
            )

    def without_test(self) -> "Run":
        """The same run, whose stages are measured on validation alone; both share the store and the report."""
        other = self._with()
        other.reads_test, other.__dict__["data"] = False, self.data
        return other

    def without_report(self) -> "Run":
        """The same run, which trains into the store and leaves nothing else."""
        return Run(self.experiment, None, self.source, self.keep)

    def with_scheme(self, scheme: str) -> "Run":
        """The same run with `collabopt`'s or `tfmot`'s scheme; both share the store and the report."""
        other = self._with(scheme=scheme)
        other.__dict__["data"] = self.data
        return other

    def with_every_seed(self) -> list["Run"]:
        """This run, and the same with each of the experiment's other seeds; all share the store and the report."""
        return [self, *(self._with(seed=seed) for seed in self.experiment.repeat_seeds)]

    def _with(self, **knobs: Any) -> "Run":
        other = Run(self.experiment.model_copy(update=knobs), self.directory, self.source, self.keep)
        other.given, other.reads_test = self.given, self.reads_test
        return other

    def preflight(self) -> list[preflight.Finding]:
        """What is known to go wrong with the experiment's model."""
        tensorflow.seed_everything(self.experiment.seed)
        return preflight.find_problems(registry.build_initial_model(self.experiment, self.data), self.experiment)

    def stages(self, *names: str) -> list[Finished]:
        """The finished stages, in that order."""
        return [self.stage(name) for name in names]

    def histories(self, *names: str) -> dict[str, pd.DataFrame]:
        """The training histories of the stages, a row an epoch."""
        return {name: self.stage(name).history for name in names}

    def layers(self, *names: str) -> pd.DataFrame:
        """A row a stage and kernel."""
        return pd.concat([self.stage(name).layers.assign(stage=name) for name in names], ignore_index=True)

    def model(self, name: str) -> keras.Model:
        """The Keras model of the stage, plain or quantize-wrapped, from its stored weights."""
        finished = self.stage(name)
        return self._model(finished.stage, finished.trained)

    def results(self, *names: str) -> pd.DataFrame:
        """A row a stage, as in results.csv."""
        rows = [
            results.make_key(self.experiment, one.stage) | {"parent": one.stage.parent} | one.result
            for one in self.stages(*names)
        ]
        return pd.DataFrame(rows)

    def kernel(self, name: str | None = None) -> str:
        """The layer whose density is drawn: the one named, else the experiment's choice, else that of most weights.

        Raises ValueError when the model has no such kernel that pruning and clustering touch.
        """
        layers = self.stage("baseline").layers
        touched = layers[layers["kind"] != "depthwise"].set_index("layer")["weights"]
        chosen = name or self.experiment.density_kernel or touched.idxmax()
        if chosen not in touched.index:
            raise ValueError(f"kernel={chosen}: expected one of {', '.join(touched.index)}")
        return chosen

    @property
    def figures(self) -> Path:
        """Where the data of figures goes."""
        return self.directory / "figures"

    def _say(self, finished: Finished, anew: bool) -> None:
        result, stage, plan = finished.result, finished.stage, self.experiment
        of = f" (seed {plan.seed})" if plan.seed != self.given.seed else ""
        of += f" by {plan.scheme}" if plan.scheme != self.given.scheme and stage.has_schemes else ""
        took = progress.format_duration(result["setup_seconds"] + result["fit_seconds"])
        how = f"{result['epochs']} epochs took {took}" if anew else "from the store"
        split = "" if self.reads_test else "validation_"
        progress.log(
            f"{stage.name}{of}: {how}; {split.replace('_', ' ')}accuracy {result[f'{split}accuracy']:.2%}, INT8 "
            f"{result[f'{split}accuracy_int8']:.2%}, {result['tflite_bytes']:,} → "
            f"{result['gzip_bytes']:,} bytes" + (", NOT PRESERVED" if result["preserved"] is False else ""),
            about=stage.name,
            last=True,
        )

    def _finish(self, stage: Stage) -> Finished:
        parent = self.stage(stage.parent) if stage.parent else None
        trained, model = self._train(stage, parent)

        def make(directory: Path) -> None:
            if model is None:
                # The names of layers stand in the int8 file, and Keras counts them up until its state is forgotten.
                tensorflow.seed_everything(self.experiment.seed)
            evaluate.write_measurements(
                directory,
                stage,
                model or self._model(stage, trained),
                self.data,
                self.experiment,
                parent.kernels() if stage.keeps_zeros or stage.clusters else None,
                self.reads_test,
            )

        material = self._measuring(stage, trained)
        measured = store.get_or_make(self.keep, f"{stage.name}-measured", material, make)
        retention.note_use(self.keep, measured, self.experiment.name)
        return Finished(
            stage,
            trained,
            measured,
            pd.read_csv(trained / "history.csv"),
            json.loads((measured / "result.json").read_text()) | json.loads((trained / "fit.json").read_text()),
            pd.read_csv(measured / "layers.csv", keep_default_na=False),
        )

    def _train(self, stage: Stage, parent: Finished | None) -> tuple[Path, keras.Model | None]:
        """The stored entry of the trained stage, and the model where it was trained just now."""
        made: list[keras.Model] = []
        material = self._training(stage, parent)
        checkpoint = Checkpoint(store.get_unfinished_directory(self.keep, stage.name, material) / "epoch.npz")

        def make(directory: Path) -> None:
            # Layers that cannot be quantized are looked for once, before the baseline; names of layers each time.
            preflight.check(self._start(parent), self.experiment, every_layer=parent is None)
            tensorflow.seed_everything(self.experiment.seed)
            with devices.make_scope(self.experiment.devices):
                train = registry.find_trainer(stage)
                model, fit = train(stage, self._start(parent), self.data, self.experiment, checkpoint)
            np.savez(directory / "weights.npz", **registry.read_arrays(model))
            fit.history.to_csv(directory / "history.csv", index=False)
            times = {"setup_seconds": fit.setup_seconds, "fit_seconds": fit.fit_seconds, "epochs": len(fit.history)}
            (directory / "fit.json").write_text(json.dumps(times))
            if self.experiment.devices == 1:  # a model that lies on several is read anew for conversion
                made.append(model)
            self._trained_here.add(stage.name)

        entry = store.get_or_make(self.keep, stage.name, material, make)
        retention.note_use(self.keep, entry, self.experiment.name)
        return entry, made[0] if made else None

    def _start(self, parent: Finished | None) -> keras.Model:
        """The model that a stage goes on from."""
        if parent:
            return self._model(parent.stage, parent.trained)
        return registry.build_initial_model(self.experiment, self.data)

    def _model(self, stage: Stage, trained: Path) -> keras.Model:
        parent = self._finished.get(stage.parent)
        with np.load(trained / "weights.npz") as arrays:
            return registry.restore_model(
                stage,
                dict(arrays),
                self._model(parent.stage, parent.trained) if stage.quantizes else None,
                self.experiment,
                self.data,
            )

    def _training(self, stage: Stage, parent: Finished | None) -> dict:
        """All that decides the weights of the stage."""
        plan = self.experiment
        material = {
            "stage": stage.name,
            "parent": parent.trained.name if parent else None,
            "training": plan.training(stage.name).model_dump(),
            "knobs": {knob: getattr(plan, knob) for knob in ("seed", "threads", *stage.settings)},
            "data": self._data_digests,
            "input_shape": self.data.input_shape,
            "versions": tensorflow.read_versions(),
            "deterministic": tensorflow.is_deterministic(),
            "code": self._code(registry.find_trainer(stage), Checkpoint),
        }
        if plan.devices > 1:
            material["devices"] = plan.devices
        if stage.prunes or stage.clusters:
            material["exclude"] = plan.exclude.model_dump(mode="json")
        if stage.has_schemes:
            material["scheme"] = plan.scheme
        if not parent:
            material["model"] = plan.model.model_dump()
            if plan.initial_weights:
                material["initial_weights"] = atomic.compute_files_digest(
                    [datasets.locate(plan.initial_weights.path, loading.DATA)]
                )
        return material

    def _measuring(self, stage: Stage, trained: Path) -> dict:
        """All that decides what is measured of a trained stage."""
        plan = self.experiment
        return {
            "trained": trained.name,
            "calibration_examples": plan.calibration_examples,
            "clusters": [plan.number_of_clusters if stage.clusters else None, plan.cluster_per_channel],
            "path": [[one.prunes, one.keeps_zeros, one.clusters, one.quantizes] for one in get_lineage(stage.name)],
            "scheme": plan.scheme if stage.has_schemes else None,
            "exclude": plan.exclude.model_dump(mode="json"),
            "test": self.data.test.fingerprint() if self.reads_test else None,
            "code": self._code(evaluate.write_measurements),
        }

    def _code(self, *roots: Callable) -> list[str]:
        """Digests of what computes a stage: its functions with the model's inputs, and the model."""
        inputs = (tensorflow.seed_everything, datasets.Split, *self.data.train.code())
        return [compute_digest(*roots, *inputs), models.compute_code_digest(self.experiment.model)]
