"""Augmentation layers of a user's model change the inputs in training, as a function of a seed, and nothing else."""

import dataclasses

import numpy as np
import pytest
from user_networks import BOTH

from collabopt.models import importing
from collabopt.runtime import progress
from collabopt.runtime.tensorflow import keras, seed_everything, tf
from collabopt.techniques import training
from collabopt.techniques.checkpoints import Checkpoint

IN_BOTH = pytest.mark.parametrize("package", BOTH.values(), ids=BOTH)
IMAGES = np.random.default_rng(0).uniform(0, 255, (6, 8, 8, 1)).astype(np.float32)


def import_network(package, *first) -> importing.Imported:
    k = package.layers
    return importing.import_model(
        lambda: package.Sequential([package.Input((8, 8, 1)), *first, k.Conv2D(2, 3), k.Flatten(), k.Dense(10)])
    )


def make_random_layers(k) -> list:
    return [
        k.RandomFlip("horizontal"),
        k.RandomRotation(0.1),
        k.RandomZoom(0.2),
        k.RandomTranslation(0.1, 0.1),
        k.RandomContrast(0.2),
        k.RandomBrightness(0.2),
    ]


@IN_BOTH
def test_every_random_layer_is_a_function_of_the_seed(package):
    for layer in make_random_layers(package.layers):
        augmentation = import_network(package, layer).augmentation
        one, again, other = (augmentation(IMAGES, tf.constant([3, seed])).numpy() for seed in (1, 1, 2))
        assert one.shape == IMAGES.shape
        np.testing.assert_array_equal(one, again)
        assert (one != other).any() and (one != IMAGES).any(), layer


def test_a_random_layer_does_what_keras_does():
    augmentation = import_network(keras, keras.layers.RandomFlip("horizontal")).augmentation
    flipped = augmentation(IMAGES, tf.constant([0, 0])).numpy()
    for before, after in zip(IMAGES, flipped, strict=True):
        assert (after == before).all() or (after == before[:, ::-1]).all()


def test_two_layers_of_a_kind_draw_different_numbers():
    one, two = (
        import_network(keras, *(keras.layers.RandomFlip("horizontal") for _ in range(count))).augmentation
        for count in (1, 2)
    )
    assert any(
        (one(IMAGES, tf.constant([0, seed])).numpy() != two(IMAGES, tf.constant([0, seed])).numpy()).any()
        for seed in range(3)
    )


@IN_BOTH
def test_rescaling_before_augmentation_stays_in_the_model(package):
    """The augmentation maps inputs to inputs, whatever the range in which the user's layers work."""
    k = package.layers
    imported = import_network(package, k.Rescaling(1 / 127.5, offset=-1), k.RandomFlip(), k.Rescaling(2.0))
    assert [type(layer).__name__ for layer in imported.model.layers].count("Rescaling") == 2
    flipped = imported.augmentation(IMAGES, tf.constant([0, 1])).numpy()
    np.testing.assert_allclose(np.sort(flipped, axis=None), np.sort(IMAGES, axis=None), atol=1e-3)
    assert (flipped != IMAGES).any()


def test_nested_augmentation_is_found_and_a_later_one_is_dropped_with_a_line():
    layers = keras.layers
    nested = keras.Sequential([layers.RandomFlip(), layers.RandomRotation(0.1)], name="data_augmentation")
    imported = import_network(keras, nested, layers.Conv2D(1, 1), layers.RandomFlip(name="late"))
    assert imported.rewrites == [
        "Models inside the model were replaced by their layers: data_augmentation",
        "Augmentation layers act in training only: random_flip_1, random_rotation_1",
        "Dropped augmentation layers that Keras 2 lacks or that other layers precede: late",
    ]


def test_networks_without_augmentation_have_none():
    assert import_network(keras, keras.layers.Rescaling(1 / 255)).augmentation is None


def test_training_that_continues_ends_with_the_same_weights(tiny_data, tmp_path, monkeypatch):
    first = [keras.layers.RandomFlip(), keras.layers.RandomTranslation(0.2, 0.2)]
    imported = import_network(keras, *first)
    section = training.Training(epochs=2, batch_size=64, optimizer="adam", learning_rate=0.01)
    kept, plain = imported.model.get_weights(), tiny_data
    augmented = dataclasses.replace(tiny_data, augmentation=imported.augmentation)

    def train(data, checkpoint: Checkpoint = training.NO_CHECKPOINT) -> list[np.ndarray]:
        seed_everything(0)
        model = keras.models.clone_model(imported.model)
        model.set_weights(kept)
        training.fit(model, data, section, 0, "baseline", progress.Clock(), checkpoint=checkpoint)
        return model.get_weights()

    def stop(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    whole, checkpoint = train(augmented), Checkpoint(tmp_path / "epoch.npz")
    save = Checkpoint.save
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(Checkpoint, "save", lambda *args: (save(*args), stop()))
        train(augmented, checkpoint)
    for one, other in zip(whole, train(augmented, checkpoint), strict=True):
        np.testing.assert_array_equal(one, other)
    assert any((one != other).any() for one, other in zip(whole, train(plain), strict=True))
