"""An experiment: a data set, a model and the hyper-parameters of every stage, as one validated YAML file.

    digits = experiment.load("digits", sparsity=0.8)

Nothing here imports TensorFlow, so that a batch is checked in a moment.
"""

import difflib
import hashlib
import math
import os
import re
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError

from collabopt.config.experiment import Experiment, ExperimentError, Targets

ROOT = Path(__file__).resolve().parents[3]


EXPERIMENTS = ROOT / "notebooks" / "experiments"


DATA = Path(os.environ.get("COLLABOPT_DATA", ROOT / "data"))


REPORTS = Path(os.environ.get("COLLABOPT_REPORTS", ROOT / "reports"))


PARAMETERS = (
    "seed",
    "threads",
    "devices",
    "train_fraction",
    "calibration_examples",
    "sparsity",
    "number_of_clusters",
    "cluster_per_channel",
    "centroid_initialization",
    "scheme",
    "strict",
    "accelerator",
    *Targets.model_fields,
)
"""What `load` can override; a batch what of it the notebooks have as parameters."""


class _Loader(yaml.SafeLoader):
    """YAML whose `1e-3` is a number and whose repeated keys are errors."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict:
        keys = [key.value for key, _ in node.value]
        for key in keys:
            if keys.count(key) > 1:
                raise ExperimentError(f"{key}: given twice (line {node.start_mark.line + 1} on); keep one")
        return super().construct_mapping(node, deep)


_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(r"^[-+]?(\d[\d_]*)(\.\d*)?[eE][-+]?\d+$"), list("-+0123456789")
)


def parse_value(text: str, key: str) -> Any:
    """The value that `text` stands for in an experiment file: 5e-1 and true are no words there.

    Raises ExperimentError, naming the `key` it is for.
    """
    try:
        return yaml.load(text, _Loader)
    except (yaml.YAMLError, ValueError):
        raise ExperimentError(f"{key}={text}: expected a value as in an experiment file, such as 0.5 or true") from None


def find_experiment(name: str) -> Path:
    """The experiment file of a name ("digits"), or the path of a file of your own ("mine.yaml").

    Raises ExperimentError when there is no such file.
    """
    path = Path(name) if str(name).endswith((".yaml", ".yml")) else EXPERIMENTS / f"{name}.yaml"
    if not path.is_file():
        known = sorted(file.stem for file in EXPERIMENTS.glob("*.yaml"))
        raise ExperimentError(f"experiment={name}: no such file; expected a path ending in .yaml or one of {known}")
    return path.resolve()


def list_files(name: str) -> list[Path]:
    """The experiment's file and the one it `extends`, whose keys hold where its own file has none.

    Raises ExperimentError when a file is missing or the extended one extends another.
    """
    path = find_experiment(name)
    base = _read(path).get("extends")
    if base is None:
        return [path]
    beside = path.with_name(f"{base}.yaml")
    extended = beside if beside.is_file() else find_experiment(str(base))
    if "extends" in _read(extended):
        raise ExperimentError(f"{path.name}: extends={base}: which extends another itself; extend that one")
    return [path, extended]


def compute_digest(name: str) -> str:
    """SHA-256, in hex, of the experiment's files."""
    return hashlib.sha256(b"".join(path.read_bytes() for path in list_files(name))).hexdigest()


def _read(path: Path) -> dict[str, Any]:
    """The keys and values of an experiment file."""
    try:
        values = yaml.load(path.read_text(encoding="utf-8"), _Loader)
    except ExperimentError as error:
        raise ExperimentError(f"{path.name}: {error}") from error
    except (yaml.YAMLError, ValueError) as error:  # also what is not UTF-8, and dates that do not exist
        raise ExperimentError(f"{path.name}: not YAML: {' '.join(str(error).split())}") from error
    if not isinstance(values, dict):
        raise ExperimentError(f"{path.name}: expected keys and values, found {type(values).__name__}")
    return values


def load(name: str, **overrides: Any) -> Experiment:
    """The experiment of that name or path with knobs overridden; `None` keeps the experiment's own value.

    A seed that is asked for is asked for alone, without `repeat_seeds`.

    Raises ExperimentError with a line for every unknown key, wrong type or value out of range.
    """
    path, *extended = list_files(name)
    values = {key: value for file in (*extended, path) for key, value in _read(file).items() if key != "extends"}
    overrides = {key: value for key, value in overrides.items() if value is not None}
    for key in overrides:
        if key not in PARAMETERS:
            raise ExperimentError(f"{key}={overrides[key]!r}: unknown parameter{suggest(key, PARAMETERS)}")
    wanted = {key: overrides.pop(key) for key in Targets.model_fields if key in overrides}
    if wanted:
        own = values.get("targets", {})
        overrides["targets"] = {**own, **wanted} if isinstance(own, dict) else own
    if "seed" in overrides:
        overrides["repeat_seeds"] = ()
    try:
        return Experiment.model_validate({"name": path.stem, **values, **overrides})
    except ValidationError as error:
        raise ExperimentError("\n".join(f"{path.name}: {_explain(mistake)}" for mistake in error.errors())) from None


def list_overrides(name: str, **overrides: Any) -> dict[str, Any]:
    """The overrides that differ from the experiment's own values, in the order of `KNOBS`."""
    own, changed = load(name), load(name, **overrides)
    before, after = (plan.model_dump() | plan.targets.model_dump() for plan in (own, changed))
    different = {knob for knob in PARAMETERS if after[knob] != before[knob]}
    if changed.repeat_seeds != own.repeat_seeds:
        different.add("seed")
    return {knob: after[knob] for knob in PARAMETERS if knob in different}


def find_report_directory(name: str, **overrides: Any) -> Path:
    """Where a run's tables and pages go: reports/<experiment>/, or a directory below named by its overrides."""
    changed = list_overrides(name, **overrides)
    directory = REPORTS / find_experiment(name).stem
    return directory / ",".join(f"{knob}={value}" for knob, value in changed.items()) if changed else directory


def _explain(mistake: dict) -> str:
    at = [str(part) for part in mistake["loc"]]
    key, value = ".".join(at), mistake["input"]
    if mistake["type"] == "extra_forbidden":
        return f"{key}={value!r}: unknown key{suggest(at[-1], _keys_beside(at))}"
    if mistake["type"] == "missing":
        return f"{key}: missing; this key is needed"
    if mistake["type"] == "value_error":
        return f"{key}: {mistake['ctx']['error']}" if key else str(mistake["ctx"]["error"])
    message = mistake["msg"].replace("Input should be", "expected")
    message = message.replace("String should match pattern", "expected what matches")
    if isinstance(value, float) and not math.isfinite(value):
        message = "expected a finite number"
    return f"{key}={value!r}: {message}"


def _keys_beside(at: list[str]) -> list[str]:
    section: Any = Experiment
    for part in at[:-1]:
        annotation = section.model_fields[part].annotation
        section = next(
            (kind for kind in (annotation, *getattr(annotation, "__args__", ())) if hasattr(kind, "model_fields")),
            Experiment,
        )
    return list(section.model_fields)


def suggest(key: str, known: Any) -> str:
    near = difflib.get_close_matches(key, known, 1)
    return f"; did you mean {near[0]}?" if near else f"; expected one of {', '.join(known)}"
