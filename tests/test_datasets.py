"""Data sets: what is carved is disjoint and whole, repeats by seed, and every mistake is named."""

import dataclasses
import os
import shutil
import wave
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from collabopt import datasets
from collabopt.config.experiment import Experiment
from collabopt.config.loading import DATA, ROOT
from collabopt.datasets import DatasetError, Split, carve, cifar10, imagenet, located, mfcc, own, speech_commands
from collabopt.runtime.tensorflow import tf

STAGES = ("baseline", "pruned", "clustered", "sparse_clustered", "qat", "pqat", "cqat", "pcqat")
TRAINING = {"epochs": 1, "batch_size": 8, "optimizer": "adam", "learning_rate": 1e-3}


def experiment(validation_indices: Path | str | None = None, **values: object) -> Experiment:
    """An experiment on the digits, with `values` overriding."""
    if validation_indices is not None:
        values["initial_weights"] = {
            "path": "data/w.npz",
            "validation_indices": str(validation_indices),
            "training": TRAINING,
        }
    return Experiment.model_validate(
        {
            "name": "test",
            "dataset": {"name": "digits"},
            "model": {"name": "digits_cnn"},
            "sparsity": 0.5,
            "number_of_clusters": 8,
            "stages": dict.fromkeys(STAGES, TRAINING),
            **values,
        }
    )


def rows(split: Split) -> set[bytes]:
    return {example.tobytes() for example in split.examples}


def numbered(count: int = 60, classes: int = 3) -> dict[str, np.ndarray]:
    """Arrays in which every example is different: its own number."""
    x, y = np.arange(2.0 * count, dtype=np.float32).reshape(-1, 1), np.arange(2 * count) % classes
    return {"x_train": x[:count], "y_train": y[:count], "x_test": x[count:], "y_test": y[count:]}


@pytest.fixture
def npz(tmp_path: Path):
    """A function that writes `numbered` arrays, some overridden or with None left out, and says where."""

    def write(**overrides: object) -> Path:
        arrays = {key: value for key, value in {**numbered(), **overrides}.items() if value is not None}
        np.savez(tmp_path / "own.npz", **arrays)
        return tmp_path / "own.npz"

    return write


# Carving


@pytest.mark.parametrize("fraction", [0.05, 0.3, 0.9])
def test_train_and_validation_are_disjoint_and_whole(npz, fraction: float) -> None:
    data = datasets.load(experiment(dataset={"path": str(npz())}, validation_fraction=fraction))
    train, validation = rows(data.train), rows(data.validation)
    assert len(validation) == round(fraction * 60)
    assert not train & validation
    assert train | validation == {example.tobytes() for example in numbered()["x_train"]}
    assert rows(data.test) == {example.tobytes() for example in numbered()["x_test"]}


def test_seed_decides_the_carve_and_not_the_test_split() -> None:
    first, again, other = (datasets.load(experiment(seed=seed)) for seed in (1, 1, 2))
    assert first.validation.fingerprint() == again.validation.fingerprint()
    assert first.train.fingerprint() == again.train.fingerprint()
    assert first.validation.fingerprint() != other.validation.fingerprint()
    assert first.test.fingerprint() == other.test.fingerprint()
    assert first.fingerprint == other.fingerprint


def test_digits_hold_every_class_in_every_split() -> None:
    data = datasets.load(experiment(train_fraction=0.05))
    assert (data.input_shape, len(data.classes), len(data.test)) == ((8, 8, 1), 10, 359)
    for split in (data.train, data.validation, data.test):
        counts = np.bincount(split.labels, minlength=10)
        assert counts.min() >= 1 and counts.max() - counts.min() <= 4
    inputs = next(iter(data.test.batches(16)))[0].numpy()
    assert inputs.shape == (16, 8, 8, 1) and inputs.dtype == np.float32
    assert inputs.min() == 0 and inputs.max() == 1


def test_any_beginning_of_the_stratified_order_has_the_classes_in_proportion() -> None:
    labels = np.repeat([0, 1, 2], [10, 100, 890])
    order = carve.stratified_order(labels, 3)
    assert sorted(order) == list(range(1000))
    for count in (1, 50, 100, 333, 999):
        shares = np.bincount(labels[order[:count]], minlength=3)
        assert np.abs(shares - count * np.array([0.01, 0.1, 0.89])).max() < 2


def test_train_fraction_leaves_validation_and_test_and_nests() -> None:
    whole, half, tenth = (datasets.load(experiment(train_fraction=fraction)) for fraction in (1.0, 0.5, 0.1))
    assert len(half.train) == round(0.5 * len(whole.train))
    assert whole.validation.fingerprint() == half.validation.fingerprint() == tenth.validation.fingerprint()
    assert whole.test.fingerprint() == half.test.fingerprint()
    assert rows(tenth.train) < rows(half.train) < rows(whole.train)
    assert half.fingerprint == whole.fingerprint


def test_listed_examples_are_validation(npz, tmp_path: Path) -> None:
    np.save(tmp_path / "listed.npy", np.array([59, 3, 7], np.int32))
    data = datasets.load(experiment(tmp_path / "listed.npy", dataset={"path": str(npz())}))
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
def test_wrong_validation_indices_are_named(npz, tmp_path: Path, indices: object, message: str) -> None:
    np.save(tmp_path / "listed.npy", np.asarray(indices))
    with pytest.raises(DatasetError, match=rf"validation_indices=.*listed\.npy: .*({message})"):
        datasets.load(experiment(tmp_path / "listed.npy", dataset={"path": str(npz())}))


def test_missing_or_needless_validation_indices_are_named(npz, tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match=r"validation_indices=.*none\.npy: no such file"):
        datasets.load(experiment(tmp_path / "none.npy", dataset={"path": str(npz())}))
    (tmp_path / "damaged.npy").write_bytes(b"not an array")
    with pytest.raises(DatasetError, match=r"validation_indices=.*damaged\.npy: not a readable"):
        datasets.load(experiment(tmp_path / "damaged.npy", dataset={"path": str(npz())}))
    own_validation = npz(x_validation=numbered()["x_test"], y_validation=numbered()["y_test"])
    with pytest.raises(DatasetError, match="has its own validation split"):
        datasets.load(experiment("data/listed.npy", dataset={"path": str(own_validation)}))


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"train_fraction": 0.03}, r"train_fraction=0\.03: leaves 2 of 54 training examples for 3 classes"),
        ({"validation_fraction": 0.001}, r"validation_fraction=0\.001: 0 of 60"),
        ({"validation_fraction": 0.999}, r"validation_fraction=0\.999: 60 of 60"),
    ],
)
def test_fractions_that_leave_too_little_are_named(npz, values: dict, message: str) -> None:
    with pytest.raises(DatasetError, match=message):
        datasets.load(experiment(dataset={"path": str(npz())}, **values))


def test_paths_beginning_with_data_are_below_the_data_directory(tmp_path: Path, monkeypatch) -> None:
    assert located("data/weights/w.npz", tmp_path) == tmp_path / "weights" / "w.npz"
    assert located("notebooks/w.npz", tmp_path) == ROOT / "notebooks" / "w.npz"
    assert located(str(tmp_path / "w.npz"), DATA) == tmp_path / "w.npz"
    monkeypatch.chdir(tmp_path)
    (tmp_path / "only_here.npz").touch()
    assert located("only_here.npz", DATA) == tmp_path / "only_here.npz"


# Training batches


def order_of(split: Split, seed: int, epochs: range, batch_size: int = 8) -> np.ndarray:
    batches = split.training_batches(batch_size, seed, epochs)
    return np.concatenate([x.numpy().ravel() for x, _ in batches]).reshape(len(epochs), -1)


def test_every_epoch_is_a_permutation_of_its_own() -> None:
    arrays = numbered()
    split = Split(arrays["x_train"], arrays["y_train"])
    epochs = order_of(split, 0, range(3))
    assert all(sorted(epoch) == list(range(60)) for epoch in epochs)
    assert not np.array_equal(epochs[0], epochs[1])
    assert np.array_equal(epochs[1:], order_of(split, 0, range(1, 3)))
    assert not np.array_equal(epochs[0], order_of(split, 1, range(1))[0])


def test_labels_go_with_their_examples() -> None:
    arrays = numbered()
    split = Split(arrays["x_train"], arrays["y_train"])
    for batches in (split.batches(7), split.training_batches(7, 0, range(2))):
        for x, y in batches:
            assert np.array_equal(x.numpy().ravel() % 3, y.numpy())


def pictures(count: int = 12) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (count, 32, 32, 3), np.uint8)


def test_augmented_epochs_repeat_from_any_epoch() -> None:
    split = Split(pictures(), np.arange(12) % 10, cifar10.prepare, cifar10.augment)
    whole = [x.numpy() for x, _ in split.training_batches(5, 4, range(2))]
    second = [x.numpy() for x, _ in split.training_batches(5, 4, range(1, 2))]
    assert [len(batch) for batch in whole] == [5, 5, 2] * 2
    assert all(np.array_equal(one, other) for one, other in zip(whole[3:], second, strict=True))
    plain = dataclasses.replace(split, augment=None)
    prepared = {example.numpy().tobytes() for x, _ in plain.training_batches(5, 4, range(1)) for example in x}
    assert prepared == {example.tobytes() for example in cifar10.prepare(pictures()).numpy()}


# CIFAR-10


def test_cifar10_augmentation_is_a_function_of_its_seed() -> None:
    images = pictures()
    one, again, other = (cifar10.augment(images, tf.constant(seed)).numpy() for seed in ([1, 2], [1, 2], [1, 3]))
    assert np.array_equal(one, again) and not np.array_equal(one, other)
    assert one.shape == images.shape and one.dtype == np.float32
    assert one.min() >= -1 and one.max() <= 1


def test_cifar10_augmentation_only_moves_and_flips() -> None:
    constant = np.full((3, 32, 32, 3), 200, np.uint8)
    assert np.allclose(cifar10.augment(constant, tf.constant([1, 2])), 200 / 127.5 - 1)
    image = pictures(1)
    padded = np.pad(image[0], ((4, 4), (4, 4), (0, 0)), "reflect")
    crops = [padded[row : row + 32, column : column + 32] for row in range(9) for column in range(9)]
    expected = {cifar10.prepare(crop[:, ::side]).numpy().tobytes() for crop in crops for side in (1, -1)}
    made = cifar10.augment(np.repeat(image, 400, axis=0), tf.constant([5, 6])).numpy()
    found = {example.tobytes() for example in made}
    assert found <= expected
    assert len(found) > 100  # of 162


def test_cifar10_is_scaled_to_minus_one_to_one() -> None:
    assert cifar10.prepare(np.array([0, 255], np.uint8)).numpy().tolist() == [-1, 1]


def test_real_cifar10_keeps_the_listed_validation() -> None:
    listed = DATA / "weights" / "mobilenet_v1_cifar10_validation.npy"
    if not (DATA / "cifar10.npz").exists() or not listed.exists():
        pytest.skip(f"no cifar10.npz or {listed.name} in {DATA}")
    data = datasets.load(experiment(listed, dataset={"name": "cifar10"}, train_fraction=0.1))
    assert (len(data.train), len(data.validation), len(data.test)) == (4500, 5000, 10_000)
    assert np.bincount(data.test.labels).tolist() == [1000] * 10
    assert data.input_shape == (32, 32, 3)


def test_a_file_of_other_images_is_refused(tmp_path: Path) -> None:
    np.savez(tmp_path / "cifar10.npz", **numbered())
    with pytest.raises(DatasetError, match=r"cifar10\.npz: x_train is float32 of shape \(60, 1\); expected uint8"):
        datasets.load(experiment(dataset={"name": "cifar10"}), tmp_path)


# Data sets of your own


def test_own_arrays_pass_as_they_are(npz) -> None:
    data = datasets.load(experiment(dataset={"path": str(npz(classes=np.array(["a", "b", "c"])))}))
    assert (data.classes, data.input_shape) == (("a", "b", "c"), (1,))
    images = np.arange(60, dtype=np.uint8).reshape(60, 1)
    data = datasets.load(experiment(dataset={"path": str(npz(x_train=images, x_test=images))}))
    inputs = data.test.prepare(data.test.examples).numpy()
    assert inputs.dtype == np.float32 and inputs.max() == 59
    assert data.classes == ("0", "1", "2")


def test_own_validation_is_used(npz) -> None:
    path = npz(x_validation=np.array([[7.5]], np.float32), y_validation=np.array([[2]]))
    data = datasets.load(experiment(dataset={"path": str(path)}))
    assert data.validation.examples.tolist() == [[7.5]] and data.validation.labels.tolist() == [2]
    assert len(data.train) == 60


WITH_NAN = numbered()["x_train"].copy()
WITH_NAN[17] = np.nan


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ({"y_test": None}, "no y_test; it has x_test, x_train, y_train"),
        ({"x_validation": np.zeros((1, 1))}, "no y_validation; it has"),
        ({"x_train": WITH_NAN}, "x_train has NaN or infinity in 1 examples, first in number 17"),
        ({"y_train": np.arange(59) % 3}, "x_train has 60 examples and y_train 59 labels"),
        ({"y_train": np.arange(60) % 3 * 2}, "y_train has labels up to 4 but no 1"),
        ({"y_train": np.arange(60) % 3 - 1}, "y_train has the label -1"),
        ({"y_test": np.arange(60) % 4}, "y_test has the label 3; expected 0 to 2"),
        ({"y_train": np.zeros(60, int), "y_test": np.zeros(60, int)}, "1 class; expected at least two"),
        ({"y_train": np.zeros(60)}, r"y_train is float64 of shape \(60,\); expected integers"),
        ({"y_train": np.eye(60, dtype=int)}, r"y_train is int64 of shape \(60, 60\)"),
        ({"classes": np.array(["a", "b"])}, "y_train has the label 2; expected 0 to 1, as there are 2 classes"),
        ({"x_test": np.zeros((60, 2), np.float32)}, r"x_test is float32 of shape \(60, 2\) and x_train"),
        ({"x_test": np.zeros((60, 1))}, r"x_test is float64 of shape \(60, 1\) and x_train float32"),
        ({"x_train": np.zeros((60, 1), int)}, "x_train is of type int64; expected floating point or uint8"),
        ({"x_train": np.zeros(60)}, r"x_train has shape \(60,\)"),
        ({"x_test": np.zeros((0, 1)), "y_test": np.zeros(0, int)}, r"x_test has shape \(0, 1\)"),
        ({"x_train": np.array([["text"]] * 60)}, "x_train is of type <U4"),
        ({"x_train": np.array([[object()]] * 60)}, "not a readable .npz file"),
    ],
)
def test_wrong_arrays_are_named(npz, overrides: dict, message: str) -> None:
    path = npz(**overrides)
    with pytest.raises(DatasetError, match=rf"own\.npz: .*{message}"):
        own.read(path)


def test_missing_and_damaged_files_are_named(npz, tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match=r"none\.npz: no such file; expected an \.npz file with the arrays x_train"):
        own.read(tmp_path / "none.npz")
    path = npz()
    path.write_bytes(path.read_bytes()[:500])
    with pytest.raises(DatasetError, match=r"own\.npz: not a readable \.npz file"):
        own.read(path)
    np.save(tmp_path / "one.npy", np.zeros(3))
    with pytest.raises(DatasetError, match=r"one\.npy: not a readable \.npz file"):
        own.read(tmp_path / "one.npy")


MODULE = """
import numpy as np
x, y = np.arange(60, dtype=np.float32).reshape(-1, 1), np.arange(60) % 3

def plain():
    return {"x_train": x, "y_train": y, "x_test": x, "y_test": y}

def given(data_directory):
    return {**plain(), "classes": [data_directory.name, "b", "c"]}

def nothing():
    pass

def ragged():
    return {**plain(), "x_train": [[1], [1, 2]]}
"""


@pytest.fixture
def module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A module in the current directory, of a name used once."""
    name = f"own_data_{tmp_path.parent.name}_{tmp_path.name}".replace("-", "_")
    (tmp_path / f"{name}.py").write_text(MODULE)
    (tmp_path / f"{name}_broken.py").write_text("import no_such_package")
    monkeypatch.chdir(tmp_path)
    return name


def test_own_functions_are_called_with_the_directory_if_they_take_it(module: str, tmp_path: Path) -> None:
    plain = datasets.load(experiment(dataset={"function": f"{module}:plain"}), tmp_path)
    given = datasets.load(experiment(dataset={"function": f"{module}:given"}), tmp_path)
    assert plain.classes == ("0", "1", "2")
    assert given.classes == (tmp_path.name, "b", "c")
    assert given.name == f"{module}:given"


def test_wrong_functions_are_named(module: str, tmp_path: Path) -> None:
    for function, message in (
        ("no_such_module:plain", "function=no_such_module:plain: no module no_such_module; expected one in"),
        (f".{module}:plain", "a relative module; expected its whole name"),
        (f"{module}:other", r"no function other in .*, which has \['given', 'nothing', 'plain', 'ragged'\]"),
        (f"{module}:nothing", "returned NoneType; expected a dict of the arrays x_train"),
        (f"{module}:ragged", "x_train: no array can be made of it"),
    ):
        with pytest.raises(DatasetError, match=message):
            own.call(function, tmp_path)
    with pytest.raises(ModuleNotFoundError, match="no_such_package"):
        own.call(f"{module}_broken:plain", tmp_path)


@pytest.mark.parametrize(("key", "value"), [("directory", "pictures"), ("image_size", 32)])
def test_keys_of_other_data_sets_are_refused(key: str, value: object) -> None:
    with pytest.raises(DatasetError, match=rf"dataset\.{key}={value}: only imagenet"):
        datasets.load(experiment(dataset={"name": "digits", key: value}))


# Speech Commands


def write_wav(path: Path, samples: np.ndarray, rate: int = 16_000, channels: int = 1) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with wave.open(str(path), "wb") as file:
        file.setparams((channels, 2, rate, 0, "NONE", ""))
        file.writeframes(samples.astype("<i2").tobytes())


def write_clips(data: Path) -> Path:
    """Two random clips a label and split; their folder."""
    draw = np.random.default_rng(0)
    for split in ("train", "validation", "test"):
        for label in speech_commands.CLASSES:
            for number in range(2):
                path = data / "speech_commands" / split / label / f"{number}.wav"
                write_wav(path, draw.integers(-9999, 9999, 16_000))
    return data / "speech_commands"


def test_features_of_a_clip_do_not_depend_on_its_neighbours(tmp_path: Path) -> None:
    audio = np.random.default_rng(0).uniform(-1, 1, (5, 16_000)).astype(np.float32)
    together = mfcc.features(audio)
    assert together.shape == (5, 49, 10, 1) and together.dtype == np.float32
    assert np.array_equal(together[3:4], mfcc.features(audio[3:4]))
    write_wav(tmp_path / "half.wav", np.full(8000, 16_384))
    decoded = mfcc.decode(tmp_path / "half.wav")
    assert decoded.shape == (16_000,)
    assert np.all(decoded[:8000] == 0.5) and np.all(decoded[8000:] == 0)
    write_wav(tmp_path / "long.wav", np.arange(20_000))
    assert len(mfcc.decode(tmp_path / "long.wav")) == 16_000


def test_features_are_cached_and_follow_the_audio(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    clips = write_clips(tmp_path)
    first = speech_commands.read(tmp_path)
    assert [len(split) for split in (first.train, first.validation, first.test)] == [24, 24, 24]
    assert first.train.labels.tolist() == [label for label in range(12) for _ in range(2)]
    (cache,) = (tmp_path / "cache").iterdir()
    written = cache.stat().st_mtime_ns
    for path in clips.rglob("*.wav"):
        os.utime(path, (1, 1))
    second = speech_commands.read(tmp_path)
    assert cache.stat().st_mtime_ns == written
    assert second.fingerprint == first.fingerprint
    assert second.train.fingerprint() == first.train.fingerprint()
    write_wav(clips / "test" / "go" / "1.wav", np.arange(16_000))
    changed = speech_commands.read(tmp_path)
    assert changed.fingerprint != first.fingerprint
    assert np.flatnonzero((changed.test.examples != first.test.examples).any((1, 2, 3))).tolist() == [23]
    write_wav(clips / "train" / "go" / "2.wav", np.arange(16_000))
    assert len(speech_commands.read(tmp_path).train) == 25
    monkeypatch.setitem(mfcc.MFCC, "upper_frequency_limit", 7000)
    other = speech_commands.read(tmp_path)
    assert not np.array_equal(other.test.examples, changed.test.examples)


@pytest.mark.parametrize("damage", ["cut", "flipped", "emptied", "other"])
def test_a_damaged_cache_is_noticed_and_made_again(tmp_path: Path, damage: str) -> None:
    write_clips(tmp_path)
    first = speech_commands.read(tmp_path)
    (cache,) = (tmp_path / "cache").iterdir()
    content = cache.read_bytes()
    middle = len(content) // 2
    flipped = content[:middle] + bytes([content[middle] ^ 1]) + content[middle + 1 :]
    cache.write_bytes({"cut": content[:middle], "flipped": flipped, "emptied": b"", "other": content}[damage])
    if damage == "other":
        np.savez(cache, train=np.zeros(3), validation=np.zeros(3), test=np.zeros(3))
    with pytest.warns(UserWarning, match=r"damaged .*computed again"):
        again = speech_commands.read(tmp_path)
    assert again.train.fingerprint() == first.train.fingerprint()
    assert cache.read_bytes() == content


def test_a_cache_that_cannot_be_written_is_said(tmp_path: Path) -> None:
    write_clips(tmp_path)
    (tmp_path / "cache").touch()
    with pytest.warns(UserWarning, match="could not be written"):
        assert len(speech_commands.read(tmp_path).train) == 24


def test_wrong_clips_are_named(tmp_path: Path) -> None:
    clips = write_clips(tmp_path)
    clip = clips / "train" / "yes" / "0.wav"
    for arguments, message in (
        ({"rate": 8000}, "8000 Hz with 1 channels; expected 16000 Hz, mono"),
        ({"channels": 2}, "16000 Hz with 2 channels; expected 16000 Hz, mono"),
    ):
        write_wav(clip, np.zeros(16_000), **arguments)
        with pytest.raises(DatasetError, match=rf"train/yes/0\.wav: {message}"):
            speech_commands.read(tmp_path)
    clip.write_bytes(b"RIFF, but not really")
    with pytest.raises(DatasetError, match=r"train/yes/0\.wav: not a WAV file"):
        speech_commands.read(tmp_path)


def test_wrong_folders_are_named(tmp_path: Path) -> None:
    clips = write_clips(tmp_path)
    (clips / "test" / "bird").mkdir()
    with pytest.raises(DatasetError, match="test: bird is not a label"):
        speech_commands.read(tmp_path)
    (clips / "test" / "bird").rmdir()
    for path in (clips / "validation" / "no").iterdir():
        path.unlink()
    with pytest.raises(DatasetError, match=r"validation/no: no \.wav files"):
        speech_commands.read(tmp_path)
    shutil.rmtree(clips / "validation")
    with pytest.raises(DatasetError, match=r"validation: .* is missing"):
        speech_commands.read(tmp_path)


def test_real_speech_commands_have_the_known_sizes() -> None:
    if not (DATA / "speech_commands").is_dir():
        pytest.skip(f"no speech_commands in {DATA}")
    data = datasets.load(experiment(dataset={"name": "speech_commands"}))
    assert (len(data.train), len(data.validation), len(data.test)) == (2894, 366, 1509)
    assert data.classes[:4] == ("_silence_", "_unknown_", "yes", "no")
    assert data.input_shape == data.test.examples.shape[1:] == (49, 10, 1)
    assert np.isfinite(data.test.examples).all()


# ImageNet


@pytest.fixture
def folders(tmp_path: Path) -> Path:
    """Twelve smooth pictures, six of class a, reddish, and six of class b, bluish, of several sizes and kinds."""
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


def image_folders(directory: Path, **values: object) -> datasets.Data:
    dataset = {"name": "imagenet", "directory": str(directory), "image_size": 32}
    return datasets.load(experiment(dataset=dataset, validation_fraction=0.25, **values))


def test_pictures_are_read_by_path_and_shaped(folders: Path) -> None:
    data = image_folders(folders)
    assert (len(data.train), len(data.validation), len(data.test)) == (6, 2, 4)
    assert (data.classes, data.input_shape) == (("a", "b"), (32, 32, 3))
    assert data.train.examples.dtype.kind == "S"
    for batches in (data.train.batches(4), data.train.training_batches(4, 0, range(2)), data.test.batches(4)):
        for x, y in batches:
            assert x.shape[1:] == (32, 32, 3) and x.dtype == tf.float32
            assert x.numpy().min() >= -1 and x.numpy().max() <= 1
            assert np.array_equal(x.numpy()[..., 2].mean((1, 2)) > x.numpy()[..., 0].mean((1, 2)), y.numpy() == 1)


def test_evaluation_sees_the_centre(tmp_path: Path) -> None:
    # White in the middle half of both sides; 0.875 of the shorter side remain.
    pixels = np.zeros((64, 64, 3), np.uint8)
    pixels[16:48, 16:48] = 255
    for folder in ("train/a", "train/b", "validation/a", "validation/b"):
        (tmp_path / folder).mkdir(parents=True)
        Image.fromarray(pixels).save(tmp_path / folder / "picture.png")
    test = imagenet.read(tmp_path, 56).test
    assert np.array_equal(test.prepare(test.examples[:1]).numpy()[0], pixels[4:60, 4:60] / 127.5 - 1)


def test_picture_augmentation_is_a_function_of_its_seed(folders: Path) -> None:
    train = image_folders(folders).train
    one, again, other = (train.augment(train.examples, tf.constant(s)).numpy() for s in ([1, 2], [1, 2], [1, 3]))
    assert np.array_equal(one, again) and not np.array_equal(one, other)
    twice = train.augment(np.repeat(train.examples[:1], 2), tf.constant([1, 2])).numpy()
    assert not np.array_equal(twice[0], twice[1])


def test_picture_fingerprint_is_of_relative_paths_and_sizes(folders: Path, tmp_path_factory) -> None:
    copy = tmp_path_factory.mktemp("elsewhere") / "copy"
    shutil.copytree(folders, copy)
    first = image_folders(folders)
    assert image_folders(copy).fingerprint == first.fingerprint
    assert image_folders(copy, seed=5).fingerprint == first.fingerprint
    with (copy / "train" / "a" / "0.JPEG").open("ab") as file:
        file.write(b"\0")
    assert image_folders(copy).fingerprint != first.fingerprint


def test_wrong_picture_folders_are_named(folders: Path) -> None:
    with pytest.raises(DatasetError, match=r"dataset\.directory: missing; imagenet is not downloaded"):
        datasets.load(experiment(dataset={"name": "imagenet"}))
    with pytest.raises(DatasetError, match=r"directory=.*nowhere: no folder train"):
        image_folders(folders / "nowhere")
    (folders / "train" / "a" / "9.png").touch()
    with pytest.raises(DatasetError, match=r"train/a/9\.png: empty file"):
        image_folders(folders)
    (folders / "train" / "a" / "9.png").unlink()
    (folders / "train" / "c").mkdir()
    with pytest.raises(DatasetError, match="train has 3 class folders and val 2, c in one only"):
        image_folders(folders)
    (folders / "val" / "c").mkdir()
    with pytest.raises(DatasetError, match="train/c: no pictures"):
        image_folders(folders)
