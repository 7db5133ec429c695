"""Which layers int8 operators run after quantization-aware training, and two layers that rewrites insert for them."""

import numpy as np

from collabopt.models.importing.layers import Constant, Operation, Slice
from collabopt.runtime.tensorflow import keras, tf, tfmot
from collabopt.techniques.layers import is_channel_norm

FUSED_ACTIVATIONS = {"linear", "relu", "softmax", "sigmoid", "tanh"}
"""Activations that TFMOT quantizes inside a layer."""
_PLAIN_ACTIVATIONS = {"elu", "exponential"}
"""Activations that TFMOT does not know, and that need a range on their output."""
_ACTIVATIONS = FUSED_ACTIVATIONS | _PLAIN_ACTIVATIONS | {"swish", "gelu"}
"""Activations that LiteRT runs in int8 as a layer."""
WITH_ACTIVATION = (
    keras.layers.Dense,
    keras.layers.Conv1D,
    keras.layers.Conv2D,  # and its subclass Conv2DTranspose
    keras.layers.DepthwiseConv2D,
)
WITH_RANGE = (
    keras.layers.Multiply,
    keras.layers.Subtract,
    keras.layers.Maximum,
    keras.layers.Minimum,
    keras.layers.PReLU,
    keras.layers.ELU,
    keras.layers.Dot,
    Operation,
    Constant,
)
"""Layers of one operator that TFMOT does not know, and that need a range on their output."""
WITHOUT_RANGE = (
    keras.layers.RepeatVector,
    keras.layers.MaxPooling1D,
    keras.layers.UpSampling1D,
    keras.layers.UpSampling2D,
    keras.layers.Resizing,
    Slice,
    keras.layers.GaussianNoise,
    keras.layers.GaussianDropout,
    keras.layers.AlphaDropout,
    keras.layers.RandomFlip,
    keras.layers.RandomRotation,
    keras.layers.RandomZoom,
    keras.layers.RandomTranslation,
    keras.layers.RandomContrast,
    keras.layers.RandomBrightness,
)
"""Layers whose outputs stay within the range of their inputs in inference."""


@keras.utils.register_keras_serializable("collabopt")
class ChannelAffine(keras.layers.Layer):
    """Multiplies each channel by a scale and adds an offset, as a depthwise 1×1 convolution.

    Attributes:
        limit: The largest output; the least is 0 then. None does not clip.
    """

    def __init__(self, limit: float | None = None, **kwargs) -> None:
        super().__init__(**kwargs)
        self.limit = limit

    def build(self, input_shape) -> None:
        """Create scale and offset, one per channel."""
        self.scale = self.add_weight("scale", (input_shape[-1],), initializer="ones")
        self.offset = self.add_weight("offset", (input_shape[-1],), initializer="zeros")
        super().build(input_shape)

    def call(self, inputs):
        """Compute the layer."""
        *places, channels = inputs.shape[1:]
        is_image = len(places) == 2
        images = inputs if is_image else tf.reshape(inputs, [-1, *places[:1], int(np.prod(places[1:])), channels])
        if not places:
            images = tf.reshape(inputs, [-1, 1, 1, channels])
        kernel = tf.reshape(self.scale, [1, 1, channels, 1])
        outputs = tf.nn.depthwise_conv2d(images, kernel, [1, 1, 1, 1], "VALID") + self.offset
        outputs = outputs if is_image else tf.reshape(outputs, [-1, *places, channels])
        if self.limit:
            # A concatenation replaces the range by its own, so that the range alone would not clip.
            clipped = tf.minimum(tf.nn.relu(outputs), self.limit)
            outputs = tf.quantization.fake_quant_with_min_max_args(clipped, 0.0, self.limit)
        return outputs

    def compute_output_shape(self, input_shape):
        """Return the input's shape."""
        return input_shape

    def get_config(self):
        """Return the arguments of the constructor."""
        return super().get_config() | {"limit": self.limit}


@keras.utils.register_keras_serializable("collabopt")
class FloatOutput(keras.layers.Layer):
    """Returns its input. It gives the output of a layer in float32 a range, so that int8 layers can follow."""

    def call(self, inputs):
        """Return the input."""
        return tf.identity(inputs)

    def compute_output_shape(self, input_shape):
        """Return the input's shape."""
        return input_shape


def is_quantizable(layer: keras.layers.Layer) -> bool:
    """Return whether an int8 operator computes a `layer` of a rewritten model after quantization-aware training."""
    if type(layer) in (keras.layers.InputLayer, ChannelAffine, FloatOutput) or is_channel_norm(layer):
        return True
    if isinstance(layer, keras.layers.BatchNormalization):
        return False
    if isinstance(layer, keras.layers.Activation):
        return get_activation(layer) in _ACTIVATIONS
    if isinstance(layer, keras.layers.ReLU):
        return not layer.threshold and not layer.negative_slope and layer.max_value in (None, 6)
    if isinstance(layer, keras.layers.ELU):
        return layer.alpha == 1
    if isinstance(layer, keras.layers.Conv2DTranspose) and max(layer.dilation_rate) > 1:
        return False  # several operators
    if type(layer) in (*WITH_RANGE, *WITHOUT_RANGE, keras.layers.Conv1D):
        return True
    if type(layer) in (keras.layers.SeparableConv1D, keras.layers.SeparableConv2D):  # TFMOT splits them.
        return True
    registry = tfmot.quantization.keras.default_8bit.Default8BitQuantizeScheme().get_quantize_registry()
    return registry.supports(layer)


def describe(layer: keras.layers.Layer) -> str:
    """Return the class of a layer, for messages, with the name of its function if it applies one."""
    function = getattr(layer, "activation", None) if isinstance(layer, keras.layers.Activation) else None
    name = getattr(function or getattr(layer, "function", None), "__name__", getattr(layer, "function", ""))
    return f"{type(layer).__name__} {name}".strip()


def get_activation(layer: keras.layers.Layer) -> str | None:
    """Return the name of a layer's activation; None unless it is an activation, convolution or dense layer."""
    if not isinstance(layer, (keras.layers.Activation, *WITH_ACTIVATION)):
        return None
    return getattr(layer.activation, "__name__", type(layer.activation).__name__)


def is_plain_activation(layer: keras.layers.Layer) -> bool:
    """Return whether a layer is an activation that TFMOT does not know and int8 operators compute."""
    return isinstance(layer, keras.layers.Activation) and get_activation(layer) in _PLAIN_ACTIVATIONS


def is_before_relu(layer: keras.layers.Layer) -> bool:
    """Return whether a ReLU, which the converter fuses into the `layer`, alone follows it."""
    following = get_only_consumer(layer)
    is_activation = isinstance(following, keras.layers.Activation) and get_activation(following) == "relu"
    return is_activation or isinstance(following, keras.layers.ReLU)


def get_only_consumer(layer: keras.layers.Layer) -> keras.layers.Layer | None:
    """Return the layer that alone takes a layer's output, or None."""
    consumers = [node.outbound_layer for node in layer.outbound_nodes]
    return consumers[0] if len(consumers) == 1 else None


def find_folded_layer(norm: keras.layers.Layer) -> keras.layers.Layer | None:
    """Return the linear layer into which the converter folds a batch norm `norm`, or None."""
    if not is_channel_norm(norm):
        return None
    before = norm.inbound_nodes[0].inbound_layers
    is_linear = isinstance(before, WITH_ACTIVATION) and get_activation(before) == "linear"
    return before if is_linear and get_only_consumer(before) is norm else None
