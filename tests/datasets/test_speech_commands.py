"""Speech Commands: features, their cache, and mistakes in the folders of clips."""

import os
import shutil
import wave
from pathlib import Path

import numpy as np
import pytest
from example_data import make_experiment

from collabopt import datasets
from collabopt.config.loading import DATA
from collabopt.datasets import DatasetError, mfcc, presentation, speech_commands


def write_wav(path: Path, samples: np.ndarray, rate: int = 16_000, channels: int = 1) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with wave.open(str(path), "wb") as file:
        file.setparams((channels, 2, rate, 0, "NONE", ""))
        file.writeframes(samples.astype("<i2").tobytes())


def write_clips(data: Path) -> Path:
    """Write two random clips per label and split, and return their folder."""
    draw = np.random.default_rng(0)
    for split in ("train", "validation", "test"):
        for label in speech_commands.CLASSES:
            for number in range(2):
                path = data / "speech_commands" / split / label / f"{number}.wav"
                write_wav(path, draw.integers(-9999, 9999, 16_000))
    return data / "speech_commands"


def test_features_of_a_clip_do_not_depend_on_its_neighbours(tmp_path: Path) -> None:
    audio = np.random.default_rng(0).uniform(-1, 1, (5, 16_000)).astype(np.float32)
    together = mfcc.compute_features(audio)
    assert together.shape == (5, 49, 10, 1) and together.dtype == np.float32
    assert np.array_equal(together[3:4], mfcc.compute_features(audio[3:4]))
    write_wav(tmp_path / "half.wav", np.full(8000, 16_384))
    decoded = mfcc.decode(tmp_path / "half.wav")
    assert decoded.shape == (16_000,)
    assert np.all(decoded[:8000] == 0.5) and np.all(decoded[8000:] == 0)
    write_wav(tmp_path / "long.wav", np.arange(20_000))
    assert len(mfcc.decode(tmp_path / "long.wav")) == 16_000


def test_an_example_is_shown_by_the_name_of_its_clip(tmp_path: Path) -> None:
    write_clips(tmp_path)
    parts = speech_commands.read(tmp_path)
    folder = tmp_path / "speech_commands" / "validation"
    for place, label in enumerate(parts.validation.labels):
        shown = presentation.describe(parts.validation, place, parts.presentation)
        assert (folder / parts.classes[label] / shown["file"]).is_file()
        assert shown["picture"] == "", "features are no picture"


def test_features_are_cached_and_computed_again_if_clips_change(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
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
def test_a_damaged_cache_is_detected_and_made_again(tmp_path: Path, damage: str) -> None:
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


def test_a_cache_that_cannot_be_written_gives_a_warning(tmp_path: Path) -> None:
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
    data = datasets.load(make_experiment(dataset={"name": "speech_commands"}))
    assert (len(data.train), len(data.validation), len(data.test)) == (2894, 366, 1509)
    assert data.classes[:4] == ("_silence_", "_unknown_", "yes", "no")
    assert data.input_shape == data.test.examples.shape[1:] == (49, 10, 1)
    assert np.isfinite(data.test.examples).all()
