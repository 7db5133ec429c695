"""MobileNets with ImageNet weights whose head is cut to the 20 classes of Imagenette and Imagewoof."""

import numpy as np

from collabopt.config.loading import DATA
from collabopt.datasets import imagenet
from collabopt.models import mobilenet, weights
from collabopt.runtime.tensorflow import keras

CLASSES = {
    "n01440764": 0,  # tench
    "n02086240": 155,  # Shih-Tzu
    "n02087394": 159,  # Rhodesian ridgeback
    "n02088364": 162,  # beagle
    "n02089973": 167,  # English foxhound
    "n02093754": 182,  # Border terrier
    "n02096294": 193,  # Australian terrier
    "n02099601": 207,  # golden retriever
    "n02102040": 217,  # English springer
    "n02105641": 229,  # Old English sheepdog
    "n02111889": 258,  # Samoyed
    "n02115641": 273,  # dingo
    "n02979186": 482,  # cassette player
    "n03000684": 491,  # chain saw
    "n03028079": 497,  # church
    "n03394916": 566,  # French horn
    "n03417042": 569,  # garbage truck
    "n03425413": 571,  # gas pump
    "n03445777": 574,  # golf ball
    "n03888257": 701,  # parachute
}
"""The position of each class in ImageNet's head, by the name of its folder, in the order of the folders."""

PICTURES = 256
"""Training pictures that measure the statistics of batch norms."""


def mobilenet_v1(input_shape, classes):
    """Return MobileNet v1 (arXiv:1704.04861) with logits of 20 classes, from `mobilenet_v1_imagenet.npz`."""
    return build("mobilenet_v1", input_shape, classes)


def mobilenet_v2(input_shape, classes):
    """Return MobileNet v2 (arXiv:1801.04381) with logits of 20 classes, from `mobilenet_v2_imagenet.npz`.

    Batch norm is folded into the convolutions of that file. So the batch norms of this model have no statistics, and
    training would change what they compute at once. They get those of 256 training pictures, and a scale and offset
    that undo them.
    """
    model = build("mobilenet_v2", input_shape, classes)
    restore_statistics(model, input_shape)
    return model


def build(name, input_shape, classes):
    """Return a MobileNet whose head has the columns of `CLASSES`; `classes` is their number."""
    if classes != len(CLASSES):
        raise ValueError(f"classes={classes}: expected the {len(CLASSES)} folders {', '.join(CLASSES)}")
    arrays = weights.read(DATA / "weights" / f"{name}_imagenet.npz")
    columns = list(CLASSES.values())
    arrays["predictions/kernel"] = arrays["predictions/kernel"][:, columns]
    arrays["predictions/bias"] = arrays["predictions/bias"][columns]
    model = getattr(mobilenet, name)(input_shape, classes)
    weights.assign(model, arrays)
    return model


def restore_statistics(model, input_shape):
    """Give the batch norms of `model` the statistics of training pictures, without a change of what they compute."""
    train = imagenet.read(DATA / "imagenet20", input_shape[0]).train
    chosen = np.linspace(0, len(train.labels) - 1, PICTURES).astype(int)
    norms = [layer for layer in model.layers if isinstance(layer, keras.layers.BatchNormalization)]
    inputs = keras.Model(model.input, [norm.input for norm in norms]).predict(
        train.prepare(train.examples[chosen]), batch_size=32, verbose=0
    )
    for norm, values in zip(norms, inputs, strict=True):
        gamma, beta, mean, variance = (array.astype(np.float64) for array in norm.get_weights())
        scale = gamma / np.sqrt(variance + norm.epsilon)
        axes = tuple(range(values.ndim - 1))
        seen_mean, seen_variance = values.mean(axes, dtype=np.float64), values.var(axes, dtype=np.float64)
        offset = beta + scale * (seen_mean - mean)
        norm.set_weights([scale * np.sqrt(seen_variance + norm.epsilon), offset, seen_mean, seen_variance])
