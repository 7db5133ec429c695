"""MNIST: 70,000 handwritten digits of 28×28 pixels (LeCun, Cortes and Burges 1998), as Keras distributes it."""

from pathlib import Path

import numpy as np

from collabopt.datasets.arrays import demand, parts_of, read_npz
from collabopt.datasets.download import fetch
from collabopt.datasets.parts import Parts
from collabopt.runtime.tensorflow import tf

URL = "https://storage.googleapis.com/tensorflow/tf-keras-datasets/mnist.npz"
SHA256 = "731c5ac602752760c8e48fbffcf8c3b850d9dc2a2aedcf2cc48468fc17b673d1"
IMAGE = (28, 28)


def read(data_directory: Path, url: str = URL, sha256: str = SHA256) -> Parts:
    """data/mnist.npz, downloaded if it is not there; images (n, 28, 28) uint8.

    Raises DatasetError when it cannot be downloaded or is not what it should be.
    """
    path = data_directory / "mnist.npz"
    if not path.exists():
        fetch(url, path, sha256, "MNIST")
    arrays = read_npz(path)
    demand(arrays, path, IMAGE, np.uint8)
    return parts_of(arrays, str(path), (*IMAGE, 1), tuple("0123456789"), prepare=prepare)


def prepare(images: tf.Tensor) -> tf.Tensor:
    """(n, 28, 28) uint8 -> (n, 28, 28, 1) float32 in [0, 1]."""
    return tf.cast(images, tf.float32)[..., tf.newaxis] / 255
