"""Models that people published are imported, and every way to save a model is read."""

from pathlib import Path

import numpy as np
import pytest
from user_networks import NETWORKS, keras_3, randomize

from collabopt.models import importing
from collabopt.runtime.tensorflow import keras, tfmot
from collabopt.techniques import int8_rewrites

PUBLISHED = Path(__file__).parents[2] / ".." / "shared" / "models"
ACTIVATIONS = {
    "acoustic_autoencoder.keras": "sigmoid",
    "ad01.h5": None,
    "fer2013_mini_xception.hdf5": "softmax",
    "hand_keypoint_classifier.hdf5": "softmax",
    "har_cnn1d.keras": "softmax",
    "har_lstm.keras": "softmax",
    "mnist_kilj4eden.h5": "softmax",
    "network_intrusion_binary.h5": "sigmoid",
    "resnet8_cifar10.h5": "softmax",
    "vww_96.h5": "softmax",
    "waste_teachable_machine.h5": "softmax",
}
SLOW = ("acoustic_autoencoder.keras", "har_cnn1d.keras", "har_lstm.keras", "vww_96.h5", "waste_teachable_machine.h5")


@pytest.mark.skipif(not PUBLISHED.is_dir(), reason="the published models are not here")
@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=pytest.mark.slow if name in SLOW else ()) for name in ACTIVATIONS]
)
def test_published_models(name):
    imported = importing.import_model(PUBLISHED / name)
    assert imported.output_activation == ACTIVATIONS[name]
    assert set(int8_rewrites.find_layers_without_qat(imported.model).values()) == (
        {"LSTM"} if name == "har_lstm.keras" else set()
    )


@pytest.mark.skipif(not PUBLISHED.is_dir(), reason="the published models are not here")
def test_published_weights_are_refused():
    with pytest.raises(importing.ImportRefused, match="holds weights without the architecture"):
        importing.import_model(PUBLISHED / "mtcnn_48net.h5")


def check_saved(path: Path, original, **options) -> importing.Imported:
    """Import a saved model, and compare it with the one that was saved."""
    imported = importing.import_model(path, **options)
    inputs = np.random.default_rng(3).normal(size=(4, *original.input_shape[1:])).astype(np.float32)
    expected = np.asarray(original(inputs, training=False))
    np.testing.assert_allclose(imported.model(inputs), expected, atol=1e-4 * np.abs(expected).max())
    return imported


@pytest.mark.parametrize("name", ["model.h5", "model.hdf5", "model.keras", "savedmodel"])
def test_each_format_of_keras_2(tmp_path, name):
    original = randomize(NETWORKS["norm_after_relu"](keras))
    original.save(tmp_path / name)
    check_saved(tmp_path / name, original)


@pytest.mark.parametrize("name", [pytest.param("model.h5", marks=pytest.mark.slow), "model.keras"])
def test_each_format_of_keras_3(tmp_path, name):
    original = randomize(NETWORKS["norm_after_relu"](keras_3))
    original.save(tmp_path / name)
    examples = np.random.default_rng(4).uniform(0, 1, (5, 8, 8, 3)).astype(np.float32)
    check_saved(tmp_path / name, original, examples=examples)


def test_real_inputs_take_part_in_the_proof(monkeypatch):
    model = randomize(keras.Sequential([keras.Input((3,)), keras.layers.ReLU(), keras.layers.Dense(2)]))
    examples = np.full((2, 3), 1e6, np.float32)
    monkeypatch.setattr(
        importing.rewrites,
        "rewrite",
        lambda graph: graph.get("re_lu_1").config.update(max_value=1e5) or [],
    )
    importing.import_model(lambda: model)
    with pytest.raises(importing.ImportRefused, match="other outputs"):
        importing.import_model(lambda: model, examples=examples)


@pytest.mark.parametrize("saved", [True, False], ids=["file", "function"])
def test_half_precision_becomes_float32_and_the_policy_stays(tmp_path, saved):
    def build():
        keras.mixed_precision.set_global_policy("mixed_float16")
        return keras.Sequential([keras.Input((3,)), keras.layers.Dense(4, "relu"), keras.layers.Dense(2)])

    if saved:
        build().save(tmp_path / "model.h5")
        keras.mixed_precision.set_global_policy("float32")
    imported = importing.import_model(tmp_path / "model.h5" if saved else build)
    assert keras.mixed_precision.global_policy().name == "float32"
    assert {layer.compute_dtype for layer in imported.model.layers} == {"float32"}
    assert imported.rewrites[0].startswith("Half precision")


def check_saved_logits(path: Path, original) -> importing.Imported:
    """The same for a model whose softmax is taken off."""
    imported = importing.import_model(path)
    inputs = np.random.default_rng(3).normal(size=(4, *original.input_shape[1:])).astype(np.float32)
    np.testing.assert_allclose(keras.activations.softmax(imported.model(inputs)), original(inputs), atol=1e-4)
    return imported


@pytest.mark.parametrize("wrapper", ["pruning", "clustering"])
def test_wrappers_are_stripped(tmp_path, wrapper):
    plain = randomize(NETWORKS["dense_norm"](keras))
    if wrapper == "pruning":
        wrapped = tfmot.sparsity.keras.prune_low_magnitude(plain)
    else:
        centroids = tfmot.clustering.keras.CentroidInitialization.LINEAR
        wrapped = tfmot.clustering.keras.cluster_weights(plain, 4, centroids)
    wrapped.save(tmp_path / "wrapped.h5")
    imported = importing.import_model(tmp_path / "wrapped.h5")
    assert imported.rewrites[0] == f"Stripped the wrappers of {wrapper}"
    assert not any(hasattr(layer, "layer") for layer in imported.model.layers)


def test_wrappers_of_quantization_are_stripped(tmp_path):
    """Before training, the quantized model holds the weights of the plain one."""
    plain = randomize(NETWORKS["residual"](keras))
    tfmot.quantization.keras.quantize_model(plain).save(tmp_path / "wrapped.h5")
    imported = check_saved_logits(tmp_path / "wrapped.h5", plain)
    assert imported.rewrites[0] == "Stripped the wrappers of quantization"
