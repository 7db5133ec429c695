"""ImageNet: images in folders, as a stream of model inputs and through a whole run."""

import re
import shutil
from pathlib import Path

import numpy as np
import pytest
from conftest import skip_trial
from example_data import make_experiment
from PIL import Image

from collabopt import datasets
from collabopt.config import loading
from collabopt.datasets import DatasetError, imagenet
from collabopt.run import Run
from collabopt.runtime.tensorflow import tf


@pytest.fixture
def folders(tmp_path: Path) -> Path:
    """Twelve smooth images of several sizes and formats: six reddish ones of class a, six bluish ones of class b."""
    sizes = [(90, 60), (60, 90), (64, 64), (300, 50), (40, 33), (70, 71)]
    for number, (width, height) in enumerate(sizes):
        for name, channel in (("a", 0), ("b", 2)):
            folder = tmp_path / ("train" if number < 4 else "val") / name
            folder.mkdir(parents=True, exist_ok=True)
            pixels = np.full((height, width, 3), 60, np.uint8)
            pixels[..., channel] = np.linspace(150, 250, width)[None]
            kind = ("JPEG", "png", "jpg")[number % 3]
            Image.fromarray(pixels).save(folder / f"{number}.{kind}")
    return tmp_path


def load_images(directory: Path, **values: object) -> datasets.Data:
    dataset = {"name": "imagenet", "directory": str(directory), "image_size": 32}
    return datasets.load(make_experiment(dataset=dataset, validation_fraction=0.25, **values))


def test_images_are_read_by_path_and_resized(folders: Path) -> None:
    data = load_images(folders)
    assert (len(data.train), len(data.validation), len(data.test)) == (6, 2, 4)
    assert (data.classes, data.input_shape) == (("a", "b"), (32, 32, 3))
    assert data.train.examples.dtype.kind == "S"
    for batches in (data.train.batches(4), data.train.training_batches(4, 0, range(2)), data.test.batches(4)):
        for x, y in batches:
            assert x.shape[1:] == (32, 32, 3) and x.dtype == tf.float32
            assert x.numpy().min() >= -1 and x.numpy().max() <= 1
            assert np.array_equal(x.numpy()[..., 2].mean((1, 2)) > x.numpy()[..., 0].mean((1, 2)), y.numpy() == 1)


def test_evaluation_sees_the_center(tmp_path: Path) -> None:
    # The middle half of both sides is white. Evaluation keeps 0.875 of the shorter side.
    pixels = np.zeros((64, 64, 3), np.uint8)
    pixels[16:48, 16:48] = 255
    for folder in ("train/a", "train/b", "validation/a", "validation/b"):
        (tmp_path / folder).mkdir(parents=True)
        Image.fromarray(pixels).save(tmp_path / folder / "image.png")
    test = imagenet.read(tmp_path, 56).test
    assert np.array_equal(test.prepare(test.examples[:1]).numpy()[0], pixels[4:60, 4:60] / 127.5 - 1)


def test_augmentation_of_images_depends_only_on_its_seed(folders: Path) -> None:
    train = load_images(folders).train
    one, again, other = (train.augment(train.examples, tf.constant(s)).numpy() for s in ([1, 2], [1, 2], [1, 3]))
    assert np.array_equal(one, again) and not np.array_equal(one, other)
    twice = train.augment(np.repeat(train.examples[:1], 2), tf.constant([1, 2])).numpy()
    assert not np.array_equal(twice[0], twice[1])


def test_fingerprints_cover_contents_and_no_places(folders: Path, tmp_path_factory) -> None:
    copy = tmp_path_factory.mktemp("elsewhere") / "copy"
    shutil.copytree(folders, copy)
    first, copied = load_images(folders), load_images(copy)
    assert (copied.fingerprint, copied.train.fingerprint()) == (first.fingerprint, first.train.fingerprint())
    assert load_images(copy, seed=5).fingerprint == first.fingerprint
    for split in ("train", "val"):
        path, before = next((copy / split / "a").glob("*.[jJ]*")), load_images(copy).fingerprint
        content = path.read_bytes()
        changed = content.replace(b"JFIF", b"JFIX")  # of the same size
        assert changed != content
        path.write_bytes(changed)
        assert load_images(copy).fingerprint != before


def test_wrong_folders_of_images_are_named(folders: Path) -> None:
    with pytest.raises(DatasetError, match=r"dataset\.directory: missing; imagenet is not downloaded"):
        datasets.load(make_experiment(dataset={"name": "imagenet"}))
    before = len(load_images(folders).train)
    with pytest.raises(DatasetError, match=r"directory=.*nowhere: no folder train"):
        load_images(folders / "nowhere")
    (folders / "train" / "a" / "9.png").touch()
    assert len(load_images(folders).train) == before
    (folders / "train" / "a" / "9.png").unlink()
    (folders / "train" / "c").mkdir()
    with pytest.raises(DatasetError, match="train has 3 class folders and val 2, c in one only"):
        load_images(folders)
    (folders / "val" / "c").mkdir()
    with pytest.raises(DatasetError, match="train/c: no files that end in"):
        load_images(folders)


CLASSES = ("n01", "n02", "n03")


@pytest.fixture(scope="module")
def images(tmp_path_factory) -> Path:
    """Images of various sizes in ImageNet's layout: 12 training and 4 test images per class, which has one color."""
    directory, draw = tmp_path_factory.mktemp("imagenet"), np.random.default_rng(0)
    for split, count in (("train", 12), ("validation", 4)):
        for label, name in enumerate(CLASSES):
            folder = directory / split / name
            folder.mkdir(parents=True)
            for number in range(count):
                pixels = draw.integers(0, 120, (*draw.integers(40, 90, 2), 3), dtype=np.uint8)
                pixels[..., label] += 130
                Image.fromarray(pixels).save(folder / f"{name}_{number}.JPEG")
    return directory


LARGER = "digits_cnn", "mobilenet_v1"


@pytest.fixture(params=["mnist_cnn", *(pytest.param(one, marks=pytest.mark.slow) for one in LARGER)])
def experiment_file(request, images, tmp_path, monkeypatch) -> Path:
    """The committed experiment on small images, from fresh weights, with one epoch per stage."""
    if request.param not in LARGER:  # those try the stages on images
        skip_trial(monkeypatch)
    text = (loading.EXPERIMENTS / "imagenet-mobilenet_v1.yaml").read_text(encoding="utf-8")
    stages = re.sub(r"(?<![_a-z])epochs: \d+", "epochs: 1", text[text.index("stages:") :])
    stages = re.sub(r"batch_size: \d+", "batch_size: 16", stages).replace("warmup_epochs: 5", "warmup_epochs: 0")
    stages = stages.replace("end_epoch: 6", "end_epoch: 1").replace("frequency: 100", "frequency: 1")
    path = tmp_path / "images.yaml"
    path.write_text(
        "extends: imagenet-mobilenet_v1\n"
        f"dataset: {{name: imagenet, directory: {images}, image_size: 32}}\n"
        "initial_weights: null\nthreads: 1\nvalidation_fraction: 0.25\ncalibration_examples: 8\n"
        f"model: {{name: {request.param}}}\n{stages}"
    )
    return path


@pytest.mark.timeout(600)
def test_images_in_folders_run_through_the_stages(experiment_file, tmp_path, monkeypatch):
    monkeypatch.setattr(loading, "DATA", tmp_path)
    run = Run(loading.load(str(experiment_file)), tmp_path / "report", experiment_file, tmp_path / "stages")
    sparse, both = run.stage("sparse_clustered"), run.stage("pcqat")
    assert (len(run.data.train), len(run.data.validation), len(run.data.test)) == (27, 9, 12)
    assert run.data.input_shape == (32, 32, 3)
    for one in (sparse, both):
        assert one.result["preserved"], list(one.layers["defect"])
        assert one.result["sparsity"] >= 0.49  # clustering may add zeros
        assert one.result["unique_weights"] <= 64
    assert both.result["gzip_bytes"] < 0.6 * both.result["tflite_bytes"]
