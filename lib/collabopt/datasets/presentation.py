"""How readers of a page see an example: a picture, the name of a file, or the values of a table's row."""

import base64
import dataclasses
import io
from pathlib import Path

import numpy as np
from PIL import Image

from collabopt.datasets.split import Split

_SIDE = 64
"""Pixels. Larger pictures are scaled down."""
_FEATURES = 6
"""Values of a row that are shown; more are cut."""


@dataclasses.dataclass(frozen=True)
class Presentation:
    """What a data set says about how to show its examples.

    Attributes:
        forbids_pictures: Whether its licence forbids to show its pictures.
        names: Names of the validation examples (n,), such as the clips whose features the examples are; or None.
        columns: Names of the features, if the examples are rows of a table.
    """

    forbids_pictures: bool = False
    names: np.ndarray | None = None
    columns: tuple[str, ...] = ()


PLAIN = Presentation()
"""That of a data set about which nothing is said."""


def describe(split: Split, place: int, presentation: Presentation) -> dict[str, str]:
    """Describe the example at `place` of the validation split, as `presentation` says.

    Returns:
        `file`: name of its file; `picture`: PNG in base64; `features`: values of a row. Each is empty where the example
        has no such thing.
    """
    examples = next(iter(split.examples.values())) if isinstance(split.examples, dict) else split.examples
    is_file, is_clip = examples.ndim == 1 and examples.dtype.kind in "OUS", presentation.names is not None
    path = _decode(presentation.names[place] if is_clip else examples[place]) if is_file or is_clip else ""
    picture = None
    if not (presentation.forbids_pictures or is_clip):
        picture = _read_picture(path) if is_file else _make_picture(examples[place])
    is_row = examples.ndim == 2
    return {
        "file": path.replace("\\", "/").rpartition("/")[2],
        "picture": _encode(picture) if picture else "",
        "features": _format_row(examples[place], presentation.columns) if is_row else "",
    }


def _decode(name: object) -> str:
    return name.decode(errors="replace") if isinstance(name, bytes) else str(name)


def _read_picture(path: str) -> Image.Image | None:
    is_picture = Path(path).suffix.lower() in Image.registered_extensions()
    return Image.open(path).convert("RGB") if is_picture else None


def _make_picture(example: np.ndarray) -> Image.Image | None:
    """An array (height, width, 1 or 3) or, of uint8, (height, width) as a picture. Other types are scaled from their
    least to their largest value.
    """
    if example.ndim == 2 and example.dtype == np.uint8:
        example = example[..., np.newaxis]
    if example.ndim != 3 or example.shape[-1] not in (1, 3) or min(example.shape[:2]) < 4:
        return None
    if example.dtype != np.uint8:
        low, high = float(example.min()), float(example.max())
        example = np.round((example - low) * (255 / (high - low or 1))).astype(np.uint8)
    return Image.fromarray(example[..., 0] if example.shape[-1] == 1 else example)


def _encode(picture: Image.Image) -> str:
    picture.thumbnail((_SIDE, _SIDE))
    file = io.BytesIO()
    picture.save(file, "PNG", optimize=True)
    return base64.b64encode(file.getvalue()).decode()


def _format_row(values: np.ndarray, columns: tuple[str, ...]) -> str:
    texts = [f"{value:.4g}".replace("-", "−") for value in values[:_FEATURES]]
    if len(columns) == len(values):
        texts = [f"{name} {text}" for name, text in zip(columns, texts, strict=False)]
    return ", ".join(texts) + (", …" if len(values) > _FEATURES else "")
