"""The model card of a deployed file (Mitchell et al. 2019, Model Cards for Model Reporting).

It says what the file is, how it was measured, what it costs, where it comes from and how to run it: as JSON for
programs and as Markdown for people.
"""

import dataclasses
import hashlib
import json
import math
import re
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from collabopt.config.formats import get_format_label
from collabopt.config.metrics import METRICS, get_metric, get_targets
from collabopt.config.stages import get_label, get_lineage
from collabopt.deploy import targets
from collabopt.deploy.search import Search
from collabopt.storage import atomic
from collabopt.tflite.interpreter import open_interpreter

NO_TARGETS = (
    "No targets were given, so no file was chosen. Give targets, such as `max_gzip_bytes=250_000` or "
    "`max_accuracy_drop=0.01`, and run again."
)


@dataclasses.dataclass(frozen=True)
class ModelCard:
    """A model card. A notebook shows it as Markdown.

    Attributes:
        tflite: The deployed file; None if no file was chosen.
        content: The content of the JSON file.
        text: The content of the Markdown file.
    """

    tflite: Path | None
    content: dict[str, Any]
    text: str

    def _repr_markdown_(self) -> str:
        """Return the card with its headings two levels down."""
        return re.sub(r"^(#+ )", r"##\1", self.text, flags=re.MULTILINE)


def write(search: Search) -> ModelCard:
    """Write the chosen file with its card to `deployed/` of the report.

    The files are `<experiment>.tflite`, `<experiment>.json` and `<experiment>.md`. If no variant meets the targets, the
    nearest one is written and the card says so. Without targets nothing is written.

    Args:
        search: A finished search.

    Returns:
        The card.
    """
    experiment = search.run.experiment
    if not experiment.has_targets:
        return ModelCard(None, {}, NO_TARGETS)
    directory, tflite = search.run.directory / "deployed", search.tried[search.nearest].tflite.read_bytes()
    content = _make_content(search, tflite)
    text = _format_markdown(content, f"{experiment.name}.tflite")
    atomic.write(directory / f"{experiment.name}.tflite", tflite)
    atomic.write(directory / f"{experiment.name}.json", json.dumps(content, indent=1, ensure_ascii=False) + "\n")
    atomic.write(directory / f"{experiment.name}.md", text)
    return ModelCard(directory / f"{experiment.name}.tflite", content, text)


def _make_content(search: Search, tflite: bytes) -> dict[str, Any]:
    experiment, row = search.run.experiment, search.table.loc[search.nearest]
    interpreter, base = open_interpreter(tflite), targets.get_baseline_accuracy(search.table)
    costs = [name for name, metric in METRICS.items() if metric.description and pd.notna(row.get(name))]
    return {
        "model": experiment.name,
        "stage": row["stage"],
        "path": [stage.name for stage in get_lineage(row["stage"])],
        "format": row["format"],
        "sha256": hashlib.sha256(tflite).hexdigest(),
        "meets_all_targets": search.chosen is not None,
        "targets": _judge_targets(search, row, base),
        "metrics": {
            "validation_accuracy": row["validation_accuracy"],
            "validation_accuracy_of_float32_baseline": base,
            "test_accuracy": row["accuracy"],
        },
        "costs": {name: _to_json(row[name]) for name in costs},
        "accelerator": experiment.accelerator,
        "npu_note": row["npu_note"] if pd.notna(row["npu_note"]) else "",
        "input": _describe_tensor(interpreter.get_input_details()),
        "output": _describe_tensor(interpreter.get_output_details()),
        "classes": list(search.run.data.classes),
        **search.run.describe(),
    }


def _judge_targets(search: Search, row: pd.Series, baseline_accuracy: float) -> dict[str, dict[str, Any]]:
    """Limit, value (None if not known) and verdict of each target."""
    missed, judged = search.find_misses(search.nearest), {}
    for name, limit in targets.list_targets(search.targets).items():
        cost = targets.get_cost(row, name, baseline_accuracy)
        judged[name] = {"limit": limit, "found": cost if math.isfinite(cost) else None, "met": name not in missed}
    return judged


def _describe_tensor(details: list[dict[str, Any]]) -> dict[str, Any]:
    """Shape, type and quantization of the only input or output; the scale is 0 if it is not quantized."""
    (tensor,) = details
    scale, zero_point = tensor["quantization"]
    return {
        "shape": tensor["shape"].tolist(),
        "dtype": np.dtype(tensor["dtype"]).name,
        "scale": float(scale),
        "zero_point": int(zero_point),
    }


def _to_json(value: Any) -> Any:
    if isinstance(value, np.generic):
        value = value.item()
    return int(value) if isinstance(value, float) and value.is_integer() else value


def _format_markdown(content: dict[str, Any], file: str) -> str:
    data = content["data"]
    verdict = "meets all its targets"
    if not content["meets_all_targets"]:
        verdict = "is the nearest variant: no variant meets all targets"
    lines = [
        f"# {content['model']}: {get_label(content['stage'])}, {get_format_label(content['format'])}",
        "",
        f"`{file}` {verdict}. Path: {' → '.join(map(get_label, content['path']))}.",
        "",
        *_format_targets(content["targets"]),
        *_format_accuracies(content["metrics"], data),
        f"| Cost (NPU: {content['accelerator']}) | |",
        "| --- | ---: |",
        *(f"| {METRICS[name].description} | {_format(name, value)} |" for name, value in content["costs"].items()),
        *([f"| NPU | {content['npu_note']} |"] if content["npu_note"] else []),
        "",
        "## How to run it",
        "",
        _format_usage(content, file),
        "",
        "## Where it comes from",
        "",
        f"Data {data['name']}, {data['train']:,} training examples, fingerprint `{data['fingerprint']}`; seed "
        f"{content['seed']}; commit `{content['commit']}`; SHA-256 of the file `{content['sha256']}`. Parameters and "
        f"versions: `{Path(file).stem}.json`.",
        "",
    ]
    return "\n".join(lines)


def _format_targets(judged: dict[str, dict[str, Any]]) -> list[str]:
    rows = []
    for target, one in judged.items():
        limit, value = (_format(get_targets()[target].name, one[key]) for key in ("limit", "found"))
        rows.append(f"| `{target}` | {limit} | {value} | {'yes' if one['met'] else 'NO'} |")
    return ["| Target | Limit | Value | Met |", "| --- | ---: | ---: | --- |", *rows, ""]


def _format_accuracies(metrics: dict[str, float], data: dict[str, Any]) -> list[str]:
    return [
        "| Accuracy, top-1 | |",
        "| --- | ---: |",
        f"| Test, {data['test']:,} examples, read once | {metrics['test_accuracy']:.2%} |",
        f"| Validation, {data['validation']:,} examples | {metrics['validation_accuracy']:.2%} |",
        f"| Validation, float32 baseline | {metrics['validation_accuracy_of_float32_baseline']:.2%} |",
        "",
    ]


def _format(name: str, value: float | None) -> str:
    """A value with its unit. The exact count of bytes follows, since limits are given in bytes."""
    metric = get_metric(name)
    text = f"{metric.format(value, missing='not known')} {metric.unit}".strip()
    return f"{text} ({value:,} bytes)" if name.endswith("_bytes") and value is not None else text


def _format_usage(content: dict[str, Any], file: str) -> str:
    """A few lines of Python that run the file on `inputs`, a float32 array as in training."""
    entry, inputs, dtype = content["input"], "inputs", content["output"]["dtype"]
    if entry["scale"]:
        limits = np.iinfo(entry["dtype"])
        scaled = f"np.round(inputs / {entry['scale']!r}) + {entry['zero_point']}"
        inputs = f'np.clip({scaled}, {limits.min}, {limits.max}).astype("{entry["dtype"]}")'
    return f"""```python
import numpy as np
from ai_edge_litert.interpreter import Interpreter

inputs = np.zeros({entry["shape"]}, "float32")  # prepared as in training
interpreter = Interpreter(model_path="{file}")
interpreter.allocate_tensors()
interpreter.set_tensor(interpreter.get_input_details()[0]["index"], {inputs})
interpreter.invoke()
(scores,) = interpreter.get_tensor(interpreter.get_output_details()[0]["index"])  # {dtype}, one per class
print(scores.argmax())
```"""
