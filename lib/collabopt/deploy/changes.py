"""What changed from the float32 baseline to the chosen file: classes, predictions of examples, confusions, and layers.

Everything is on validation, by which the file was chosen.
"""

import dataclasses
import json
from pathlib import Path

import numpy as np
import pandas as pd

from collabopt.analysis import file_comparison, scoring
from collabopt.config.formats import FORMATS
from collabopt.datasets import presentation
from collabopt.deploy import targets
from collabopt.deploy.search import Search
from collabopt.deploy.variants import Variant
from collabopt.storage import atomic
from collabopt.storage.source_digest import compute_digest
from collabopt.techniques import registry
from collabopt.tflite.operators import list_weighted_operators

_TASKS = "classification", "binary"
_MOST = 20
"""Changed examples that are listed; more are counted only."""


@dataclasses.dataclass(frozen=True)
class Changes:
    """What changed. Each table is a file `changed_<name>.csv` of the report. It is empty if the task has no such thing.

    Attributes:
        classes: One row per class: `class, examples, before, after` (shares that are right), `newly_wrong, newly_right,
            file` (name of the chosen file).
        flips: One row per example for which the float32 baseline and the chosen file predict different classes, the
            first 20: `example` (its place in the split), `file, picture, features` (`presentation.describe`), `class,
            before, after` (predicted classes), `verdict, count` (of all such examples).
        confusion: One row per file, class and predicted class that occurs: `file, class, predicted, count`. The first
            file is the float32 baseline, the last is the chosen file.
        layers: One row per operator with weights of the chosen file: `layer` and the columns of
            `list_weighted_operators`; `baseline_bytes` of the same layer in the float32 baseline; `snr_db` of its
            output against that of the float32 baseline, `chosen` (name of the chosen file).
    """

    classes: pd.DataFrame
    flips: pd.DataFrame
    confusion: pd.DataFrame
    layers: pd.DataFrame


def compute(found: Search) -> Changes:
    """Compute what changed in a `found` file, write it to the report, and return it."""
    base, chosen = found.tried[str(targets.find_baseline(found.table))], found.tried[found.nearest]
    name = targets.format_variant(found.table.loc[found.nearest])
    changes = Changes(pd.DataFrame(), pd.DataFrame(), pd.DataFrame(), _compare_layers(found, base, chosen, name))
    if found.run.data.task.name in _TASKS:
        before, after = (_predict(found, one) for one in (base, chosen))
        files = {targets.format_variant(found.table.loc[base.name]): before, name: after}
        changes = Changes(
            _compare_classes(found, before, after, name),
            _list_flips(found, before, after),
            pd.concat([_count_confusions(found, one, title) for title, one in files.items()], ignore_index=True),
            changes.layers,
        )
    if found.run.directory:
        for field in dataclasses.fields(Changes):
            rows, file = getattr(changes, field.name), found.run.directory / f"changed_{field.name}.csv"
            if len(rows.columns):
                atomic.write(file, rows.to_csv(index=False))
            else:
                file.unlink(missing_ok=True)
    return changes


def _name_class(found: Search, label: int) -> str:
    classes = found.run.data.classes
    return str(classes[label]) if label < len(classes) else str(label)


def _predict(found: Search, variant: Variant) -> np.ndarray:
    """The class (n,) that a file predicts for each validation example."""
    run, split = found.run, found.run.data.validation
    material = {
        "file": atomic.compute_sha256(variant.tflite),
        "data": [run.data.fingerprint, split.fingerprint()],
        "task": registry.describe_task(run.data.task),
        "code": compute_digest(scoring.judge_file, *split.code()),
    }

    def make(directory: Path) -> None:
        probabilities = bool(registry.get_output_activations(run.experiment, run.data))
        content, threads = variant.tflite.read_bytes(), run.experiment.threads
        _, classes = scoring.judge_file(content, split, run.data.task, threads, probabilities)
        np.save(directory / "classes.npy", classes)

    return np.load(run.get_or_make(f"{variant.name}-classes", material, make) / "classes.npy")


def _compare_classes(found: Search, before: np.ndarray, after: np.ndarray, name: str) -> pd.DataFrame:
    labels, rows = found.run.data.validation.labels.reshape(-1), []
    for label in np.unique(labels):
        was, now = (one[labels == label] == label for one in (before, after))
        rows.append(
            {
                "class": _name_class(found, int(label)),
                "examples": len(was),
                "before": was.mean(),
                "after": now.mean(),
                "newly_wrong": int((was & ~now).sum()),
                "newly_right": int((now & ~was).sum()),
                "file": name,
            }
        )
    return pd.DataFrame(rows)


def _list_flips(found: Search, before: np.ndarray, after: np.ndarray) -> pd.DataFrame:
    data, labels = found.run.data, found.run.data.validation.labels.reshape(-1)
    words = {(True, False): "newly wrong", (False, True): "newly right", (False, False): "wrong before and after"}
    order, places = list(words.values()), np.flatnonzero(before != after)
    verdicts = {place: words[before[place] == labels[place], after[place] == labels[place]] for place in places}
    rows = []
    for place in sorted(places, key=lambda place: order.index(verdicts[place]))[:_MOST]:
        named = (("class", labels), ("before", before), ("after", after))
        rows.append(
            {"example": int(place)}
            | presentation.describe(data.validation, place, data.presentation)
            | {column: _name_class(found, int(values[place])) for column, values in named}
            | {"verdict": verdicts[place], "count": len(places)}
        )
    columns = ["example", "file", "picture", "features", "class", "before", "after", "verdict", "count"]
    return pd.DataFrame(rows, columns=columns)


def _count_confusions(found: Search, predicted: np.ndarray, name: str) -> pd.DataFrame:
    pairs = np.stack([found.run.data.validation.labels.reshape(-1), predicted], axis=1).astype(int)
    kinds, counts = np.unique(pairs, axis=0, return_counts=True)
    rows = [(name, _name_class(found, one), _name_class(found, other)) for one, other in kinds.tolist()]
    return pd.DataFrame(rows, columns=["file", "class", "predicted"]).assign(count=counts)


def _compare_layers(found: Search, base: Variant, chosen: Variant, name: str) -> pd.DataFrame:
    """The layers of the chosen file beside those of the float32 baseline; none of a file for another runtime."""
    if not FORMATS[chosen.format].is_tflite:
        return pd.DataFrame()
    run, split = found.run, found.run.data.validation
    material = {
        "files": [atomic.compute_sha256(one.tflite) for one in (base, chosen)],
        "data": [run.data.fingerprint, split.fingerprint()],
        "code": compute_digest(file_comparison.compare_tensors, *split.code()),
    }

    def make(directory: Path) -> None:
        files = (one.tflite.read_bytes() for one in (base, chosen))
        rows = file_comparison.compare_tensors(*files, split)
        (directory / "snr.json").write_text(json.dumps(rows.set_index("output")["snr_db"].to_dict()))

    ratios = json.loads((run.get_or_make(f"{chosen.name}-snr", material, make) / "snr.json").read_text())
    before, after = (_list_layers(one, {*run.stage(one.stage.name).layers["layer"]}) for one in (base, chosen))
    bytes_before = before.groupby("layer", sort=False)["bytes"].sum()
    # A layer counts once, also if it is several operators.
    after["baseline_bytes"] = after["layer"].map(bytes_before).mask(after["layer"].duplicated())
    after["snr_db"] = after["tensor"].map(ratios)
    gone = bytes_before.drop(after["layer"], errors="ignore").rename("baseline_bytes").reset_index()
    nothing = dict.fromkeys(("tensor", "kernel", "operator", "shape"), "")
    nothing |= dict.fromkeys(("parameters", "multiplications", "bytes", "gzip_bytes"), 0)
    return pd.concat([after, gone.assign(**nothing)], ignore_index=True).assign(chosen=name)


def _list_layers(variant: Variant, known: set[str]) -> pd.DataFrame:
    rows = list_weighted_operators(variant.tflite.read_bytes())
    names = [_name_layer(*pair, known) for pair in zip(rows["tensor"], rows["kernel"], strict=True)]
    return rows.assign(layer=names)[["layer", *rows.columns]]


def _name_layer(tensor: str, kernel: str, known: set[str]) -> str:
    """The Keras layer that an operator comes from, or else the longest part of its output's name."""
    parts = file_comparison.split_name(kernel) | file_comparison.split_name(tensor)
    layers = [layer for part in sorted(parts) for layer in part.split("/") if layer in known]
    return layers[0] if layers else max(sorted(file_comparison.split_name(tensor)), key=len)
