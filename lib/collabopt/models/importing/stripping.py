"""Takes the wrappers of pruning, clustering and quantization off a model of Keras 2."""

from collabopt.models.importing.graph import ImportRefused
from collabopt.runtime.tensorflow import keras, tfmot


def strip(model: keras.Model, wrappers: tuple[str, ...]) -> tuple[keras.Model, list[str]]:
    """Strip a model.

    Args:
        model: The wrapped model.
        wrappers: What wrapped it: "pruning", "clustering", "quantization".

    Returns:
        The plain model, with the weights that the wrappers computed, and one line per wrapper.

    Raises:
        ImportRefused: The model is quantized.
    """
    if "quantization" in wrappers:
        raise ImportRefused(
            "the model is wrapped for quantization-aware training",
            "Save the model as it was before quantize_apply, and import that.",
        )
    if "pruning" in wrappers:
        model = tfmot.sparsity.keras.strip_pruning(model)
    if "clustering" in wrappers:
        model = tfmot.clustering.keras.strip_clustering(model)
    return model, [f"Stripped the wrappers of {wrapper}" for wrapper in wrappers]
