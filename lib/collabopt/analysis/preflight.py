"""Known problems of a model with TFMOT and the converter, found before anything is trained.

TFMOT 0.8.1 has defects that fail silently: training succeeds, but a layer is not compressed or loses its zeros and
clusters. Each check names the layer, what happens, and the remedy. F1 to F5 number the defects of TFMOT's schemes, as
tests/techniques/test_preserving_scheme.py does. Our scheme has none of them, so those checks are for `scheme: tfmot`.
"""

import difflib
from collections.abc import Iterator
from pathlib import Path

from collabopt.analysis.trial import Finding, find_failures
from collabopt.config import per_layer
from collabopt.config.experiment import Experiment
from collabopt.datasets import Data
from collabopt.runtime.tensorflow import keras
from collabopt.techniques import filter_pruning, int8_rewrites, layers, low_rank, patterns


class PreflightError(ValueError):
    """The model or the experiment would fail in training: one line per finding."""


def find_problems(model: keras.Model, data: Data, experiment: Experiment, store_directory: Path) -> list[Finding]:
    """Return the known problems of a plain `model`, or those of a trial, which the store in `store_directory` keeps."""
    found = find_known_problems(model, experiment)
    # A name that no layer has would make the trial fail somewhere else.
    return (
        found if any(one.stops for one in found) else [*found, *find_failures(model, data, experiment, store_directory)]
    )


def find_known_problems(model: keras.Model, experiment: Experiment) -> list[Finding]:
    """Return the problems that the layers of a plain `model` alone show."""
    checks = [_check_number_of_weights, _check_kind]
    if experiment.scheme == "tfmot":
        checks += [_check_relu_without_norm, _check_bias, _check_zeros_per_channel, _check_exclusion_from_pruning]
    found = [finding for find in checks for layer in model.layers for finding in find(layer, experiment)]
    found += [*_find_misfits(model, experiment), *_find_nothing_to_reshape(model, experiment)]
    return [*find_unknown_names(model, experiment), *found, *_find_layers_without_qat(model, experiment)]


def check(findings: list[Finding]) -> None:
    """Refuse a model that cannot be trained or converted, as `findings` say.

    Raises:
        PreflightError: At least one finding stops training.
    """
    stopping = [finding for finding in findings if finding.stops]
    if stopping:
        raise PreflightError("\n".join(f"{one.layer}: {one.reason}; {one.remedy}" for one in stopping))


def find_unknown_names(model: keras.Model, experiment: Experiment) -> list[Finding]:
    """Return names under `exclude`, and in settings per layer, that no layer of `model` has to which these apply."""
    eligible = [layer.name for layer in filter(layers.is_eligible, model.layers)]
    every = [layer.name for layer in model.layers if not isinstance(layer, keras.layers.InputLayer)]
    findings = []
    given = {f"exclude.{technique}": names for technique, names in experiment.exclude.model_dump().items()}
    settings = "sparsity", "number_of_clusters", "weight_bits", "cluster_rate"
    own = [key for key in settings if key in experiment.model_fields_set]
    given |= {key: per_layer.list_layers(getattr(experiment, key)) for key in own}
    for key, names in given.items():
        known = every if key == "exclude.quantization" else eligible
        for name in (name for name in names if name not in known):
            near = "".join(f"did you mean {one}? " for one in difflib.get_close_matches(name, known, 1))
            reason = f"{key} names no layer that it could apply to"
            findings.append(Finding(name, reason, f"{near}expected some of {known}", stops=True))
    return findings


def _find_nothing_to_reshape(model: keras.Model, experiment: Experiment) -> Iterator[Finding]:
    if "factorized" in experiment.tree and not low_rank.find_spectra(model, low_rank.list_excluded(experiment)):
        settings = {"rank_energy": experiment.rank_energy, "max_flops": experiment.max_flops}
        given = ", ".join(f"{name}={value}" for name, value in settings.items() if value is not None)
        remedy = "leave rank_energy and max_flops out"
        yield Finding(model.name, f"{given}: no layer can be split", remedy, stops=True)
    if experiment.filter_sparsity is None:
        return
    filters = filter_pruning.find_filters(model, experiment.exclude.pruning)
    if not filters.count:
        unknown = ", ".join(f"{name} ({kind})" for name, kind in filters.channels.unknown.items())
        reason = f"filter_sparsity={experiment.filter_sparsity}: none of its filters can be removed"
        reason += f", because their channels reach {unknown}" if unknown else ""
        yield Finding(model.name, reason, "leave filter_sparsity out, or use a network with inner channels", stops=True)


def _check_number_of_weights(layer: keras.layers.Layer, experiment: Experiment) -> Iterator[Finding]:
    if not layers.is_eligible(layer) or layer.name in experiment.exclude.clustering or not layer.trainable:
        return
    per_channel = experiment.cluster_per_channel and layers.is_convolution(layer)
    kernels = layers.read_layer_kernels(layer).values()
    clusters = per_layer.get_value(experiment.number_of_clusters, layer.name)
    weights = min(kernel.size // kernel.shape[-1] if per_channel else kernel.size for kernel in kernels)
    where = "channel" if per_channel else "tensor"
    if weights <= clusters:
        reason = f"{clusters} clusters for {weights} weights per {where} have no effect"
        yield Finding(layer.name, reason, "list the layer in exclude.clustering, or lower number_of_clusters")


def _check_kind(layer: keras.layers.Layer, experiment: Experiment) -> Iterator[Finding]:  # noqa: ARG001
    """Layers with weights that no technique but quantization reaches. Depthwise kernels are so by design."""
    kind = type(layer).__name__
    if not layer.weights or layers.get_kind(layer) or isinstance(layer, keras.layers.BatchNormalization):
        return
    if isinstance(layer, keras.layers.SeparableConv1D | keras.layers.SeparableConv2D):
        reason = f"quantization-aware training splits a {kind} into two layers with other names"
        yield Finding(layer.name, reason, "use DepthwiseConv2D and a 1×1 Conv2D instead", stops=True)
    else:
        reason = f"a {kind} with {layer.count_params():,} weights is neither pruned nor clustered"
        yield Finding(layer.name, reason, "use Conv2D or Dense instead if its weights matter for the file's size")


def _check_relu_without_norm(layer: keras.layers.Layer, experiment: Experiment) -> Iterator[Finding]:  # noqa: ARG001
    """F1: TFMOT gives such a layer no weight quantizer."""
    is_linear = layers.get_kind(layer) and getattr(layer, "activation", None) is keras.activations.linear
    if is_linear and any(_is_relu(node.outbound_layer) for node in layer.outbound_nodes):
        reason = "TFMOT silently neither quantizes nor preserves a layer that a ReLU layer follows without batch norm"
        yield Finding(layer.name, reason, "set activation='relu' in place of the ReLU layer, or use scheme: collabopt")


def _check_bias(layer: keras.layers.Layer, experiment: Experiment) -> Iterator[Finding]:
    """F3: TFMOT takes the last trainable variable for the bias."""
    if experiment.cluster_per_channel and _is_eligible_convolution(layer) and not layer.use_bias:
        reason = "TFMOT skips a convolution with use_bias=False when it clusters per channel"
        yield Finding(layer.name, reason, "give the layer a bias, or use scheme: collabopt")


def _check_zeros_per_channel(layer: keras.layers.Layer, experiment: Experiment) -> Iterator[Finding]:
    """F4: TFMOT splits a channel's centroids between negative and positive weights, however few there are of a sign."""
    fails = experiment.cluster_per_channel and experiment.centroid_initialization == "kmeans_plus_plus"
    clustered = layer.name not in experiment.exclude.clustering
    if fails and clustered and _is_eligible_convolution(layer) and layer.use_bias:
        reason = (
            "TFMOT's kmeans_plus_plus clustering per channel with preserved zeros fails if a channel has fewer weights "
            "of one sign than centroids for that sign"
        )
        yield Finding(layer.name, reason, "use scheme: collabopt")


def _check_exclusion_from_pruning(layer: keras.layers.Layer, experiment: Experiment) -> Iterator[Finding]:
    """F5: TFMOT gives every kernel a zero centroid, and all layers of a kind one quantizer."""
    if layers.is_eligible(layer) and layer.name in experiment.exclude.pruning:
        reason = (
            "exclude.pruning names it, but TFMOT's clustering with preserved zeros sets some of its weights to zero, "
            "or all layers of its kind lose their zeros in QAT"
        )
        yield Finding(layer.name, reason, "prune the layer too, or use scheme: collabopt")


def _find_misfits(model: keras.Model, experiment: Experiment) -> list[Finding]:
    """The layers that the pattern of zeros does not fit. They are not pruned; where nothing else is, training stops."""
    misfits, skipped = patterns.find_misfits(model, experiment), patterns.exclude_skipped(experiment, model)
    is_all = not any(layers.is_eligible(one) and one.name not in skipped.exclude.pruning for one in model.layers)
    remedy = (
        "set sparsity_pattern: unstructured" if is_all else "list the layer in exclude.pruning to skip it on purpose"
    )
    return [Finding(name, f"it is not pruned: {reason}", remedy, stops=is_all) for name, reason in misfits.items()]


def _find_layers_without_qat(model: keras.Model, experiment: Experiment) -> list[Finding]:
    excluded, without_qat = experiment.exclude.quantization, int8_rewrites.find_layers_without_qat(model)
    remedy = "deploy by PTQ, or list the layer in exclude.quantization to leave it in float32"
    return [
        Finding(name, f"QAT stages are not available: {what} has no int8 form", remedy)
        for name, what in without_qat.items()
        if name not in excluded
    ]


def _is_eligible_convolution(layer: keras.layers.Layer) -> bool:
    return layers.is_eligible(layer) and isinstance(layer, keras.layers.Conv2D)


def _is_relu(layer: keras.layers.Layer) -> bool:
    is_activation = isinstance(layer, keras.layers.Activation) and layer.activation is keras.activations.relu
    return is_activation or isinstance(layer, keras.layers.ReLU)
