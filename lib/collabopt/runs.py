"""A run of an experiment over the deployment tree: each stage trained once, measured once, kept in the store."""

import dataclasses
import json
import os
from functools import cached_property
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pandas as pd

from collabopt import (
    audit,
    backend,
    checkpoints,
    constants,
    datasets,
    devices,
    experiment,
    housekeeping,
    layers,
    lite,
    measure,
    models,
    plain,
    preflight,
    preserve,
    progress,
    quantize,
    results,
    sizes,
    stages,
    store,
    training,
    tree,
)
from collabopt.backend import keras
from collabopt.checkpoints import Checkpoint
from collabopt.experiment import Experiment
from collabopt.models import mobilenet
from collabopt.stages import TREE, Stage


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

    def codes(self) -> dict[str, np.ndarray]:
        """The int8 codes of the kernels by layer, in Keras's layout."""
        return self._codes(self.tflite)

    def codes_with_channel_ranges(self) -> dict[str, np.ndarray]:
        """The same where each channel has a range of its own; only where channels share one in the file."""
        return self._codes(self.measured / "int8-channel_ranges.tflite")

    def touched(self) -> list[str]:
        """The layers whose kernels pruning and clustering may touch."""
        return list(self.layers.loc[self.layers["kind"] != "depthwise", "layer"])

    def _codes(self, tflite: Path) -> dict[str, np.ndarray]:
        return lite.kernels(tflite.read_bytes(), {name: kernel.shape for name, kernel in self.kernels().items()})

    def correct(self) -> dict[str, np.ndarray]:
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
    plan = experiment.load(name, **overrides)
    backend.configure(plan.threads)
    devices.names(plan.devices)
    if plan.initial_weights:
        mobilenet.ensure_imagenet_weights(datasets.locate(plan.initial_weights.path, experiment.DATA))
    progress.attach(os.environ.get("COLLABOPT_NOTEBOOK", plan.name))
    directory = experiment.ROOT / reports if reports else experiment.report_directory(name, **overrides)
    return Run(plan, directory, experiment.path_of(name), experiment.DATA / "stages")


class Run:
    """The stages of an experiment, trained where the store does not hold them.

    directory: where their rows, files and pages go; None leaves no report. source: the experiment's file. keep: the
    store. given: the experiment as the run was started with, whatever scheme this one takes.
    """

    def __init__(self, plan: Experiment, directory: Path | None, source: Path, keep: Path) -> None:
        self.experiment, self.directory, self.source, self.keep = plan, directory, source, keep
        self.given, self.reads_test = plan, True
        housekeeping.hold(keep, plan.name)
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
        if name not in TREE:
            raise KeyError(f"stage={name}: expected one of {', '.join(TREE)}")
        if name not in self._finished:
            self._finished[name] = self._finish(TREE[name])
            if self.directory:
                results.record(self, self._finished[name])
            self._say(self._finished[name], anew=name in self._trained_here)
        self._demand_preserved(self._finished[name])
        return self._finished[name]

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
        backend.seed_everything(self.experiment.seed)
        return preflight.findings(tree.initial_model(self.experiment, self.data), self.experiment)

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
        rows = [results.key(self, one) | {"parent": one.stage.parent} | one.result for one in self.stages(*names)]
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
        took = progress.duration(result["setup_seconds"] + result["fit_seconds"])
        how = f"{result['epochs']} epochs took {took}" if anew else "from the store"
        split = "" if self.reads_test else "validation_"
        progress.say(
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
                backend.seed_everything(self.experiment.seed)
            measure.write(
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
        housekeeping.note(self.keep, measured, self.experiment.name)
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
        checkpoint = Checkpoint(store.unfinished(self.keep, stage.name, material) / "epoch.npz")

        def make(directory: Path) -> None:
            # Layers that cannot be quantized are looked for once, before the baseline; names of layers each time.
            preflight.demand(self._start(parent), self.experiment, every_layer=parent is None)
            backend.seed_everything(self.experiment.seed)
            with devices.scope(self.experiment.devices):
                train, _ = tree.TRAINING[stage.name]
                model, fit = train(self._start(parent), self.data, self.experiment, checkpoint)
            np.savez(directory / "weights.npz", **tree.arrays(model))
            fit.history.to_csv(directory / "history.csv", index=False)
            times = {"setup_seconds": fit.setup_seconds, "fit_seconds": fit.fit_seconds, "epochs": len(fit.history)}
            (directory / "fit.json").write_text(json.dumps(times))
            if self.experiment.devices == 1:  # a model that lies on several is read anew for conversion
                made.append(model)
            self._trained_here.add(stage.name)

        entry = store.get_or_make(self.keep, stage.name, material, make)
        housekeeping.note(self.keep, entry, self.experiment.name)
        return entry, made[0] if made else None

    def _start(self, parent: Finished | None) -> keras.Model:
        """The model that a stage goes on from."""
        if parent:
            return self._model(parent.stage, parent.trained)
        return tree.initial_model(self.experiment, self.data)

    def _model(self, stage: Stage, trained: Path) -> keras.Model:
        parent = self._finished.get(stage.parent)
        with np.load(trained / "weights.npz") as arrays:
            return tree.restore(
                stage,
                dict(arrays),
                self._model(parent.stage, parent.trained) if stage.quantizes else None,
                self.experiment,
                self.data,
            )

    def _training(self, stage: Stage, parent: Finished | None) -> dict:
        """All that decides the weights of the stage."""
        plan = self.experiment
        how = getattr(plan.stages, stage.name) if parent else plan.baseline_training
        material = {
            "stage": stage.name,
            "parent": parent.trained.name if parent else None,
            "training": how.model_dump(),
            "knobs": {knob: getattr(plan, knob) for knob in ("seed", "threads", *stage.knobs)},
            "data": self._data_digests,
            "input_shape": self.data.input_shape,
            "versions": backend.versions(),
            "deterministic": backend.deterministic(),
            "sources": self._sources(tree, stages, training, checkpoints, plain, layers, *tree.TRAINING[stage.name][1]),
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
                material["initial_weights"] = store.sources_digest(
                    [datasets.locate(plan.initial_weights.path, experiment.DATA)]
                )
        return material

    def _measuring(self, stage: Stage, trained: Path) -> dict:
        """All that decides what is measured of a trained stage."""
        plan = self.experiment
        return {
            "trained": trained.name,
            "calibration_examples": plan.calibration_examples,
            "clusters": [plan.number_of_clusters if stage.clusters else None, plan.cluster_per_channel],
            "exclude": plan.exclude.model_dump(mode="json"),
            "test": self.data.test.fingerprint() if self.reads_test else None,
            "sources": self._sources(tree, stages, measure, lite, constants, audit, layers, sizes, quantize, preserve),
        }

    def _sources(self, *modules: ModuleType) -> str:
        """Digest of the modules with those that every stage uses: back end, model inputs, model."""
        files = [Path(module.__file__) for module in (backend, *modules)]
        return store.sources_digest([*files, *self.data.train.sources(), *models.sources(self.experiment.model)])
