"""PNG pictures as pages embed them."""

import io

import numpy as np
from PIL import Image

UNSEEN = 8
"""Levels of 255 by which a colour may differ unseen; a thousandth of the dots, on the rims of type, may differ more."""


def smaller(png: bytes) -> bytes:
    """The picture with 256 colours of its own choice, a third of the bytes of a figure; a photograph, which has more
    colours than that, stays as it is."""
    with Image.open(io.BytesIO(png)) as picture:
        dpi, before = picture.info.get("dpi"), picture.convert("RGB")
        if picture.convert("RGBA").getextrema()[3][0] < 255:  # transparency would be lost
            return png
    after = before.quantize(256, method=Image.Quantize.MEDIANCUT, dither=Image.Dither.NONE, kmeans=1)
    differences = np.abs(np.asarray(after.convert("RGB"), np.int16) - np.asarray(before, np.int16)).max(axis=-1)
    if np.percentile(differences, 99.9) > UNSEEN:
        return png
    file = io.BytesIO()
    after.save(file, "PNG", optimize=True, **({"dpi": dpi} if dpi else {}))
    return min(png, file.getvalue(), key=len)
