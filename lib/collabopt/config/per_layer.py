"""Settings that may differ between layers: one number for all, or {default: 0.5, conv_1: 0}."""

from collections.abc import Mapping
from typing import Annotated, Any

from pydantic import AfterValidator, Discriminator, Tag

DEFAULT = "default"
"""The key of all layers that are not named."""

NUMBER, LAYERS = "<number>", "<layers>"
"""How pydantic names the two forms of a setting in the path of a mistake; readers do not see them."""


def make_type(kind: Any) -> Any:
    """Return a pydantic type: a value of a `kind`, or values by layer, `default` among them."""
    forms = Annotated[kind, Tag(NUMBER)] | Annotated[dict[str, kind], Tag(LAYERS)]
    choose = Discriminator(lambda value: LAYERS if isinstance(value, Mapping) else NUMBER)
    return Annotated[forms, choose, AfterValidator(_simplify)]


def _simplify(setting: Any) -> Any:
    if isinstance(setting, Mapping) and DEFAULT not in setting:
        given = ", ".join(f"{layer}: {value}" for layer, value in setting.items())
        raise ValueError(
            f"{setting}: expected a value for {DEFAULT}, which all other layers have; write {{{DEFAULT}: …, {given}}}"
        )
    return setting[DEFAULT] if isinstance(setting, Mapping) and len(setting) == 1 else setting


def get_value(setting: Any, layer: str = DEFAULT) -> Any:
    """Return the value of a `setting` for a `layer`. The default stands for layers that are not named."""
    return setting.get(layer, setting[DEFAULT]) if isinstance(setting, Mapping) else setting


def list_layers(setting: Any) -> dict[str, Any]:
    """Return the values of the layers that a `setting` names."""
    values = setting if isinstance(setting, Mapping) else {}
    return {layer: value for layer, value in values.items() if layer != DEFAULT}


def list_values(setting: Any) -> list[Any]:
    """Return all values of a `setting`, the default first."""
    return [get_value(setting), *list_layers(setting).values()]
