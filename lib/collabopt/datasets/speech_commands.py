"""Google Speech Commands v0.02, the task of twelve classes (Warden 2018): ten words, unknown words and silence.

Clips are read from data/speech_commands/{train,validation,test}/<label>/*.wav. These are made from the official archive
if they are missing. The archive's lists assign the speakers to the splits. `_unknown_` is a sample of the other words.
`_silence_` consists of pieces of the background noise at random volume. Each has a tenth as many clips as the ten words
together, as in Warden (2018) and in TensorFlow's speech example. Unlike there, each split has its own section of every
noise file, so that no silence of the test split occurs in training.
"""

import hashlib
import io
import json
import math
import tarfile
import warnings
import wave
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

import numpy as np

from collabopt.datasets import download, mfcc
from collabopt.datasets.arrays import UNREADABLE
from collabopt.datasets.dataset import DatasetError, Parts
from collabopt.datasets.mfcc import SAMPLE_RATE, SAMPLES
from collabopt.datasets.presentation import Presentation
from collabopt.datasets.split import Split
from collabopt.storage.atomic import write_directory, write_file

URL = "http://download.tensorflow.org/data/speech_commands_v0.02.tar.gz"
SHA256 = "af14739ee7dc311471de98f5f9d2c9191b18aedfe957f4a6ff791c709868ff58"
SPLITS = ("train", "validation", "test")
WORDS = ("yes", "no", "up", "down", "left", "right", "on", "off", "stop", "go")
CLASSES = ("_silence_", "_unknown_", *WORDS)
SHARE = 0.1  # clips of `_unknown_`, and of `_silence_`, relative to those of the ten words
STRETCHES = {"train": (0.0, 0.8), "validation": (0.8, 0.9), "test": (0.9, 1.0)}  # of every noise file
_NOISE = "_background_noise_"
_LISTS = {"validation_list.txt": "validation", "testing_list.txt": "test"}
_SEED = 59185  # arbitrary and fixed, so that the same clips are made everywhere


def read(data_directory: Path, url: str = URL, sha256: str = SHA256) -> Parts:
    """Read the clips in `data_directory`, or from `url` with this `sha256`, as MFCC features, cached in data/cache/.

    Returns:
        The data set. Examples are features (n, 49, 10, 1) float32. The fingerprint covers relative paths and contents
        of the clips.

    Raises:
        DatasetError: A folder or clip is missing or wrong, or the archive cannot be downloaded.
    """
    directory = data_directory / "speech_commands"
    if not directory.exists():
        _unpack(directory, url, sha256)
    clips = {split: _list_clips(directory, split) for split in SPLITS}
    fingerprint = _compute_fingerprint(directory, clips)
    made = _read_or_compute_features(data_directory / "cache", fingerprint, clips)
    train, validation, test = (
        Split(made[split], np.array([CLASSES.index(path.parent.name) for path in clips[split]])) for split in SPLITS
    )
    presentation = Presentation(names=np.array([path.name for path in clips["validation"]]))
    return Parts(train, validation, test, CLASSES, fingerprint, mfcc.SHAPE, presentation=presentation)


def _list_clips(directory: Path, split: str) -> list[Path]:
    folder = directory / split
    found = {path.name for path in folder.iterdir() if path.is_dir()} if folder.is_dir() else set()
    if found != set(CLASSES):
        differing = sorted(found ^ set(CLASSES))
        raise DatasetError(
            f"{folder}: {differing[0]} is {'not a label' if differing[0] in found else 'missing'}; expected the "
            f"folders {', '.join(CLASSES)}. Delete {directory} to make it again"
        )
    clips = [path for label in CLASSES for path in sorted((folder / label).glob("*.wav"))]
    empty = sorted(set(CLASSES) - {path.parent.name for path in clips})
    if empty:
        raise DatasetError(f"{folder / empty[0]}: no .wav files; delete {directory} to make it again")
    return clips


def _compute_fingerprint(directory: Path, clips: dict[str, list[Path]]) -> str:
    digest = hashlib.blake2b(digest_size=16)
    for path in (path for split in SPLITS for path in clips[split]):
        content = hashlib.blake2b(path.read_bytes(), digest_size=16).hexdigest()
        digest.update(f"{path.relative_to(directory).as_posix()} {content}\n".encode())
    return digest.hexdigest()


def _read_or_compute_features(cache: Path, fingerprint: str, clips: dict[str, list[Path]]) -> dict[str, np.ndarray]:
    """Return the features of every split, from the cache if it has these clips and parameters."""
    parameters = json.dumps([mfcc.SAMPLE_RATE, mfcc.SAMPLES, mfcc.SPECTROGRAM, mfcc.MFCC], sort_keys=True)
    key = hashlib.blake2b(f"{fingerprint} {parameters}".encode(), digest_size=8).hexdigest()
    path = cache / f"speech_commands_{key}.npz"
    if path.exists():
        try:
            return _read_cache(path, {split: len(clips[split]) for split in SPLITS})
        except (*UNREADABLE, KeyError) as error:
            warnings.warn(f"{path}: damaged ({error}); the features are computed again", stacklevel=2)
    made = {split: mfcc.read_features(clips[split]) for split in SPLITS}
    try:
        with write_file(path) as file:
            np.savez(file, **made)
    except OSError as error:  # a read-only data folder still works
        warnings.warn(f"{path}: could not be written ({error}); the next run computes it again", stacklevel=2)
    return made


def _read_cache(path: Path, counts: dict[str, int]) -> dict[str, np.ndarray]:
    with np.load(path, allow_pickle=False) as file:
        made = {split: file[split] for split in counts}
    for split, count in counts.items():
        if made[split].shape != (count, *mfcc.SHAPE) or made[split].dtype != np.float32:
            raise ValueError(f"{split} is {made[split].dtype} of shape {made[split].shape}")
    return made


@dataclass
class Contents:
    """Contents of the archive.

    Attributes:
        clips: Clips, as "word/file.wav".
        listed: Splits by clip, for validation and test.
        noise: Samples (n,) int16 by noise file.
    """

    clips: list[str] = field(default_factory=list)
    listed: dict[str, str] = field(default_factory=dict)
    noise: dict[str, np.ndarray] = field(default_factory=dict)


def _unpack(directory: Path, url: str, sha256: str) -> None:
    """Make `directory` from the official archive. An archive beside `directory` is used, else it is downloaded."""
    beside = directory.with_name("speech_commands_v0.02.tar.gz")
    with download.fetch_archive(url, beside, sha256, "Speech Commands v0.02") as archive:
        contents = _read_contents(archive)
        with write_directory(directory) as unfinished:
            _extract(archive, _choose_places(contents), unfinished)
            for number, split in enumerate(SPLITS):
                count = math.ceil(SHARE * len(_list_split(contents, split, WORDS)))
                _write_silence(unfinished / split / "_silence_", contents.noise, split, count, (_SEED, number))


def _read_contents(archive: Path) -> Contents:
    # A first pass over the names, because the lists that assign clips to splits come last in the archive.
    contents = Contents()
    with tarfile.open(archive, "r|gz") as tar:
        for member in tar:
            name = _name(member)
            if name in _LISTS:
                lines = tar.extractfile(member).read().decode().split()
                contents.listed |= dict.fromkeys(lines, _LISTS[name])
            elif name.startswith(f"{_NOISE}/") and name.endswith(".wav"):
                contents.noise[name] = _read_samples(tar.extractfile(member).read(), name)
            elif name.endswith(".wav") and name.count("/") == 1:
                contents.clips.append(name)
    if not (contents.clips and contents.noise and set(contents.listed.values()) == set(_LISTS.values())):
        raise DatasetError(f"{archive}: expected words, {_NOISE}, {' and '.join(_LISTS)} in it; is it another archive?")
    contents.clips.sort()
    contents.noise = dict(sorted(contents.noise.items()))
    return contents


def _name(member: tarfile.TarInfo) -> str:
    return str(PurePosixPath(member.name))  # without the leading ./


def _read_samples(content: bytes, name: str) -> np.ndarray:
    with wave.open(io.BytesIO(content)) as file:
        if file.getparams()[:3] != (1, 2, SAMPLE_RATE):
            raise DatasetError(f"{name}: expected mono, 16 bits, {SAMPLE_RATE} Hz")
        return np.frombuffer(file.readframes(file.getnframes()), "<i2")


def _list_split(contents: Contents, split: str, words: tuple[str, ...] | None) -> list[str]:
    """List the clips of a split: of the given words, or with None of all words outside the ten."""
    of_split = [clip for clip in contents.clips if contents.listed.get(clip, "train") == split]
    return [clip for clip in of_split if (clip.split("/")[0] in (words or WORDS)) == (words is not None)]


def _choose_places(contents: Contents) -> dict[str, str]:
    """Map each wanted member of the archive to its path in the layout."""
    places = {"LICENSE": "LICENSE"}
    for number, split in enumerate(SPLITS):
        wanted, others = _list_split(contents, split, WORDS), _list_split(contents, split, None)
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
