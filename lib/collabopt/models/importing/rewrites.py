"""Exact rewrites of a graph into layers that the techniques support. Each returns one line per thing it did."""

import dataclasses

from collabopt.models.importing import batch_norm, one_dimensional
from collabopt.models.importing.evaluation import OUTPUT_ACTIVATIONS
from collabopt.models.importing.graph import Graph, Layer, list_names, make_chain, select

_FUSED = ("linear", "relu")  # activations that may stay inside a layer
_LINEAR_KINDS = (
    "Conv2D", "Conv1D", "Dense", "DepthwiseConv2D", "DepthwiseConv1D", "Conv2DTranspose", "Conv1DTranspose",
    "Conv3D", "Conv3DTranspose", "SeparableConv2D", "SeparableConv1D",
)  # fmt: skip
_LAYERS = {
    "relu6": ("ReLU", {"max_value": 6.0}),
    "leaky_relu": ("LeakyReLU", {"alpha": 0.2}),
    "silu": ("Activation", {"activation": "swish"}),
}
_HARD = ("hard_sigmoid_3", "hard_swish", "hard_silu")


def rewrite(graph: Graph) -> list[str]:
    """Apply all rewrites to `graph` but the removal of the output activations. Return a line per rewrite."""
    lines: list[str] = []
    for step in (
        _split_activations,
        _expand_activations,
        _split_separable,
        one_dimensional.convert_to_2d,
        batch_norm.fold_into_linear,
        batch_norm.convert_to_depthwise,
    ):
        lines += step(graph)
    return lines


def remove_output_activations(graph: Graph) -> list[str | None]:
    """Remove the outputs' activations of `graph`, and return them: "softmax", "sigmoid" or None for each."""
    removed: list[str | None] = []
    for position, tensor in enumerate(graph.outputs):
        layer = graph.get(tensor)
        name = _get_output_activation(layer)
        removed.append(name)
        if name is None:
            continue
        if layer.kind in _LINEAR_KINDS and graph.find_users(layer):
            config = layer.config | {"activation": "linear"}
            linear = dataclasses.replace(layer, name=f"{layer.name}_logits", config=config, equals=None)
            activation = Layer(layer.name, "Activation", {"activation": name}, shape=layer.shape)
            graph.replace(layer, make_chain(layer, linear, activation))
            graph.outputs[position] = linear.name
        elif layer.kind in _LINEAR_KINDS:
            layer.config = layer.config | {"activation": "linear"}
            layer.equals = None
        else:
            graph.outputs[position] = layer.inputs[0]
            if not graph.find_users(layer):
                graph.layers.remove(layer)
    return removed


def _get_output_activation(layer: Layer) -> str | None:
    """The activation that a layer ends with, if it is one that is taken off an output."""
    if layer.kind == "Softmax":
        return "softmax" if layer.config.get("axis", -1) == -1 else None
    name = layer.config.get("activation") if layer.kind in (*_LINEAR_KINDS, "Activation") else None
    return name if name in OUTPUT_ACTIVATIONS else None


def _split_activations(graph: Graph) -> list[str]:
    """Move activations other than ReLU out of convolutions and dense layers, into layers of their own."""
    found = select(graph, *_LINEAR_KINDS, where=lambda layer: layer.config.get("activation", "linear") not in _FUSED)
    for layer in found:
        activation = layer.config["activation"]
        suffix = activation if isinstance(activation, str) else "activation"
        linear = dataclasses.replace(layer, config=layer.config | {"activation": "linear"}, equals=None)
        config = {"activation": activation}
        following = Layer(f"{layer.name}_{suffix}", "Activation", config, shape=layer.shape)
        graph.replace(layer, make_chain(layer, linear, following))
    return [f"Activation of a layer became a layer: {list_names(found)}"] if found else []


def _expand_activations(graph: Graph) -> list[str]:
    """Turn activations that have a layer of their own into it, and those that Keras 2 lacks into arithmetic."""
    found = []
    for layer in select(graph, "Activation"):
        name = layer.config["activation"]
        if name in _LAYERS:
            layer.kind, layer.config = _LAYERS[name][0], dict(_LAYERS[name][1])
        elif name in _HARD:
            _expand_hard(graph, layer, gates=name != "hard_sigmoid_3")
            found.append(layer)
    return [f"hard_sigmoid and hard_swish of Keras 3 became ReLU6 and arithmetic: {list_names(found)}"] if found else []


def _expand_hard(graph: Graph, layer: Layer, gates: bool) -> None:
    """Write relu6(x + 3) / 6 with layers, and multiply x by it where it `gates`."""
    steps = [
        Layer(f"{layer.name}_plus_3", "Rescaling", {"scale": 1.0, "offset": 3.0}, shape=layer.shape),
        Layer(f"{layer.name}_relu6", "ReLU", {"max_value": 6.0}, shape=layer.shape),
        Layer(f"{layer.name}_sixth", "Rescaling", {"scale": 1 / 6, "offset": 0.0}, shape=layer.shape),
    ]
    chain = make_chain(layer, *steps)
    if gates:
        steps[-1].equals = None
        inputs = [layer.inputs[0], steps[-1].name]
        chain += [Layer(layer.name, "Multiply", {}, inputs=inputs, shape=layer.shape, equals=layer.equals)]
    graph.replace(layer, chain)


def _split_separable(graph: Graph) -> list[str]:
    """Split separable convolutions into a depthwise and a 1×1 convolution."""
    found = select(graph, "SeparableConv2D", "SeparableConv1D")
    for layer in found:
        dimensions = layer.kind[-2]
        depthwise = _pick(layer, "kernel_size", "strides", "padding", "depth_multiplier", "dilation_rate")
        # The layout of a 1-D kernel is (size, channels, multiplier) in both layers.
        first = Layer(
            f"{layer.name}_depthwise",
            f"DepthwiseConv{dimensions}D",
            depthwise | {"use_bias": False, "activation": "linear"},
            layer.weights[:1],
            shape=(*layer.shape[:-1], layer.weights[0].shape[-2] * layer.weights[0].shape[-1]),
        )
        size = [1] * int(dimensions)
        pointwise = _pick(layer, "filters", "use_bias", "activation")
        second = Layer(
            layer.name, f"Conv{dimensions}D", pointwise | {"kernel_size": size}, layer.weights[1:], shape=layer.shape
        )
        graph.replace(layer, make_chain(layer, first, second))
    return [f"Separable convolutions became a depthwise and a 1×1 convolution: {list_names(found)}"] if found else []


def _pick(layer: Layer, *names: str) -> dict:
    return {name: layer.config[name] for name in names if name in layer.config}
