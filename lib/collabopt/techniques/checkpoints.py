"""The state of a training after a finished epoch. A killed process loses at most one epoch, or a second of short ones.

The order and augmentation of an epoch are functions of the seed and the epoch, so the state is complete: weights (with
masks, ranges and centroids of wrappers), the optimizer with its step, and random generators of layers such as dropout.
A training that continues from it ends with the same weights, bit for bit.
"""

import hashlib
import io
import json
from pathlib import Path

import numpy as np

from collabopt.runtime import progress
from collabopt.runtime.tensorflow import keras, tf
from collabopt.storage import atomic

_DIGEST_BYTES = 16
"""A checkpoint begins with a digest of its other bytes, which detects damage."""


class Checkpoint:
    """A file that is replaced atomically.

    Attributes:
        path: The file; None saves nothing.
    """

    def __init__(self, path: Path | None) -> None:
        self.path = path

    def save(self, model: keras.Model, record: dict) -> None:
        """Save the state of a compiled `model`, and the `record` of its training so far, as JSON values."""
        if not self.path:
            return
        content = io.BytesIO()
        arrays = {f"{index:05d}": variable.numpy() for index, variable in enumerate(_list_variables(model))}
        np.savez(content, seen=np.frombuffer(json.dumps(record).encode(), np.uint8), **arrays)
        with atomic.write_file(self.path) as file:
            file.write(_compute_digest(content.getbuffer()))
            file.write(content.getbuffer())

    def restore(self, model: keras.Model) -> dict | None:
        """Put a compiled model into the saved state. Return the saved record, or None if no state was restored.

        Args:
            model: A compiled model; it stays as it is if the file is damaged or belongs to another model, which is
                logged.
        """
        if not self.path or not self.path.exists():
            return None
        variables = _list_variables(model)
        try:
            content = self.path.read_bytes()
            if content[:_DIGEST_BYTES] != _compute_digest(content[_DIGEST_BYTES:]):
                raise ValueError("it is damaged")
            with np.load(io.BytesIO(content[_DIGEST_BYTES:])) as stored:
                record = json.loads(stored["seen"].tobytes())
                arrays = [stored[name] for name in sorted(set(stored.files) - {"seen"})]
            if [array.shape for array in arrays] != [tuple(variable.shape) for variable in variables]:
                raise ValueError("it belongs to another model")
        except (OSError, ValueError) as error:
            progress.log(f"{self.path}: cannot use this checkpoint ({error}); training starts from the first epoch")
            return None
        for variable, array in zip(variables, arrays, strict=True):
            variable.assign(array)
        return record


NO_CHECKPOINT = Checkpoint(None)
"""Saves nothing."""


def _compute_digest(content: bytes | memoryview) -> bytes:
    return hashlib.blake2b(content, digest_size=_DIGEST_BYTES).digest()


def _list_variables(model: keras.Model) -> list[tf.Variable]:
    """All that training changes: weights, optimizer, random generators of layers."""
    holders = (getattr(layer, "_random_generator", None) for layer in model.submodules)
    generators = (getattr(holder, "_generator", None) for holder in holders)
    return [
        *model.weights,
        *model.optimizer.variables,
        *(generator.state for generator in generators if generator is not None),
    ]
