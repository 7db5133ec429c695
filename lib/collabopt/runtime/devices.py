"""Training on several GPUs: each batch is shared out among them, and their gradients are summed."""

import contextlib
import functools

from collabopt.runtime.tensorflow import tf


class DeviceError(ValueError):
    """More devices were asked for than there are."""


def list_devices(count: int) -> list[str]:
    """The first `count` GPUs, or CPUs where there is no GPU (tests split one in two).

    Raises DeviceError when there are fewer.
    """
    found = tf.config.list_logical_devices("GPU") or tf.config.list_logical_devices("CPU")
    if len(found) < count:
        raise DeviceError(f"devices={count}: expected at most {len(found)}: {', '.join(one.name for one in found)}")
    return [one.name for one in found[:count]]


def make_scope(count: int) -> contextlib.AbstractContextManager:
    """Where a model must be made that is to be trained on `count` devices (tf.distribute.MirroredStrategy)."""
    if count == 1:
        return contextlib.nullcontext()
    return _strategy(count).scope()


@functools.cache
def _strategy(count: int) -> tf.distribute.Strategy:
    # One in a process: two would number their exchanges alike.
    return tf.distribute.MirroredStrategy(list_devices(count))
