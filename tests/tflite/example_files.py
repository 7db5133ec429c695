"""Networks with every kind of kernel and their `.tflite` files, made once per process."""

import functools

import numpy as np
from ai_edge_litert.interpreter import Interpreter

from collabopt.runtime.tensorflow import keras, seed_everything
from collabopt.techniques import layers as model_layers
from collabopt.tflite import convert

layers = keras.layers


def make_inputs(model: keras.Model, number: int, seed: int = 0) -> np.ndarray:
    """Random inputs (number, ...) float32 of a model, in [-1, 1]."""
    generator = np.random.default_rng(seed)
    return generator.uniform(-1, 1, (number, *model.input_shape[1:])).astype(np.float32)


@functools.cache
def make_network() -> keras.Model:
    """A network with every kind of kernel, without batch norm; a third of its weights is zero."""
    seed_everything(0)
    inputs = x = keras.Input((8, 8, 3), name="input")
    for convolution in (
        layers.Conv2D(4, (3, 2), padding="same", activation="relu", name="conv"),
        layers.DepthwiseConv2D((2, 3), padding="same", activation="relu", name="dw"),
        layers.DepthwiseConv2D(3, depth_multiplier=2, activation="relu", name="dw_twice"),
    ):
        x = convolution(x)
    model = keras.Model(inputs, layers.Dense(5, name="fc")(layers.Flatten(name="flatten")(x)))
    generator = np.random.default_rng(0)
    for layer in filter(model_layers.get_kind, model.layers):
        kernel, bias = layer.get_weights()
        layer.set_weights([kernel * (generator.random(kernel.shape) > 1 / 3), bias])
    return model


@functools.cache
def make_file(format: str) -> bytes:
    """The file of `make_network` in a format."""
    return convert.convert(make_network(), format, make_inputs(make_network(), 20))


def run_each(tflite: bytes, examples: np.ndarray) -> np.ndarray:
    """Run each example (n, ...) float32 of a file alone. Returns dequantized outputs (n, classes)."""
    interpreter = Interpreter(model_content=tflite)
    interpreter.allocate_tensors()
    (input_,), (output,) = interpreter.get_input_details(), interpreter.get_output_details()
    values = []
    for example in examples:
        if input_["dtype"] != np.float32:
            (scale, zero_point), limits = input_["quantization"], np.iinfo(input_["dtype"])
            example = np.clip(np.round(example / scale) + zero_point, limits.min, limits.max).astype(input_["dtype"])
        interpreter.set_tensor(input_["index"], example[None])
        interpreter.invoke()
        values.append(interpreter.get_tensor(output["index"])[0])
    scale, zero_point = output["quantization"]
    return (np.array(values) - float(zero_point)) * (scale or 1.0)
