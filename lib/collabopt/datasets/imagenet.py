"""ImageNet, or other images in its layout, <directory>/{train,validation}/<class>/*.JPEG, read as a stream.

The validation folder is the test split, because its labels are public. Validation is split off train.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from collabopt.datasets import pictures
from collabopt.datasets.dataset import DatasetError, Parts, Shape, compute_fingerprint
from collabopt.datasets.folders import list_classes
from collabopt.datasets.presentation import Presentation
from collabopt.datasets.split import Split
from collabopt.runtime.tensorflow import tf

IMAGE_SIZE = 224
CENTRAL = 0.875  # share of the shorter side that evaluation sees


def read(directory: Path, image_size: int = IMAGE_SIZE) -> Parts:
    """List the images in train/<class>/ and validation/<class>/ (or val/) of `directory`; `image_size` is their side.

    Returns:
        The data set. Examples are paths, model inputs (image_size, image_size, 3) float32 in [-1, 1].

    Raises:
        DatasetError: A folder is missing or empty, or train and validation have different classes.
    """
    folders = {"train": directory / "train", "test": _find_validation(directory)}
    for folder in folders.values():
        if not folder.is_dir():
            raise DatasetError(
                f"directory={directory}: no folder {folder.name}; expected train/<class>/*.JPEG and "
                "validation/<class>/*.JPEG (or val)"
            )
    classes = _classes(folders["train"], folders["test"])
    shape = (image_size, image_size, 3)
    train, test = (_split(folder, classes, shape) for folder in folders.values())
    fingerprint = compute_fingerprint((train, test), (*classes, str(shape)))
    presentation = Presentation(forbids_pictures=True)  # ImageNet's terms of access forbid to pass pictures on
    return Parts(train, None, test, classes, fingerprint, shape, presentation=presentation)


def _find_validation(directory: Path) -> Path:
    shortened = (directory / "val").is_dir() and not (directory / "validation").is_dir()
    return directory / ("val" if shortened else "validation")


def _classes(train: Path, test: Path) -> tuple[str, ...]:
    classes, others = (sorted(path.name for path in folder.iterdir() if path.is_dir()) for folder in (train, test))
    differing = sorted(set(classes) ^ set(others))
    if differing or len(classes) < 2:
        raise DatasetError(
            f"{train.parent}: {train.name} has {len(classes)} class folders and {test.name} {len(others)}"
            + (f", {differing[0]} in one only" if differing else "")
            + "; expected the same classes in both, at least two"
        )
    return tuple(classes)


def _split(folder: Path, classes: tuple[str, ...], shape: Shape) -> Split:
    scan, image_size = pictures.Scan(), shape[0]
    listed = list_classes(folder, pictures.ENDINGS, scan.find_faults)
    files = [file for name in classes for file in listed[name]]
    labels = np.repeat(np.arange(len(classes)), [len(listed[name]) for name in classes])

    def prepare(batch: tf.Tensor) -> tf.Tensor:
        return pictures.map_paths(lambda path: _crop_center(path, image_size), batch, shape)

    def augment(batch: tf.Tensor, seed: tf.Tensor) -> tf.Tensor:
        seeds = tf.random.experimental.stateless_split(seed, tf.size(batch))
        return pictures.map_paths(lambda pair: _crop_randomly(*pair, image_size), (batch, seeds), shape)

    return scan.make_split(files, labels, prepare, augment)


def _crop_center(path: tf.Tensor, image_size: int) -> tf.Tensor:
    """Scale the shorter side to image_size / 0.875 pixels and take the central square."""
    image = pictures.decode(path)
    sides = tf.cast(tf.shape(image)[:2], tf.float32)
    scaled = tf.round(sides * (round(image_size / CENTRAL) / tf.reduce_min(sides)))
    resized = tf.image.resize(image, tf.cast(scaled, tf.int32))
    return tf.image.resize_with_crop_or_pad(resized, image_size, image_size) / 127.5 - 1


def _crop_randomly(path: tf.Tensor, seed: tf.Tensor, image_size: int) -> tf.Tensor:
    """Take a random part with 8 to 100 % of the area and an aspect of 3:4 to 4:3, and flip half of them.

    Szegedy et al. 2015, "Going deeper with convolutions" (arXiv:1409.4842).
    """
    image = pictures.decode(path)
    for_crop, for_flip = tf.unstack(tf.random.experimental.stateless_split(seed, 2), num=2)
    begin, size, _ = tf.image.stateless_sample_distorted_bounding_box(
        tf.shape(image),
        tf.zeros((1, 0, 4)),
        for_crop,
        min_object_covered=0.0,
        aspect_ratio_range=(3 / 4, 4 / 3),
        area_range=(0.08, 1.0),
        use_image_if_no_bounding_boxes=True,
    )
    resized = tf.image.resize(tf.slice(image, begin, size), (image_size, image_size))
    return tf.image.stateless_random_flip_left_right(resized, for_flip) / 127.5 - 1
