"""MobileNet v1 (arXiv:1704.04861) and v2 (arXiv:1801.04381) at width 1, built by keras.applications, layer for layer.

Two things differ. The head is dense, on pooled features, and named `predictions`; the convolution `conv_preds` that
keras.applications ends v1 with holds the same parameters. And images with a side below 64 pixels keep their size
through the stem (stride 1, not 2), or too little of them would be left: at 32x32 the last map is 2x2.
"""

from collections.abc import Callable

import numpy as np

from collabopt.models import weights as weights_of
from collabopt.models.check import ModelError
from collabopt.runtime.tensorflow import keras

APPLICATIONS: dict[str, tuple[Callable[..., keras.Model], str]] = {
    "mobilenet_v1": (keras.applications.MobileNet, "conv1"),
    "mobilenet_v2": (keras.applications.MobileNetV2, "Conv1"),
}
"""The builder of each, and the name of its stem's convolution."""

IMAGENET_SHAPE, IMAGENET_CLASSES = (224, 224, 3), 1000
SMALL = 64  # pixels; below it the stem has stride 1
SMALLEST = 16  # pixels; the last map is then 1x1


def mobilenet_v1(input_shape: tuple[int, ...], classes: int, weights: str | None = None) -> keras.Model:
    """MobileNet v1 on (height, width, channels): 3,239,114 parameters with 3 channels and 10 classes.

    `weights` is None (fresh) or "imagenet". Raises ModelError for a side below 16 pixels.
    """
    return _mobilenet("mobilenet_v1", input_shape, classes, weights)


def mobilenet_v2(input_shape: tuple[int, ...], classes: int, weights: str | None = None) -> keras.Model:
    """MobileNet v2 on (height, width, channels): 2,270,794 parameters with 3 channels and 10 classes.

    `weights` is None (fresh) or "imagenet". Raises ModelError for a side below 16 pixels.
    """
    return _mobilenet("mobilenet_v2", input_shape, classes, weights)


def imagenet_weights(model_name: str) -> dict[str, np.ndarray]:
    """Weights trained on ImageNet, keyed as in our models at (224, 224, 3) with 1,000 classes, in Keras's class order.

    Raises ModelError for an unknown name and where keras.applications cannot download them.
    """
    if model_name not in APPLICATIONS:
        raise ModelError(f"model_name={model_name}: expected one of {', '.join(APPLICATIONS)}")
    application, _ = APPLICATIONS[model_name]
    try:
        trained = application(weights="imagenet", input_shape=IMAGENET_SHAPE, classifier_activation=None)
    except Exception as error:  # get_file raises a bare Exception when the URL cannot be fetched
        raise ModelError(
            f"weights=imagenet: keras.applications could not get those of {model_name}; expected a network or its "
            f"cached file in ~/.keras/models ({' '.join(str(error).split())})"
        ) from error
    return with_dense_head(weights_of.arrays(trained))


def with_dense_head(arrays: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The arrays with a convolution `conv_preds`, kernel (1, 1, features, classes), as a dense `predictions`."""
    renamed = {key.replace("conv_preds/", "predictions/"): array for key, array in arrays.items()}
    kernel = renamed["predictions/kernel"]
    return {**renamed, "predictions/kernel": kernel.reshape(kernel.shape[-2:])}


def _mobilenet(name: str, input_shape: tuple[int, ...], classes: int, weights: str | None) -> keras.Model:
    if min(input_shape[:2]) < SMALLEST:
        raise ModelError(f"name={name}, input_shape={input_shape}: expected sides of at least {SMALLEST} pixels")
    if weights not in (None, "imagenet"):
        raise ModelError(f"weights={weights}: expected None or imagenet")
    if weights and (tuple(input_shape), classes) != (IMAGENET_SHAPE, IMAGENET_CLASSES):
        raise ModelError(
            f"weights=imagenet, input_shape={tuple(input_shape)}, classes={classes}: "
            f"expected {IMAGENET_SHAPE} and {IMAGENET_CLASSES}"
        )
    features = _features(name, input_shape)
    x = keras.layers.GlobalAveragePooling2D(name="pool")(features.output)
    model = keras.Model(features.input, keras.layers.Dense(classes, name="predictions")(x), name=name)
    if weights:
        weights_of.assign(model, imagenet_weights(name))
    return model


def _features(name: str, input_shape: tuple[int, ...]) -> keras.Model:
    """The network without its head."""
    application, stem = APPLICATIONS[name]
    height, width, channels = input_shape
    small = min(height, width) < SMALL
    # v2 chooses its paddings by the sizes of the maps, and from the stem on a map is as large for the image doubled.
    shape = (2 * height, 2 * width, channels) if small else (height, width, channels)
    model = application(
        input_tensor=keras.Input(shape, name="input"), input_shape=shape, include_top=False, weights=None
    )
    return _with_stem_of_stride_1(model, stem, input_shape) if small else model


def _with_stem_of_stride_1(model: keras.Model, stem: str, input_shape: tuple[int, ...]) -> keras.Model:
    """A clone, freshly initialised, for images of `input_shape`."""

    def clone(layer: keras.layers.Layer) -> keras.layers.Layer:
        changed = {"strides": (1, 1)} if layer.name == stem else {}
        return type(layer).from_config({**layer.get_config(), **changed})

    return keras.models.clone_model(model, keras.Input(input_shape, name="input"), clone)
