"""Models by name: their sizes, their seeds, and TFMOT's wrappers around them."""

import functools
import typing

import numpy as np
import pytest
from named_models import SIZES, build_named, build_once

from collabopt import models
from collabopt.config import sections
from collabopt.config.loading import DATA
from collabopt.datasets import mfcc, speech_commands
from collabopt.models import weights
from collabopt.runtime.tensorflow import keras, tfmot


def compute_accuracy(model: keras.Model, inputs: np.ndarray, labels: np.ndarray) -> float:
    return float(np.mean(model.predict(inputs, batch_size=256, verbose=0).argmax(1) == labels))


def test_every_name_of_an_experiment_has_a_model():
    names = typing.get_args(typing.get_args(sections.Model.model_fields["name"].annotation)[0])
    assert set(models.FAMILIES) == set(names) == set(SIZES)


@pytest.mark.parametrize("name", SIZES)
def test_size_and_logits(name):
    model = build_once(name)
    examples = np.random.default_rng(0).uniform(-1, 1, (4, *SIZES[name][0])).astype(np.float32)
    outputs = model(examples).numpy()
    assert model.count_params() == SIZES[name][2]
    assert model.input.dtype == outputs.dtype == np.float32
    assert outputs.shape == (4, SIZES[name][1])
    assert not np.allclose(outputs.sum(axis=1), 1)  # probabilities would sum to 1


@pytest.mark.parametrize("name", SIZES)
def test_one_seed_gives_the_same_names_and_weights(name):
    built = build_once(name), build_named(name)
    names, other_names = ([layer.name for layer in model.layers] for model in built)
    arrays, other_arrays = map(weights.get_arrays, built)
    assert names == other_names
    assert all(np.array_equal(array, other_arrays[key]) for key, array in arrays.items())


def test_another_seed_gives_other_kernels():
    arrays, others = (weights.get_arrays(build_named("digits_cnn", seed)) for seed in (1, 2))
    assert not any(np.array_equal(array, others[key]) for key, array in arrays.items() if key.endswith("kernel"))


@pytest.mark.parametrize(
    "name",
    [
        *("digits_cnn", "mnist_cnn", "ds_cnn_s"),
        *(pytest.param(name, marks=pytest.mark.slow) for name in ("mobilenet_v1", "mobilenet_v2")),
    ],
)
def test_tfmot_wraps_convolutions_and_dense_layers(name):
    model = build_once(name)
    kinds = (keras.layers.Conv2D, keras.layers.Dense)
    for wrap in (
        tfmot.sparsity.keras.prune_low_magnitude,
        functools.partial(
            tfmot.clustering.keras.cluster_weights,
            number_of_clusters=4,
            cluster_centroids_init=tfmot.clustering.keras.CentroidInitialization.LINEAR,
        ),
    ):
        clone = keras.models.clone_model(model)
        wrapped = keras.models.clone_model(
            clone, clone_function=lambda layer, wrap=wrap: wrap(layer) if type(layer) in kinds else layer
        )
        count = sum(type(layer) in kinds for layer in model.layers)
        assert count == sum(isinstance(layer, keras.layers.Wrapper) for layer in wrapped.layers) > 0


@pytest.mark.parametrize("name", ["digits_cnn", "mnist_cnn", "ds_cnn_s"])
def test_tfmot_quantizes(name):
    api = tfmot.quantization.keras
    quantized = api.quantize_apply(api.quantize_annotate_model(keras.models.clone_model(build_once(name))))
    assert quantized.output_shape == (None, SIZES[name][1])


def test_digits_cnn_learns_the_digits():
    from sklearn.datasets import load_digits

    digits = load_digits()
    images, labels = (digits.images[..., np.newaxis] / 16).astype(np.float32), digits.target
    order = np.random.default_rng(0).permutation(len(labels))
    train, test = order[360:], order[:360]
    model = build_named("digits_cnn")
    model.compile(keras.optimizers.Adam(3e-3), keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    model.fit(images[train], labels[train], batch_size=32, epochs=8, verbose=0)
    assert compute_accuracy(model, images[test], labels[test]) >= 0.97


@pytest.mark.slow
def test_ds_cnn_l_recognizes_speech_commands():
    folder, trained = DATA / "speech_commands" / "test", DATA / "weights" / "ds_cnn_l_speech_commands.npz"
    if not (folder.is_dir() and trained.is_file()):
        pytest.skip(f"needs {folder} and {trained}")
    clips = [(path, label) for label, word in enumerate(speech_commands.CLASSES) for path in (folder / word).glob("*")]
    assert len(clips) == 1_509
    model = build_named("ds_cnn_l")
    weights.assign(model, weights.read(trained))
    features = mfcc.read_features([path for path, _ in clips])
    assert compute_accuracy(model, features, np.array([label for _, label in clips])) == pytest.approx(
        0.9158, abs=0.0007
    )


@pytest.mark.slow
def test_mobilenet_v1_recognizes_cifar10():
    archive, trained = DATA / "cifar10.npz", DATA / "weights" / "mobilenet_v1_cifar10.npz"
    if not (archive.is_file() and trained.is_file()):
        pytest.skip(f"needs {archive} and {trained}")
    model = build_named("mobilenet_v1")
    weights.assign(model, weights.read(trained))
    with np.load(archive) as data:
        images, labels = data["x_test"], data["y_test"].ravel()
    assert compute_accuracy(model, images / np.float32(127.5) - 1, labels) == pytest.approx(0.9016, abs=0.0002)


def test_inputs_that_do_not_fit_a_named_model():
    for name, shape, message in (
        ("digits_cnn", (8, 8), r"expected \(height, width, channels\)"),
        ("mnist_cnn", (2, 2, 1), "."),
        ("mobilenet_v1", (8, 8, 3), "expected sides of at least 16 pixels"),
    ):
        with pytest.raises(models.ModelError, match=rf"^name={name}, input_shape=\({shape[0]}, .*: .*{message}"):
            models.build(sections.Model(name=name), shape, (10,))


def test_the_code_digest_tells_models_apart():
    given = [sections.Model(name=name) for name in SIZES]
    digests = [models.compute_code_digest(section) for section in given]
    assert len(set(digests)) == len(given)
    assert digests == [models.compute_code_digest(section) for section in given]
