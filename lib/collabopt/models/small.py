"""Networks that train in seconds on a CPU, for 28x28 and 8x8 images of one channel."""

from collabopt.runtime.tensorflow import keras, tf

layers = keras.layers


def mnist_cnn(input_shape: tuple[int, ...], classes: int) -> keras.Model:
    """The network of TFMOT's guides to collaborative optimization, on (28, 28, 1): 20,410 parameters with 10 classes.

    The guides reshape images of (28, 28); here the data has its channel already.
    """
    inputs = keras.Input(input_shape, name="input")
    x = layers.Conv2D(12, 3, activation="relu", name="conv_1")(inputs)
    x = layers.MaxPooling2D(2, name="pool_1")(x)
    x = layers.Flatten(name="flatten")(x)
    return keras.Model(inputs, layers.Dense(classes, name="fc")(x), name="mnist_cnn")


def digits_cnn(input_shape: tuple[int, ...], classes: int) -> keras.Model:
    """Depthwise separable, on (8, 8, 1): 12,346 parameters with 10 classes.

    It has each kind of layer the larger networks have, so that what happens to them happens here within seconds.
    """
    inputs = keras.Input(input_shape, name="input")
    x = _normalized(layers.Conv2D(32, 3, padding="same", use_bias=False, name="conv_1"), inputs)
    for block, (channels, stride) in enumerate(((48, 1), (64, 2), (64, 1)), start=1):
        x = _normalized(layers.DepthwiseConv2D(3, stride, padding="same", use_bias=False, name=f"dw_{block}"), x)
        x = _normalized(layers.Conv2D(channels, 1, use_bias=False, name=f"pw_{block}"), x)
    x = layers.GlobalAveragePooling2D(name="pool")(x)
    return keras.Model(inputs, layers.Dense(classes, name="fc")(x), name="digits_cnn")


def _normalized(convolution: keras.layers.Layer, x: tf.Tensor) -> tf.Tensor:
    """Convolution, batch norm, ReLU. Momentum is low: an epoch of the digits is some 40 steps."""
    x = layers.BatchNormalization(momentum=0.9, name=f"{convolution.name}_bn")(convolution(x))
    return layers.ReLU(name=f"{convolution.name}_relu")(x)
