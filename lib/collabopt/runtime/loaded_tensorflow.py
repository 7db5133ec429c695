"""TensorFlow, Keras 2 and TFMOT as the library uses them. Other modules use them through `tensorflow`."""

from collabopt.runtime import optional_imports
from collabopt.runtime.tensorflow import apply_threads, drop_native_notices

__all__ = ["keras", "tf", "tfmot"]

with drop_native_notices():
    import tensorflow as tf
    import tf_keras as keras

    tf.config.list_physical_devices()
    if tf.keras.layers.Layer is not keras.layers.Layer:
        raise ImportError("tf.keras is not tf_keras (Keras 2), which tensorflow-model-optimization needs.")
    with optional_imports.hide("keras"):  # TFMOT would import it for two seconds, only to find that it is Keras 3
        import tensorflow_model_optimization as tfmot
    from tensorflow.python.autograph.core import config as autograph
    from tensorflow.python.framework.ops import gradient_registry


def _replace_gradient() -> None:
    """Replace the gradient of strided 1×1 convolutions of fewer than 16 channels by an equal one.

    On CPUs, oneDNN writes past its buffer there, which ends the process or gives wrong weights (uxlfoundation/oneDNN
    issue 6035, in TensorFlow 2.21).
    """
    registered = gradient_registry._registry["Conv2D"]
    standard = registered["type"]

    def differentiate(operation, gradient):
        inputs, kernel = operation.inputs
        _, *strides, _ = operation.get_attr("strides")
        height, width, channels, _ = kernel.shape
        padding, is_nhwc = operation.get_attr("padding"), operation.get_attr("data_format") == b"NHWC"
        is_affected = (height, width) == (1, 1) and max(strides) > 1 and channels is not None and channels < 16
        if not is_affected or padding == b"EXPLICIT" or not is_nhwc:
            return standard(operation, gradient)
        seen = inputs[:, :: strides[0], :: strides[1]]
        settings = {"out_backprop": gradient, "padding": padding}
        return [
            tf.raw_ops.Conv2DBackpropInput(
                input_sizes=tf.shape(inputs), filter=kernel, strides=[1, *strides, 1], **settings
            ),
            tf.raw_ops.Conv2DBackpropFilter(
                input=seen, filter_sizes=tf.shape(kernel), strides=[1, 1, 1, 1], **settings
            ),
        ]

    registered["type"] = differentiate


_replace_gradient()
# Like Keras, TFMOT does without autograph, which takes seconds to read its functions in each process.
autograph.CONVERSION_RULES = (autograph.DoNotConvert("tensorflow_model_optimization"), *autograph.CONVERSION_RULES)
# GPUs would round the inputs of products to 10 bits, and an imported model would differ from its original by 0.1 %.
tf.config.experimental.enable_tensor_float_32_execution(False)
# Layers such as dropout then keep the state of their generator in a variable, which a checkpoint can store.
keras.backend.experimental.enable_tf_random_generator()
apply_threads()
