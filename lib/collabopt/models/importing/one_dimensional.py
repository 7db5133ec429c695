"""Turns layers on signals (n, channels) into layers on images (1, n, channels), which the techniques support."""

from typing import Any

from collabopt.models.importing.graph import Graph, Layer, list_names, make_reshape, select

_WINDOWS = {
    "Conv1D": "Conv2D",
    "Conv1DTranspose": "Conv2DTranspose",
    "DepthwiseConv1D": "DepthwiseConv2D",
    "MaxPooling1D": "MaxPooling2D",
    "AveragePooling1D": "AveragePooling2D",
    "UpSampling1D": "UpSampling2D",
    "ZeroPadding1D": "ZeroPadding2D",
    "Cropping1D": "Cropping2D",
    "SpatialDropout1D": "SpatialDropout2D",
}
_GLOBAL = {"GlobalAveragePooling1D": "GlobalAveragePooling2D", "GlobalMaxPooling1D": "GlobalMaxPooling2D"}
_POINTWISE = (
    "Activation", "Add", "Average", "BatchNormalization", "Concatenate", "Dropout", "ELU", "GaussianDropout",
    "GaussianNoise", "LeakyReLU", "Maximum", "Minimum", "Multiply", "PReLU", "ReLU", "Rescaling", "Subtract",
)  # fmt: skip
_BORDERS = ("padding", "cropping")
_SIZES = ("kernel_size", "strides", "pool_size", "dilation_rate", "size", "output_padding")


def convert_to_2d(graph: Graph) -> list[str]:
    """Turn 1-D convolutions, poolings, paddings, crops and upsamplings of `graph` into 2-D ones. Return a line, if any.

    Layers in between that act on each value work on the same images, so that a row of such layers needs one reshape at
    each end.
    """
    found = select(graph, *_WINDOWS, where=_is_one_dimensional)
    if found:
        conversion = _Conversion(graph)
        for layer in graph.layers:
            conversion.add(layer)
        graph.outputs = [conversion.get_signal(tensor) for tensor in graph.outputs]
        graph.layers = conversion.layers
    return [f"1-D layers became 2-D layers of height 1: {list_names(found)}"] if found else []


class _Conversion:
    """Builds the new list of layers; a converted layer keeps its name, and its output is an image."""

    def __init__(self, graph: Graph) -> None:
        self.layers: list[Layer] = []
        self._graph = graph
        self._images: set[str] = set()
        self._reshapes: set[str] = set()

    def add(self, layer: Layer) -> None:
        """Add a layer, converted or connected with the signals behind its inputs."""
        if _is_one_dimensional(layer) and (layer.kind in _WINDOWS or layer.inputs[0] in self._images):
            layer.inputs = [self._get_image(layer.inputs[0])]
            self._convert(layer)
        elif layer.kind == "Flatten" and layer.inputs[0] in self._images:
            self.layers.append(layer)
        elif layer.kind in _POINTWISE and layer.inputs and all(tensor in self._images for tensor in layer.inputs):
            _lift_pointwise(layer)
            self._append_image(layer)
        else:
            layer.inputs = [self.get_signal(tensor) for tensor in layer.inputs]
            self.layers.append(layer)

    def get_signal(self, tensor: str) -> str:
        """The name of a tensor with the shape that it had at first."""
        if tensor not in self._images:
            return tensor
        shape = self._find(tensor).shape
        return self._reshape(tensor, "signal", (shape[0], *shape[2:]))

    def _find(self, tensor: str) -> Layer:
        return next(layer for layer in self.layers if layer.name == tensor)

    def _get_image(self, tensor: str) -> str:
        if tensor in self._images:
            return tensor
        shape = self._graph.get(tensor).shape
        return self._reshape(tensor, "image", (shape[0], 1, *shape[1:]))

    def _reshape(self, tensor: str, suffix: str, shape: tuple) -> str:
        name = f"{tensor.replace(':', '_')}_{suffix}"
        if name not in self._reshapes:
            reshape = make_reshape(name, shape)
            reshape.inputs = [tensor]
            self._reshapes.add(name)
            self.layers.append(reshape)
        return name

    def _append_image(self, layer: Layer) -> None:
        layer.shape = (layer.shape[0], 1, *layer.shape[1:])
        self._images.add(layer.name)
        self.layers.append(layer)

    def _convert(self, layer: Layer) -> None:
        if layer.kind in _GLOBAL:
            layer.kind = _GLOBAL[layer.kind]
            layer.config = {"keepdims": bool(layer.config.get("keepdims"))}
            add = self._append_image if layer.config["keepdims"] else self.layers.append
            add(layer)
            return
        padding = layer.config.get("padding")
        layer.config = {name: _lift(layer.kind, name, value) for name, value in layer.config.items()}
        if padding == "causal":
            self._pad_causally(layer)
        if layer.kind == "DepthwiseConv1D":  # TensorFlow demands equal strides; at height 1 the first has no effect.
            layer.config["strides"] = [layer.config["strides"][1]] * 2
        layer.kind = _WINDOWS[layer.kind]
        layer.weights = [weight[None] if weight.ndim > 1 else weight for weight in layer.weights]
        self._append_image(layer)

    def _pad_causally(self, layer: Layer) -> None:
        before = layer.config["dilation_rate"][1] * (layer.config["kernel_size"][1] - 1)
        batch, height, length, channels = self._find(layer.inputs[0]).shape
        shape = (batch, height, None if length is None else length + before, channels)
        name = f"{layer.name}_padding"
        config = {"padding": [[0, 0], [before, 0]]}
        self.layers.append(Layer(name, "ZeroPadding2D", config, inputs=layer.inputs, shape=shape))
        layer.config["padding"], layer.inputs = "valid", [name]


def _is_one_dimensional(layer: Layer) -> bool:
    known = layer.kind in _WINDOWS or layer.kind in _GLOBAL
    return known and layer.config.get("data_format", "channels_last") == "channels_last"


def _lift(kind: str, name: str, value: Any) -> Any:
    """A setting of a 1-D layer as that of the 2-D layer."""
    if name in _SIZES and value is not None:
        one = value[0] if isinstance(value, list) else value
        return [0 if name == "output_padding" else 1, one]
    if name in _BORDERS and kind in ("ZeroPadding1D", "Cropping1D"):
        return [[0, 0], value if isinstance(value, list) else [value, value]]
    return value


def _lift_pointwise(layer: Layer) -> None:
    """Move the axes of a layer that keeps its kind."""
    axis = layer.config.get("axis")
    if isinstance(axis, int) and axis > 0:
        layer.config["axis"] = axis + 1
    if layer.kind == "PReLU":
        layer.config["shared_axes"] = [1, *(axis + 1 for axis in layer.config.get("shared_axes") or [])]
        layer.weights = [layer.weights[0][None]]
