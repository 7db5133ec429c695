"""Files in the idx format of MNIST: type, number of dimensions and sizes, then the values, all big-endian."""

import gzip
import math
import zlib
from pathlib import Path

import numpy as np

from collabopt.datasets.dataset import DatasetError

_UINT8 = 8
"""The format's code of unsigned bytes, the only type of the MNIST family."""


def read(path: Path) -> np.ndarray:
    """Return the uint8 array of a gzip-compressed idx file.

    Raises:
        DatasetError: The file is damaged, or of another format.
    """
    try:
        content = gzip.decompress(path.read_bytes())
    except (OSError, EOFError, zlib.error) as error:
        raise DatasetError(f"{path}: not a readable gzip file ({error}). Delete the file to get it again") from error
    dimensions = content[3] if len(content) > 3 else 0
    shape = np.frombuffer(content[4 : 4 + 4 * dimensions], ">u4").astype(int)
    values = content[4 + 4 * dimensions :]
    if content[:3] != bytes([0, 0, _UINT8]) or len(shape) != dimensions or len(values) != math.prod(shape):
        raise DatasetError(f"{path}: not an idx file of unsigned bytes. Delete the file to get it again")
    return np.frombuffer(values, np.uint8).reshape(shape)
