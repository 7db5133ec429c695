"""Layers of ours for what users write as Python arithmetic on tensors and Keras 2 has no layer for."""

from typing import Any

from collabopt.runtime.tensorflow import keras, tf

FUNCTIONS = {
    "divide": lambda x, y: x / y,
    "exp": tf.exp,
    "log": tf.math.log,
    "abs": tf.abs,
    "sqrt": tf.sqrt,
    "rsqrt": tf.math.rsqrt,
    "reduce_mean": tf.reduce_mean,
    "reduce_sum": tf.reduce_sum,
    "reduce_max": tf.reduce_max,
}
"""Functions of `Operation` by name; those named reduce_… take `axis` and `keepdims`."""


@keras.utils.register_keras_serializable("collabopt")
class Operation(keras.layers.Layer):
    """Applies a TensorFlow function without weights to its inputs."""

    def __init__(self, function: str, arguments: dict[str, Any] | None = None, **kwargs) -> None:
        """Create the layer.

        Args:
            function: A name in `FUNCTIONS`.
            arguments: Further arguments of the function.
            kwargs: Arguments of every layer.
        """
        super().__init__(**kwargs)
        self.function, self.arguments = function, dict(arguments or {})

    def call(self, inputs):
        """Apply the function to one tensor, or to each of a list."""
        tensors = inputs if isinstance(inputs, list | tuple) else [inputs]
        return FUNCTIONS[self.function](*tensors, **self.arguments)

    def get_config(self) -> dict:
        """Return the constructor's arguments."""
        return super().get_config() | {"function": self.function, "arguments": dict(self.arguments)}


@keras.utils.register_keras_serializable("collabopt")
class Slice(keras.layers.Layer):
    """Takes a part of a tensor: x[:, begin:end:step, …]."""

    def __init__(self, parts: list[list[int | None]], **kwargs) -> None:
        """Create the layer.

        Args:
            parts: [begin, end, step] per axis, the batch included; axes at the end may be missing.
            kwargs: Arguments of every layer.
        """
        super().__init__(**kwargs)
        self.parts = tuple(tuple(part) for part in parts)

    def call(self, inputs):
        """Take the part."""
        return inputs[tuple(slice(*part) for part in self.parts)]

    def get_config(self) -> dict:
        """Return the constructor's arguments."""
        return super().get_config() | {"parts": [list(part) for part in self.parts]}


@keras.utils.register_keras_serializable("collabopt")
class Constant(keras.layers.Layer):
    """Combines a tensor with a constant array: maximum, minimum, multiply or add."""

    def __init__(self, function: str, value: Any, **kwargs) -> None:
        """Create the layer.

        Args:
            function: "maximum", "minimum", "multiply" or "add".
            value: A number, or nested lists that broadcast to the input.
            kwargs: Arguments of every layer.
        """
        super().__init__(**kwargs)
        self.function = function
        self._value = tf.constant(value, tf.float32)

    def call(self, inputs):
        """Combine the input with the constant."""
        return getattr(tf.math, self.function)(inputs, self._value)

    def get_config(self) -> dict:
        """Return the constructor's arguments."""
        return super().get_config() | {"function": self.function, "value": self._value.numpy().tolist()}


CLASSES: dict[str, type] = {"Operation": Operation, "Slice": Slice, "Constant": Constant}
"""The classes by name."""
