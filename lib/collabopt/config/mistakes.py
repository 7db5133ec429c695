"""What is wrong with an experiment, in words."""

import difflib
import math
from collections.abc import Iterable
from typing import Any

from pydantic import BaseModel, ValidationError

from collabopt.config.experiment import get_schema
from collabopt.config.per_layer import LAYERS, NUMBER


def suggest(key: str, known: Iterable[str]) -> str:
    """Return the end of an error message on an unknown `key`: the most similar `known` name, or all of them.

    A setting of a stage's training is named in full.
    """
    stage, _, setting = key.rpartition(".")
    sections = get_schema().model_fields["stages"].annotation.model_fields
    stages = [name for name, section in sections.items() if setting in section.annotation.model_fields]
    if stages and stage in ("", *stages):
        choice = "" if stage else f", where <stage> is one of {', '.join(stages)}"
        return f"; expected stages.{stage or '<stage>'}.{setting}{choice}"
    known = list(known)
    near = difflib.get_close_matches(key, known, 1)
    return f"; did you mean {near[0]}?" if near else f"; expected one of {', '.join(known)}"


def explain(error: ValidationError, file: str = "", overridden: Iterable[str] = ()) -> list[str]:
    """Return the mistakes in pydantic's `error`, one line each.

    Args:
        error: The error.
        file: Name of the experiment's file, which begins a line.
        overridden: Dotted names of values that are not from the file. Mistakes in these do not name it, and neither do
            those of several values together.
    """
    given = [f"{key}." for name in overridden for key in (name, f"targets.{name}")]
    lines = []
    for mistake in error.errors():
        if mistake["type"] == "default_factory_not_called":  # it follows from another mistake
            continue
        place = "".join(f"{part}." for part in mistake["loc"])
        is_given = any(place.startswith(key) or key.startswith(place) for key in given)
        lines.append(_explain(mistake) if is_given or not file else f"{file}: {_explain(mistake)}")
    return lines


def _explain(mistake: dict[str, Any]) -> str:
    """One mistake that pydantic found, in a line."""
    path = [str(part) for part in mistake["loc"] if part not in (NUMBER, LAYERS, "CustomTask")]
    key, value = ".".join(path), mistake["input"]
    if mistake["type"] == "extra_forbidden":
        return f"{key}={value!r}: unknown key{suggest(path[-1], _list_keys(path))}"
    if mistake["type"] == "missing":
        return f"{key}: missing; this key is needed"
    if mistake["type"] == "value_error":
        return f"{key}: {mistake['ctx']['error']}" if key else str(mistake["ctx"]["error"])
    message = mistake["msg"].replace("Input should be", "expected").replace("a valid tuple", "a list")
    message = message.replace("String should match pattern", "expected text that matches")
    if isinstance(value, float) and not math.isfinite(value):
        message = "expected a finite number"
    return f"{key}={value!r}: {message}"


def _list_keys(path: list[str]) -> list[str]:
    """The known keys of the section that holds the last key of a path."""
    section: type[BaseModel] = get_schema()
    for part in path[:-1]:
        annotation = section.model_fields[part].annotation
        kinds = (annotation, *getattr(annotation, "__args__", ()))
        section = next((kind for kind in kinds if hasattr(kind, "model_fields")), section)
    return list(section.model_fields)
