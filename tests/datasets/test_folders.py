"""Folders of pictures and WAV files: one folder per class, with or without folders per split."""

import dataclasses
import shutil
import wave
from pathlib import Path

import numpy as np
import pytest
from example_data import make_experiment
from PIL import Image

from collabopt import datasets
from collabopt.datasets import DatasetError, mfcc

CLASSES = ("ant", "bee")
RATE = 16_000


def load(path: Path, task: str = "classification", **keys: object) -> datasets.Data:
    return datasets.load(make_experiment(dataset={"path": str(path), **keys}, task=task))


def write_picture(path: Path, number: int, label: int, gray: bool = False) -> None:
    """Write a plain picture of 6×4 pixels: red for label 0, blue for label 1, as bright as its number."""
    pixels = np.zeros((4, 6, 3), np.uint8)
    pixels[..., 2 * label] = 100 + number
    Image.fromarray(pixels.max(axis=-1) if gray else pixels).save(path)


def write_sound(path: Path, number: int, label: int, rate: int = RATE, samples: int = RATE) -> None:
    """Write a tone whose pitch tells the label, and its number as the first sample."""
    tone = np.round(8000 * np.sin(np.arange(samples) * (0.1 + 0.3 * label))).astype("<i2")
    tone[0] = number
    with wave.open(str(path), "wb") as file:
        file.setparams((1, 2, rate, len(tone), "NONE", ""))
        file.writeframes(tone.tobytes())


def fill(folder: Path, write, ending: str, numbers: range, **options: object) -> Path:
    """Write a file per class and number, named by one speaker for two files."""
    for label, name in enumerate(CLASSES):
        (folder / name).mkdir(parents=True, exist_ok=True)
        for number in numbers:
            write(folder / name / f"speaker{number // 2}_{number}.{ending}", number, label, **options)
    return folder


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    return fill(tmp_path / "pictures", write_picture, "png", range(20))


@pytest.fixture
def sounds(tmp_path: Path) -> Path:
    return fill(tmp_path / "sounds", write_sound, "wav", range(20))


def read_numbers(split: datasets.Split) -> list[tuple[int, int]]:
    """Label and number of each file, from its name."""
    names = [Path(path.decode()) for path in split.examples]
    return [(CLASSES.index(path.parent.name), int(path.stem.split("_")[1])) for path in names]


def test_pictures_without_splits_get_a_stratified_test_split(pictures: Path, caplog) -> None:
    with caplog.at_level("INFO", "collabopt"):
        data = load(pictures)
    assert "no test split; 8 of 40 examples are drawn for it (dataset.test_fraction=0.2)" in caplog.text
    assert (data.classes, data.input_shape, data.outputs) == (CLASSES, (4, 6, 3), (2,))
    splits = data.train, data.validation, data.test
    assert [np.bincount(split.labels).tolist() for split in splits] in (
        [[14, 15], [2, 1], [4, 4]],
        [[15, 14], [1, 2], [4, 4]],
    )
    assert sorted(one for split in splits for one in read_numbers(split)) == [
        (label, n) for label in (0, 1) for n in range(20)
    ]
    for split in splits:
        assert split.examples.dtype.kind == "S"  # paths of files
        for inputs, labels in split.batches(16):
            assert inputs.dtype == np.float32
            assert np.array_equal(inputs.numpy()[..., 2].max((1, 2)) > 0, labels == 1)
        inputs = split.prepare(split.examples).numpy()
        assert np.array_equal(inputs.max((1, 2, 3)), [100 + number for _, number in read_numbers(split)])


def test_folders_of_splits_are_used(tmp_path: Path) -> None:
    fill(tmp_path / "train", write_picture, "png", range(4), gray=True)
    fill(tmp_path / "val", write_picture, "png", range(4, 6), gray=True)
    fill(tmp_path / "test", write_picture, "png", range(6, 9), gray=True)
    data = load(tmp_path, "binary", image_size=[8, 12], pixel_range=[-1, 1])
    assert [len(split) for split in (data.train, data.validation, data.test)] == [8, 4, 6]
    assert (data.input_shape, data.outputs) == ((8, 12, 1), (1,))
    inputs = data.test.prepare(data.test.examples).numpy()
    assert np.allclose(inputs.max((1, 2, 3)), [(100 + number) / 127.5 - 1 for _, number in read_numbers(data.test)])
    assert load(tmp_path, "binary", image_size=[8, 12]).fingerprint != data.fingerprint
    with pytest.raises(DatasetError, match=r"test_fraction=0\.2: .* has a folder test; remove the key"):
        load(tmp_path, test_fraction=0.2)


def test_folders_of_splits_have_many_names(tmp_path: Path) -> None:
    for name, numbers in (("Training", range(4)), ("valid", range(4, 6)), ("test_set", range(6, 9))):
        fill(tmp_path / name, write_picture, "png", numbers)
    data = load(tmp_path)
    assert data.classes == CLASSES
    assert [len(split) for split in (data.train, data.validation, data.test)] == [8, 4, 6]
    for picture in (tmp_path / "test_set").rglob("*.png"):  # loose pictures, whose classes nobody knows
        picture.rename(tmp_path / "test_set" / f"{picture.parent.name}_{picture.name}")
    for name in CLASSES:
        (tmp_path / "test_set" / name).rmdir()
    with pytest.raises(DatasetError, match=r"test_set: no class folders; expected test_set/<class>/<file>; without"):
        load(tmp_path)


def test_a_split_without_train_is_no_class(tmp_path: Path) -> None:
    for name in ("Training_data", "test"):
        fill(tmp_path / "mine" / name, write_picture, "png", range(4))
    with pytest.raises(DatasetError, match=r"mine: a folder test but none named train; expected <class>/<file>, or"):
        load(tmp_path / "mine")
    for label, name in enumerate(("valid", "broken")):  # classes
        (tmp_path / "others" / name).mkdir(parents=True)
        for number in range(8):
            write_picture(tmp_path / "others" / name / f"{number}.png", number, label)
    assert load(tmp_path / "others").classes == ("broken", "valid")
    (tmp_path / "linked").mkdir()
    for name in CLASSES:
        (tmp_path / "linked" / name).symlink_to(tmp_path / "mine" / "test" / name)
    assert load(tmp_path / "linked").classes == CLASSES


def test_pictures_have_the_wanted_number_of_channels(tmp_path: Path) -> None:
    gray = fill(tmp_path / "gray", write_picture, "png", range(4), gray=True)
    coloured = fill(tmp_path / "coloured", write_picture, "png", range(4))
    for folder, channels in ((gray, 3), (coloured, 1)):
        data = load(folder, channels=channels)
        assert data.input_shape == (4, 6, channels)
        assert data.train.prepare(data.train.examples).shape[1:] == data.input_shape


@pytest.mark.parametrize("split", ["val", "test"])
def test_a_class_that_only_train_has_is_named(tmp_path: Path, split: str) -> None:
    for name in ("train", "val", "test"):
        fill(tmp_path / name, write_picture, "png", range(4))
    shutil.rmtree(tmp_path / split / "bee")
    with pytest.raises(DatasetError, match=rf"{split}: no files of class bee; add some; without the folder {split}"):
        load(tmp_path)


def test_groups_in_file_names_stay_together(pictures: Path) -> None:
    data = load(pictures, group="^[^_]+", test_fraction=0.3)
    speakers = [
        {number // 2 for _, number in read_numbers(split)} for split in (data.train, data.validation, data.test)
    ]
    assert sum(map(len, speakers)) == len(set.union(*speakers)) == 10
    with pytest.raises(DatasetError, match=r"dataset\.group=person: matches nothing in speaker0_0\.png; expected"):
        load(pictures, group="person")


def test_classes_outside_train_are_anomalies_of_a_reconstruction(pictures: Path, tmp_path: Path) -> None:
    for split, names in (("train", CLASSES[:1]), ("test", CLASSES)):
        for name in names:
            shutil.copytree(pictures / name, tmp_path / "machine" / split / name)
    data = load(tmp_path / "machine", "reconstruction")
    assert (data.classes, data.outputs, data.train.labels.max()) == ((), (4, 6, 3), 0)
    assert np.array_equal(data.test.labels, [label for label, _ in read_numbers(data.test)])


def test_wrong_pictures_are_named(pictures: Path) -> None:
    Image.fromarray(np.zeros((9, 9, 3), np.uint8)).save(pictures / "ant" / "speaker0_0.png")
    with pytest.raises(DatasetError, match=r"dataset\.image_size: missing; the pictures have sizes from 4×6 to 9×9"):
        load(pictures)
    assert load(pictures, image_size=5).input_shape == (5, 5, 3)


def test_pictures_that_cannot_be_decoded_are_named_counted_and_left_out(pictures: Path, caplog, monkeypatch) -> None:
    before = load(pictures)
    (pictures / "ant" / "no_picture.jpg").write_text("<html>")
    (pictures / "ant" / "empty.png").touch()
    whole = (pictures / "bee" / "speaker0_0.png").read_bytes()
    (pictures / "bee" / "half.png").write_bytes(whole[: len(whole) // 2])
    Image.fromarray(np.zeros((4, 6, 3), np.uint8)).save(pictures / "bee" / "whole.jpg")
    whole = (pictures / "bee" / "whole.jpg").read_bytes()
    (pictures / "bee" / "cut.jpg").write_bytes(whole[:-40])
    (pictures / "bee" / "damaged.jpg").write_bytes(whole[:20] + bytes(len(whole) - 40) + whole[-20:])
    (pictures / "bee" / "whole.jpg").unlink()
    with caplog.at_level("INFO", "collabopt"):
        data = load(pictures)
    assert (
        "5 of 45 files cannot be read and are left out: ant/empty.png (empty file), "
        "ant/no_picture.jpg (neither a JPEG nor a PNG picture), bee/cut.jpg (JPEG picture that is damaged or cut off), "
        "bee/damaged.jpg (JPEG picture that is damaged or cut off), bee/half.png (PNG picture that is damaged or cut "
        "off)"
    ) in caplog.text
    assert data.fingerprint == before.fingerprint
    with monkeypatch.context() as patch:
        patch.setattr("collabopt.datasets.pictures._decode", None)  # their faults are stored
        assert load(pictures).fingerprint == before.fingerprint
    (pictures / "bee" / "damaged.jpg").write_bytes(whole)
    assert len(load(pictures).train) > len(data.train)
    for picture in (pictures / "ant").iterdir():
        picture.write_text("<html>")
    with pytest.raises(
        DatasetError, match=r"pictures/ant: none of its files can be read: empty\.png \(neither .* more; add"
    ):
        load(pictures)


@pytest.mark.parametrize("mode", ["L", "CMYK", "RGBA", "P"])
def test_pictures_of_every_mode_become_colours(pictures: Path, mode) -> None:
    picture = Image.fromarray(np.full((4, 6, 3), 200, np.uint8)).convert(mode)
    name = "other.png" if mode in ("RGBA", "P") else "other.jpg"
    picture.save(pictures / "ant" / name)
    split = load(pictures).train
    examples = np.array([bytes(pictures / "ant" / name)])
    split = dataclasses.replace(split, examples=examples, labels=np.array([0]), contents=None)
    assert np.allclose(split.prepare(split.examples).numpy(), 200, atol=5)  # P has a palette
    if mode == "CMYK":
        with pytest.raises(DatasetError, match=r"dataset\.channels=1: .*ant/other\.jpg has the colours CMYK, which"):
            load(pictures, channels=1)


def test_wrong_folders_are_named(pictures: Path, tmp_path: Path) -> None:
    for keys, task, message in (
        (
            {"audio": "mfcc"},
            "classification",
            r"dataset\.audio=mfcc: only folders of WAV files take it; leave it out",
        ),
        ({}, "regression", "task=regression: .* has one folder per class; expected task classification, binary"),
        ({"pixel_range": [1, 0]}, "binary", r"dataset\.pixel_range=\[1\.0, 0\.0\]: expected \[black, white\]"),
    ):
        with pytest.raises(DatasetError, match=message):
            load(pictures, task, **keys)
    (pictures / "cat").mkdir()
    with pytest.raises(
        DatasetError, match=r"pictures/cat: no files that end in \.jpeg, \.jpg, \.png; add some, or del"
    ):
        load(pictures)
    shutil.copy(pictures / "ant" / "speaker0_0.png", pictures / "cat")
    with pytest.raises(DatasetError, match=r"3 class folders \(ant, bee, cat\); expected two for task=binary"):
        load(pictures, "binary")
    (tmp_path / "nothing").mkdir()
    with pytest.raises(DatasetError, match=r"nothing: no data in this folder\. Expected an \.npz file"):
        load(tmp_path / "nothing")


def test_sounds_are_features_or_samples(sounds: Path) -> None:
    samples = load(sounds, audio="samples", group="^[^_]+")
    assert (samples.classes, samples.input_shape, len(samples.test)) == (CLASSES, (RATE,), 8)
    assert samples.with_channel_axis().input_shape == (RATE, 1)
    features = load(sounds, audio="mfcc", group="^[^_]+")
    assert features.input_shape == mfcc.SHAPE
    for data in (samples, features):
        assert np.bincount(data.test.labels).tolist() == [4, 4]
    inputs = samples.test.prepare(samples.test.examples).numpy()
    assert np.array_equal(inputs, samples.test.examples / np.float32(32768))
    assert np.array_equal(mfcc.compute_features(inputs), features.test.examples)
    path = sounds / "ant" / "speaker0_0.wav"
    assert np.array_equal(mfcc.decode(path), np.frombuffer(path.read_bytes()[44:], "<i2") / np.float32(32768))


def test_sounds_are_cut_or_padded_to_the_given_length(sounds: Path) -> None:
    write_sound(sounds / "ant" / "speaker0_0.wav", 0, 0, samples=500)
    with pytest.raises(DatasetError, match=r"dataset\.seconds: missing; the sounds are 0\.03125 to 1 s long"):
        load(sounds, audio="samples")
    data = load(sounds, audio="samples", seconds=0.5)
    assert data.input_shape == (8000,)
    lengths = [
        int(np.flatnonzero(example)[-1])
        for split in (data.train, data.validation, data.test)
        for example in split.examples
    ]
    assert min(lengths) == 499 and sorted(lengths)[1] >= 7998


def test_wrong_sounds_are_named(sounds: Path) -> None:
    with pytest.raises(DatasetError, match=r"dataset\.audio: missing; .* holds WAV files. Set it to mfcc"):
        load(sounds)
    write_sound(sounds / "ant" / "speaker0_1.wav", 0, 0, rate=8000)
    (sounds / "bee" / "speaker0_0.wav").write_bytes(b"no sound")
    write_sound(sounds / "bee" / "speaker1_2.wav", 0, 0, samples=1)
    header = (sounds / "bee" / "speaker1_2.wav").read_bytes()[:44]
    (sounds / "bee" / "speaker1_2.wav").write_bytes(header)
    with wave.open(str(sounds / "bee" / "speaker0_1.wav"), "wb") as file:
        file.setparams((2, 2, RATE, 4, "NONE", ""))
        file.writeframes(bytes(16))
    with pytest.raises(DatasetError) as caught:
        load(sounds, audio="mfcc")
    lines = sorted(str(caught.value).splitlines())
    assert len(lines) == 4
    assert "ant/speaker0_1.wav: 8000 samples per second; expected 16000, as nothing resamples" in lines[0]
    assert "bee/speaker0_0.wav: not a WAV file of 16-bit samples" in lines[1]
    assert "bee/speaker0_1.wav: 2 channels of 16 bits; expected one channel of 16 bits" in lines[2]
    assert "bee/speaker1_2.wav: holds no samples; replace or delete it" in lines[3]
