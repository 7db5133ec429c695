"""CIFAR-10: scaling, augmentation and the stored file."""

from pathlib import Path

import numpy as np
import pytest
from example_data import make_arrays, make_experiment, make_images

from collabopt import datasets
from collabopt.config.loading import DATA
from collabopt.datasets import DatasetError, cifar10
from collabopt.runtime.tensorflow import tf


def test_augmentation_depends_only_on_its_seed() -> None:
    images = make_images()
    one, again, other = (cifar10.augment(images, tf.constant(seed)).numpy() for seed in ([1, 2], [1, 2], [1, 3]))
    assert np.array_equal(one, again) and not np.array_equal(one, other)
    assert one.shape == images.shape and one.dtype == np.float32
    assert one.min() >= -1 and one.max() <= 1


def test_augmentation_only_shifts_and_flips() -> None:
    constant = np.full((3, 32, 32, 3), 200, np.uint8)
    assert np.allclose(cifar10.augment(constant, tf.constant([1, 2])), 200 / 127.5 - 1)
    image = make_images(1)
    padded = np.pad(image[0], ((4, 4), (4, 4), (0, 0)), "reflect")
    crops = [padded[row : row + 32, column : column + 32] for row in range(9) for column in range(9)]
    expected = {cifar10.prepare(crop[:, ::side]).numpy().tobytes() for crop in crops for side in (1, -1)}
    made = cifar10.augment(np.repeat(image, 400, axis=0), tf.constant([5, 6])).numpy()
    found = {example.tobytes() for example in made}
    assert found <= expected
    assert len(found) > 100  # of 162


def test_images_are_scaled_to_minus_one_to_one() -> None:
    assert cifar10.prepare(np.array([0, 255], np.uint8)).numpy().tolist() == [-1, 1]


def test_real_cifar10_uses_the_listed_validation_examples() -> None:
    listed = DATA / "weights" / "mobilenet_v1_cifar10_validation.npy"
    if not (DATA / "cifar10.npz").exists() or not listed.exists():
        pytest.skip(f"needs cifar10.npz and weights/{listed.name} in {DATA}")
    data = datasets.load(make_experiment(listed, dataset={"name": "cifar10"}, train_fraction=0.1))
    assert (len(data.train), len(data.validation), len(data.test)) == (4500, 5000, 10_000)
    assert np.bincount(data.test.labels).tolist() == [1000] * 10
    assert data.input_shape == (32, 32, 3)


def test_a_file_with_other_images_is_rejected(tmp_path: Path) -> None:
    np.savez(tmp_path / "cifar10.npz", **make_arrays())
    with pytest.raises(DatasetError, match=r"cifar10\.npz: x_train is float32 of shape \(60, 1\); expected uint8"):
        datasets.load(make_experiment(dataset={"name": "cifar10"}), tmp_path)
