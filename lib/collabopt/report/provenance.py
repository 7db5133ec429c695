"""Where a page comes from: effective parameters, date, commit, data, versions and duration."""

import datetime
from pathlib import Path
from typing import Any

from collabopt.config.experiment import Experiment
from collabopt.config.stages import OPTIONAL_STAGES
from collabopt.report.directory import read_run
from collabopt.runtime.progress import format_duration

_VERSIONS = "tensorflow", "tf-keras", "tensorflow-model-optimization", "python"
_IF_CHANGED = (
    *("train_fraction", "filter_sparsity", "rank_energy", "max_flops", "sparsity_pattern", "cluster_per_channel"),
    *("symmetric", "clustering", "cluster_rate", "distill", "scheme", "calibration", "calibration_examples"),
)
"""Parameters that are shown only if they do not have their defaults."""


def describe(directory: Path, seconds: float | None = None) -> list[tuple[str, str]]:
    """Describe a report, or one of its pages.

    Args:
        directory: The report directory, with run.json.
        seconds: How long the page's notebook ran; None takes the time from the start of the run to its end.

    Returns:
        Name and value of each entry; empty without a run.json that can be read.
    """
    run = read_run(directory)
    experiment = run.get("experiment")
    if not isinstance(experiment, dict):
        return []
    entries = {
        "experiment": experiment.get("name"),
        **_list_parameters(experiment),
        "data": _describe_data(run.get("data")),
        "date": str(run.get("end", ""))[:10],
        "commit": _describe_commit(str(run.get("commit", ""))),
        "versions": ", ".join(
            f"{name} {run['versions'][name]}" for name in _VERSIONS if name in run.get("versions", {})
        ),
        "duration": _describe_duration(run, seconds),
    }
    return [(name, str(value)) for name, value in entries.items() if value not in (None, "")]


def format_command(directory: Path, experiment: str, more: str = "") -> str:
    """Return `make report` with EXPERIMENT and SET, which makes the report `directory` of an `experiment` again.

    `more` is a further parameter, such as "max_gzip_bytes=9000".
    """
    given = [f"{name}={_format_value(value)}" for name, value in read_run(directory).get("settings", {}).items()]
    words = " ".join([*given, *filter(None, [more])])
    return f"make report EXPERIMENT={experiment}" + (f' SET="{words}"' if words else "")


def describe_setting(directory: Path) -> str:
    """Return what a report `directory` overrides in its experiment: "sparsity 0.8, number of clusters 32"."""
    settings = read_run(directory).get("settings", {})
    return ", ".join(f"{name.replace('_', ' ')} {_format_value(value)}" for name, value in settings.items())


def _format_value(value: Any) -> str:
    """A value as in SET: "[conv_1,fc]", "{default: 0.5, conv_1: 0}" or "true"."""
    if isinstance(value, dict):
        return f"{{{', '.join(f'{key}: {_format_value(one)}' for key, one in value.items())}}}"
    if isinstance(value, list):
        return f"[{','.join(map(_format_value, value))}]"
    return str(value).lower() if isinstance(value, bool) else str(value)


def _list_parameters(experiment: dict[str, Any]) -> dict[str, Any]:
    """The parameters that decide the results, with the values they had."""
    seeds = [experiment.get("seed"), *(experiment.get("repeat_seeds") or ())]
    fields = {name: Experiment.model_fields[name] for name in _IF_CHANGED}
    known = {"call_default_factory": True, "validated_data": experiment}
    defaults = {name: field.get_default(**known) for name, field in fields.items()}
    changed = {name: one for name in fields if (one := experiment.get(name)) not in (None, defaults[name])}
    off = {name for name, one in OPTIONAL_STAGES.items() if not {*one.settings} & changed.keys()}
    limits = experiment.get("targets") or {}
    stages = experiment.get("stages") or {}
    trained = {name: section for name, section in stages.items() if isinstance(section, dict) and name not in off}
    excluded = experiment.get("exclude") or {}
    return {
        "sparsity": experiment.get("sparsity"),
        "clusters": experiment.get("number_of_clusters"),
        **{name.replace("_", " "): _format_value(value) for name, value in changed.items()},
        "seed" if len(seeds) == 1 else "seeds": ", ".join(map(str, seeds)),
        "epochs": ", ".join(f"{name.replace('_', ' ')} {one.get('epochs')}" for name, one in trained.items()),
        "left out": "; ".join(f"of {name}: {', '.join(layers)}" for name, layers in excluded.items() if layers),
        "targets": ", ".join(f"{name}={limit}" for name, limit in limits.items() if limit is not None),
    }


def _describe_data(data: object) -> str:
    if not isinstance(data, dict):
        return ""
    counts = ", ".join(f"{data[name]:,} {name}" for name in ("train", "validation", "test") if name in data)
    return f"{data.get('name', '')} ({counts})"


def _describe_commit(commit: str) -> str:
    name, _, changed = commit.partition("+")
    return name[:10] + (" with changes" if changed else "")


def _describe_duration(run: dict[str, Any], seconds: float | None) -> str:
    try:
        start, end = (datetime.datetime.fromisoformat(run[name]) for name in ("start", "end"))
    except (KeyError, TypeError, ValueError):
        start = end = None
    if seconds is None and start is not None:
        seconds = (end - start).total_seconds()
    return "" if seconds is None else format_duration(seconds)
