"""Quantization-aware training (QAT): the model is trained with the rounding errors that int8 inference will have.

TFMOT inserts fake quantization of kernels and activations (Jacob et al. 2018, arXiv:1712.05877). PQAT also preserves
zeros, CQAT preserves clusters, and PCQAT both, by our scheme or by TFMOT's. Conversion and fake-INT8 accuracy need the
fake-quantized model, so this module returns wrapped models.
"""

import dataclasses
import itertools
from collections.abc import Mapping

import numpy as np

from collabopt.config.experiment import Experiment
from collabopt.config.sections import Training
from collabopt.config.stages import Stage
from collabopt.datasets import Data
from collabopt.runtime import progress
from collabopt.runtime.tensorflow import drop_log_records, drop_native_notices, keras, tf, tfmot
from collabopt.techniques import activation_ranges, annotation, int8_rewrites, layers, preserving_scheme, training
from collabopt.techniques.checkpoints import NO_CHECKPOINT, Checkpoint
from collabopt.techniques.kernel_state import Clusters, apply_state, make_clusters
from collabopt.techniques.settling import Settling


@dataclasses.dataclass(frozen=True)
class Preservation:
    """What quantization-aware training must preserve of its parent.

    Attributes:
        clusters: How the parent was clustered, and how clusters are trained; None preserves none.
        unclustered: Names of layers that clustering left out.
        scheme: "collabopt" (ours), or "tfmot", which guesses how kernels were clustered.
        unquantized: Names of layers that stay in float32 on purpose.
        bits: Bits per weight, or bits by layer (`per_layer`).
    """

    zeros: bool = False
    clusters: Clusters | None = None
    unclustered: tuple[str, ...] = ()
    scheme: str = "collabopt"
    unquantized: tuple[str, ...] = ()
    bits: int | Mapping[str, int] = 8

    @property
    def is_ours(self) -> bool:
        """Whether our scheme is applied. TFMOT has a scheme of its own only where something is preserved."""
        return self.scheme == "collabopt" or not (self.zeros or self.clusters)


def get_preservation(stage: Stage, experiment: Experiment) -> Preservation:
    """Return what a quantization-aware `stage` of an `experiment` must preserve."""
    clusters = make_clusters(experiment) if stage.clusters else None
    exclude = experiment.exclude
    own = exclude.clustering, experiment.scheme, exclude.quantization, experiment.weight_bits
    return Preservation(stage.keeps_zeros, clusters, *own)


def train(
    stage: Stage, parent: keras.Model, data: Data, experiment: Experiment, checkpoint: Checkpoint
) -> tuple[keras.Model, training.Fit]:
    """Train a fake-quantized clone of a stage's parent. Return it with the record of its training.

    A trainer (`registry.find_trainer`) by the settings of `experiment`, from `checkpoint` on. `parent` stays as it is.
    """
    section, preservation = experiment.training(stage.name), get_preservation(stage, experiment)
    setting = experiment.calibration
    return fine_tune(parent, data, section, experiment.seed, stage.name, preservation, checkpoint, setting)


def _make_preserving_scheme(preservation: Preservation) -> preserving_scheme.PreservingScheme:
    own = preservation.unclustered, preservation.bits
    return preserving_scheme.PreservingScheme(preservation.zeros, preservation.clusters, *own)


def _make_scheme(preservation: Preservation) -> tfmot.quantization.keras.QuantizeScheme:
    """The 8-bit scheme that preserves what it must: ours, or one of TFMOT's."""
    if preservation.is_ours:
        return _make_preserving_scheme(preservation)
    combine = tfmot.experimental.combine
    if preservation.clusters:
        return combine.Default8BitClusterPreserveQuantizeScheme(preserve_sparsity=preservation.zeros)
    return combine.Default8BitPrunePreserveQuantizeScheme()


def wrap(model: keras.Model, preservation: Preservation) -> keras.Model:
    """Return a clone of a plain `model` with fake quantization; `preservation` says which zeros and clusters stay."""
    # Gammas stay positive where they are. Changing signs of a clustered kernel would double its values per tensor.
    constrained = preservation.scheme == "collabopt" and preservation.clusters and not layers.has_negative_gamma(model)
    start = layers.make_gammas_positive(model) if constrained else layers.clone_model(model)
    frozen = layers.find_frozen(model)
    preservation = dataclasses.replace(preservation, unclustered=(*preservation.unclustered, *frozen))
    start = int8_rewrites.make_quantizable(start, bool(preservation.clusters), preservation.unquantized)
    annotated = annotation.annotate(start, _make_preserving_scheme(preservation), preservation.unquantized)
    custom_objects = annotation.list_custom_objects(start)
    with tfmot.quantization.keras.quantize_scope(custom_objects), drop_native_notices():
        wrapped = tfmot.quantization.keras.quantize_apply(annotated, scheme=_make_scheme(preservation))
    for wrapper in wrapped.layers:
        if hasattr(wrapper, "quantize_config"):
            layers.pass_masks(wrapper, wrapper.layer)
    _freeze(wrapped)
    return wrapped


def _freeze(wrapped: keras.Model) -> None:
    """Keep frozen layers frozen. TFMOT's wrappers train every kernel that they quantize."""
    for wrapper in wrapped.layers:
        if hasattr(wrapper, "quantize_config") and not wrapper.layer.trainable:
            wrapper._non_trainable_weights.extend(wrapper._trainable_weights)
            wrapper._trainable_weights.clear()


def fine_tune(
    model: keras.Model,
    data: Data,
    section: Training,
    seed: int = 0,
    stage: str = "qat",
    preservation: Preservation = Preservation(),
    checkpoint: Checkpoint = NO_CHECKPOINT,
    setting: str = "auto",
) -> tuple[keras.Model, training.Fit]:
    """Train a fake-quantized clone of a model. Return it with the record of its training.

    Args:
        model: A plain model; it stays as it is.
        data: Training and validation splits.
        section: How to train.
        seed: Decides the order of examples and their augmentation.
        stage: Name of the stage in progress lines.
        preservation: Which zeros and clusters of the model's kernels are preserved.
        checkpoint: Where training continues from and saves its state.
        setting: How ranges are taken from examples (`activation_ranges.calibrate`). TFMOT's scheme does not use it.
    """
    clock, method = progress.Clock(), None
    wrapped = wrap(model, preservation)
    if preservation.is_ours:
        method = activation_ranges.calibrate(wrapped, data, seed, setting, stage)
    settles = preservation.is_ours and preservation.clusters and preservation.clusters.moving
    callbacks = [Settling(section)] if settles else []
    # A cluster-preserving quantizer trains centroids in place of the kernel, which therefore has no gradient.
    with drop_log_records("Gradients do not exist for variables"), drop_native_notices():
        fit = training.fit(wrapped, data, section, seed, stage, clock, callbacks, checkpoint)
    return wrapped, dataclasses.replace(fit, details={"calibration": method})


def is_wrapped(model: keras.Model) -> bool:
    """Return whether a `model` is fake-quantized."""
    return any(hasattr(layer, "quantize_config") for layer in model.layers)


def find_kernels(wrapped: keras.Model) -> dict[str, tuple[keras.layers.Layer, tuple | None]]:
    """Return layer, and variable, quantizer and state or None, by kernel of `wrapped` (`layers.find_kernels`)."""
    found = {}
    for wrapper in wrapped.layers:
        is_quantized = hasattr(wrapper, "quantize_config")
        layer, quantized = (wrapper.layer, wrapper._weight_vars) if is_quantized else (wrapper, [])
        if layers.get_kind(layer):
            names = layers.find_kernels(layer)
            found |= {name: (layer, one) for name, one in itertools.zip_longest(names, quantized)}
    return found


def read_kinds(wrapped: keras.Model) -> dict[str, str]:
    """Return the kind (`layers.get_kind`) of the kernels of `wrapped` by name (`layers.find_kernels`)."""
    return {name: layers.get_kind(layer) for name, (layer, _) in find_kernels(wrapped).items()}


def read_quantizers(wrapped: keras.Model) -> dict[str, str]:
    """Return the class of the quantizer that each kernel of `wrapped` actually got, or "none", by name."""
    return {name: type(one[1]).__name__ if one else "none" for name, (_, one) in find_kernels(wrapped).items()}


def read_kernels(wrapped: keras.Model) -> dict[str, np.ndarray]:
    """Return the float32 kernels of `wrapped` that enter fake quantization, zeros and clusters applied, not rounded.

    They are those of `layers.read_layer_kernels`, depthwise ones included.
    """
    kernels = {}
    for name, (layer, quantized) in find_kernels(wrapped).items():
        if not quantized:
            kernels[name] = layers.read_layer_kernels(layer)[name]
            continue
        kernel = get_unrounded(*quantized)
        kernels[name] = np.moveaxis(kernel.numpy(), layers.get_channel_axis(layer), -1)
    return kernels


def get_unrounded(
    values: tf.Tensor, quantizer: tfmot.quantization.keras.quantizers.Quantizer, state: dict[str, tf.Variable]
) -> tf.Tensor:
    """Return the kernel or activation `values` that a quantizer of this `state` rounds, zeros and clusters applied."""
    if isinstance(quantizer, preserving_scheme.KernelQuantizer):
        return apply_state(values, state)
    mask = state.get("sparsity_mask")
    return tf.convert_to_tensor(values) if mask is None else tf.multiply(values, mask)
