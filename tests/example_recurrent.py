"""A network without quantization-aware training. An experiment uses it by `{function: "example_recurrent:build"}`."""


def build(input_shape: tuple[int, ...], classes: int):
    """Build the network, which reads the rows of a picture one after another.

    Args:
        input_shape: Height, width and channels.
        classes: Number of classes.
    """
    from collabopt.runtime.tensorflow import keras

    layers = keras.layers
    height, width, channels = input_shape
    inputs = keras.Input(input_shape, name="input")
    rows = layers.Reshape((height, width * channels), name="rows")(inputs)
    states = layers.GRU(12, name="steps")(rows)
    return keras.Model(inputs, layers.Dense(classes, name="fc")(states), name="recurrent_network")
