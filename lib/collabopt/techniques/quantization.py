"""Quantization-aware training (QAT), plain or preserving zeros (PQAT), clusters (CQAT) or both (PCQAT), by TFMOT.

The fake-quantized model is needed for conversion and for fake-INT8 accuracy, so here the wrapped model comes out.
"""

import dataclasses

import numpy as np

from collabopt.config.experiment import Experiment, Training
from collabopt.config.stages import Stage
from collabopt.datasets import Data
from collabopt.runtime import progress
from collabopt.runtime.tensorflow import drop_log_records, drop_native_notices, keras, tf, tfmot
from collabopt.techniques import layers, preserving_scheme, training
from collabopt.techniques.checkpoints import NO_CHECKPOINT, Checkpoint


@dataclasses.dataclass(frozen=True)
class Preservation:
    """What quantization-aware training must keep of its parent: zeros, clusters, and how these were made.

    scheme: `collabopt`, ours; or `tfmot`, which finds out for itself how kernels were clustered.
    unclustered: layers that clustering left out.
    """

    zeros: bool = False
    clusters: preserving_scheme.Clusters | None = None
    unclustered: tuple[str, ...] = ()
    scheme: str = "collabopt"


def get_preservation(stage: Stage, experiment: Experiment) -> Preservation:
    """What a stage's quantization-aware training must keep."""
    clusters = ("channel" if experiment.cluster_per_channel else "tensor") if stage.clusters else None
    return Preservation(stage.keeps_zeros, clusters, experiment.exclude.clustering, experiment.scheme)


def train(
    stage: Stage, parent: keras.Model, data: Data, experiment: Experiment, checkpoint: Checkpoint
) -> tuple[keras.Model, training.Fit]:
    """Train a stage that quantizes its parent, and keeps what the stage must of its zeros and clusters."""
    section, keep = experiment.training(stage.name), get_preservation(stage, experiment)
    return fine_tune(parent, data, section, experiment.seed, stage.name, keep, checkpoint)


def _scheme(keep: Preservation) -> tfmot.quantization.keras.QuantizeScheme:
    """The 8-bit scheme that keeps what it must: ours, or one of TFMOT's."""
    if not (keep.zeros or keep.clusters):
        return tfmot.quantization.keras.default_8bit.Default8BitQuantizeScheme()
    if keep.scheme == "collabopt":
        return preserving_scheme.PreservingScheme(keep.zeros, keep.clusters, keep.unclustered)
    combine = tfmot.experimental.combine
    if keep.clusters:
        return combine.Default8BitClusterPreserveQuantizeScheme(preserve_sparsity=keep.zeros)
    return combine.Default8BitPrunePreserveQuantizeScheme()


def wrap(model: keras.Model, keep: Preservation) -> keras.Model:
    """A clone of `model` with fake-quantized weights and activations; its kernels keep what they now hold of `keep`."""
    # Turning channels over now would double the values of a kernel that was clustered before; the audit tells of codes.
    holds = keep.scheme == "collabopt" and keep.clusters and not layers.has_negative_gamma(model)
    start = layers.make_gammas_positive(model) if holds else layers.clone_model(model)
    annotated = tfmot.quantization.keras.quantize_annotate_model(start)
    with tfmot.quantization.keras.quantize_scope(), drop_native_notices():
        return tfmot.quantization.keras.quantize_apply(annotated, scheme=_scheme(keep))


def fine_tune(
    model: keras.Model,
    data: Data,
    how: Training,
    seed: int = 0,
    stage: str = "qat",
    keep: Preservation = Preservation(),
    checkpoint: Checkpoint = NO_CHECKPOINT,
) -> tuple[keras.Model, training.Fit]:
    """Quantization-aware training of a wrapped clone of `model`, which keeps what it holds of `keep`."""
    clock = progress.Clock()
    wrapped = wrap(model, keep)
    # A preserving quantizer puts centroids in the place of a kernel, which then rightly has no gradient.
    with drop_log_records("Gradients do not exist for variables"), drop_native_notices():
        return wrapped, training.fit(wrapped, data, how, seed, stage, clock, checkpoint=checkpoint)


def is_wrapped(model: keras.Model) -> bool:
    """Whether the model is fake-quantized."""
    return any(hasattr(layer, "quantize_config") for layer in model.layers)


def _inner(wrapped: keras.Model) -> dict[str, tuple[keras.layers.Layer, list]]:
    """The layers with a kernel by plain name, each with what its wrapper quantizes: (variable, quantizer, state)."""
    pairs = [(getattr(wrapper, "layer", wrapper), getattr(wrapper, "_weight_vars", [])) for wrapper in wrapped.layers]
    return {layer.name: (layer, quantized) for layer, quantized in pairs if layers.get_kind(layer)}


def read_kinds(wrapped: keras.Model) -> dict[str, str]:
    """The kind of each layer that has a kernel, by the plain layer's name."""
    return {name: layers.get_kind(layer) for name, (layer, _) in _inner(wrapped).items()}


def read_quantizers(wrapped: keras.Model) -> dict[str, str]:
    """The weight quantizer that each layer really got, by the plain layer's name; `none` where it got none."""
    return {
        name: ", ".join(type(quantizer).__name__ for _, quantizer, _ in quantized) or "none"
        for name, (_, quantized) in _inner(wrapped).items()
    }


def read_kernels(wrapped: keras.Model) -> dict[str, np.ndarray]:
    """The kernels that the fake quantization sees, by the plain layer's name: float32, before rounding to 8 bits."""
    found = {}
    for name, (layer, quantized) in _inner(wrapped).items():
        if not quantized:
            found[name] = layers.read_kernel(layer)
        for variable, quantizer, state in quantized:
            if isinstance(quantizer, preserving_scheme.KernelQuantizer):
                found[name] = preserving_scheme.apply_state(variable, state).numpy()
            else:
                mask = state.get("sparsity_mask")
                found[name] = (variable if mask is None else tf.multiply(variable, mask)).numpy()
    return found
