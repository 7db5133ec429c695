"""MobileNet: small images, and weights trained on ImageNet."""

import numpy as np
import pytest

from collabopt import models
from collabopt.config import sections
from collabopt.models import ModelError, mobilenet
from collabopt.runtime.tensorflow import keras


@pytest.mark.parametrize(
    ("name", "side", "stride"), [("mobilenet_v1", 63, 1), ("mobilenet_v1", 64, 2), ("mobilenet_v2", 32, 1)]
)
def test_the_stem_keeps_the_size_of_small_images(name, side, stride):
    model = models.build(sections.Model(name=name), (side, side, 3), (10,))
    stem = model.get_layer(mobilenet.APPLICATIONS[name][1])
    assert stem.strides == (stride, stride)
    assert stem.output_shape[1:3] == (side // stride, side // stride)


def test_the_smallest_image_has_a_last_map_of_one_pixel():
    model = models.build(sections.Model(name="mobilenet_v1"), (mobilenet.SMALLEST, mobilenet.SMALLEST, 3), (10,))
    assert model.get_layer("pool").input_shape[1:3] == (1, 1)


def test_mobilenet_v2_pads_by_the_sizes_of_its_maps():
    model = models.build(sections.Model(name="mobilenet_v2"), (36, 36, 3), (10,))
    pads = [layer for layer in model.layers if isinstance(layer, keras.layers.ZeroPadding2D)]
    assert len(pads) == 4
    for pad in pads:
        before = pad.input_shape[1] % 2  # an odd map is padded on both sides, an even map at its end
        assert pad.padding == ((before, 1), (before, 1))


@pytest.mark.parametrize("name", ["mobilenet_v1", pytest.param("mobilenet_v2", marks=pytest.mark.slow)])
def test_weights_of_keras_applications_fit(name, monkeypatch):
    builder, _ = mobilenet.APPLICATIONS[name]
    application = getattr(keras.applications, builder)
    pretrained = application(weights=None, classifier_activation=None)
    monkeypatch.setattr(keras.applications, builder, replace_download(application, pretrained))
    model = getattr(mobilenet, name)((224, 224, 3), 1000, weights="imagenet")
    image = np.random.default_rng(0).uniform(-1, 1, (1, 224, 224, 3)).astype(np.float32)
    np.testing.assert_allclose(model(image), pretrained(image), atol=1e-5)


def replace_download(application, pretrained):
    """Return the application, but with `pretrained` instead of a download."""
    return lambda **keys: pretrained if keys["weights"] == "imagenet" else application(**keys)


def test_a_failed_download_of_imagenet_weights_is_one_line(monkeypatch):
    def offline(**_):
        raise Exception("URL fetch failure on https://...: None --\nName or service not known")

    monkeypatch.setattr(keras.applications, "MobileNet", offline)
    with pytest.raises(ModelError, match=r"^weights=imagenet: .*mobilenet_v1.*URL fetch failure") as caught:
        mobilenet.download_imagenet_weights("mobilenet_v1")
    assert "\n" not in str(caught.value)


def test_imagenet_weights_that_do_not_fit_are_rejected():
    with pytest.raises(ModelError, match=r"weights=imagenet.*classes=10: expected .* 1000"):
        mobilenet.mobilenet_v1((224, 224, 3), 10, weights="imagenet")
    with pytest.raises(ModelError, match="weights=coco: expected None or imagenet"):
        mobilenet.mobilenet_v1((224, 224, 3), 1000, weights="coco")
    with pytest.raises(ModelError, match="model_name=resnet: expected one of mobilenet_v1"):
        mobilenet.download_imagenet_weights("resnet")


def test_missing_imagenet_weights_are_written_once(tmp_path, monkeypatch):
    arrays = {"conv1/kernel": np.ones((3, 3), np.float32)}
    monkeypatch.setattr(mobilenet, "download_imagenet_weights", lambda _: arrays)
    path = tmp_path / "weights" / "mobilenet_v1_imagenet.npz"
    mobilenet.ensure_imagenet_weights(path)
    with np.load(path) as file:
        np.testing.assert_array_equal(file["conv1/kernel"], arrays["conv1/kernel"])
    monkeypatch.setattr(mobilenet, "download_imagenet_weights", None)  # a second download would fail
    mobilenet.ensure_imagenet_weights(path)
    mobilenet.ensure_imagenet_weights(tmp_path / "mine.npz")
    assert sorted(path.name for path in tmp_path.rglob("*.npz")) == ["mobilenet_v1_imagenet.npz"]


def test_a_failed_download_leaves_no_file(tmp_path, monkeypatch):
    def fail(name: str):
        raise ModelError(f"weights=imagenet: no network for {name}")

    monkeypatch.setattr(mobilenet, "download_imagenet_weights", fail)
    with pytest.raises(ModelError, match="no network for mobilenet_v2"):
        mobilenet.ensure_imagenet_weights(tmp_path / "mobilenet_v2_imagenet.npz")
    assert list(tmp_path.iterdir()) == []
