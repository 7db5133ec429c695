"""Folds batch norm that no convolution precedes into a linear layer, or turns it into a 1×1 depthwise convolution.

Batch norm that was never trained stays, because the training of a new model needs it.
"""

import numpy as np

from collabopt.models.importing.graph import Graph, Layer, list_names, make_chain, make_reshape, select

_KEPT_AFTER = ("Conv2D", "DepthwiseConv2D")  # quantization-aware training folds these itself
_FOLDED_AFTER = ("Dense", "Conv2DTranspose")
_FOLDED_BEFORE = ("Dense", "Conv2D", "DepthwiseConv2D")


def fold_into_linear(graph: Graph) -> list[str]:
    """Fold batch norm of `graph` into a dense or transposed layer before, or a linear one after. Return a line."""
    found = []
    for norm in _select(graph):
        scale, offset = _compute_affine(norm)
        before = graph.get(norm.inputs[0])
        users = graph.find_users(norm)
        if before.kind in _FOLDED_AFTER and _is_linear(before) and graph.has_one_user(before):
            _fold_into_previous(before, scale, offset)
            before.equals = norm.equals
            graph.replace(norm, [])
            found.append(norm)
        elif len(users) == 1 and graph.has_one_user(norm) and _can_fold_into_next(users[0], offset):
            _fold_into_next(users[0], scale, offset)
            graph.replace(norm, [])
            found.append(norm)
    return [f"Batch norm was folded into a linear layer: {list_names(found)}"] if found else []


def convert_to_depthwise(graph: Graph) -> list[str]:
    """Turn batch norm of `graph` that no convolution precedes into 1×1 depthwise layers. Return a line, if any."""
    found = [norm for norm in _select(graph) if len(norm.shape) in (2, 3, 4)]
    for norm in found:
        scale, offset = _compute_affine(norm)
        weights = [scale[None, None, :, None].astype(np.float32), offset.astype(np.float32)]
        image = (norm.shape[0], *[1] * (4 - len(norm.shape)), *norm.shape[1:])
        depthwise = Layer(norm.name, "DepthwiseConv2D", {"kernel_size": [1, 1]}, weights, shape=image)
        steps = [depthwise]
        if image != norm.shape:
            back = make_reshape(f"{norm.name}_back", norm.shape)
            steps = [make_reshape(f"{norm.name}_reshaped", image), depthwise, back]
        graph.replace(norm, make_chain(norm, *steps))
    return [f"Batch norm became a 1×1 depthwise convolution: {list_names(found)}"] if found else []


def _select(graph: Graph) -> list[Layer]:
    """Trained batch norm over the last axis that does not directly follow a linear convolution."""

    def is_left_over(norm: Layer) -> bool:
        before = graph.get(norm.inputs[0])
        kept = before.kind in _KEPT_AFTER and _is_linear(before) and graph.has_one_user(before)
        return not kept and _is_trained(norm) and norm.config.get("axis", -1) in (-1, len(norm.shape) - 1)

    return select(graph, "BatchNormalization", where=is_left_over)


def _is_trained(norm: Layer) -> bool:
    """Whether the statistics are others than those that a new layer begins with."""
    *_, mean, variance = norm.weights
    return bool(mean.any() or (variance != 1).any())


def _is_linear(layer: Layer) -> bool:
    return layer.config.get("activation", "linear") == "linear"


def _compute_affine(norm: Layer) -> tuple[np.ndarray, np.ndarray]:
    """Scale and offset per channel, float64."""
    weights = [weight.astype(np.float64) for weight in norm.weights]
    variance, mean = weights.pop(), weights.pop()
    scale = 1 / np.sqrt(variance + norm.config.get("epsilon", 1e-3))
    if norm.config.get("scale", True):
        scale = scale * weights.pop(0)
    offset = -mean * scale
    return scale, offset + weights.pop(0) if norm.config.get("center", True) else offset


def _fold_into_previous(layer: Layer, scale: np.ndarray, offset: np.ndarray) -> None:
    # A transposed kernel is (height, width, out, in), a dense one (in, out).
    factor = scale[:, None] if layer.kind == "Conv2DTranspose" else scale
    _set_weights(layer, layer.weights[0] * factor, _get_bias(layer) * scale + offset)


def _can_fold_into_next(layer: Layer, offset: np.ndarray) -> bool:
    """Whether scale and offset can move behind the padding of the layer."""
    if layer.kind not in _FOLDED_BEFORE or layer.config.get("groups", 1) != 1:
        return False
    unpadded = layer.kind == "Dense" or layer.config.get("padding", "valid") == "valid"
    return unpadded or layer.weights[0].shape[:2] == (1, 1) or not offset.any()


def _fold_into_next(layer: Layer, scale: np.ndarray, offset: np.ndarray) -> None:
    kernel = layer.weights[0].astype(np.float64)
    # The input channels are the next to last axis of every kernel. A depthwise one has its outputs in both last axes.
    if layer.kind == "DepthwiseConv2D":
        added = (kernel * offset[:, None]).sum((0, 1)).reshape(-1)
    else:
        added = (kernel * offset[:, None]).sum(tuple(range(kernel.ndim - 1)))
    _set_weights(layer, kernel * scale[:, None], _get_bias(layer) + added)


def _get_bias(layer: Layer) -> np.ndarray | float:
    return layer.weights[1].astype(np.float64) if layer.config.get("use_bias", True) else 0.0


def _set_weights(layer: Layer, kernel: np.ndarray, bias: np.ndarray) -> None:
    layer.config["use_bias"] = True
    layer.weights = [kernel.astype(np.float32), bias.astype(np.float32)]
