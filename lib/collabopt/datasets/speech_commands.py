"""Google Speech Commands v0.02, the task of twelve classes (Warden 2018): ten words, others, and silence.

Read from data/speech_commands/{train,validation,test}/<label>/*.wav, made from the official archive if that is missing.
"""

import hashlib
import json
import warnings
from pathlib import Path

import numpy as np

from collabopt.datasets import mfcc, speech_archive
from collabopt.datasets.arrays import UNREADABLE
from collabopt.datasets.parts import DatasetError, Parts
from collabopt.datasets.speech_archive import SHA256, SPLITS, URL, WORDS
from collabopt.datasets.split import Split
from collabopt.storage.atomic import write_file

CLASSES = ("_silence_", "_unknown_", *WORDS)


def read(data_directory: Path, url: str = URL, sha256: str = SHA256) -> Parts:
    """The clips as MFCC features (n, 49, 10, 1) float32, kept in data/cache/ after they were first computed.

    The fingerprint is over relative paths and contents of the clips.
    Raises DatasetError when a folder or clip is missing or wrong, or the archive cannot be downloaded.
    """
    directory = data_directory / "speech_commands"
    if not directory.exists():
        speech_archive.unpack(directory, url, sha256)
    clips = {split: _clips(directory, split) for split in SPLITS}
    fingerprint = _fingerprint(directory, clips)
    made = _cached(data_directory / "cache", fingerprint, clips)
    train, validation, test = (
        Split(made[split], np.array([CLASSES.index(path.parent.name) for path in clips[split]])) for split in SPLITS
    )
    return Parts(train, validation, test, CLASSES, fingerprint, mfcc.SHAPE)


def _clips(directory: Path, split: str) -> list[Path]:
    folder = directory / split
    found = {path.name for path in folder.iterdir() if path.is_dir()} if folder.is_dir() else set()
    if found != set(CLASSES):
        differing = sorted(found ^ set(CLASSES))
        raise DatasetError(
            f"{folder}: {differing[0]} is {'not a label' if differing[0] in found else 'missing'}; expected the "
            f"folders {', '.join(CLASSES)}. Delete {directory} to have it made again"
        )
    clips = [path for label in CLASSES for path in sorted((folder / label).glob("*.wav"))]
    empty = sorted(set(CLASSES) - {path.parent.name for path in clips})
    if empty:
        raise DatasetError(f"{folder / empty[0]}: no .wav files; delete {directory} to have it made again")
    return clips


def _fingerprint(directory: Path, clips: dict[str, list[Path]]) -> str:
    digest = hashlib.blake2b(digest_size=16)
    for path in (path for split in SPLITS for path in clips[split]):
        content = hashlib.blake2b(path.read_bytes(), digest_size=16).hexdigest()
        digest.update(f"{path.relative_to(directory).as_posix()} {content}\n".encode())
    return digest.hexdigest()


def _cached(cache: Path, fingerprint: str, clips: dict[str, list[Path]]) -> dict[str, np.ndarray]:
    """Features of every split, from the cache file of these clips and parameters if there is a sound one."""
    parameters = json.dumps([mfcc.SAMPLE_RATE, mfcc.SAMPLES, mfcc.SPECTROGRAM, mfcc.MFCC], sort_keys=True)
    key = hashlib.blake2b(f"{fingerprint} {parameters}".encode(), digest_size=8).hexdigest()
    path = cache / f"speech_commands_{key}.npz"
    if path.exists():
        try:
            return _load(path, {split: len(clips[split]) for split in SPLITS})
        except (*UNREADABLE, KeyError) as error:
            warnings.warn(f"{path}: damaged ({error}); the features are computed again", stacklevel=2)
    made = {split: mfcc.features_of_files(clips[split]) for split in SPLITS}
    try:
        with write_file(path) as file:
            np.savez(file, **made)
    except OSError as error:  # A data folder that cannot be written to is no reason not to go on.
        warnings.warn(f"{path}: could not be written ({error}); the next run computes it again", stacklevel=2)
    return made


def _load(path: Path, counts: dict[str, int]) -> dict[str, np.ndarray]:
    with np.load(path, allow_pickle=False) as file:
        made = {split: file[split] for split in counts}
    for split, count in counts.items():
        if made[split].shape != (count, *mfcc.SHAPE) or made[split].dtype != np.float32:
            raise ValueError(f"{split} is {made[split].dtype} of shape {made[split].shape}")
    return made
