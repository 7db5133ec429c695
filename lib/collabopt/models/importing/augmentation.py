"""Augmentation layers at the start of a model: they act in training, and are gone in inference."""

from collabopt.models.importing.graph import Graph, Layer, list_names
from collabopt.runtime.tensorflow import keras, tf

_IN_KERAS_2 = (
    "RandomBrightness", "RandomContrast", "RandomFlip", "RandomRotation", "RandomTranslation", "RandomZoom",
)  # fmt: skip
_KINDS = (
    *_IN_KERAS_2,
    "AugMix", "CutMix", "MixUp", "RandAugment", "RandomColorDegeneration", "RandomColorJitter",
    "RandomElasticTransform", "RandomErasing", "RandomGaussianBlur", "RandomGrayscale", "RandomHue", "RandomInvert",
    "RandomPerspective", "RandomPosterization", "RandomSaturation", "RandomSharpness", "RandomShear",
)  # fmt: skip


class Augmentation:
    """Random changes of a batch of model inputs. They depend on nothing but a seed."""

    def __init__(self, layers: list[keras.layers.Layer]) -> None:
        """Keep `layers` of augmentation and rescaling of Keras 2, in the order of their calls."""
        self._layers = layers

    def __call__(self, inputs: tf.Tensor, seed: tf.Tensor) -> tf.Tensor:
        """Return `inputs` (batch, height, width, channels) float32, changed at random by `seed` (2,) int32."""
        for number, layer in enumerate(self._layers):
            if hasattr(layer, "_random_generator"):
                layer._random_generator = _Draws(tf.random.experimental.stateless_fold_in(seed, number))
                inputs = layer(inputs, training=True)
            else:
                inputs = layer(inputs)
        return inputs


class _Draws:
    """Takes the place of the random generator of a Keras layer. Its numbers depend on the seed alone."""

    def __init__(self, seed: tf.Tensor) -> None:
        self._seed, self._count = seed, 0

    def _maybe_init(self) -> None:
        """Keras calls this before the first use."""

    def make_seed_for_stateless_op(self) -> tf.Tensor:
        self._count += 1
        return tf.random.experimental.stateless_fold_in(self._seed, self._count)

    def random_uniform(self, shape, minval=0.0, maxval=None, dtype=None) -> tf.Tensor:
        seed = self.make_seed_for_stateless_op()
        return tf.random.stateless_uniform(shape, seed, minval, maxval, dtype or tf.float32)


def take_off(graph: Graph) -> list[str]:
    """Move augmentation layers at the start of `graph` to its `augmentation`, drop all others. Return a line each.

    Rescaling before an augmentation layer is undone after it, so that the augmentation maps inputs to inputs.
    """
    inputs = [layer for layer in graph.layers if layer.kind == "InputLayer"]
    chain = _follow(graph, inputs[0]) if len(inputs) == 1 else []
    while chain and chain[-1].kind not in _IN_KERAS_2:
        chain.pop()
    graph.augmentation = [*chain, *(_invert(step) for step in reversed(chain) if step.kind == "Rescaling")]
    found = [layer for layer in graph.layers if layer.kind in _KINDS]
    for layer in found:
        graph.replace(layer, [])
    kept = [layer for layer in chain if layer.kind in _IN_KERAS_2]
    dropped = [layer for layer in found if all(layer is not one for one in kept)]
    lines = [f"Augmentation layers act in training only: {list_names(kept)}"] if kept else []
    return lines + (
        [f"Dropped augmentation layers that Keras 2 lacks or that other layers precede: {list_names(dropped)}"]
        if dropped
        else []
    )


def _follow(graph: Graph, layer: Layer) -> list[Layer]:
    """The row of augmentation layers and rescaling behind an input, without layers that Keras 2 lacks."""
    chain = []
    while graph.has_one_user(layer):
        (layer,) = graph.find_users(layer)
        if layer.kind in _IN_KERAS_2 or _is_invertible(layer):
            chain.append(layer)
        elif layer.kind not in _KINDS:
            break
    return chain


def _is_invertible(layer: Layer) -> bool:
    numbers = layer.config.get("scale"), layer.config.get("offset", 0.0)
    return layer.kind == "Rescaling" and all(isinstance(one, int | float) for one in numbers) and numbers[0] != 0


def _invert(step: Layer) -> Layer:
    scale, offset = step.config["scale"], step.config.get("offset", 0.0)
    return Layer(f"{step.name}_inverse", "Rescaling", {"scale": 1 / scale, "offset": -offset / scale})
