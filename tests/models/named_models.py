"""The models that an experiment can name, built for the tests."""

import functools

from collabopt import models
from collabopt.config import sections
from collabopt.runtime.tensorflow import keras, seed_everything

SIZES = {
    "digits_cnn": ((8, 8, 1), 10, 12_346),
    "mnist_cnn": ((28, 28, 1), 10, 20_410),
    "ds_cnn_s": ((49, 10, 1), 12, 24_908),
    "ds_cnn_m": ((49, 10, 1), 12, 141_224),
    "ds_cnn_l": ((49, 10, 1), 12, 422_844),
    "mobilenet_v1": ((32, 32, 3), 10, 3_239_114),
    "mobilenet_v2": ((32, 32, 3), 10, 2_270_794),
}
"""Input shape, number of classes and number of parameters."""


def build_named(name: str, seed: int = 0) -> keras.Model:
    """Build a model with weights drawn from `seed`."""
    seed_everything(seed)
    return models.build(sections.Model(name=name), SIZES[name][0], (SIZES[name][1],))


@functools.cache
def build_once(name: str) -> keras.Model:
    """Build a model with weights drawn from seed 0. Tests share it and must not change it."""
    return build_named(name)
