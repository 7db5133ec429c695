"""One split of a data set: examples, labels, and their batches as model inputs."""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np

from collabopt.runtime.tensorflow import tf

if TYPE_CHECKING:
    Inputs = tf.Tensor | dict[str, tf.Tensor]

Examples = np.ndarray | dict[str, np.ndarray]


def _convert_to_float32(examples: Inputs) -> Inputs:
    """Stored examples, or a dict of them, as float32 model inputs without scaling."""
    return tf.nest.map_structure(lambda one: tf.cast(one, tf.float32), examples)


@dataclasses.dataclass(frozen=True)
class Split:
    """Examples with labels.

    Attributes:
        examples: Stored examples (n, ...), such as float32 features or uint8 images, or file paths (n,) bytes. A dict
            of such arrays by input name for several inputs.
        labels: Labels (n, ...) in the form of the task; see `labels`.
        prepare: Maps a batch of stored examples to float32 model inputs (batch, ...), for evaluation.
        augment: Maps a batch of stored examples and a seed (2,) int32 to float32 model inputs, for training. None
            trains on `prepare`.
        reconstructs: Whether batches hold the inputs as their own targets, instead of labels.
        contents: Digests (n,) of the files, if the examples are paths.
        places: Place of each example (n,) in the split that it was taken from, as the user knows it; None for this one.
    """

    examples: Examples
    labels: np.ndarray
    prepare: Callable[[Inputs], Inputs] = _convert_to_float32
    augment: Callable[[Inputs, tf.Tensor], Inputs] | None = None
    reconstructs: bool = False
    contents: np.ndarray | None = None
    places: np.ndarray | None = None

    def __post_init__(self) -> None:
        for array in (*self._arrays().values(), *([] if self.contents is None else [self.contents])):
            if len(array) != len(self.labels):
                raise ValueError(f"{len(array)} examples with {len(self.labels)} labels: expected equal numbers")

    def __len__(self) -> int:
        return len(self.labels)

    def _arrays(self) -> dict[str, np.ndarray]:
        return self.examples if isinstance(self.examples, dict) else {"": self.examples}

    @property
    def counted(self) -> np.ndarray | slice:
        """The examples whose mean score is the metric: all but the anomalies (labels above 0) of a reconstruction."""
        return self.labels == 0 if self.reconstructs else slice(None)

    def take(self, indices: np.ndarray | slice) -> Split:
        """Return the examples at `indices` (m,), or of a slice, in that order."""
        chosen = {name: array[indices] for name, array in self._arrays().items()}
        examples = chosen if isinstance(self.examples, dict) else chosen[""]
        contents = None if self.contents is None else self.contents[indices]
        places = (np.arange(len(self)) if self.places is None else self.places)[indices]
        kept = {"labels": self.labels[indices], "contents": contents, "places": places}
        return dataclasses.replace(self, examples=examples, **kept)

    def take_counted(self) -> Split:
        """Return the examples that count."""
        return self.take(self.counted)

    def fingerprint(self) -> str:
        """Return the hex digest of examples and labels; of files, that of their contents, wherever they are."""
        digest = hashlib.blake2b(digest_size=16)
        examples = self._arrays() if self.contents is None else {"": self.contents}
        for name, array in (*sorted(examples.items()), ("", self.labels)):
            digest.update(f"{name}{array.dtype.str}{array.shape}".encode())
            digest.update(np.ascontiguousarray(array).data if array.dtype != object else repr(array.tolist()).encode())
        return digest.hexdigest()

    def compute_digests(self) -> list[bytes | str]:
        """Return a digest of each example (n,); of a file, that of its content."""
        if self.contents is not None:
            return self.contents.tolist()
        arrays = [np.ascontiguousarray(array) for _, array in sorted(self._arrays().items())]
        return [
            hashlib.blake2b(b"".join(array[place].tobytes() for array in arrays)).digest() for place in range(len(self))
        ]

    def code(self) -> list[Callable]:
        """Return the functions that make model inputs of the stored examples."""
        return [self.prepare, *([self.augment] if self.augment else [])]

    def batches(self, batch_size: int) -> tf.data.Dataset:
        """Batch the examples in stored order, `batch_size` at a time, for evaluation.

        Returns:
            Model inputs (batch, ...) float32, or a dict of them, and labels (batch, ...); the inputs again if the split
            `reconstructs`.
        """
        examples = tf.data.Dataset.from_tensor_slices((self._on_host(), self.labels))
        return examples.batch(batch_size).map(self._pair, tf.data.AUTOTUNE).prefetch(2)

    def training_batches(self, batch_size: int, seed: int, epochs: range) -> tf.data.Dataset:
        """Shuffle, augment and batch the examples, for training.

        Order and augmentation depend only on seed, epoch and step. Training can therefore resume at any epoch with
        the same result.

        Args:
            batch_size: Examples per batch.
            seed: Seed of order and augmentation.
            epochs: Epochs to run, one after another.

        Returns:
            As `batches`.
        """
        examples, labels = self._on_host(), tf.constant(self.labels)

        def batch(step: tf.Tensor, members: tf.Tensor, epoch: tf.Tensor) -> tuple[Inputs, Inputs]:
            chosen = tf.nest.map_structure(lambda array: tf.gather(array, members), examples)
            at = tf.stack([tf.cast(seed, tf.int64) * 1_000_003 + epoch, step])
            return self._pair(chosen, tf.gather(labels, members), tf.cast(at % (2**31 - 1), tf.int32))

        def one_epoch(epoch: tf.Tensor) -> tf.data.Dataset:
            at = tf.stack([tf.cast(seed, tf.int64), epoch])
            order = tf.random.experimental.stateless_shuffle(tf.range(len(self), dtype=tf.int64), seed=at)
            steps = tf.data.Dataset.from_tensor_slices(order).batch(batch_size).enumerate()
            return steps.map(lambda step, members: batch(step, members, epoch), tf.data.AUTOTUNE, deterministic=True)

        return tf.data.Dataset.range(epochs.start, epochs.stop).flat_map(one_epoch).prefetch(2)

    def _pair(self, examples: Inputs, labels: tf.Tensor, seed: tf.Tensor | None = None) -> tuple[Inputs, Inputs]:
        """Return the inputs and targets of a batch, augmented if there is a seed."""
        is_augmented = self.augment is not None and seed is not None
        inputs = self.augment(examples, seed) if is_augmented else self.prepare(examples)
        return inputs, inputs if self.reconstructs else labels

    def _on_host(self) -> Inputs:
        with tf.device("CPU:0"):
            return tf.nest.map_structure(tf.constant, self.examples)
