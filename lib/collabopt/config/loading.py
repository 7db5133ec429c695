"""Experiments from files, with parameters overridden, and the directories of the workbook.

Nothing here imports TensorFlow, so a batch is checked at once.
"""

import contextlib
import hashlib
import os
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

import yaml
from pydantic import ValidationError

from collabopt.config import overriding
from collabopt.config.experiment import Experiment, ExperimentError, Targets, merge_stages, validate
from collabopt.config.mistakes import explain, suggest
from collabopt.config.yaml_loader import Loader
from collabopt.runtime import user_modules

ROOT = Path(__file__).resolve().parents[3]
EXPERIMENTS = ROOT / "notebooks" / "experiments"
DATA = Path(os.environ.get("COLLABOPT_DATA", ROOT / "data"))
REPORTS = Path(os.environ.get("COLLABOPT_REPORTS", ROOT / "reports"))

PARAMETERS = (
    *("seed", "threads", "devices", "train_fraction", "calibration_examples", "sparsity", "sparsity_pattern"),
    *("filter_sparsity", "rank_energy", "max_flops"),
    *("number_of_clusters", "cluster_per_channel", "clustering", "cluster_rate", "centroid_initialization"),
    *("symmetric", "weight_bits", "distill", "scheme", "strict", "accelerator"),
    *Targets.model_fields,
    "deploy_nearest",
)
"""The values that `load` can override. A batch can override those that the notebooks have as parameters."""

PATHS = (
    *(("dataset", "path"), ("dataset", "directory"), ("model", "path"), ("model", "weights")),
    *(("initial_weights", "path"), ("initial_weights", "validation_indices")),
)
"""Section and key of every path in an experiment. A relative one is looked for next to the experiment's file first."""


def parse_value(text: str, key: str) -> Any:
    """Return `text`, the value of `key`, as in an experiment file: 5e-1 is a number and true a truth value.

    Raises:
        ExperimentError: The text is no value.
    """
    try:
        return yaml.load(text, Loader)
    except ExperimentError as error:
        raise ExperimentError(f"{key}={text}: {error}") from None
    except (yaml.YAMLError, ValueError):
        raise ExperimentError(
            f"{key}={text}: expected a value, such as 0.5, true, [conv_1,fc] or {{default: 0.5, fc: 0}}; close every "
            "bracket, and quote other special characters"
        ) from None


def find_experiment(name: str) -> Path:
    """Return the file of an experiment of this `name` ("digits") or path ("mine.yaml").

    Raises:
        ExperimentError: There is no such file.
    """
    path = Path(name) if str(name).endswith((".yaml", ".yml")) else EXPERIMENTS / f"{name}.yaml"
    if not path.is_file():
        known = sorted(file.stem for file in EXPERIMENTS.glob("*.yaml"))
        raise ExperimentError(f"experiment={name}: no such file; expected a path ending in .yaml or one of {known}")
    return path.resolve()


def list_files(name: str) -> list[Path]:
    """Return the file of the experiment of this `name` or path, and the file that it `extends`.

    Raises:
        ExperimentError: A file is missing, or the extended file extends another.
    """
    path = find_experiment(name)
    base = _read(path).get("extends")
    if base is None:
        return [path]
    neighbour = path.with_name(f"{base}.yaml")
    extended = neighbour if neighbour.is_file() else find_experiment(str(base))
    if "extends" in _read(extended):
        raise ExperimentError(f"{path.name}: extends={base}: {base} extends another file itself; extend that one")
    return [path, extended]


def compute_digest(name: str) -> str:
    """Return the SHA-256, in hex, of the files of the experiment of this `name` or path."""
    return hashlib.sha256(b"".join(path.read_bytes() for path in list_files(name))).hexdigest()


def gives_stages(name: str) -> bool:
    """Return whether the files of the experiment of this `name` or path say how stages are trained."""
    return any("stages" in _read(file) for file in list_files(name))


def load(name: str, /, suggested: Mapping[str, Any] = MappingProxyType({}), **overrides: Any) -> Experiment:
    """Load an experiment.

    Args:
        name: Name or path of the experiment.
        suggested: Values for keys that the files do not give, such as those of `defaults.suggest`.
        **overrides: Values of `PARAMETERS` that replace the experiment's own; None keeps them. A `seed` also clears
            `repeat_seeds`. Keys of sections in `overriding.NESTED` are given as dotted names, as nested dicts, or in a
            dict `settings` of either.

    Returns:
        The validated experiment. Keys of a file take precedence over those of the file that it extends. The sections of
        stages are merged key by key. Paths and modules are found next to the file that names them.

    Raises:
        ExperimentError: One line per unknown key, wrong type or value out of range.
    """
    path, *extended = list_files(name)
    values: dict[str, Any] = dict(suggested)
    folders: dict[str, Path] = {}
    for file in (*extended, path):
        user_modules.add_folder(file.parent)
        own = {key: value for key, value in _read(file).items() if key != "extends"}
        folders |= dict.fromkeys(own, file.parent)
        values |= own | {"stages": merge_stages(values.get("stages", {}), own.get("stages", {}))}
    overrides = overriding.flatten(overrides)
    overridden = [*overrides]
    for key in [key for key in overrides if "." in key and overriding.is_nested(key)]:
        values = overriding.replace(values, key.split("."), overrides.pop(key))
    for key in overrides:
        if key not in PARAMETERS:
            raise ExperimentError(f"{key}={overrides[key]!r}: unknown parameter{suggest(key, PARAMETERS)}")
    limits = {key: overrides.pop(key) for key in Targets.model_fields if key in overrides}
    if limits:
        own = values.get("targets", {})
        overrides["targets"] = {**own, **limits} if isinstance(own, dict) else own
    if "seed" in overrides:
        overrides["repeat_seeds"] = ()
    try:
        return resolve_paths(validate({"name": path.stem, **values, **overrides}), folders)
    except ValidationError as error:
        raise ExperimentError("\n".join(explain(error, path.name, overridden))) from None


def change(experiment: Experiment, **settings: Any) -> Experiment:
    """Return an experiment with changed `settings`, values of `PARAMETERS`.

    Raises:
        ExperimentError: As `load`.
    """
    try:
        return validate(experiment.model_dump(exclude_unset=True) | settings)
    except ValidationError as error:
        raise ExperimentError("\n".join(explain(error))) from None


def list_paths(experiment: Experiment) -> list[str]:
    """Return the files and folders that an experiment names."""
    paths = [getattr(getattr(experiment, section), key, None) for section, key in PATHS]
    return [path for path in paths if path]


def locate(path: str, data_directory: Path) -> Path:
    """Return the path that an experiment names; it need not exist.

    A `path` below data/ is below `data_directory`, another one below the project, else below the user's directory.
    """
    given = Path(path).expanduser()
    if given.parts[:1] == ("data",):
        return data_directory.joinpath(*given.parts[1:])
    here = user_modules.get_directory() / given
    return here if here.exists() and not (ROOT / given).exists() else ROOT / given


def read_input_times(experiment: Experiment) -> dict[str, int]:
    """Return when each file and folder that an experiment names last changed, in ns, with all in these, and its modules
    with those beside them and all that they import. A file that replaces another may be older than that.
    """
    model, task = experiment.model, experiment.task
    places = [experiment.dataset.function, model.function, *model.custom_objects.values()]
    places += [] if isinstance(task, str) else [task.loss, task.metric]
    found = [path for path in (locate(one, DATA) for one in list_paths(experiment)) if path.exists()]
    for place in filter(None, places):
        with contextlib.suppress(Exception):  # the check says what is wrong with the module
            found += user_modules.find_source(place).parent.glob("*.py")
            found += user_modules.list_sources(place)
    below = [one for path in found if path.is_dir() for one in path.rglob("*")]
    states = {path: path.stat() for path in sorted({*found, *below})}
    return {str(path): max(one.st_mtime_ns, one.st_ctime_ns) for path, one in states.items()}


def describe_inputs(times: Mapping[str, int]) -> str:
    """Return a digest, 16 hex digits, of `times` by `read_input_times`."""
    return hashlib.blake2b(repr(times).encode(), digest_size=8).hexdigest()


def list_overrides(name: str, **overrides: Any) -> dict[str, Any]:
    """Return the `overrides` of the experiment `name` that differ from its own values, in the order of `PARAMETERS`."""
    own, changed = load(name), load(name, **overrides)
    names = [*PARAMETERS, *sorted(key for key in overriding.flatten(overrides) if overriding.is_nested(key))]
    before, after = ({key: get_value(one, key) for key in names} for one in (own, changed))
    different = {key for key in names if after[key] != before[key]}
    different -= Experiment.model_fields.keys() - changed.model_fields_set  # these follow from other values
    if changed.repeat_seeds != own.repeat_seeds:
        different.add("seed")
    return {key: after[key] for key in names if key in different}


def get_value(experiment: Experiment, key: str) -> Any:
    """Return the value of a `key`, one of `PARAMETERS` or a dotted name; None in a section that is not given."""
    found: Any = experiment.targets if key in Targets.model_fields else experiment
    for part in key.split("."):
        found = None if found is None else getattr(found, part)
    return list(found) if isinstance(found, tuple) else found


def find_report_directory(name: str, **overrides: Any) -> Path:
    """Return reports/<name>/, or a directory below it that the `overrides` of the experiment `name` give."""
    changed = list_overrides(name, **overrides)
    directory = REPORTS / find_experiment(name).stem
    parts = [f"{key}={overriding.format_value(value)}" for key, value in changed.items()]
    return directory / overriding.shorten(",".join(parts)) if parts else directory


def _read(path: Path) -> dict[str, Any]:
    try:
        values = yaml.load(path.read_text(encoding="utf-8"), Loader)
    except ExperimentError as error:
        raise ExperimentError(f"{path.name}: {error}") from error
    except (yaml.YAMLError, ValueError) as error:  # also text that is not UTF-8, and dates that do not exist
        raise ExperimentError(f"{path.name}: not YAML: {' '.join(str(error).split())}") from error
    if not isinstance(values, dict):
        raise ExperimentError(f"{path.name}: expected keys and values, found {type(values).__name__}")
    return values


def resolve_paths(experiment: Experiment, folders: Mapping[str, Path]) -> Experiment:
    """Return an experiment with absolute paths to what is next to its file or nowhere else; see `locate`.

    Args:
        folders: Folder of the file that each section is from.
    """
    for section, key in PATHS:
        part = getattr(experiment, section)
        given = Path(getattr(part, key, None) or "~")
        is_elsewhere = given.parts[:1] in (("data",), ("~",)) or (ROOT / given).exists() or given.exists()
        beside = Path(os.path.normpath(folders.get(section, ROOT) / given))
        if beside.exists() or not is_elsewhere:
            part = part.model_copy(update={key: str(beside)})
            experiment = experiment.model_copy(update={section: part})
    return experiment
