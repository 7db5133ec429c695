"""One split of a data set: examples, labels, and their batches as model inputs."""

import dataclasses
import hashlib
from collections.abc import Callable

import numpy as np

from collabopt.runtime.tensorflow import tf


def _float32(examples: tf.Tensor) -> tf.Tensor:
    return tf.cast(examples, tf.float32)


@dataclasses.dataclass(frozen=True)
class Split:
    """Examples with labels.

    Attributes:
        examples: Stored examples (n, ...), such as float32 features or uint8 images, or file paths (n,) bytes.
        labels: Class indices (n,).
        prepare: Maps a batch of stored examples to float32 model inputs (batch, ...), for evaluation.
        augment: Maps a batch of stored examples and a seed (2,) int32 to float32 model inputs, for training. None
            trains on `prepare`.
    """

    examples: np.ndarray
    labels: np.ndarray
    prepare: Callable[[tf.Tensor], tf.Tensor] = _float32
    augment: Callable[[tf.Tensor, tf.Tensor], tf.Tensor] | None = None

    def __post_init__(self) -> None:
        if len(self.examples) != len(self.labels):
            raise ValueError(f"{len(self.examples)} examples with {len(self.labels)} labels: expected equal numbers")

    def __len__(self) -> int:
        return len(self.labels)

    def take(self, indices: np.ndarray) -> "Split":
        """Select examples.

        Args:
            indices: Indices (m,).

        Returns:
            The examples at `indices`, in that order.
        """
        return dataclasses.replace(self, examples=self.examples[indices], labels=self.labels[indices])

    def fingerprint(self) -> str:
        """Return the hex digest of examples and labels. Of files, only the paths are read, not the contents."""
        digest = hashlib.blake2b(digest_size=16)
        for array in (self.examples, self.labels):
            digest.update(f"{array.dtype.str}{array.shape}".encode())
            digest.update(np.ascontiguousarray(array).data if array.dtype != object else repr(array.tolist()).encode())
        return digest.hexdigest()

    def code(self) -> list[Callable]:
        """Return the functions that make model inputs of the stored examples."""
        return [self.prepare, *([self.augment] if self.augment else [])]

    def batches(self, batch_size: int) -> tf.data.Dataset:
        """Batch the examples in stored order, for evaluation.

        Args:
            batch_size: Examples per batch.

        Returns:
            Model inputs (batch, ...) float32 and labels (batch,) int64.
        """
        examples = tf.data.Dataset.from_tensor_slices((self._on_host(), self.labels.astype(np.int64)))
        return examples.batch(batch_size).map(lambda x, y: (self.prepare(x), y), tf.data.AUTOTUNE).prefetch(2)

    def training_batches(self, batch_size: int, seed: int, epochs: range) -> tf.data.Dataset:
        """Shuffle, augment and batch the examples, for training.

        Order and augmentation depend only on seed, epoch and step. Training can therefore resume at any epoch with
        the same result.

        Args:
            batch_size: Examples per batch.
            seed: Seed of order and augmentation.
            epochs: Epochs to run, one after another.

        Returns:
            Model inputs (batch, ...) float32 and labels (batch,) int64.
        """
        examples, labels = self._on_host(), tf.constant(self.labels.astype(np.int64))

        def batch(step: tf.Tensor, members: tf.Tensor, epoch: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
            chosen = tf.gather(examples, members)
            if self.augment is None:
                return self.prepare(chosen), tf.gather(labels, members)
            at = tf.stack([tf.cast(seed, tf.int64) * 1_000_003 + epoch, step])
            return self.augment(chosen, tf.cast(at % (2**31 - 1), tf.int32)), tf.gather(labels, members)

        def one_epoch(epoch: tf.Tensor) -> tf.data.Dataset:
            at = tf.stack([tf.cast(seed, tf.int64), epoch])
            order = tf.random.experimental.stateless_shuffle(tf.range(len(self), dtype=tf.int64), seed=at)
            steps = tf.data.Dataset.from_tensor_slices(order).batch(batch_size).enumerate()
            return steps.map(lambda step, members: batch(step, members, epoch), tf.data.AUTOTUNE, deterministic=True)

        return tf.data.Dataset.range(epochs.start, epochs.stop).flat_map(one_epoch).prefetch(2)

    def _on_host(self) -> tf.Tensor:
        with tf.device("CPU:0"):
            return tf.constant(self.examples)
