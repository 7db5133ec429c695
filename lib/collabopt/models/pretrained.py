"""Weights that are not there yet and that keras.applications has: <model>_imagenet.npz."""

from pathlib import Path

import numpy as np

from collabopt.models import mobilenet
from collabopt.storage.atomic import write_file

KNOWN = {f"{name}_imagenet.npz": name for name in mobilenet.APPLICATIONS}


def ensure(path: Path) -> None:
    """Make the file of a known name where it is missing; any other path is left to who reads it.

    Raises ModelError when the weights cannot be downloaded.
    """
    if path.name in KNOWN and not path.exists():
        arrays = mobilenet.imagenet_weights(KNOWN[path.name])
        with write_file(path) as file:
            np.savez(file, **arrays)
