"""How many multiplications a layer takes for one example."""

import math

from collabopt.runtime.tensorflow import keras
from collabopt.techniques import layers


def count_multiplications(layer: keras.layers.Layer) -> int:
    """Return the multiplications of the kernels of a plain `layer` for one example; axes of open size count as 1."""
    kind = layers.get_kind(layer)
    if kind is None:
        return 0
    weights = sum(kernel.size for kernel in layers.read_layer_kernels(layer).values())
    before, after = (size or 1 for size in count_positions(layer))
    return weights * (before if kind in ("conv2d_transpose", "recurrent") else after) * len(layer.inbound_nodes)


def count_positions(layer: keras.layers.Layer) -> tuple[int | None, int | None]:
    """Return the pixels or steps of input and output at which a kernel is applied; None where a size is open.

    Of several inputs or outputs the first one counts, which is the sequence of a recurrent layer.
    """
    found = layer.get_input_shape_at(0), layer.get_output_shape_at(0)
    shapes = [(one[0] if isinstance(one, list) else one)[1:-1] for one in found]
    return tuple(None if None in shape else math.prod(shape) for shape in shapes)
