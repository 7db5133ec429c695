"""Pictures in folders, read from disk batch by batch; see `folders` for their layout."""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import io
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
from collabopt.datasets.dataset import DatasetError, Parts, Shape, compute_fingerprint
from collabopt.datasets.split import Split
from collabopt.runtime import progress
from collabopt.runtime.tensorflow import tf
from collabopt.storage import atomic

ENDINGS = (".jpeg", ".jpg", ".png")
STORE = DATA / "cache"
"""Where it is stored what the pictures hold."""
_MAGIC = {b"\xff\xd8\xff": "JPEG", b"\x89PN": "PNG"}
_MANY = 500  # pictures of a class whose decoding takes so long that a line announces it
_GRAY = ("1", "L", "LA", "I", "I;16", "F")
_DEFAULT_RANGE = (0.0, 255.0)


def read(directory: Path, dataset: Dataset, task: Task) -> Parts:
    """List the pictures of a folder. They are decoded batch by batch, and resized without keeping their proportions.

    Args:
        directory: The folder.
        dataset: Gives `image_size`, by default that of the pictures if all have one; `channels`, by default 1 if all
            are gray, else 3; `pixel_range`, by default [0, 255]; `group` and `test_fraction`.

    Returns:
        The data set. Examples are paths, model inputs (height, width, channels) float32.

    Raises:
        DatasetError: One line per folder that is missing or wrong, or the sizes differ.
    """
    scan = Scan()
    listing = folders.list_files(
        directory, ENDINGS, task, dataset.group, dataset.test_fraction, find_faults=scan.find_faults
    )
    shape = _find_shape(listing, scan, dataset)
    low, high = dataset.pixel_range or _DEFAULT_RANGE
    if low >= high:
        raise DatasetError(f"dataset.pixel_range={[low, high]}: expected [black, white], such as [0, 1] or [-1, 1]")

    def prepare(batch: tf.Tensor) -> tf.Tensor:
        # Scaled one by one, while a picture is in the processor's cache.
        return map_paths(lambda path: _read_resized(path, shape) * ((high - low) / 255) + low, batch, shape)

    splits = [
        scan.make_split(listing.files[name], listing.labels[name], prepare) if name in listing.files else None
        for name in ("train", "validation", "test")
    ]
    outputs = labels.get_outputs(task, listing.labels["train"], listing.classes, shape)
    fingerprint = compute_fingerprint(splits, (*listing.classes, str(shape), str((low, high))))
    return Parts(*splits, listing.classes, fingerprint, shape, outputs, listing.groups)


def map_paths(function: Callable, batch: tf.Tensor | tuple[tf.Tensor, ...], shape: Shape) -> tf.Tensor:
    """Return model inputs (n, *shape) float32: `function` of each path, or tuple that begins with one, in `batch`.

    `shape` is that of one input.
    """
    return tf.map_fn(function, batch, fn_output_signature=tf.TensorSpec(shape, tf.float32))


def decode(path: tf.Tensor, channels: int = 3) -> tf.Tensor:
    """Return the pixels (height, width, `channels`) uint8 of a JPEG, PNG, GIF or BMP file `path`; 1 channel is gray."""
    return _decode(tf.io.read_file(path), channels)


def _decode(content: tf.Tensor, channels: int) -> tf.Tensor:
    return tf.ensure_shape(
        tf.io.decode_image(content, channels=channels, expand_animations=False), (None, None, channels)
    )


def _read_resized(path: tf.Tensor, shape: Shape) -> tf.Tensor:
    # As keras.utils.image_dataset_from_directory does by default.
    return tf.image.resize(decode(path, shape[-1]), shape[:2])


@dataclasses.dataclass(frozen=True)
class Picture:
    """What a file holds.

    Attributes:
        content: Digest of its bytes, 32 hex digits.
        fault: Why it cannot be decoded; "" if it can.
        size: (height, width); None if it cannot be decoded.
        mode: Mode by Pillow, such as RGB; "" if Pillow, which is stricter than TensorFlow, cannot open it.
    """

    content: str
    fault: str = ""
    size: tuple[int, int] | None = None
    mode: str = ""


class Scan:
    """What the pictures of a data set hold.

    All are decoded once, as in training, because a damaged picture may be whole at both ends. The result is stored
    until the path, size or time of a file changes.

    Attributes:
        pictures: By file.
    """

    def __init__(self) -> None:
        self.pictures: dict[Path, Picture] = {}

    def find_faults(self, files: Sequence[Path]) -> dict[Path, str]:
        """Scan the `files`. Return why they cannot be decoded, for those that cannot."""
        digest = hashlib.blake2b(digest_size=16)
        for file in files:
            status = file.stat()
            digest.update(os.fsencode(file.absolute()) + f" {status.st_size} {status.st_mtime_ns}\n".encode())
        stored = STORE / f"scan-{digest.hexdigest()}.json"
        if stored.is_file():
            read = json.loads(stored.read_text(encoding="utf-8"))
            found = [Picture(content, fault, size and tuple(size), mode) for content, fault, size, mode in read]
        else:
            found = _scan(files)
            with contextlib.suppress(OSError):  # on a full or read-only disk they are decoded again next time
                atomic.write(stored, json.dumps([dataclasses.astuple(picture) for picture in found]))
        scanned = dict(zip(files, found, strict=True))
        self.pictures |= scanned
        return {file: picture.fault for file, picture in scanned.items() if picture.fault}

    def make_split(self, files: Sequence[Path], labels: np.ndarray, *functions: Callable) -> Split:
        """Make a split of scanned `files` and their `labels`; `functions` are its `prepare` and perhaps `augment`."""
        paths = np.array([os.fsencode(file.absolute()) for file in files])
        return Split(paths, labels, *functions, contents=np.array([self.pictures[file].content for file in files]))


def _scan(files: Sequence[Path]) -> list[Picture]:
    if len(files) > _MANY:
        progress.log(
            f"decoding {len(files):,} pictures of {files[0].parent.name} once, to find damaged ones", "pictures"
        )
    with ThreadPoolExecutor() as pool:
        return list(pool.map(_scan_one, files))


def _scan_one(file: Path) -> Picture:
    content = file.read_bytes()
    digest, kind = hashlib.blake2b(content, digest_size=16).hexdigest(), _MAGIC.get(content[:3])
    if kind is None:
        return Picture(digest, "neither a JPEG nor a PNG picture")
    try:
        with tf.device("CPU:0"):
            height, width, _ = _decode(content, 3).shape
    except tf.errors.OpError:
        return Picture(digest, f"{kind} picture that is damaged or cut off")
    try:
        with Image.open(io.BytesIO(content)) as image:
            return Picture(digest, "", (height, width), image.mode)
    except (OSError, UnidentifiedImageError):
        return Picture(digest, "", (height, width))


def _find_shape(listing: folders.Listing, scan: Scan, dataset: Dataset) -> Shape:
    """Find height, width and channels of the model's input from the settings and the pictures."""
    pictures = {file: scan.pictures[file] for files in listing.files.values() for file in files}
    modes = {picture.mode for picture in pictures.values() if picture.mode}
    channels = dataset.channels or (1 if modes and modes <= set(_GRAY) else 3)
    if channels == 1 and "CMYK" in modes:
        first = next(file for file, picture in pictures.items() if picture.mode == "CMYK")
        raise DatasetError(
            f"dataset.channels=1: {first} has the colours CMYK, which cannot be read as gray; remove the key, or save "
            "such pictures as RGB or gray"
        )
    if dataset.image_size is not None:
        size = dataset.image_size
        return *((size, size) if isinstance(size, int) else size), channels
    sizes = sorted({pictures[file].size for file in listing.files["train"]})
    if len(sizes) > 1:
        (height, width), (other_height, other_width) = sizes[0], sizes[-1]
        raise DatasetError(
            f"dataset.image_size: missing; the pictures have sizes from {height}×{width} to "
            f"{other_height}×{other_width} (height×width). Set it to the size of the model's input, as 96 or [96, 128]"
        )
    return *sizes[0], channels
