"""WAV files in folders, as MFCC features or samples; see `folders` for their layout."""

from __future__ import annotations

import wave
from pathlib import Path
from typing import Any

import numpy as np

from collabopt.config.sections import Dataset
from collabopt.config.tasks import Task
from collabopt.datasets import arrays, folders, mfcc
from collabopt.datasets.dataset import DatasetError, Mistakes, Parts
from collabopt.runtime.tensorflow import tf

ENDINGS = (".wav",)
_CLIPS_AT_ONCE = 256
_CONVERSION = "ffmpeg -i in.wav -ac 1 -c:a pcm_s16le out.wav converts it"


def read(directory: Path, dataset: Dataset, task: Task) -> Parts:
    """Read the WAV files of a folder.

    Args:
        directory: The folder.
        dataset: Gives `audio`: "mfcc" for the features of `mfcc` (49 × 10 per second at 16 kHz), "samples" for samples
            in [-1, 1]; `seconds`, by default the length of the files if all have one; `group` and `test_fraction`.

    Returns:
        The data set. Model inputs are (windows, 10, 1) for "mfcc" and (samples,) for "samples", float32.

    Raises:
        DatasetError: One line per folder or file that is missing or wrong, or the rates or lengths differ.
    """
    if dataset.audio is None:
        raise DatasetError(
            f"dataset.audio: missing; {directory} holds WAV files. Set it to mfcc (features as in speech_commands) or "
            "samples, as the model expects"
        )
    listing = folders.list_files(directory, ENDINGS, task, dataset.group, dataset.test_fraction)
    rate = mfcc.SAMPLE_RATE if dataset.audio == "mfcc" else None
    clips = _read_clips([file for files in listing.files.values() for file in files], rate, dataset.seconds)
    given: dict[str, Any] = {"classes": listing.classes} if listing.classes else {}
    if listing.groups is not None:
        given["groups_train"] = listing.groups
    start = 0
    for split, files in listing.files.items():
        given[f"x_{split}"], given[f"y_{split}"] = clips[start : start + len(files)], listing.labels[split]
        start += len(files)
    if dataset.audio == "samples":
        return arrays.make_parts(given, str(directory), task, prepare=scale)
    given |= {key: _compute_features(one) for key, one in given.items() if key.startswith("x_")}
    return arrays.make_parts(given, str(directory), task)


def scale(samples: tf.Tensor) -> tf.Tensor:
    """Scale `samples` (n, samples) int16. Return model inputs float32 in [-1, 1]."""
    return tf.cast(samples, tf.float32) / 2**15


def _compute_features(clips: np.ndarray) -> np.ndarray:
    starts = range(0, len(clips), _CLIPS_AT_ONCE)
    scaled = (clips[start : start + _CLIPS_AT_ONCE] / np.float32(2**15) for start in starts)
    return np.concatenate([mfcc.compute_features(some) for some in scaled])


def _read_clips(files: list[Path], rate: int | None, seconds: float | None) -> np.ndarray:
    """Read all files as one array (n, samples) int16.

    rate: Samples per second that all files must have; None takes that of the first.
    """
    mistakes, clips = Mistakes(), []
    for file in files:
        with mistakes.collect():
            clip, found = _read_clip(file)
            if found != (rate := rate or found):
                raise DatasetError(
                    f"{file}: {found} samples per second; expected {rate}, as nothing resamples. "
                    f"ffmpeg -i in.wav -ar {rate} out.wav converts it"
                )
            clips.append(clip if seconds is None else _cut_or_pad(clip, round(seconds * rate)))
    mistakes.raise_any()
    lengths = sorted({len(clip) for clip in clips})
    if len(lengths) > 1:
        raise DatasetError(
            f"dataset.seconds: missing; the sounds are {lengths[0] / rate:g} to {lengths[-1] / rate:g} s long. Set it "
            "to the length of the model's input; longer sounds are cut, and shorter ones padded with silence"
        )
    return np.stack(clips)


def _read_clip(file: Path) -> tuple[np.ndarray, int]:
    """Read samples int16, and the number of them per second."""
    try:
        with wave.open(str(file)) as opened:
            channels, width, rate, count = opened.getparams()[:4]
            content = opened.readframes(count)
    except (wave.Error, EOFError, OSError) as error:
        raise DatasetError(f"{file}: not a WAV file of 16-bit samples ({error}); {_CONVERSION}") from error
    if (channels, width) != (1, 2):
        raise DatasetError(
            f"{file}: {channels} channels of {8 * width} bits; expected one channel of 16 bits. {_CONVERSION}"
        )
    if not content:
        raise DatasetError(f"{file}: holds no samples; replace or delete it")
    return np.frombuffer(content[: len(content) // 2 * 2], "<i2"), rate


def _cut_or_pad(clip: np.ndarray, length: int) -> np.ndarray:
    return np.pad(clip[:length], (0, max(0, length - len(clip))))
