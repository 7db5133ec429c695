"""MobileNet v1 (arXiv:1704.04861) and v2 (arXiv:1801.04381) at width 1, built by keras.applications.

Two things differ from keras.applications. First, the head is a dense layer named `predictions` on pooled features. In
keras.applications, v1 ends with a convolution `conv_preds` of the same parameters. Second, the stem has stride 1 and
not 2 for images with a side below 64 pixels. Otherwise their last map would be too small: at 32×32 it is 2×2.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from collabopt.models import weights as weights_of
from collabopt.models.check import ModelError
from collabopt.runtime.tensorflow import keras
from collabopt.storage.atomic import write_file

APPLICATIONS = {"mobilenet_v1": ("MobileNet", "conv1"), "mobilenet_v2": ("MobileNetV2", "Conv1")}
"""Builder of each model in keras.applications, and the name of its first convolution."""

IMAGENET_SHAPE, IMAGENET_CLASSES = (224, 224, 3), 1000
SMALL = 64  # pixels; the stem has stride 1 below
SMALLEST = 16  # pixels; the last map is 1×1


def mobilenet_v1(input_shape: tuple[int, ...], classes: int, weights: str | None = None) -> keras.Model:
    """Return MobileNet v1 with logits: 3,239,114 parameters with 3 channels and 10 classes.

    Args:
        input_shape: (height, width, channels).
        classes: Number of classes.
        weights: None for fresh weights, or "imagenet".

    Raises:
        ModelError: A side is below 16 pixels, or the weights do not fit.
    """
    return _mobilenet("mobilenet_v1", input_shape, classes, weights)


def mobilenet_v2(input_shape: tuple[int, ...], classes: int, weights: str | None = None) -> keras.Model:
    """Return MobileNet v2 with logits: 2,270,794 parameters with 3 channels and 10 classes.

    Args:
        input_shape: (height, width, channels).
        classes: Number of classes.
        weights: None for fresh weights, or "imagenet".

    Raises:
        ModelError: A side is below 16 pixels, or the weights do not fit.
    """
    return _mobilenet("mobilenet_v2", input_shape, classes, weights)


def download_imagenet_weights(model_name: str) -> dict[str, np.ndarray]:
    """Return `model_name`'s ImageNet weights by layer/variable, through keras.applications, which caches them.

    They are for input (224, 224, 3) and 1,000 classes in the order of Keras.

    Raises:
        ModelError: The name is unknown, or the download failed.
    """
    if model_name not in APPLICATIONS:
        raise ModelError(f"model_name={model_name}: expected one of {', '.join(APPLICATIONS)}")
    application = getattr(keras.applications, APPLICATIONS[model_name][0])
    try:
        trained = application(weights="imagenet", input_shape=IMAGENET_SHAPE, classifier_activation=None)
    except Exception as error:  # get_file raises a bare Exception when a download fails
        raise ModelError(
            f"weights=imagenet: keras.applications could not download those of {model_name}; expected a network "
            f"or a cached file in ~/.keras/models ({' '.join(str(error).split())})"
        ) from error
    return _convert_to_dense_head(weights_of.get_arrays(trained))


def ensure_imagenet_weights(path: Path) -> None:
    """Download weights trained on ImageNet to `path`, <model name>_imagenet.npz, if missing; other names are ignored.

    Raises:
        ModelError: The download failed.
    """
    name = path.name.removesuffix("_imagenet.npz")
    if path.name == f"{name}_imagenet.npz" and name in APPLICATIONS and not path.exists():
        arrays = download_imagenet_weights(name)
        with write_file(path) as file:
            np.savez(file, **arrays)


def _convert_to_dense_head(arrays: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Convert the convolution `conv_preds`, kernel (1, 1, features, classes), to a dense layer `predictions`."""
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
    features = _build_features(name, input_shape)
    x = keras.layers.GlobalAveragePooling2D(name="pool")(features.output)
    model = keras.Model(features.input, keras.layers.Dense(classes, name="predictions")(x), name=name)
    if weights:
        weights_of.assign(model, download_imagenet_weights(name))
    return model


def _build_features(name: str, input_shape: tuple[int, ...]) -> keras.Model:
    """Build the network without its head."""
    builder, stem = APPLICATIONS[name]
    application = getattr(keras.applications, builder)
    height, width, channels = input_shape
    small = min(height, width) < SMALL
    # v2 chooses its padding by the sizes of the maps. With stride 2, an image of twice the size has the maps of the
    # small image with stride 1.
    shape = (2 * height, 2 * width, channels) if small else (height, width, channels)
    model = application(
        input_tensor=keras.Input(shape, name="input"), input_shape=shape, include_top=False, weights=None
    )
    return _clone_with_stem_stride_1(model, stem, input_shape) if small else model


def _clone_with_stem_stride_1(model: keras.Model, stem: str, input_shape: tuple[int, ...]) -> keras.Model:
    """Clone the model for images of `input_shape`, with fresh weights."""

    def clone(layer: keras.layers.Layer) -> keras.layers.Layer:
        changed = {"strides": (1, 1)} if layer.name == stem else {}
        return type(layer).from_config({**layer.get_config(), **changed})

    return keras.models.clone_model(model, keras.Input(input_shape, name="input"), clone)
