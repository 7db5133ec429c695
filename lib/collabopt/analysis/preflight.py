"""What is known to go wrong with a model, found before anything is trained: the layer, the reason, the remedy."""

import dataclasses

from collabopt.config.experiment import Experiment
from collabopt.runtime.tensorflow import keras
from collabopt.techniques import layers, quantization
from collabopt.techniques.layers import is_eligible


@dataclasses.dataclass(frozen=True)
class Finding:
    """What will not work (`stops`), or will do less than was asked, in a layer."""

    layer: str
    reason: str
    remedy: str
    stops: bool = False


class PreflightError(ValueError):
    """The model or the experiment would fail in training; a line a finding."""


def find_problems(model: keras.Model, plan: Experiment) -> list[Finding]:
    """What pruning, clustering and quantization by the experiment's scheme will meet in the model."""
    found = [*_unknown_layers(model, plan), *_few_weights(model, plan), *_passed_over(model)]
    if plan.scheme == "tfmot":
        found += [*_before_relu(model), *_without_bias(model, plan), *_with_zeros(model, plan), *_unpruned(model, plan)]
    return [*found, *_dense_before_norm(model), *_unquantizable(model)]


def check(model: keras.Model, plan: Experiment, every_layer: bool = True) -> None:
    """Raise PreflightError where training would fail; without `every_layer` only names of layers are looked at."""
    found = find_problems(model, plan) if every_layer else _unknown_layers(model, plan)
    stops = [finding for finding in found if finding.stops]
    if stops:
        raise PreflightError("\n".join(f"{one.layer}: {one.reason}; {one.remedy}" for one in stops))


def _unknown_layers(model: keras.Model, plan: Experiment) -> list[Finding]:
    touched = [layer.name for layer in filter(is_eligible, model.layers)]
    named = [("pruning", name) for name in plan.exclude.pruning] + [
        ("clustering", name) for name in plan.exclude.clustering
    ]
    return [
        Finding(name, f"exclude.{what} names it, but {what} touches no such layer", f"expected some of {touched}", True)
        for what, name in named
        if name not in touched
    ]


def _few_weights(model: keras.Model, plan: Experiment) -> list[Finding]:
    """Kernels, or channels, that hold no more weights than there are clusters."""
    found = []
    for layer in filter(is_eligible, model.layers):
        kernel = layers.read_kernel(layer)
        by_channel = plan.cluster_per_channel and isinstance(layer, keras.layers.Conv2D)
        weights = kernel.size // kernel.shape[-1] if by_channel else kernel.size
        if weights <= plan.number_of_clusters and layer.name not in plan.exclude.clustering:
            where = "a channel" if by_channel else "the tensor"
            reason = f"{weights} weights in {where} for {plan.number_of_clusters} clusters: clustering wins nothing"
            found.append(Finding(layer.name, reason, "leave it out of clustering, or ask for fewer clusters"))
    return found


def _passed_over(model: keras.Model) -> list[Finding]:
    """Layers whose weights become 8 bits wide at most; depthwise ones are so by design."""
    found = []
    for layer in model.layers:
        if not layer.weights or layers.get_kind(layer) or isinstance(layer, keras.layers.BatchNormalization):
            continue
        kind = type(layer).__name__
        reason, remedy = f"a {kind} with {layer.count_params():,} weights is neither pruned nor clustered", "use Conv2D"
        # TFMOT puts two layers in its place, with names of their own.
        splits = isinstance(layer, keras.layers.SeparableConv1D | keras.layers.SeparableConv2D)
        if splits:
            reason, remedy = f"a {kind} becomes two layers in QAT", "use DepthwiseConv2D and a 1×1 Conv2D in its place"
        found.append(Finding(layer.name, reason, remedy, splits))
    return found


def _before_relu(model: keras.Model) -> list[Finding]:
    """F1: TFMOT gives a layer that a ReLU follows, without batch norm, no weight quantizer at all."""
    return [
        Finding(
            layer.name,
            "a ReLU layer follows, without batch norm: TFMOT quantizes and preserves nothing in it, and says nothing",
            "give the layer activation='relu' in place of the ReLU layer, or use scheme: collabopt",
        )
        for layer in model.layers
        if layers.get_kind(layer) and layer.activation is keras.activations.linear and any(map(_is_relu, _after(layer)))
    ]


def _without_bias(model: keras.Model, plan: Experiment) -> list[Finding]:
    """F3: TFMOT's guard takes the last trainable variable for the bias and skips a convolution that has none."""
    return [
        Finding(
            layer.name,
            "a convolution with use_bias=False: TFMOT does not cluster it per channel",
            "use scheme: collabopt",
        )
        for layer in filter(is_eligible, model.layers)
        if plan.cluster_per_channel and isinstance(layer, keras.layers.Conv2D) and not layer.use_bias
    ]


def _with_zeros(model: keras.Model, plan: Experiment) -> list[Finding]:
    """F4: TFMOT shares a channel's centroids out to its negative and positive weights, however few these are."""
    trouble = {
        "linear": "linear centroids of a channel set further weights to zero where zeros are preserved",
        "kmeans_plus_plus": "k-means++ fails where a channel has fewer weights of a sign than it has centroids for it",
    }
    return [
        Finding(layer.name, f"per channel, TFMOT's {trouble[plan.centroid_initialization]}", "use scheme: collabopt")
        for layer in filter(is_eligible, model.layers)
        if plan.cluster_per_channel and plan.centroid_initialization in trouble
        if isinstance(layer, keras.layers.Conv2D) and layer.use_bias and layer.name not in plan.exclude.clustering
    ]


def _unpruned(model: keras.Model, plan: Experiment) -> list[Finding]:
    """F5: with preserved sparsity TFMOT gives every kernel a zero centroid, and layers of a kind one quantizer."""
    return [
        Finding(
            layer.name,
            "left out of pruning: TFMOT's sparsity-preserving clustering makes zeros in it, and a kernel without zeros "
            "lets all kernels of its kind lose theirs",
            "use scheme: collabopt",
        )
        for layer in filter(is_eligible, model.layers)
        if layer.name in plan.exclude.pruning
    ]


def _dense_before_norm(model: keras.Model) -> list[Finding]:
    """A dense kernel has one range, into which the converter cannot fold a batch norm: it stays float32 in the file."""
    return [
        Finding(
            layer.name,
            "a dense layer before batch norm: the converter leaves its kernel in float32",
            "replace it by a 1×1 convolution, or fold the batch norm into it",
            True,
        )
        for layer in model.layers
        if isinstance(layer, keras.layers.Dense)
        and any(isinstance(after, keras.layers.BatchNormalization) for after in _after(layer))
    ]


def _unquantizable(model: keras.Model) -> list[Finding]:
    """The layer that TFMOT cannot quantize, by trying: its registry and its layout know more than a list would."""
    try:
        quantization.wrap(model, quantization.Preservation())
    except (RuntimeError, ValueError) as error:
        reason = " ".join(str(error).split())
        named = next((layer.name for layer in model.layers if layer.name in reason), model.name)
        return [
            Finding(named, f"TFMOT cannot quantize it: {reason}", "replace the layer by one that TFMOT knows", True)
        ]
    return []


def _after(layer: keras.layers.Layer) -> list[keras.layers.Layer]:
    return [node.outbound_layer for node in layer.outbound_nodes]


def _is_relu(layer: keras.layers.Layer) -> bool:
    plain = isinstance(layer, keras.layers.Activation) and layer.activation is keras.activations.relu
    return plain or isinstance(layer, keras.layers.ReLU)
