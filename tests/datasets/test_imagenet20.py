"""The models of the experiments imagenet20: what they compute does not change when their batch norms get statistics."""

import importlib.util

import numpy as np
import PIL.Image
import pytest

from collabopt.config import loading
from collabopt.runtime.tensorflow import keras

SIZE = 32


@pytest.fixture(scope="module")
def imagenet20():
    """The module beside the experiments."""
    spec = importlib.util.spec_from_file_location("imagenet20", loading.EXPERIMENTS / "imagenet20.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def write_pictures(directory, rng) -> None:
    for split in ("train", "validation"):
        for name in "ab":
            folder = directory / "imagenet20" / split / name
            folder.mkdir(parents=True)
            for n in range(4):
                PIL.Image.fromarray(rng.integers(0, 256, (40, 40, 3), np.uint8)).save(folder / f"{n}.JPEG")


def test_restored_statistics_change_no_output_and_fit_training(imagenet20, tmp_path, monkeypatch):
    rng = np.random.default_rng(0)
    write_pictures(tmp_path, rng)
    monkeypatch.setattr(imagenet20, "DATA", tmp_path)
    norm = keras.layers.BatchNormalization
    layers = keras.layers.Conv2D(8, 3, use_bias=False), norm(), keras.layers.ReLU(), norm(), keras.layers.Flatten()
    model = keras.Sequential([keras.Input((SIZE, SIZE, 3)), *layers])
    for layer in (layers[1], layers[3]):
        layer.set_weights([np.ones(8), rng.normal(size=8), np.zeros(8), np.full(8, 0.999)])
    inputs = rng.uniform(-1, 1, (16, SIZE, SIZE, 3)).astype(np.float32)
    before, kept = model.predict(inputs, verbose=0), model.get_weights()
    trained_before = model(inputs, training=True).numpy()  # moves the statistics
    model.set_weights(kept)
    imagenet20.restore_statistics(model, (SIZE, SIZE, 3))
    after, trained = model.predict(inputs, verbose=0), model(inputs, training=True).numpy()
    np.testing.assert_allclose(after, before, atol=1e-4)
    assert np.abs(trained - before).mean() < 0.5 * np.abs(trained_before - before).mean()


def test_the_head_has_the_columns_of_the_folders(imagenet20, tmp_path, monkeypatch):
    monkeypatch.setattr(imagenet20, "DATA", tmp_path)
    full = imagenet20.mobilenet.mobilenet_v1((SIZE, SIZE, 3), 1000)
    arrays = imagenet20.weights.get_arrays(full)
    arrays["predictions/bias"] = np.arange(1000.0)
    (tmp_path / "weights").mkdir()
    np.savez(tmp_path / "weights" / "mobilenet_v1_imagenet.npz", **arrays)
    cut = imagenet20.mobilenet_v1((SIZE, SIZE, 3), 20)
    kernel, bias = cut.get_layer("predictions").get_weights()
    assert list(imagenet20.CLASSES) == sorted(imagenet20.CLASSES)
    assert list(bias) == list(imagenet20.CLASSES.values())
    np.testing.assert_array_equal(kernel, arrays["predictions/kernel"][:, bias.astype(int)])
    with pytest.raises(ValueError, match="classes=10: expected the 20 folders n01440764"):
        imagenet20.mobilenet_v1((SIZE, SIZE, 3), 10)
