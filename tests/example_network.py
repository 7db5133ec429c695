"""A small network with each kind of layer. An experiment uses it by `model: {function: "example_network:build"}`."""


def build(input_shape: tuple[int, ...], classes: int, use_bias: bool = False):
    """Build the network: kernels conv (3, 3, 1, 8), dw (3, 3, 8, 1), pw (1, 1, 8, 16) and fc (16, 10) for the digits.

    Args:
        input_shape: Height, width and channels.
        classes: Number of classes.
        use_bias: Whether the convolutions have a bias.
    """
    from collabopt.runtime.tensorflow import keras

    layers = keras.layers
    inputs = x = keras.Input(input_shape, name="input")
    for convolution in (
        layers.Conv2D(8, 3, padding="same", use_bias=use_bias, name="conv"),
        layers.DepthwiseConv2D(3, 2, padding="same", use_bias=use_bias, name="dw"),
        layers.Conv2D(16, 1, use_bias=use_bias, name="pw"),
    ):
        x = layers.BatchNormalization(momentum=0.9, name=f"{convolution.name}_bn")(convolution(x))
        x = layers.ReLU(name=f"{convolution.name}_relu")(x)
    outputs = layers.Dense(classes, name="fc")(layers.GlobalAveragePooling2D(name="pool")(x))
    return keras.Model(inputs, outputs, name="small_network")


def build_frozen(input_shape: tuple[int, ...], classes: int):
    """Build the network with kernels conv and dw and the batch norm of conv frozen, as after transfer learning."""
    model = build(input_shape, classes)
    for name in ("conv", "conv_bn", "dw"):
        model.get_layer(name).trainable = False
    return model
