"""CIFAR-10: 60,000 color images of 32×32 pixels in ten classes (Krizhevsky 2009)."""

from __future__ import annotations

import pickle
import tarfile
from pathlib import Path

import numpy as np

from collabopt.datasets import download
from collabopt.datasets.arrays import check_images, make_parts, read_npz
from collabopt.datasets.dataset import Parts
from collabopt.runtime.tensorflow import tf
from collabopt.storage.atomic import write_file

URL = "https://www.cs.toronto.edu/~kriz/cifar-10-python.tar.gz"
SHA256 = "6d958be074577803d12ecdefd02955f39262c83c16fe9348329d7fe0b5c001ce"
CLASSES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
IMAGE = (32, 32, 3)
SHIFT = 4  # pixels, largest shift of a training image


def read(data_directory: Path, url: str = URL, sha256: str = SHA256) -> Parts:
    """Read data/cifar10.npz in `data_directory`; if missing, it is made from the archive at `url` (`sha256`).

    Returns:
        The data set. Images are (n, 32, 32, 3) uint8.

    Raises:
        DatasetError: The archive cannot be downloaded, or the file holds other arrays.
    """
    path = data_directory / "cifar10.npz"
    if not path.exists():
        with download.fetch_archive(url, data_directory / "cifar-10-python.tar.gz", sha256, "CIFAR-10") as archive:
            _convert_archive(archive, path)
    arrays = read_npz(path)
    check_images(arrays, path, IMAGE, np.uint8)
    return make_parts(arrays, str(path), classes=CLASSES, prepare=prepare, augment=augment)


def prepare(images: tf.Tensor) -> tf.Tensor:
    """Scale `images` (n, 32, 32, 3) uint8. Return model inputs float32 in [-1, 1]."""
    return tf.cast(images, tf.float32) / 127.5 - 1


def augment(images: tf.Tensor, seed: tf.Tensor) -> tf.Tensor:
    """Return `images` as `prepare`, shifted by up to 4 pixels, borders mirrored, half flipped, by `seed` (2,) int32."""
    count = tf.shape(images)[0]
    for_rows, for_columns, for_flips = tf.unstack(tf.random.experimental.stateless_split(seed, 3), num=3)
    padded = tf.pad(images, [[0, 0], [SHIFT, SHIFT], [SHIFT, SHIFT], [0, 0]], "REFLECT")
    moved = tf.gather(padded, _draw_window(count, for_rows, IMAGE[0]), axis=1, batch_dims=1)
    moved = tf.gather(moved, _draw_window(count, for_columns, IMAGE[1]), axis=2, batch_dims=1)
    flipped = tf.random.stateless_uniform((count, 1, 1, 1), for_flips) < 0.5
    return prepare(tf.where(flipped, moved[:, :, ::-1], moved))


def _draw_window(count: tf.Tensor, seed: tf.Tensor, length: int) -> tf.Tensor:
    """Draw indices (count, length) of a randomly placed window into a padded side."""
    start = tf.random.stateless_uniform((count, 1), seed, 0, 2 * SHIFT + 1, tf.int32)
    return start + tf.range(length)


def _convert_archive(archive: Path, destination: Path) -> None:
    """Write the images of the official archive as an .npz, sorted by class, then by file name.

    Stored validation indices refer to this order. The archive's own order is shuffled.
    """
    with tarfile.open(archive) as tar:
        train = [_read_batch(tar, f"data_batch_{number}") for number in range(1, 6)]
        arrays = {"train": _sort(train), "test": _sort([_read_batch(tar, "test_batch")])}
    with write_file(destination) as file:
        np.savez(file, **{f"{kind}_{name}": part[kind] for name, part in arrays.items() for kind in ("x", "y")})


def _read_batch(tar: tarfile.TarFile, name: str) -> dict[bytes, list | np.ndarray]:
    # Unpickling can run any code. The archive's hash was verified before.
    return pickle.load(tar.extractfile(f"cifar-10-batches-py/{name}"), encoding="bytes")


def _sort(batches: list[dict]) -> dict[str, np.ndarray]:
    labels = np.concatenate([np.asarray(batch[b"labels"], np.uint8) for batch in batches])
    names = np.concatenate([np.asarray(batch[b"filenames"]) for batch in batches])
    planes = np.concatenate([batch[b"data"] for batch in batches]).reshape(-1, 3, 32, 32)
    order = np.lexsort((names, labels))
    return {"x": planes.transpose(0, 2, 3, 1)[order], "y": labels[order]}
