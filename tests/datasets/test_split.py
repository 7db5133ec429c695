"""Batches are repeatable by seed and epoch, and labels stay with their examples."""

import dataclasses

import numpy as np
from example_data import make_arrays, make_images

from collabopt.datasets import Split, cifar10


def read_order(split: Split, seed: int, epochs: range, batch_size: int = 8) -> np.ndarray:
    batches = split.training_batches(batch_size, seed, epochs)
    return np.concatenate([x.numpy().ravel() for x, _ in batches]).reshape(len(epochs), -1)


def test_every_epoch_has_its_own_permutation() -> None:
    arrays = make_arrays()
    split = Split(arrays["x_train"], arrays["y_train"])
    epochs = read_order(split, 0, range(3))
    assert all(sorted(epoch) == list(range(60)) for epoch in epochs)
    assert not np.array_equal(epochs[0], epochs[1])
    assert np.array_equal(epochs[1:], read_order(split, 0, range(1, 3)))
    assert not np.array_equal(epochs[0], read_order(split, 1, range(1))[0])


def test_labels_stay_with_their_examples() -> None:
    arrays = make_arrays()
    split = Split(arrays["x_train"], arrays["y_train"])
    for batches in (split.batches(7), split.training_batches(7, 0, range(2))):
        for x, y in batches:
            assert np.array_equal(x.numpy().ravel() % 3, y.numpy())


def test_augmentation_is_the_same_from_any_epoch() -> None:
    split = Split(make_images(), np.arange(12) % 10, cifar10.prepare, cifar10.augment)
    whole = [x.numpy() for x, _ in split.training_batches(5, 4, range(2))]
    second = [x.numpy() for x, _ in split.training_batches(5, 4, range(1, 2))]
    assert [len(batch) for batch in whole] == [5, 5, 2] * 2
    assert all(np.array_equal(one, other) for one, other in zip(whole[3:], second, strict=True))
    plain = dataclasses.replace(split, augment=None)
    prepared = {example.numpy().tobytes() for x, _ in plain.training_batches(5, 4, range(1)) for example in x}
    assert prepared == {example.tobytes() for example in cifar10.prepare(make_images()).numpy()}


def test_examples_keep_their_places_and_anomalies_do_not_count() -> None:
    split = Split(np.arange(12.0).reshape(6, 2), np.array([0, 1, 0, 0, 2, 0]), reconstructs=True)
    some = split.take(np.array([4, 3, 1])).take(np.array([1, 2]))
    assert some.places.tolist() == [3, 1]
    assert some.examples[some.counted].tolist() == [[6, 7]]
    assert dataclasses.replace(some, reconstructs=False).counted == slice(None)
    assert some.compute_digests() == [split.compute_digests()[place] for place in (3, 1)]
    assert some.fingerprint() == Split(split.examples[[3, 1]], split.labels[[3, 1]]).fingerprint()
