"""Layers that quantization-aware training supports, by class name."""

from collabopt.models.importing.graph import Graph

WITH_QAT = frozenset(
    (
        "Activation", "Add", "Average", "AveragePooling2D", "BatchNormalization", "Concatenate", "Constant", "Conv2D",
        "Conv2DTranspose", "Cropping2D", "Dense", "DepthwiseConv2D", "Dropout", "ELU", "Flatten", "GaussianDropout",
        "GaussianNoise", "GlobalAveragePooling1D", "GlobalAveragePooling2D", "GlobalMaxPooling1D", "GlobalMaxPooling2D",
        "InputLayer", "LeakyReLU", "MaxPooling2D", "Maximum", "Minimum", "Multiply", "Normalization", "PReLU",
        "Permute", "ReLU", "Rescaling", "Reshape", "Slice", "Softmax", "SpatialDropout1D", "SpatialDropout2D",
        "Subtract", "UpSampling2D", "ZeroPadding2D",
    )
)  # fmt: skip
"""Convolutions and dense layers, and layers without weights that LiteRT runs in int8."""


def find_layers_without_qat(graph: Graph) -> dict[str, str]:
    """Return the class of each layer of a rewritten `graph` that has no quantization-aware training, by name."""
    return {layer.name: layer.kind for layer in graph.layers if layer.kind not in WITH_QAT}
