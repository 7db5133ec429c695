"""Leaves of the deployment tree: each stage in each format that it can be deployed in, and what that costs.

A leaf is converted and measured once and kept in the store. Choices go by validation; test is read of a leaf when it is
asked for.
"""

import dataclasses
import hashlib
import json
from collections.abc import Callable
from importlib import metadata
from pathlib import Path

import numpy as np
import pandas as pd

from collabopt.analysis import evaluate
from collabopt.config.formats import FORMATS
from collabopt.config.stages import STAGES, Stage, get_lineage
from collabopt.datasets import Split
from collabopt.run import Finished, Run
from collabopt.storage import retention, store
from collabopt.storage.source_digest import compute_digest
from collabopt.tflite import convert, flatbuffer, latency, sizes, vela
from collabopt.tflite.interpreter import predict_classes

COLUMNS = [
    "experiment",
    "stage",
    "format",
    "scheme",
    "seed",
    "validation_accuracy",
    "accuracy",
    "tflite_bytes",
    "zip_bytes",
    "gzip_bytes",
    "zstd_bytes",
    "weight_bytes",
    "entropy_bytes",
    "latency_ms",
    "latency_q1_ms",
    "latency_q3_ms",
    "latency_ratio",
    "accelerator",
    "npu_cycles",
    "npu_ms",
    "npu_sram_kib",
    "npu_flash_kib",
    "npu_weight_bytes",
    "npu_operators",
    "npu_note",
    "tflite",
]
"""leaves.csv, a row a leaf."""


MAY_BE_MISSING = COLUMNS[COLUMNS.index("weight_bytes") : COLUMNS.index("latency_ms")] + [
    column for column in COLUMNS if column.startswith("npu_") and column != "npu_note"
]


@dataclasses.dataclass(frozen=True)
class Variant:
    """A stage in a format: its file, and its columns of leaves.csv so far."""

    stage: Stage
    format: str
    tflite: Path
    row: dict

    @property
    def name(self) -> str:
        return f"{self.stage.name}-{self.format}"


def list_formats(stage: Stage) -> tuple[str, ...]:
    """The formats of a stage: a QAT stage has learned to be int8, a float stage can be anything."""
    return ("int8",) if stage.quantizes else tuple(FORMATS)


def list_levels() -> list[Stage]:
    """Every stage, level by level: first the baseline, then one technique, two together, all three."""
    return sorted(STAGES.values(), key=lambda stage: len(get_lineage(stage.name)))


def measure(run: Run, stage: Stage, kind: str) -> Variant:
    """The leaf with its accuracy on validation, its sizes, and what Vela makes of it for the run's accelerator.

    What of the stage and its ancestors is missing is trained.
    """
    finished, plan = run.stage(stage.name), run.experiment
    material = {
        "trained": finished.trained.name,
        "measured": finished.measured.name if kind == "int8" else None,
        "format": kind,
        "calibration_examples": plan.calibration_examples,
        "code": compute_digest(_convert, _sizes, _weights),
        "zstandard": metadata.version("zstandard"),
    }

    def make(directory: Path) -> None:
        content, is_correct = _convert(run, finished, kind)
        file = directory / "model.tflite"
        file.write_bytes(content)
        row = {"validation_accuracy": float(is_correct.mean()), **_sizes(file), **_weights(content)}
        (directory / "leaf.json").write_text(json.dumps(row))

    entry = _kept(run, f"{stage.name}-{kind}", material, make)
    about = {
        "experiment": plan.name,
        "stage": stage.name,
        "format": kind,
        "scheme": plan.scheme if stage.has_schemes else "",
        "seed": plan.seed,
        "accelerator": plan.accelerator,
    }
    row = about | json.loads((entry / "leaf.json").read_text()) | _on_npu(run, entry / "model.tflite")
    return Variant(stage, kind, entry / "model.tflite", row)


def measure_on_test(run: Run, leaf: Variant) -> float:
    """Top-1 accuracy in [0, 1] of the leaf's file on the test split."""
    material = {
        "tflite": _digest(leaf.tflite),
        "test": run.data.test.fingerprint(),
        "code": compute_digest(_score_on_test, Split, *run.data.test.code()),
    }

    def make(directory: Path) -> None:
        (directory / "test.json").write_text(json.dumps(_score_on_test(run, leaf.tflite)))

    return json.loads((_kept(run, f"{leaf.name}-test", material, make) / "test.json").read_text())


def make_table(leaves: list[Variant]) -> pd.DataFrame:
    """A row a leaf (`COLUMNS`), with how long an inference takes on this machine, all timed in turn."""
    frame = pd.DataFrame([leaf.row for leaf in leaves], index=[leaf.name for leaf in leaves])
    times = latency.measure_latency({leaf.name: leaf.tflite.read_bytes() for leaf in leaves})
    frame = frame.join(times).reindex(columns=COLUMNS)
    return frame.astype(dict.fromkeys(MAY_BE_MISSING, float))


def _convert(run: Run, finished: Finished, kind: str) -> tuple[bytes, np.ndarray]:
    """The file of a stage in a format, and whether each validation example (n,) is given its label."""
    if kind == "int8":  # the stage's own file
        return finished.tflite.read_bytes(), finished.is_correct()["validation_int8"]
    plan = run.experiment
    inputs = evaluate.sample_calibration(run.data.train, plan.calibration_examples, plan.seed)
    content = convert.convert(run.model(finished.stage.name), kind, inputs)
    return content, predict_classes(content, run.data.validation, plan.threads) == run.data.validation.labels


def _score_on_test(run: Run, tflite: Path) -> float:
    """Top-1 accuracy of a file on the test split."""
    predicted = predict_classes(tflite.read_bytes(), run.data.test, run.experiment.threads)
    return float((predicted == run.data.test.labels).mean())


def _on_npu(run: Run, tflite: Path) -> dict:
    """What Vela estimates of the file, or why it cannot."""
    accelerator = run.experiment.accelerator
    material = {
        "tflite": _digest(tflite),
        "accelerator": accelerator,
        "vela": metadata.version("ethos-u-vela"),
        "code": compute_digest(vela.estimate),
    }

    def make(directory: Path) -> None:
        (directory / "npu.json").write_text(json.dumps(vela.estimate(tflite.read_bytes(), accelerator)))

    return json.loads((_kept(run, "npu", material, make) / "npu.json").read_text())


def _sizes(file: Path) -> dict[str, int]:
    """Bytes of the file, raw and compressed."""
    return {
        "tflite_bytes": sizes.raw(file),
        "zip_bytes": sizes.zipped(file),
        "gzip_bytes": sizes.gzipped(file),
        "zstd_bytes": sizes.zstd(file),
    }


def _weights(content: bytes) -> dict:
    """Bytes of the int8 weights and their zero-order entropy; nothing where the file has none."""
    codes = flatbuffer.read_weights(content)
    if not codes:
        return {"weight_bytes": None, "entropy_bytes": None}
    return {
        "weight_bytes": sum(code.size for code in codes),
        "entropy_bytes": round(sizes.compute_entropy_bytes(codes)),
    }


def _kept(run: Run, name: str, material: dict, make: Callable[[Path], None]) -> Path:
    entry = store.get_or_make(run.keep, name, material, make)
    retention.note_use(run.keep, entry, run.experiment.name)
    return entry


def _digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()
