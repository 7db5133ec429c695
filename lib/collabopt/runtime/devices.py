"""Training on several GPUs: each takes a part of every batch, and their gradients are summed."""

from __future__ import annotations

import contextlib
import functools

from collabopt.runtime.tensorflow import tf


class DeviceError(ValueError):
    """The experiment asks for more devices than the machine has."""


def list_devices(count: int) -> list[str]:
    """Return TensorFlow's names of `count` devices to train on: GPUs, or CPUs on a machine without GPUs.

    Raises:
        DeviceError: If the machine has fewer.
    """
    # Tests split one CPU into two logical ones.
    found = tf.config.list_logical_devices("GPU") or tf.config.list_logical_devices("CPU")
    if len(found) < count:
        raise DeviceError(
            f"devices={count}: expected at most {len(found)}: {', '.join(device.name for device in found)}"
        )
    return [device.name for device in found[:count]]


def make_scope(count: int) -> contextlib.AbstractContextManager:
    """Return the context in which a model must be built to train on `count` devices. One needs no context.

    Raises:
        DeviceError: If the machine has fewer devices.
    """
    if count == 1:
        return contextlib.nullcontext()
    return _get_strategy(count).scope()


@functools.cache
def _get_strategy(count: int) -> tf.distribute.Strategy:
    # One per process: two strategies would use the same numbers for their collective operations.
    return tf.distribute.MirroredStrategy(list_devices(count))
