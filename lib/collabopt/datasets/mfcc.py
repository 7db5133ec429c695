"""Mel-frequency cepstral coefficients of one-second clips, computed by TensorFlow's operations.

The settings are those of keyword spotting on microcontrollers (Zhang et al. 2017, "Hello Edge", arXiv:1711.07128).
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from collabopt.datasets.dataset import DatasetError
from collabopt.runtime.tensorflow import tf

SAMPLE_RATE = 16_000
SAMPLES = 16_000
SPECTROGRAM = {"window_size": 640, "stride": 320, "magnitude_squared": True}
MFCC = {
    "upper_frequency_limit": 4000,
    "lower_frequency_limit": 20,
    "filterbank_channel_count": 40,
    "dct_coefficient_count": 10,
}
SHAPE = (49, 10, 1)  # windows (40 ms long, every 20 ms), coefficients, channels
_CLIPS_AT_ONCE = 256


def decode(path: Path) -> np.ndarray:
    """Return the clip of a WAV file `path`, cut or padded with zeros to one second: (16000,) float32 in [-1, 1].

    Raises:
        DatasetError: The file is not 16-bit PCM, mono, 16 kHz.
    """
    try:
        audio, rate = tf.audio.decode_wav(tf.io.read_file(str(path)), desired_samples=SAMPLES)
    except tf.errors.InvalidArgumentError as error:
        why = error.message.splitlines()[0]
        raise DatasetError(f"{path}: not a WAV file of 16-bit samples ({why}); expected mono, 16 kHz") from error
    if int(rate) != SAMPLE_RATE or audio.shape[1] != 1:
        raise DatasetError(f"{path}: {int(rate)} Hz with {audio.shape[1]} channels; expected {SAMPLE_RATE} Hz, mono")
    return audio.numpy()[:, 0]


def compute_features(audio: np.ndarray) -> np.ndarray:
    """Return the features (n, windows, 10, 1) float32, 49 per second, of `audio` (n, samples) in [-1, 1] at 16 kHz."""
    # The channel axis of the spectrogram holds the clips.
    spectrogram = tf.raw_ops.AudioSpectrogram(input=audio.T, **SPECTROGRAM)
    return tf.raw_ops.Mfcc(spectrogram=spectrogram, sample_rate=SAMPLE_RATE, **MFCC).numpy()[..., np.newaxis]


def read_features(paths: list[Path]) -> np.ndarray:
    """Return the features (n, 49, 10, 1) float32 of the WAV files `paths`, in their order.

    Raises:
        DatasetError: A file is not 16-bit PCM, mono, 16 kHz.
    """
    made = np.empty((len(paths), *SHAPE), np.float32)
    for start in range(0, len(paths), _CLIPS_AT_ONCE):
        some = paths[start : start + _CLIPS_AT_ONCE]
        made[start : start + len(some)] = compute_features(np.stack([decode(path) for path in some]))
    return made
