"""The model card of a deployed file (Mitchell et al. 2019, Model Cards for Model Reporting).

It says what the file is, how it was measured, what it costs, where it comes from and how to run it: as JSON for
programs and as Markdown for people.
"""

import dataclasses
import hashlib
import io
import json
import math
import re
from pathlib import Path
from typing import Any

import jinja2
import numpy as np
import pandas as pd
import yaml

from collabopt.config.formats import get_format_label
from collabopt.config.metrics import METRICS, get_metric, get_targets
from collabopt.config.scores import SCORES
from collabopt.config.stages import get_label, get_lineage
from collabopt.deploy import c_source, targets
from collabopt.deploy.search import Search
from collabopt.run import Run
from collabopt.storage import atomic
from collabopt.storage.results import ONE_CLASS, is_constant
from collabopt.tflite import micro
from collabopt.tflite.interpreter import make_test_vectors, open_interpreter

_VECTORS = 10


@dataclasses.dataclass(frozen=True)
class ModelCard:
    """A model card. A notebook shows it as Markdown.

    Attributes:
        tflite: The deployed file; None if no file was written.
        content: The content of the JSON file.
        text: The content of the Markdown file.
    """

    tflite: Path | None
    content: dict[str, Any]
    text: str

    def _repr_markdown_(self) -> str:
        """Return the card without its header, and with its headings two levels down."""
        return re.sub(r"^(#+ )", r"##\1", self.text.split("---\n", 2)[-1], flags=re.MULTILINE)


def write(search: Search) -> ModelCard:
    """Write the chosen file with its card to `deployed/`, and return the card. It says why if there is no file.

    The files are `<experiment>.tflite`, `<experiment>.json`, `<experiment>.md`, `<experiment>-test_vectors.npz`, which
    holds test examples and what the file returns for them, and the same as C source for microcontrollers, if they can
    run the file (`c_source.make_sources`). If no variant meets the targets, nothing is written, and files of an earlier
    run are removed; with `deploy_nearest` the nearest one is written and the card says so.
    """
    experiment, directory = search.run.experiment, search.run.directory / "deployed"
    if search.chosen is None and not experiment.deploy_nearest:
        for path in filter(Path.is_file, directory.glob("*")):
            path.unlink()
        reason = targets.describe(targets.judge(search.table, search.targets), search.targets)
        advice = "No file was written. To write the nearest one, set `deploy_nearest = True`."
        return ModelCard(None, {}, f"{reason} {advice}\n")
    return write_files(search, directory, experiment.name, f"{experiment.name}.md", _describe_choice(search))


def write_files(search: Search, directory: Path, name: str, card: str, choice: str) -> ModelCard:
    """Write the file of the nearest variant with card, test vectors and C source, and return the card.

    Args:
        directory: The folder.
        name: Name of the files, without suffix.
        card: Name of the card.
        choice: Why it is this file, as the end of a sentence that begins with its name.
    """
    tflite = search.tried[search.nearest].tflite.read_bytes()
    content = _make_content(search, tflite) | {"model": name, "choice": choice}
    text = _format_header(search, name) + _format_markdown(content, f"{name}.tflite")
    atomic.write(directory / f"{name}.tflite", tflite)
    atomic.write(directory / f"{name}.json", json.dumps(content, indent=1, ensure_ascii=False) + "\n")
    atomic.write(directory / card, text)
    ((inputs, _),) = search.run.data.test.take(slice(_VECTORS)).batches(_VECTORS).as_numpy_iterator()
    vectors, archive = make_test_vectors(tflite, inputs), io.BytesIO()
    np.savez_compressed(archive, **vectors)
    atomic.write(directory / f"{name}-test_vectors.npz", archive.getvalue())
    for file, source in c_source.make_sources(name, tflite, vectors).items():
        if source is None:  # an earlier run may have chosen a file that microcontrollers can run
            (directory / file).unlink(missing_ok=True)
        else:
            atomic.write(directory / file, source)
    return ModelCard(directory / f"{name}.tflite", content, text)


def _describe_choice(search: Search) -> str:
    if not search.run.experiment.has_targets:
        return (
            "is the smallest file after gzip whose drop on validation is within tolerance and within noise; no targets "
            "were given"
        )
    return "meets all its targets" if search.chosen else "is the nearest variant: no variant meets all targets"


def _format_header(search: Search, name: str) -> str:
    """The header in which Hugging Face finds the score: YAML with a `model-index`."""
    data, row = search.run.data, search.table.loc[search.nearest]
    score = data.task.score
    metric = {"type": score.name, "name": f"{score.title} on test", "value": float(row[score.test])}
    result = {
        "task": {"type": _get_task_type(search.run), "name": data.task.name},
        "dataset": {"type": data.name, "name": data.name, "split": "test"},
        "metrics": [metric],
    }
    index = [{"name": name, "results": [result]}]
    header = {"library_name": "tf-keras", "tags": ["tflite", row["stage"], row["format"]], "model-index": index}
    return f"---\n{yaml.safe_dump(header, sort_keys=False, allow_unicode=True)}---\n"


def _get_task_type(run: Run) -> str:
    """Hugging Face's name of the task, where the data leaves no doubt."""
    if run.experiment.dataset.name == "speech_commands":
        return "audio-classification"
    is_picture = isinstance(run.data.input_shape, tuple) and len(run.data.input_shape) == 3
    kinds = {"classification": "image-classification", "binary": "image-classification"}
    kinds["segmentation"] = "image-segmentation"
    return kinds.get(run.data.task.name, "other") if is_picture else "other"


def _make_content(search: Search, tflite: bytes) -> dict[str, Any]:
    experiment, row = search.run.experiment, search.table.loc[search.nearest]
    score = search.run.data.task.score
    interpreter, base = open_interpreter(tflite), targets.get_baseline_score(search.table)
    costs = [name for name, metric in METRICS.items() if metric.description and pd.notna(row.get(name))]
    return {
        "model": experiment.name,
        "stage": row["stage"],
        "path": [stage.name for stage in get_lineage(row["stage"], experiment.tree)],
        "format": row["format"],
        **({"setting": row["setting"]} if row.get("setting") else {}),
        "sha256": hashlib.sha256(tflite).hexdigest(),
        "meets_all_targets": search.chosen is not None if experiment.has_targets else None,
        "targets": _judge_targets(search, row, base),
        "task": search.run.data.task.name,
        "metric": score.name,
        "examples": {split: len(getattr(search.run.data, split).take_counted()) for split in ("validation", "test")},
        "metrics": {
            **{name: row[name] for name in ("validation_balanced_accuracy",) if pd.notna(row.get(name))},
            score.validation: row[score.validation],
            f"{score.validation}_of_float32_baseline": base,
            f"test_{score.name}": row[score.test],
            f"test_{score.name}_error": row[f"{score.test}_error"],
        },
        "warning": f"predicts {ONE_CLASS} of validation" if is_constant(row) else "",
        "costs": {name: _to_json(row[name]) for name in costs},
        "accelerator": experiment.accelerator,
        "npu_note": row["npu_note"] if pd.notna(row["npu_note"]) else "",
        "input": _describe_tensor(interpreter.get_input_details()),
        "output": _describe_tensor(interpreter.get_output_details()),
        "microcontroller": _describe_microcontroller(tflite),
        "classes": list(search.run.data.classes),
        "imported": _describe_import(search.run),
        **search.run.describe(),
    }


def _describe_microcontroller(tflite: bytes) -> dict[str, Any]:
    """What TensorFlow Lite Micro needs for the file, or why it cannot run it."""
    obstacles = micro.list_obstacles(tflite)
    arena, _ = (None, None) if obstacles else micro.estimate_arena(tflite)
    return {"arena_bytes": arena, "operators": micro.list_operator_kinds(tflite), "obstacles": obstacles}


def _describe_import(run: Run) -> dict[str, Any] | None:
    """What the import changed in the user's model, and what its outputs are; None for a built-in model."""
    imported, section = run.imported(), run.experiment.model
    if imported is None:
        return None
    return {
        "rewrites": imported.rewrites,
        "largest_difference": imported.largest_difference,
        "output_activation": imported.output_activation if section.output == "as_given" else None,
    }


def _judge_targets(search: Search, row: pd.Series, baseline_score: float) -> dict[str, dict[str, Any]]:
    """Limit, value (None if not known) and verdict of each target."""
    missed, judged = search.find_misses(search.nearest), {}
    for name, limit in targets.list_targets(search.targets).items():
        cost = targets.get_cost(row, name, baseline_score)
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
    environment = jinja2.Environment(trim_blocks=True, keep_trailing_newline=True)
    template = environment.from_string(Path(__file__).with_suffix(".md.j2").read_text(encoding="utf-8"))
    score = SCORES[content["metric"]]
    functions = {"score": score, "get_label": get_label, "get_format_label": get_format_label, "format_value": _format}
    labels, inputs = map(get_label, content["path"]), _format_inputs(content["input"])
    names = {
        "file": file,
        "identifier": c_source.make_identifier(content["model"]),
        "path_labels": labels,
        "inputs": inputs,
        "definitions": METRICS,
        "bounded": get_targets(),
    }
    return template.render(content | functions | names)


def _format(name: str, value: float | None) -> str:
    """A value with its unit. The exact count of bytes follows, since limits are given in bytes."""
    metric = get_metric(name)
    text = f"{metric.format(value, missing='not known')} {metric.unit}".strip()
    return f"{text} ({value:,} bytes)" if name.endswith("_bytes") and value is not None else text


def _format_inputs(entry: dict[str, Any]) -> str:
    """Python that converts `inputs`, float32 as in training, to the file's input."""
    if not entry["scale"]:
        return "inputs"
    limits, scaled = np.iinfo(entry["dtype"]), f"np.round(inputs / {entry['scale']!r}) + {entry['zero_point']}"
    return f'np.clip({scaled}, {limits.min}, {limits.max}).astype("{entry["dtype"]}")'
