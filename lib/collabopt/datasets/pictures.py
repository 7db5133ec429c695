"""Pictures in folders, read from disk batch by batch; see `folders` for their layout."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
from PIL import Image, UnidentifiedImageError

from collabopt.config.loading import DATA
from collabopt.config.sections import Dataset
from collabopt.config.tasks import Task
from collabopt.datasets import folders, labels
from collabopt.datasets.dataset import DatasetError, Parts, Shape
from collabopt.datasets.split import Split
from collabopt.runtime import progress
from collabopt.runtime.tensorflow import tf
from collabopt.storage import atomic

ENDINGS = (".jpeg", ".jpg", ".png")
STORE = DATA / "cache"
"""Where it is stored which pictures are damaged."""
_MAGIC = {b"\xff\xd8\xff": "JPEG", b"\x89PN": "PNG"}
_MANY = 500  # pictures of a class whose decoding takes so long that a line announces it
_SAMPLE = 100  # pictures that are opened to find their common size
_GRAY = ("1", "L", "LA", "I", "I;16", "F")
_DEFAULT_RANGE = (0.0, 255.0)


def read(directory: Path, dataset: Dataset, task: Task) -> Parts:
    """List the pictures of a folder. They are decoded batch by batch, and resized without keeping their proportions.

    Args:
        directory: The folder.
        dataset: Gives `image_size`, by default that of the pictures if all have one; `channels`, by default 1 if all
            are gray, else 3; `pixel_range`, by default [0, 255]; `group` and `test_fraction`.

    Returns:
        The data set. Examples are paths, model inputs (height, width, channels) float32. The fingerprint covers
        relative paths and file sizes.

    Raises:
        DatasetError: One line per folder that is missing or wrong, or the sizes differ.
    """
    listing = folders.list_files(directory, ENDINGS, task, dataset.group, dataset.test_fraction, find_faults)
    digest = hashlib.blake2b(digest_size=16)
    for split, files in listing.files.items():
        for file in files:
            digest.update(f"{split} {file.relative_to(directory).as_posix()} {file.stat().st_size}\n".encode())
    train = listing.files["train"]
    shape = _find_shape(train, dataset.image_size, dataset.channels)
    low, high = dataset.pixel_range or _DEFAULT_RANGE
    if low >= high:
        raise DatasetError(f"dataset.pixel_range={[low, high]}: expected [black, white], such as [0, 1] or [-1, 1]")
    digest.update(f"{shape} {low} {high} {listing.classes}".encode())

    def prepare(batch: tf.Tensor) -> tf.Tensor:
        # Scaled one by one, while a picture is in the processor's cache.
        return map_paths(lambda path: _read_resized(path, shape) * ((high - low) / 255) + low, batch, shape)

    splits = [
        Split(np.array([os.fsencode(path.absolute()) for path in listing.files[name]]), listing.labels[name], prepare)
        if name in listing.files
        else None
        for name in ("train", "validation", "test")
    ]
    outputs = labels.get_outputs(task, listing.labels["train"], listing.classes, shape)
    return Parts(*splits, listing.classes, digest.hexdigest(), shape, outputs, listing.groups)


def map_paths(function: Callable, batch: tf.Tensor | tuple[tf.Tensor, ...], shape: Shape) -> tf.Tensor:
    """Return model inputs (n, *shape) float32: `function` of each path, or tuple that begins with one, in `batch`.

    `shape` is that of one input.
    """
    return tf.map_fn(function, batch, fn_output_signature=tf.TensorSpec(shape, tf.float32))


def decode(path: tf.Tensor, channels: int = 3) -> tf.Tensor:
    """Return the pixels (height, width, `channels`) uint8 of a JPEG, PNG, GIF or BMP file `path`; 1 channel is gray."""
    image = tf.io.decode_image(tf.io.read_file(path), channels=channels, expand_animations=False)
    return tf.ensure_shape(image, (None, None, channels))


def _read_resized(path: tf.Tensor, shape: Shape) -> tf.Tensor:
    # As keras.utils.image_dataset_from_directory does by default.
    return tf.image.resize(decode(path, shape[-1]), shape[:2])


def find_faults(files: Sequence[Path]) -> dict[Path, str]:
    """Return why pictures cannot be decoded, for those of the `files` that cannot.

    All are decoded once, as in training, because a damaged picture may be whole at both ends. The result is stored
    until the path, size or time of a file changes.
    """
    digest = hashlib.blake2b(digest_size=16)
    for file in files:
        status = file.stat()
        digest.update(os.fsencode(file.absolute()) + f" {status.st_size} {status.st_mtime_ns}\n".encode())
    stored = STORE / f"pictures-{digest.hexdigest()}.json"
    if stored.is_file():
        return {files[number]: fault for number, fault in json.loads(stored.read_text(encoding="utf-8"))}
    if len(files) > _MANY:
        progress.log(
            f"decoding {len(files):,} pictures of {files[0].parent.name} once, to find damaged ones", "pictures"
        )
    with ThreadPoolExecutor() as pool:
        found = [(number, fault) for number, fault in enumerate(pool.map(_find_fault, files)) if fault]
    with contextlib.suppress(OSError):  # on a full or read-only disk they are decoded again next time
        atomic.write(stored, json.dumps(found))
    return {files[number]: fault for number, fault in found}


def _find_fault(file: Path) -> str:
    """Why a file cannot be decoded; "" if it can."""
    with file.open("rb") as opened:
        kind = _MAGIC.get(opened.read(3))
    if kind is None:
        return "neither a JPEG nor a PNG picture"
    try:
        with tf.device("CPU:0"):
            decode(os.fsencode(file))
    except tf.errors.OpError:
        return f"{kind} picture that is damaged or cut off"
    return ""


def _find_shape(files: list[Path], image_size: int | tuple[int, int] | None, channels: int | None) -> Shape:
    """Find height, width and channels of the model's input from the settings and some pictures."""
    sizes, modes = set(), set()
    for file in files[:: -(-len(files) // _SAMPLE)]:
        # TensorFlow has decoded all of them, but Pillow may be stricter.
        with contextlib.suppress(OSError, UnidentifiedImageError), Image.open(file) as image:
            sizes.add((image.height, image.width))
            modes.add(image.mode)
    if not sizes:
        raise DatasetError(f"{files[0]}: Pillow cannot open it, nor others; save the pictures as JPEG or PNG again")
    channels = channels or (1 if modes <= set(_GRAY) else 3)
    if image_size is not None:
        height, width = (image_size, image_size) if isinstance(image_size, int) else image_size
        return height, width, channels
    if len(sizes) > 1:
        (height, width), (other_height, other_width) = sorted(sizes)[0], sorted(sizes)[-1]
        raise DatasetError(
            f"dataset.image_size: missing; the pictures have sizes from {height}×{width} to "
            f"{other_height}×{other_width} (height×width). Set it to the size of the model's input, as 96 or [96, 128]"
        )
    return (*sizes.pop(), channels)
