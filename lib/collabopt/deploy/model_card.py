"""The model card of a deployed file (Mitchell et al. 2019, Model Cards for Model Reporting): what it is, what it was
measured to do, what it costs, where it came from, and how to run it. As JSON for programs and Markdown for people."""

import dataclasses
import hashlib
import json
import math
import re
from pathlib import Path

import numpy as np
import pandas as pd

from collabopt.config.stages import get_label, get_lineage
from collabopt.deploy import targets
from collabopt.deploy.search import Search
from collabopt.storage import atomic
from collabopt.tflite.interpreter import open_interpreter

UNITS = {
    "max_accuracy_drop": "",
    "max_tflite_bytes": " bytes",
    "max_gzip_bytes": " bytes",
    "max_sram_kib": " KiB",
    "max_flash_kib": " KiB",
    "max_npu_ms": " ms",
}


COSTS = {
    "tflite_bytes": "File, bytes",
    "zip_bytes": "File after ZIP, bytes",
    "gzip_bytes": "File after gzip, bytes",
    "zstd_bytes": "File after zstd, bytes",
    "entropy_bytes": "Zero-order entropy of its int8 weights, bytes",
    "latency_ms": "Inference on the host that ran this, one thread, median, ms",
    "npu_cycles": "NPU cycles an inference (Vela)",
    "npu_ms": "NPU time an inference (Vela), ms",
    "npu_sram_kib": "SRAM (Vela), KiB",
    "npu_flash_kib": "Flash (Vela), KiB",
    "npu_weight_bytes": "Encoded weights (Vela), bytes",
    "npu_operators": "Share of operators on the NPU",
}


NO_TARGETS = (
    "No targets were given, so that nothing was chosen. Run again with some, such as `max_gzip_bytes=250_000` or "
    "`max_accuracy_drop=0.01`."
)


@dataclasses.dataclass(frozen=True)
class ModelCard:
    """A card that was written. Shows itself as Markdown in a notebook."""

    tflite: Path | None
    content: dict
    text: str

    def _repr_markdown_(self) -> str:
        """The card below a heading of the second level."""
        return re.sub(r"^(#+ )", r"##\1", self.text, flags=re.MULTILINE)


def write(walk: Search) -> ModelCard:
    """Write the leaf that the walk chose, or where it chose none the nearest, to `deployed/` of the report, with its
    card: `<experiment>.tflite`, `<experiment>.json` and `<experiment>.md`.

    Without targets there is nothing to choose by: nothing is written, and the card says so.
    """
    plan = walk.run.experiment
    if not plan.has_targets:
        return ModelCard(None, {}, NO_TARGETS)
    place, leaf = walk.run.directory / "deployed", walk.tried[walk.nearest]
    tflite = leaf.tflite.read_bytes()
    content = _content(walk, tflite)
    text = _markdown(content, f"{plan.name}.tflite")
    for suffix, written in (
        ("tflite", tflite),
        ("json", json.dumps(content, indent=1, ensure_ascii=False) + "\n"),
        ("md", text),
    ):
        atomic.write(place / f"{plan.name}.{suffix}", written)
    return ModelCard(place / f"{plan.name}.tflite", content, text)


def _content(walk: Search, tflite: bytes) -> dict:
    plan, row = walk.run.experiment, walk.table.loc[walk.nearest]
    about, missed = walk.run.describe(), walk.misses(walk.nearest)
    ends = open_interpreter(tflite)
    base = targets.get_baseline_accuracy(walk.table)
    return {
        "model": plan.name,
        "stage": row["stage"],
        "path": [stage.name for stage in get_lineage(row["stage"])],
        "format": row["format"],
        "sha256": hashlib.sha256(tflite).hexdigest(),
        "meets_all_targets": walk.chosen is not None,
        "targets": {
            name: {
                "limit": limit,
                "found": _finite(targets.get_cost(row, name, base)),
                "met": name not in missed,
            }
            for name, limit in targets.list_targets(plan.targets).items()
        },
        "metrics": {
            "validation_accuracy": row["validation_accuracy"],
            "validation_accuracy_of_float32_baseline": base,
            "test_accuracy": row["accuracy"],
        },
        "costs": {column: _plain(row[column]) for column in COSTS if pd.notna(row[column])},
        "accelerator": plan.accelerator,
        "npu_note": row["npu_note"] if pd.notna(row["npu_note"]) else "",
        "input": _end(ends.get_input_details()),
        "output": _end(ends.get_output_details()),
        "classes": list(walk.run.data.classes),
        **about,
    }


def _end(details: list[dict]) -> dict:
    """Shape and type of the one input or output, and how integers stand for numbers; scale 0 where they are none."""
    (one,) = details
    scale, zero_point = one["quantization"]
    return {
        "shape": one["shape"].tolist(),
        "dtype": np.dtype(one["dtype"]).name,
        "scale": float(scale),
        "zero_point": int(zero_point),
    }


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None


def _plain(value: object) -> object:
    if isinstance(value, np.generic):
        value = value.item()
    return int(value) if isinstance(value, float) and value.is_integer() else value


def _markdown(content: dict, file: str) -> str:
    metrics, about = content["metrics"], content["data"]
    reached = "meets all its targets"
    if not content["meets_all_targets"]:
        reached = "is the nearest: no leaf meets all targets, and those not met here would have to give"
    lines = [
        f"# {content['model']}: {get_label(content['stage'])}, {content['format']}",
        "",
        f"`{file}` {reached}. Path: {' → '.join(content['path'])}.",
        "",
        "| Target | Limit | Found | Met |",
        "| --- | ---: | ---: | --- |",
        *(
            f"| `{name}` | {_said(target['limit'], name)} | {_said(target['found'], name)} | "
            f"{'yes' if target['met'] else 'NO'} |"
            for name, target in content["targets"].items()
        ),
        "",
        "| Accuracy, top-1 | |",
        "| --- | ---: |",
        f"| Test, {about['test']:,} examples, read once | {metrics['test_accuracy']:.2%} |",
        f"| Validation, {about['validation']:,} examples | {metrics['validation_accuracy']:.2%} |",
        f"| Validation, float32 baseline | {metrics['validation_accuracy_of_float32_baseline']:.2%} |",
        "",
        f"| Cost ({content['accelerator']} where it is Vela's) | |",
        "| --- | ---: |",
        *(f"| {COSTS[column]} | {_amount(value)} |" for column, value in content["costs"].items()),
        *([f"| NPU | {content['npu_note']} |"] if content["npu_note"] else []),
        "",
        "## How to run it",
        "",
        _how(content, file),
        "",
        "## Where it comes from",
        "",
        f"Data {about['name']}, {about['train']:,} training examples, fingerprint `{about['fingerprint']}`; seed "
        f"{content['seed']}; commit `{content['commit']}`; SHA-256 of the file `{content['sha256']}`. Parameters and "
        f"versions: `{Path(file).stem}.json`.",
        "",
    ]
    return "\n".join(lines)


def _amount(value: float) -> str:
    return f"{value:,}" if isinstance(value, int) else f"{value:,.3g}"


def _said(value: float | None, target: str) -> str:
    if value is None:
        return "not known"
    return f"{value:.2%}" if target == "max_accuracy_drop" else f"{value:,.6g}{UNITS[target]}"


def _how(content: dict, file: str) -> str:
    """A few lines of Python that run the file on `inputs`, a float32 array as the model was trained on."""
    entry, exit_ = content["input"], content["output"]
    given = "inputs"
    if entry["scale"]:
        limits = np.iinfo(entry["dtype"])
        codes = f"np.clip(np.round(inputs / {entry['scale']!r}) + {entry['zero_point']}, {limits.min}, {limits.max})"
        given = f'{codes}.astype("{entry["dtype"]}")'
    return f"""```python
import numpy as np
from ai_edge_litert.interpreter import Interpreter

inputs = np.zeros({entry["shape"]}, "float32")  # prepared as in training
interpreter = Interpreter(model_path="{file}")
interpreter.allocate_tensors()
interpreter.set_tensor(interpreter.get_input_details()[0]["index"], {given})
interpreter.invoke()
(scores,) = interpreter.get_tensor(interpreter.get_output_details()[0]["index"])  # {exit_["dtype"]}, a class each
print(scores.argmax())
```"""
