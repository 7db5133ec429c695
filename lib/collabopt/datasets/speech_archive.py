"""The twelve-class task made from the official Speech Commands archive.

The archive's lists say which speakers are in which split. `_unknown_` is a sample of the other words and `_silence_`
pieces of the background noise at random volume, each as many as a tenth of the ten words' clips, as in Warden (2018)
and TensorFlow's speech example. Unlike there each split has its own stretch of every noise file, so that no silence of
the test split was heard in training.
"""

import io
import math
import tarfile
import wave
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

import numpy as np

from collabopt.datasets import download
from collabopt.datasets.parts import DatasetError
from collabopt.storage.atomic import write_directory

URL = "http://download.tensorflow.org/data/speech_commands_v0.02.tar.gz"
SHA256 = "af14739ee7dc311471de98f5f9d2c9191b18aedfe957f4a6ff791c709868ff58"
SPLITS = ("train", "validation", "test")
WORDS = ("yes", "no", "up", "down", "left", "right", "on", "off", "stop", "go")
SHARE = 0.1  # of unknown words, and of silence, relative to the ten words
# Shares of every noise file, in this order.
STRETCHES = {"train": (0.0, 0.8), "validation": (0.8, 0.9), "test": (0.9, 1.0)}
SAMPLES = SAMPLE_RATE = 16_000
_NOISE = "_background_noise_"
_LISTS = {"validation_list.txt": "validation", "testing_list.txt": "test"}
_SEED = 59185  # Arbitrary and fixed: the clips made are the same everywhere.


@dataclass
class Contents:
    """What is in the archive. clips: "word/file.wav"; listed: clip -> split; noise: file -> samples (n,) int16."""

    clips: list[str] = field(default_factory=list)
    listed: dict[str, str] = field(default_factory=dict)
    noise: dict[str, np.ndarray] = field(default_factory=dict)


def unpack(directory: Path, url: str = URL, sha256: str = SHA256) -> None:
    """Make `directory`/{train,validation,test}/<label>/*.wav, whole, from the official archive, which is downloaded
    unless it lies beside `directory`.

    Raises DatasetError when it cannot be downloaded or lacks something.
    """
    beside = directory.with_name("speech_commands_v0.02.tar.gz")
    with download.archive(url, beside, sha256, "Speech Commands v0.02") as archive:
        contents = _read(archive)
        with write_directory(directory) as unfinished:
            _extract(archive, _places(contents), unfinished)
            for number, split in enumerate(SPLITS):
                count = math.ceil(SHARE * len(_of_split(contents, split, WORDS)))
                _write_silence(unfinished / split / "_silence_", contents.noise, split, count, (_SEED, number))


def _read(archive: Path) -> Contents:
    # Two passes, this one over the names: a clip's split is known only when the lists, which come last, are.
    contents = Contents()
    with tarfile.open(archive, "r|gz") as tar:
        for member in tar:
            name = _name(member)
            if name in _LISTS:
                lines = tar.extractfile(member).read().decode().split()
                contents.listed |= dict.fromkeys(lines, _LISTS[name])
            elif name.startswith(f"{_NOISE}/") and name.endswith(".wav"):
                contents.noise[name] = _samples(tar.extractfile(member).read(), name)
            elif name.endswith(".wav") and name.count("/") == 1:
                contents.clips.append(name)
    if not (contents.clips and contents.noise and set(contents.listed.values()) == set(_LISTS.values())):
        raise DatasetError(f"{archive}: expected words, {_NOISE}, {' and '.join(_LISTS)} in it; is it another archive?")
    contents.clips.sort()
    contents.noise = dict(sorted(contents.noise.items()))
    return contents


def _name(member: tarfile.TarInfo) -> str:
    return str(PurePosixPath(member.name))  # without the leading ./


def _samples(content: bytes, name: str) -> np.ndarray:
    with wave.open(io.BytesIO(content)) as file:
        if file.getparams()[:3] != (1, 2, SAMPLE_RATE):
            raise DatasetError(f"{name}: expected mono, 16 bits, {SAMPLE_RATE} Hz")
        return np.frombuffer(file.readframes(file.getnframes()), "<i2")


def _of_split(contents: Contents, split: str, words: tuple[str, ...] | None) -> list[str]:
    """Clips of a split, of the given words or, with None, of all others."""
    of_split = [clip for clip in contents.clips if contents.listed.get(clip, "train") == split]
    return [clip for clip in of_split if (clip.split("/")[0] in (words or WORDS)) == (words is not None)]


def _places(contents: Contents) -> dict[str, str]:
    """Where each wanted member of the archive goes: member -> path in the layout."""
    places = {"LICENSE": "LICENSE"}
    for number, split in enumerate(SPLITS):
        wanted, others = _of_split(contents, split, WORDS), _of_split(contents, split, None)
        count = min(math.ceil(SHARE * len(wanted)), len(others))
        chosen = np.random.default_rng((_SEED, number)).choice(others, count, replace=False)
        places |= {clip: f"{split}/{clip}" for clip in wanted}
        places |= {str(clip): f"{split}/_unknown_/{clip.replace('/', '_')}" for clip in chosen}
    return places


def _extract(archive: Path, places: dict[str, str], directory: Path) -> None:
    with tarfile.open(archive, "r|gz") as tar:
        for member in tar:
            if (name := _name(member)) in places:
                path = directory / places[name]
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_bytes(tar.extractfile(member).read())


def _write_silence(folder: Path, noise: dict[str, np.ndarray], split: str, count: int, seed: tuple[int, ...]) -> None:
    draw = np.random.default_rng((*seed, count))
    folder.mkdir(parents=True)
    for number in range(count):
        name = list(noise)[draw.integers(len(noise))]
        first, last = (round(share * len(noise[name])) for share in STRETCHES[split])
        if last - first < SAMPLES:
            raise DatasetError(f"{name}: {len(noise[name])} samples; expected at least ten seconds of noise")
        start = draw.integers(first, last - SAMPLES + 1)
        piece = noise[name][start : start + SAMPLES] * draw.uniform()
        with wave.open(str(folder / f"{number:04d}.wav"), "wb") as file:
            file.setparams((1, 2, SAMPLE_RATE, SAMPLES, "NONE", ""))
            file.writeframes(np.round(piece).astype("<i2").tobytes())
