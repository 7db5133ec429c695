"""Splits are disjoint, complete and repeatable by seed, and every mistake is named."""

from pathlib import Path

import numpy as np
import pytest
from example_data import make_arrays, make_experiment, write_npz

from collabopt import datasets
from collabopt.config.loading import DATA, ROOT
from collabopt.datasets import DatasetError, Split, locate, splitting


def collect_examples(split: Split) -> set[bytes]:
    return {example.tobytes() for example in split.examples}


@pytest.mark.parametrize("fraction", [0.05, 0.3, 0.9])
def test_train_and_validation_are_disjoint_and_complete(tmp_path: Path, fraction: float) -> None:
    data = datasets.load(make_experiment(dataset={"path": str(write_npz(tmp_path))}, validation_fraction=fraction))
    train, validation = collect_examples(data.train), collect_examples(data.validation)
    assert len(validation) == round(fraction * 60)
    assert not train & validation
    assert train | validation == {example.tobytes() for example in make_arrays()["x_train"]}
    assert collect_examples(data.test) == {example.tobytes() for example in make_arrays()["x_test"]}


def test_seed_decides_validation_but_not_test() -> None:
    first, again, other = (datasets.load(make_experiment(seed=seed)) for seed in (1, 1, 2))
    assert first.validation.fingerprint() == again.validation.fingerprint()
    assert first.train.fingerprint() == again.train.fingerprint()
    assert first.validation.fingerprint() != other.validation.fingerprint()
    assert first.test.fingerprint() == other.test.fingerprint()
    assert first.fingerprint == other.fingerprint


def test_every_split_of_the_digits_has_every_class() -> None:
    data = datasets.load(make_experiment(train_fraction=0.05))
    assert (data.input_shape, len(data.classes), len(data.test)) == ((8, 8, 1), 10, 359)
    for split in (data.train, data.validation, data.test):
        counts = np.bincount(split.labels, minlength=10)
        assert counts.min() >= 1 and counts.max() - counts.min() <= 4
    inputs = next(iter(data.test.batches(16)))[0].numpy()
    assert inputs.shape == (16, 8, 8, 1) and inputs.dtype == np.float32
    assert inputs.min() == 0 and inputs.max() == 1


def test_every_prefix_of_the_stratified_order_has_the_class_proportions() -> None:
    labels = np.repeat([0, 1, 2], [10, 100, 890])
    order = splitting.draw_stratified_order(labels, 3)
    assert sorted(order) == list(range(1000))
    for count in (1, 50, 100, 333, 999):
        shares = np.bincount(labels[order[:count]], minlength=3)
        assert np.abs(shares - count * np.array([0.01, 0.1, 0.89])).max() < 2


def test_train_fraction_changes_only_train_and_nests() -> None:
    whole, half, tenth = (datasets.load(make_experiment(train_fraction=fraction)) for fraction in (1.0, 0.5, 0.1))
    assert len(half.train) == round(0.5 * len(whole.train))
    assert whole.validation.fingerprint() == half.validation.fingerprint() == tenth.validation.fingerprint()
    assert whole.test.fingerprint() == half.test.fingerprint()
    assert collect_examples(tenth.train) < collect_examples(half.train) < collect_examples(whole.train)
    assert half.fingerprint == whole.fingerprint


def test_listed_examples_become_validation(tmp_path: Path) -> None:
    np.save(tmp_path / "listed.npy", np.array([59, 3, 7], np.int32))
    data = datasets.load(make_experiment(tmp_path / "listed.npy", dataset={"path": str(write_npz(tmp_path))}))
    assert sorted(data.validation.examples[:, 0]) == [3, 7, 59]
    assert sorted(data.train.examples[:, 0]) == sorted(set(range(60)) - {3, 7, 59})


@pytest.mark.parametrize(
    ("indices", "message"),
    [
        ([3, 60], "60 is out of range; expected 0 to 59"),
        ([-1], "-1 is out of range"),
        ([3, 3], "an index twice"),
        ([], "expected one array of integers|holds 0 of 60"),
        (np.arange(60), "holds 60 of 60"),
        ([0.5], "integers"),
        ([[1]], "integers"),
    ],
)
def test_wrong_validation_indices_are_named(tmp_path: Path, indices: object, message: str) -> None:
    np.save(tmp_path / "listed.npy", np.asarray(indices))
    with pytest.raises(DatasetError, match=rf"validation_indices=.*listed\.npy: .*({message})"):
        datasets.load(make_experiment(tmp_path / "listed.npy", dataset={"path": str(write_npz(tmp_path))}))


def test_missing_or_superfluous_validation_indices_are_named(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match=r"validation_indices=.*none\.npy: no such file"):
        datasets.load(make_experiment(tmp_path / "none.npy", dataset={"path": str(write_npz(tmp_path))}))
    (tmp_path / "damaged.npy").write_bytes(b"not an array")
    with pytest.raises(DatasetError, match=r"validation_indices=.*damaged\.npy: not a readable"):
        datasets.load(make_experiment(tmp_path / "damaged.npy", dataset={"path": str(write_npz(tmp_path))}))
    own_validation = write_npz(tmp_path, x_validation=make_arrays()["x_test"], y_validation=make_arrays()["y_test"])
    with pytest.raises(DatasetError, match="has its own validation split"):
        datasets.load(make_experiment("data/listed.npy", dataset={"path": str(own_validation)}))


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"train_fraction": 0.03}, r"train_fraction=0\.03: leaves 2 of 54 training examples for 3 classes"),
        ({"validation_fraction": 0.001}, r"validation_fraction=0\.001: 0 of 60"),
        ({"validation_fraction": 0.999}, r"validation_fraction=0\.999: 60 of 60"),
    ],
)
def test_fractions_that_leave_too_few_examples_are_named(tmp_path: Path, values: dict, message: str) -> None:
    with pytest.raises(DatasetError, match=message):
        datasets.load(make_experiment(dataset={"path": str(write_npz(tmp_path))}, **values))


def test_paths_beginning_with_data_are_below_the_data_directory(tmp_path: Path, monkeypatch) -> None:
    assert locate("data/weights/w.npz", tmp_path) == tmp_path / "weights" / "w.npz"
    assert locate("notebooks/w.npz", tmp_path) == ROOT / "notebooks" / "w.npz"
    assert locate(str(tmp_path / "w.npz"), DATA) == tmp_path / "w.npz"
    monkeypatch.chdir(tmp_path)
    (tmp_path / "only_here.npz").touch()
    assert locate("only_here.npz", DATA) == tmp_path / "only_here.npz"


@pytest.mark.parametrize("seed", range(5))
def test_no_group_is_on_both_sides_and_every_class_stays(tmp_path: Path, seed: int) -> None:
    groups = np.repeat([f"speaker {number}" for number in range(12)], 5)
    for arrays in ({"groups_train": groups}, {"groups": groups}):
        path = write_npz(tmp_path, **arrays)
        data = datasets.load(make_experiment(dataset={"path": str(path)}, validation_fraction=0.2, seed=seed))
        own, held_out = (set(groups[split.examples[:, 0].astype(int)]) for split in (data.train, data.validation))
        assert not own & held_out and own | held_out == set(groups)
        assert abs(len(data.validation) - 12) <= 3
        assert set(data.train.labels) == {0, 1, 2}


def test_groups_that_cannot_be_held_out_are_named(tmp_path: Path) -> None:
    for groups, message in (
        (np.zeros(60), "all 60 training examples are in group 0.0; expected at least two groups"),
        (np.arange(60) % 3, "each of the 3 groups has a class that no other group has"),
    ):
        with pytest.raises(DatasetError, match=message):
            datasets.load(make_experiment(dataset={"path": str(write_npz(tmp_path, groups_train=groups))}))
    # One large group: the smallest is held out.
    labels, groups = np.arange(60) % 3, np.repeat([0, 1, 2], [40, 12, 8])
    assert set(groups[splitting.draw_groups(labels, groups, 1, 0)]) == {2}
