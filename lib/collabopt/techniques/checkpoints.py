"""The state of a training after its last finished epoch, so that a killed process costs no more than an epoch.

With the order and augmentation of each epoch being functions of the seed and the epoch, this state is all there is:
weights (masks, ranges and centroids of wrappers among them), the optimizer with its step, and random generators of
layers such as dropout. A training that goes on from it ends with the weights it would have ended with, bit for bit.
"""

import hashlib
import io
import json
from pathlib import Path

import numpy as np

from collabopt.runtime import progress
from collabopt.runtime.tensorflow import keras, tf
from collabopt.storage import atomic

DIGEST = 16
"""Bytes at the head of a checkpoint that tell whether the rest is as it was written."""


class Checkpoint:
    """One file at `path`, replaced whole after every epoch; `None` keeps nothing."""

    def __init__(self, path: Path | None) -> None:
        self.path = path

    def save(self, model: keras.Model, seen: dict) -> None:
        """Keep the state of a compiled model with what was `seen` of its training so far, which JSON can hold."""
        if not self.path:
            return
        content = io.BytesIO()
        arrays = {f"{index:05d}": variable.numpy() for index, variable in enumerate(_variables(model))}
        np.savez(content, seen=np.frombuffer(json.dumps(seen).encode(), np.uint8), **arrays)
        with atomic.write_file(self.path) as file:
            file.write(_digest(content.getbuffer()))
            file.write(content.getbuffer())

    def restore(self, model: keras.Model) -> dict | None:
        """Put a compiled model into the state that was saved; what was seen until then, or None where there is no
        state. A file that is damaged, or of another model, is said and not used."""
        if not self.path or not self.path.exists():
            return None
        variables = _variables(model)
        try:
            content = self.path.read_bytes()
            if content[:DIGEST] != _digest(content[DIGEST:]):
                raise ValueError("it is damaged")
            with np.load(io.BytesIO(content[DIGEST:])) as stored:
                seen = json.loads(stored["seen"].tobytes())
                arrays = [stored[name] for name in sorted(set(stored.files) - {"seen"})]
            if [array.shape for array in arrays] != [tuple(variable.shape) for variable in variables]:
                raise ValueError("it is of another model")
        except (OSError, ValueError) as error:
            progress.log(f"{self.path}: cannot be read ({error}); training begins anew")
            return None
        for variable, array in zip(variables, arrays, strict=True):
            variable.assign(array)
        return seen


NO_CHECKPOINT = Checkpoint(None)


def _digest(content: bytes | memoryview) -> bytes:
    return hashlib.blake2b(content, digest_size=DIGEST).digest()


def _variables(model: keras.Model) -> list[tf.Variable]:
    """All that training changes: weights, optimizer, random generators of layers."""
    holders = (getattr(layer, "_random_generator", None) for layer in model.submodules)
    generators = (getattr(holder, "_generator", None) for holder in holders)
    return [
        *model.weights,
        *model.optimizer.variables,
        *(generator.state for generator in generators if generator is not None),
    ]
