"""Variants: each stage in each format that it can be deployed in, and what that costs.

A variant is converted and measured once, and kept in the store. Choices use the validation split. The test split is
read only on request.
"""

import dataclasses
import json
import math
from collections.abc import Iterable, Mapping, Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from collabopt.analysis import comparison, ptq, scoring
from collabopt.analysis.finished import Finished
from collabopt.config.experiment import Experiment
from collabopt.config.formats import CALIBRATED, FORMATS, LARGEST_WORK, STANDARD
from collabopt.config.metrics import METRICS
from collabopt.config.scores import Score, find_score
from collabopt.config.stages import Stage, get_level, get_lineage
from collabopt.datasets import Split
from collabopt.deploy import further_formats
from collabopt.deploy.targets import find_baseline
from collabopt.run import Run
from collabopt.runtime import progress
from collabopt.runtime.tensorflow import keras
from collabopt.storage import atomic
from collabopt.storage.source_digest import compute_digest
from collabopt.techniques import registry
from collabopt.techniques.multiplications import count_multiplications
from collabopt.tflite import convert, flatbuffer, latency, sizes, vela

_MEASURED = [name for name, metric in METRICS.items() if metric.description]
_OF_CLASSES = "validation_balanced_accuracy", "predicted_classes"
_SCORES, _TEST_SCORES = "scores.npy", "test_scores.npy"
_PRECISION = ["validation_examples", "validation_drop_error", "test_examples", "test_drop_error"]
"""Number of examples of a split, and the standard error of the drop against the float32 baseline on these."""

_Figures = dict[str, float | int | None]
_QUARTILES = ["latency_q1_ms", "latency_q3_ms"]


def list_columns(score: Score) -> list[str]:
    """Return the columns of variants.csv, one row per variant; those of the `score` carry its name. `unavailable` says
    why there is no file.
    """
    return [
        *("experiment", "stage", "format", "scheme", "seed", score.validation, score.test),
        *(f"{score.validation}_error", f"{score.test}_error", *_PRECISION),
        *(_OF_CLASSES if score.name == "accuracy" else ()),
        *_MEASURED,
        *("latency_ratio", *_QUARTILES, "accelerator", "npu_note", "tflite", "unavailable"),
    ]


@dataclasses.dataclass(frozen=True)
class Variant:
    """A stage in a format.

    Attributes:
        format: Name of the format.
        tflite: Path of the file; None if there is none.
        row: Its columns of variants.csv, without the score on test and latency.
    """

    stage: Stage
    format: str
    tflite: Path | None
    row: dict[str, Any]

    @property
    def name(self) -> str:
        """Label of the variant: "pruned-int8"."""
        return f"{self.stage.name}-{self.format}"

    @property
    def scores(self) -> np.ndarray:
        """Score of each validation example that counts (n,)."""
        return np.load(self.tflite.with_name(_SCORES))


def list_formats(stage: Stage, experiment: Experiment) -> list[str]:
    """Return the formats of a stage in the order of the search.

    Args:
        stage: A QAT stage has only int8, and int4 if it was trained for it. Sparse files are for stages with zeros.
        experiment: Names the formats beside the standard ones.
    """
    if stage.quantizes:
        return ["int8", "int4"] if experiment.has_int4_weights else ["int8"]
    is_pruned = any(one.prunes for one in get_lineage(stage.name, experiment.tree))
    wanted = {*STANDARD, *experiment.further_formats} - (set() if is_pruned else {"float32_sparse"})
    return [name for name in FORMATS if name in wanted]


def list_levels(tree: Mapping[str, Stage]) -> list[Stage]:
    """Return every stage of `tree`, level by level, the baseline first."""
    return sorted(tree.values(), key=lambda stage: get_level(stage.name, tree))


def measure(run: Run, stage: Stage, name: str) -> Variant:
    """Return the variant in the format `name`: measured on validation, with sizes and Vela's estimates.

    Missing stages are trained first. If the stage is not available, or the converter refuses the format, the variant
    has no file, and its row says why.
    """
    finished, experiment = run.stage(stage.name), run.experiment
    about = {column: finished.key[column] for column in ("experiment", "stage", "scheme", "seed")} | {"format": name}
    if finished.unavailable:
        return Variant(stage, name, None, about | {"unavailable": finished.unavailable})
    convert_it = _convert if name in STANDARD else _convert_further
    material = {
        "trained": finished.trained.name,
        "measured": finished.measured.name if name == "int8" else None,
        "format": name,
        "calibration": [experiment.calibration, experiment.calibration_examples],
        "asked": name in experiment.further_formats,
        "output": experiment.model.output,
        "code": compute_digest(convert_it, sizes.measure, _measure_weights),
        "zstandard": metadata.version("zstandard"),
        **further_formats.read_versions(stage, name),
    }

    def make(directory: Path) -> None:
        progress.advance(f"converting to {name}", f"{stage.name}-{name}")
        try:
            content, scores, figures = convert_it(run, finished, name)
        except convert.ConversionRefused as error:
            (directory / "variant.json").write_text(json.dumps({"unavailable": str(error)}))
            return
        file = directory / "model.tflite"
        file.write_bytes(content)
        np.save(directory / _SCORES, scores)
        row = figures | sizes.measure(file) | _measure_weights(content if FORMATS[name].is_tflite else None)
        (directory / "variant.json").write_text(json.dumps(row))

    entry = run.get_or_make(f"{stage.name}-{name}", material, make)
    row = about | json.loads((entry / "variant.json").read_text())
    if "unavailable" in row:
        return Variant(stage, name, None, row)
    obstacle = FORMATS[name].npu_obstacle
    npu = vela.make_note(obstacle) if obstacle else _estimate_npu(run, entry / "model.tflite")
    row |= {"accelerator": experiment.accelerator} | npu
    return Variant(stage, name, entry / "model.tflite", row)


def measure_stages(run: Run, stages: Iterable[Stage]) -> list[Variant]:
    """Return every variant of `stages`, measured on validation, in the order of the search."""
    return [measure(run, stage, name) for stage in stages for name in list_formats(stage, run.experiment)]


def measure_all(run: Run, names: Sequence[str]) -> int:
    """Measure every variant of the stages `names` on validation and test. Return the number of files."""
    stages = [run.experiment.tree[name] for name in names]
    files = [variant for variant in measure_stages(run, stages) if variant.tflite]
    for variant in files:
        _measure_on_test(run, variant)
    return len(files)


def _measure_on_test(run: Run, variant: Variant) -> np.ndarray:
    """A variant's score on each test example that counts (n,), whose mean is the score on test."""
    material = {
        "tflite": atomic.compute_sha256(variant.tflite),
        "data": [run.data.fingerprint, run.data.test.fingerprint()],
        "task": registry.describe_task(run.data.task),
        "code": compute_digest(_score_on_test, Split, *run.data.test.code()),
    }

    def make(directory: Path) -> None:
        progress.advance("evaluating on test", variant.name)
        scores = _score_on_test(run, variant.tflite)
        np.save(directory / _TEST_SCORES, scores)
        (directory / "test.json").write_text(json.dumps(float(scores.mean(dtype=np.float64))))

    return np.load(run.get_or_make(f"{variant.name}-test", material, make) / _TEST_SCORES)


def add_test_scores(table: pd.DataFrame, run: Run, tested: Mapping[str, Variant]) -> None:
    """Measure variants on the test split, in columns of their table. Drops are paired by example with the baseline.

    Args:
        table: What `make_table` returned, changed in place.
        tested: The variants to measure, by label.
    """
    score, error = run.data.task.score, comparison.compute_standard_error
    scores = {label: _measure_on_test(run, variant) for label, variant in tested.items()}
    baseline = scores.get(find_baseline(table))
    for label, one in scores.items():
        drop_error = math.nan if baseline is None else error((baseline - one)[None])
        columns = score.test, f"{score.test}_error", "test_examples", "test_drop_error"
        table.loc[label, [*columns]] = [one.mean(dtype=np.float64), error(one[None]), len(one), drop_error]


def make_table(variants: list[Variant]) -> pd.DataFrame:
    """Return variants.csv of `variants` by label, timed in turn on this host; the float32 baseline comes first.

    The standard error of a drop is paired by example.
    """
    frame = pd.DataFrame([variant.row for variant in variants], index=[variant.name for variant in variants])
    scores, error, score = [one.scores for one in variants], comparison.compute_standard_error, find_score(frame)
    frame["validation_examples"] = len(scores[0])
    frame[f"{score.validation}_error"] = [error(one[None]) for one in scores]
    frame["validation_drop_error"] = [error((scores[0] - one)[None]) for one in scores]
    files = {str(place): variant.tflite.read_bytes() for place, variant in enumerate(variants)}  # names may be equal
    times = latency.measure_latency(files)
    frame[[*times]] = times.to_numpy()
    frame = frame.reindex(columns=list_columns(score))
    return frame.astype(dict.fromkeys([*_MEASURED[_MEASURED.index("weight_bytes") :], *_QUARTILES], float))


def _convert(run: Run, finished: Finished, name: str) -> tuple[bytes, np.ndarray, _Figures]:
    """The file of a stage in a format, and on validation the score of each example that counts (n,) and its figures."""
    score = run.data.task.score
    if name == "int8" and finished.tflite is None:
        raise convert.ConversionRefused(finished.result["unavailable"])
    if name == "int8":  # the stage's own file
        columns = {score.validation: score.validation_int8, "predicted_classes": "predicted_classes"}
        columns |= {"validation_balanced_accuracy": "validation_balanced_accuracy_int8"}
        figures = {one: finished.result[column] for one, column in columns.items() if column in finished.result}
        return finished.tflite.read_bytes(), finished.scores()["validation_int8"], figures
    experiment, activations = run.experiment, registry.get_output_activations(run.experiment, run.data)
    model, apart = run.model(finished.stage.name), bool(finished.without_qat)
    _check_work(model, name, run)
    if name in CALIBRATED:
        content, _ = ptq.convert_calibrated(model, name, run.data, experiment, activations, apart, finished.stage.name)
    else:
        content = convert.convert(model, name, activations=activations)
    return content, *_judge(run, content)


def _check_work(model: keras.Model, name: str, run: Run) -> None:
    """Refuse a slow format that would take long and that nobody asked for."""
    if name not in LARGEST_WORK or name in run.experiment.further_formats:
        return
    work = sum(map(count_multiplications, model.layers)) * len(run.data.validation)
    if work > LARGEST_WORK[name]:
        raise convert.ConversionRefused(
            f"left out, because LiteRT has no fast kernels for it: the validation examples take {work:.0e} "
            f"multiplications, limit {LARGEST_WORK[name]:.0e}; further_formats=[{name}] asks for it"
        )


def _convert_further(run: Run, finished: Finished, name: str) -> tuple[bytes, np.ndarray, _Figures]:
    """As `_convert`, for the formats that an experiment asks for."""
    content = further_formats.convert_stage(run, finished, name)
    return content, *_judge(run, content)


def _judge(run: Run, content: bytes) -> tuple[np.ndarray, _Figures]:
    """The score of each validation example that counts (n,) with a file, and the file's figures on validation."""
    split, task, experiment = run.data.validation, run.data.task, run.experiment
    probabilities = bool(registry.get_output_activations(experiment, run.data))
    scores, classes = scoring.judge_file(content, split, task, experiment.threads, probabilities)
    figures = {task.score.validation: scoring.summarize(scores, split)}
    if classes is not None:
        figures["validation_balanced_accuracy"] = scoring.compute_balanced_accuracy(scores, split)
        figures["predicted_classes"] = scoring.count_predicted_classes(classes, split)
    return scores[split.counted], figures


def _score_on_test(run: Run, tflite: Path) -> np.ndarray:
    data, experiment = run.data, run.experiment
    probabilities = bool(registry.get_output_activations(experiment, data))
    scores = scoring.score_file(tflite.read_bytes(), data.test, data.task, experiment.threads, probabilities)
    return scores[data.test.counted]


def _estimate_npu(run: Run, tflite: Path) -> dict[str, Any]:
    """Vela's estimates for a file, or the reason why there are none."""
    accelerator = run.experiment.accelerator
    material = {
        "tflite": atomic.compute_sha256(tflite),
        "accelerator": accelerator,
        "vela": metadata.version("ethos-u-vela"),
        "code": compute_digest(vela.estimate),
    }

    def make(directory: Path) -> None:
        progress.advance("estimating the NPU")
        (directory / "npu.json").write_text(json.dumps(vela.estimate(tflite.read_bytes(), accelerator)))

    return json.loads((run.get_or_make("npu", material, make) / "npu.json").read_text())


def _measure_weights(content: bytes | None) -> dict[str, int | None]:
    """Bytes of the int8 weights and their zero-order entropy; None for a file without int8 weights."""
    kernels = flatbuffer.read_weights(content) if content else []
    if not kernels:
        return {"weight_bytes": None, "entropy_bytes": None}
    entropy = sizes.compute_entropy_bytes(kernels)
    return {"weight_bytes": sum(kernel.size for kernel in kernels), "entropy_bytes": round(entropy)}
