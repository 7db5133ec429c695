"""Quantization-aware training (QAT), plain or preserving zeros (PQAT), clusters (CQAT) or both (PCQAT), by TFMOT.

The fake-quantized model is needed for conversion and for fake-INT8 accuracy, so here the wrapped model comes out.
"""

import dataclasses

import numpy as np

from collabopt import audit, plain, preserve, progress, training
from collabopt.backend import keras, log_dropped, native_notices_dropped, tf, tfmot
from collabopt.checkpoints import NOTHING_KEPT, Checkpoint
from collabopt.datasets import Data
from collabopt.experiment import Training

_BY_TFMOT = {
    "qat": lambda: tfmot.quantization.keras.default_8bit.Default8BitQuantizeScheme(),
    "pqat": lambda: tfmot.experimental.combine.Default8BitPrunePreserveQuantizeScheme(),
    "cqat": lambda: tfmot.experimental.combine.Default8BitClusterPreserveQuantizeScheme(preserve_sparsity=False),
    "pcqat": lambda: tfmot.experimental.combine.Default8BitClusterPreserveQuantizeScheme(preserve_sparsity=True),
}
"""TFMOT's own 8-bit schemes by stage."""


@dataclasses.dataclass(frozen=True)
class Keep:
    """What quantization-aware training must keep of its parent: zeros, clusters, and how these were made.

    scheme: `collabopt`, ours; or `tfmot`, which finds out for itself how kernels were clustered.
    unclustered: layers that clustering left out.
    """

    zeros: bool = False
    clusters: preserve.Clusters | None = None
    unclustered: tuple[str, ...] = ()
    scheme: str = "collabopt"


def wrap(model: keras.Model, stage: str, keep: Keep) -> keras.Model:
    """A clone of `model` with fake-quantized weights and activations; its kernels keep what they now hold of `keep`."""
    ours = keep.scheme == "collabopt" and (keep.zeros or keep.clusters)
    scheme = preserve.PreservingScheme(keep.zeros, keep.clusters, keep.unclustered) if ours else _BY_TFMOT[stage]()
    # Turning channels over now would double the values of a kernel that was clustered before; the audit tells of codes.
    holds = ours and keep.clusters and not plain.has_negative_gamma(model)
    start = plain.with_positive_gammas(model) if holds else plain.clone(model)
    annotated = tfmot.quantization.keras.quantize_annotate_model(start)
    with tfmot.quantization.keras.quantize_scope(), native_notices_dropped():
        return tfmot.quantization.keras.quantize_apply(annotated, scheme=scheme)


def fine_tune(
    model: keras.Model,
    data: Data,
    how: Training,
    seed: int = 0,
    stage: str = "qat",
    keep: Keep = Keep(),
    checkpoint: Checkpoint = NOTHING_KEPT,
) -> tuple[keras.Model, training.Fit]:
    """Quantization-aware training of a wrapped clone of `model`, which keeps what it holds of `keep`."""
    clock = progress.Clock()
    wrapped = wrap(model, stage, keep)
    # A preserving quantizer puts centroids in the place of a kernel, which then rightly has no gradient.
    with log_dropped("Gradients do not exist for variables"), native_notices_dropped():
        return wrapped, training.fit(wrapped, data, how, seed, stage, clock, checkpoint=checkpoint)


def is_wrapped(model: keras.Model) -> bool:
    """Whether the model is fake-quantized."""
    return any(hasattr(layer, "quantize_config") for layer in model.layers)


def _inner(wrapped: keras.Model) -> dict[str, tuple[keras.layers.Layer, list]]:
    """The layers with a kernel by plain name, each with what its wrapper quantizes: (variable, quantizer, state)."""
    pairs = [(getattr(wrapper, "layer", wrapper), getattr(wrapper, "_weight_vars", [])) for wrapper in wrapped.layers]
    return {layer.name: (layer, quantized) for layer, quantized in pairs if audit.kind(layer)}


def kinds(wrapped: keras.Model) -> dict[str, str]:
    """The kind of each layer that has a kernel, by the plain layer's name."""
    return {name: audit.kind(layer) for name, (layer, _) in _inner(wrapped).items()}


def quantizers(wrapped: keras.Model) -> dict[str, str]:
    """The weight quantizer that each layer really got, by the plain layer's name; `none` where it got none."""
    return {
        name: ", ".join(type(quantizer).__name__ for _, quantizer, _ in quantized) or "none"
        for name, (_, quantized) in _inner(wrapped).items()
    }


def kernels(wrapped: keras.Model) -> dict[str, np.ndarray]:
    """The kernels that the fake quantization sees, by the plain layer's name: float32, before rounding to 8 bits."""
    found = {}
    for name, (layer, quantized) in _inner(wrapped).items():
        if not quantized:
            found[name] = audit.kernel(layer)
        for variable, quantizer, state in quantized:
            if isinstance(quantizer, preserve.KernelQuantizer):
                found[name] = preserve.held(variable, state).numpy()
            else:
                mask = state.get("sparsity_mask")
                found[name] = (variable if mask is None else tf.multiply(variable, mask)).numpy()
    return found
