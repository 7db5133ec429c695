"""MNIST: 70,000 handwritten digits of 28×28 pixels (LeCun, Cortes and Burges 1998), as Keras distributes it."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from collabopt.datasets.arrays import check_images, make_parts, read_npz
from collabopt.datasets.dataset import Parts
from collabopt.datasets.download import fetch
from collabopt.runtime.tensorflow import tf

URL = "https://storage.googleapis.com/tensorflow/tf-keras-datasets/mnist.npz"
SHA256 = "731c5ac602752760c8e48fbffcf8c3b850d9dc2a2aedcf2cc48468fc17b673d1"
IMAGE = (28, 28)


def read(data_directory: Path, url: str = URL, sha256: str = SHA256) -> Parts:
    """Read data/mnist.npz in `data_directory`. If it is missing, it is downloaded from `url` with this `sha256`.

    Returns:
        The data set. Images are (n, 28, 28) uint8, model inputs (n, 28, 28, 1).

    Raises:
        DatasetError: The file cannot be downloaded, or holds other arrays.
    """
    path = data_directory / "mnist.npz"
    if not path.exists():
        fetch(url, path, sha256, "MNIST")
    arrays = read_npz(path)
    check_images(arrays, path, IMAGE, np.uint8)
    return make_parts(arrays, str(path), input_shape=(*IMAGE, 1), classes=tuple("0123456789"), prepare=prepare)


def prepare(images: tf.Tensor) -> tf.Tensor:
    """Scale `images` (n, 28, 28) uint8. Return model inputs (n, 28, 28, 1) float32 in [0, 1]."""
    return tf.cast(images, tf.float32)[..., tf.newaxis] / 255
