"""The ImageNet experiment end to end, on a folder of generated pictures: streamed, pruned, clustered and quantized."""

import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from collabopt.config import loading
from collabopt.models import ModelError, mobilenet, pretrained
from collabopt.run import Run

CLASSES = ("n01", "n02", "n03")


@pytest.fixture(scope="module")
def pictures(tmp_path_factory) -> Path:
    """Pictures of various sizes in ImageNet's layout, 12 a class to train on and 4 to test; a class has a colour."""
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


@pytest.fixture
def plan(pictures, tmp_path) -> Path:
    """The committed experiment on small pictures, from scratch, an epoch a stage."""
    text = (loading.EXPERIMENTS / "imagenet-mobilenet_v1.yaml").read_text(encoding="utf-8")
    stages = re.sub(r"(?<![_a-z])epochs: \d+", "epochs: 1", text[text.index("stages:") :])
    stages = re.sub(r"batch_size: \d+", "batch_size: 16", stages).replace("warmup_epochs: 5", "warmup_epochs: 0")
    stages = stages.replace("end_epoch: 6", "end_epoch: 1").replace("frequency: 100", "frequency: 1")
    path = tmp_path / "pictures.yaml"
    path.write_text(
        "extends: imagenet-mobilenet_v1\n"
        f"dataset: {{name: imagenet, directory: {pictures}, image_size: 32}}\n"
        "initial_weights: null\nthreads: 1\nvalidation_fraction: 0.25\ncalibration_examples: 8\n" + stages
    )
    return path


@pytest.mark.timeout(600)
def test_pictures_in_folders_go_through_the_tree(plan, tmp_path, monkeypatch):
    monkeypatch.setattr(loading, "DATA", tmp_path)
    run = Run(loading.load(str(plan)), tmp_path / "report", plan, tmp_path / "stages")
    sparse, both = run.stage("sparse_clustered"), run.stage("pcqat")
    assert (len(run.data.train), len(run.data.validation), len(run.data.test)) == (27, 9, 12)
    assert run.data.input_shape == (32, 32, 3)
    for one in (sparse, both):
        assert one.result["preserved"], list(one.layers["defect"])
        assert one.result["sparsity"] == pytest.approx(0.5, abs=0.01)
        assert one.result["unique_weights"] <= 64
    assert both.result["gzip_bytes"] < 0.6 * both.result["tflite_bytes"]


def test_missing_weights_of_a_known_name_are_made_whole(tmp_path, monkeypatch):
    arrays = {"conv1/kernel": np.ones((3, 3), np.float32)}
    monkeypatch.setattr(mobilenet, "imagenet_weights", lambda _: arrays)
    path = tmp_path / "weights" / "mobilenet_v1_imagenet.npz"
    pretrained.ensure(path)
    with np.load(path) as file:
        np.testing.assert_array_equal(file["conv1/kernel"], arrays["conv1/kernel"])
    monkeypatch.setattr(mobilenet, "imagenet_weights", None)  # and are not made again
    pretrained.ensure(path)
    pretrained.ensure(tmp_path / "mine.npz")
    assert sorted(path.name for path in tmp_path.rglob("*.npz")) == ["mobilenet_v1_imagenet.npz"]


def test_weights_that_cannot_be_downloaded_leave_nothing(tmp_path, monkeypatch):
    def fail(name: str):
        raise ModelError(f"weights=imagenet: no network for {name}")

    monkeypatch.setattr(mobilenet, "imagenet_weights", fail)
    with pytest.raises(ModelError, match="no network for mobilenet_v2"):
        pretrained.ensure(tmp_path / "mobilenet_v2_imagenet.npz")
    assert list(tmp_path.iterdir()) == []
