"""Which layers pruning and clustering touch."""

from collabopt.backend import keras


def prunable(layer: keras.layers.Layer) -> bool:
    """Whether pruning and clustering touch the layer's kernel: convolutions and dense layers, not depthwise ones."""
    return isinstance(layer, keras.layers.Conv2D | keras.layers.Dense) and not isinstance(
        layer, keras.layers.DepthwiseConv2D
    )
