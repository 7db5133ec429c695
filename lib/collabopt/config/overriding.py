"""Overrides of nested keys of an experiment, such as those of a stage's training."""

import hashlib
from collections.abc import Mapping
from typing import Any

from collabopt.config.experiment import ExperimentError

NESTED = "stages", "exclude", "search"
"""Sections whose keys `loading.load` can override one by one, by dotted names: "stages.pruned.epochs"."""

_LONGEST_NAME = 150
"""Bytes."""


def is_nested(key: str) -> bool:
    """Return whether a `key`, such as "stages.pruned.epochs", is or is below a section of `NESTED`."""
    return key.partition(".")[0] in NESTED


def flatten(overrides: Mapping[str, Any]) -> dict[str, Any]:
    """Return `overrides` of `loading.load` by dotted names, without those that are None.

    Raises:
        ExperimentError: `settings` is not a dict.
    """
    flat: dict[str, Any] = {}
    for name, value in overrides.items():
        key = name.removeprefix("targets.")  # a target is a parameter of its own
        if key == "targets" and isinstance(value, Mapping):
            flat |= flatten(value)
        elif key == "settings" and value is not None:
            if not isinstance(value, Mapping):
                raise ExperimentError(f'settings={value!r}: expected a dict, such as {{"stages.pruned.epochs": 3}}')
            flat |= flatten(value)
        elif is_nested(key) and isinstance(value, Mapping) and ("." not in key or key.startswith("stages.")):
            flat |= flatten({f"{key}.{part}": one for part, one in value.items()})
        elif value is not None:
            flat[key] = value
    return flat


def format_value(value: Any) -> str:
    """Return a `value` as in the name of a directory: "conv_1+conv_2", or "default:0.5_conv_1:0"."""
    if isinstance(value, Mapping):
        return "_".join(f"{key}:{one}" for key, one in value.items())
    return "+".join(map(str, value)) if isinstance(value, list | tuple) else str(value)


def shorten(name: str) -> str:
    """Return the `name` of a directory. A long one is cut and ends in a digest, because file systems take 255 bytes."""
    digest = hashlib.sha256(name.encode()).hexdigest()[:8]
    cut = name.encode()[:_LONGEST_NAME].decode(errors="ignore")
    return name if cut == name else f"{cut}…{digest}"


def is_shortened(name: str) -> bool:
    """Return whether the `name` of a directory was cut by `shorten`."""
    return "…" in name


def replace(section: Any, path: list[str], value: Any) -> Any:
    """Return a `section` with a new `value` at a `path` of keys; anything but a mapping is replaced as a whole."""
    if not path:
        return value
    section = section if isinstance(section, Mapping) else {}
    return {**section, path[0]: replace(section.get(path[0]), path[1:], value)}
