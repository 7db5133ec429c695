"""Which layers pruning and clustering touch."""

from collabopt.backend import keras


def prunable(layer: keras.layers.Layer) -> bool:
    """Whether pruning and clustering touch the layer's kernel: convolutions and dense layers, not depthwise ones, nor
    transposed ones, whose kernels end in their input channels."""
    return isinstance(layer, keras.layers.Conv2D | keras.layers.Dense) and not isinstance(
        layer, keras.layers.DepthwiseConv2D | keras.layers.Conv2DTranspose
    )
