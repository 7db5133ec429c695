"""Takes the wrappers of pruning, clustering and quantization off a model of Keras 2."""

from collabopt.runtime.tensorflow import keras, tfmot


def strip(model: keras.Model, wrappers: tuple[str, ...]) -> tuple[keras.Model, list[str]]:
    """Strip a model.

    Args:
        model: The wrapped model.
        wrappers: What wrapped it: "pruning", "clustering", "quantization".

    Returns:
        The plain model in float32, with the weights that the wrappers computed, and one line per wrapper.
    """
    if "pruning" in wrappers:
        model = tfmot.sparsity.keras.strip_pruning(model)
    if "clustering" in wrappers:
        model = tfmot.clustering.keras.strip_clustering(model)
    if "quantization" in wrappers:
        model = _strip_quantization(model)
    return model, [f"Stripped the wrappers of {wrapper}" for wrapper in wrappers]


def _strip_quantization(model: keras.Model) -> keras.Model:
    """Undo TFMOT's `quantize_apply`; what it folded or split stays so."""
    pairs: list[tuple[keras.layers.Layer, keras.layers.Layer]] = []

    def unwrap(layer: keras.layers.Layer) -> keras.layers.Layer:
        if type(layer).__name__ == "QuantizeLayer":
            return keras.layers.Identity(name=layer.name)
        inner = getattr(layer, "layer", layer)
        config = inner.get_config()
        if isinstance(config.get("activation"), dict):
            config["activation"] = _get_plain_activation(config["activation"])
        plain = type(inner).from_config(config)
        pairs.append((layer, plain))
        return plain

    stripped = keras.models.clone_model(model, clone_function=unwrap)
    for layer, plain in pairs:
        values = {_get_last_name(variable): variable.numpy() for variable in layer.weights}
        plain.set_weights([values[_get_last_name(variable)] for variable in plain.weights])
    return stripped


def _get_plain_activation(activation: dict) -> str | dict:
    """The activation behind TFMOT's QuantizeAwareActivation and NoOpActivation."""
    if activation["class_name"] == "QuantizeAwareActivation":
        inner = activation["config"]["activation"]
        return _get_plain_activation(inner) if isinstance(inner, dict) else inner
    return "linear" if activation["class_name"] == "NoOpActivation" else activation


def _get_last_name(variable) -> str:
    return variable.name.rpartition("/")[2]
