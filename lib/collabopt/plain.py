"""Plain Keras models, which is what travels between stages: wrapping alters layers, so it is given clones."""

from collections.abc import Sequence

import numpy as np

from collabopt.backend import keras


def clone(model: keras.Model, arrays: Sequence[np.ndarray] | None = None) -> keras.Model:
    """A copy of `model` with layers and variables of its own, holding its weights or `arrays` in the same order."""
    copy = keras.models.clone_model(model)
    copy.set_weights(model.get_weights() if arrays is None else arrays)
    return copy
