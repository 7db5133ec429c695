"""The formats of a deployed file, in the order of the search: what changes the model least comes first."""

import dataclasses


@dataclasses.dataclass(frozen=True)
class Format:
    """A format of `.tflite` files.

    Attributes:
        name: Name in files and parameters.
        label: Name as readers see it.
        marker: Matplotlib marker where a figure tells formats apart.
    """

    name: str
    label: str
    marker: str


FORMATS = {
    one.name: one
    for one in (
        Format("float32", "float32", "o"),
        Format("float16", "float16", "^"),
        Format("int16x8", "int16×8", "D"),
        Format("dynamic_range", "dynamic range", "v"),
        Format("int8", "int8", "s"),
    )
}
"""Every format by name."""

CALIBRATED = "int8", "int16x8"
"""The formats whose activations have ranges, which are taken from examples."""


def get_format_label(name: str) -> str:
    """Return a format as readers see it: `int16x8` becomes "int16×8".

    Args:
        name: Name of a format, or any other text, which is returned unchanged.
    """
    return FORMATS[name].label if name in FORMATS else str(name)
