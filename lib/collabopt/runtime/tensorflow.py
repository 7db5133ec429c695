"""TensorFlow with Keras 2, which TFMOT needs. All other modules import TensorFlow from here.

from collabopt.runtime.tensorflow import keras, tf, tfmot
"""

import contextlib
import logging
import os
import random
import re
import sys
import tempfile
import warnings
from collections.abc import Iterator

import numpy as np

from collabopt.runtime import optional_imports

_FLAG = "TF_USE_LEGACY_KERAS"


def _select_keras_2() -> None:
    """Set the flag that makes `tf.keras` Keras 2. TensorFlow reads it once, on import."""
    if "tensorflow" in sys.modules and os.environ.get(_FLAG) not in ("1", "true", "True"):
        raise ImportError(
            f"TensorFlow was imported before collabopt and with {_FLAG}={os.environ.get(_FLAG)!r}, so tf.keras is "
            "Keras 3, which tensorflow-model-optimization cannot wrap. Import collabopt first, or set "
            f"{_FLAG}=1 before TensorFlow is imported, and restart the kernel."
        )
    os.environ[_FLAG] = "1"


# Lines of TensorFlow's native code about CPU features, missing GPUs and conversions, which need no action.
_NOTICES = re.compile(
    r"WARNING: All log messages before absl::InitializeLog|"
    r"[IWE]\d{4} .*\b(port|cudart_stub|cuda_platform|cpu_feature_guard|reader|loader|mlir_graph_optimization_pass|"
    r"tf_tfl_flatbuffer_helpers|cuda_diagnostics|cuda_executor|flatbuffer_export|quantization_driver|"
    r"single_machine|devices)\.cc:|"
    r"E\d{4} .*\butil\.cc:\d+\] oneDNN supports |"
    r"To enable the following instructions: |"
    r"fully_quantize: |"
    r"INFO: Created TensorFlow Lite XNNPACK delegate"
)


@contextlib.contextmanager
def drop_native_notices() -> Iterator[None]:
    """Drop known notices of native code that the block writes to descriptor 2; pass on all other lines."""
    sys.stderr.flush()
    stderr = os.dup(2)
    with tempfile.TemporaryFile() as written:
        os.dup2(written.fileno(), 2)
        try:
            yield
        finally:
            os.dup2(stderr, 2)
            os.close(stderr)
            written.seek(0)
            rest = [line for line in written.read().decode(errors="replace").splitlines() if not _NOTICES.match(line)]
            if any(line.strip() for line in rest):
                print("\n".join(rest), file=sys.stderr)


@contextlib.contextmanager
def drop_log_records(*fragments: str) -> Iterator[None]:
    """Drop some of TensorFlow's Python log records while the block runs.

    Args:
        *fragments: A record that contains one of these texts is dropped.
    """

    def is_wanted(record: logging.LogRecord) -> bool:
        return not any(fragment in record.getMessage() for fragment in fragments)

    logger = logging.getLogger("tensorflow")
    logger.addFilter(is_wanted)
    try:
        yield
    finally:
        logger.removeFilter(is_wanted)


@contextlib.contextmanager
def run_eagerly() -> Iterator[None]:
    """Run functions without tracing them while the block runs, which is faster for a single step."""
    was_eager = tf.config.functions_run_eagerly()
    tf.config.run_functions_eagerly(True)
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="Even though the `tf.config.experimental_run_functions_eagerly`")
            yield
    finally:
        tf.config.run_functions_eagerly(was_eager)


_select_keras_2()
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
# Several notebooks of a batch share a GPU; by default the first would take all of its memory.
os.environ.setdefault("TF_FORCE_GPU_ALLOW_GROWTH", "true")

with drop_native_notices():
    import tensorflow as tf
    import tf_keras as keras

    tf.config.list_physical_devices()
    if tf.keras.layers.Layer is not keras.layers.Layer:
        raise ImportError("tf.keras is not tf_keras (Keras 2), which tensorflow-model-optimization needs.")
    with optional_imports.hide("keras"):  # TFMOT would import it for two seconds, only to find that it is Keras 3
        import tensorflow_model_optimization as tfmot
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
# GPUs would round the inputs of products to 10 bits, and an imported model would differ from its original by 0.1 %.
tf.config.experimental.enable_tensor_float_32_execution(False)
# Layers such as dropout then keep the state of their generator in a variable, which a checkpoint can store.
keras.backend.experimental.enable_tf_random_generator()


def read_versions() -> dict[str, str]:
    """Return the versions of TensorFlow, tf-keras and TFMOT."""
    return {
        "tensorflow": tf.__version__,
        "tf-keras": keras.__version__,
        "tensorflow-model-optimization": tfmot.__version__,
    }


def name_device() -> str:
    """Return the name of the GPU, or "CPU" without one."""
    gpus = tf.config.list_physical_devices("GPU")
    return tf.config.experimental.get_device_details(gpus[0]).get("device_name", "GPU") if gpus else "CPU"


def configure(threads: int) -> None:
    """Fix the number of threads, and make TensorFlow deterministic if `is_deterministic`.

    Args:
        threads: Number of threads per operation and of parallel operations. The last bit of results depends on it.

    Raises:
        RuntimeError: If TensorFlow already runs with another number of threads.
    """
    settings = tf.config.threading
    if settings.get_intra_op_parallelism_threads() == threads:
        return
    try:
        settings.set_intra_op_parallelism_threads(threads)
        settings.set_inter_op_parallelism_threads(threads)
    except RuntimeError as error:
        raise RuntimeError(
            f"threads={threads}: TensorFlow already runs with "
            f"{settings.get_intra_op_parallelism_threads() or 'its default number of'} threads in this process. "
            "Restart the kernel to change it."
        ) from error
    if is_deterministic():
        tf.config.experimental.enable_op_determinism()


def is_deterministic() -> bool:
    """Return whether operations are deterministic: only without a GPU.

    The gradients of fake quantization and of a frozen batch norm have no deterministic GPU kernels.
    """
    return not tf.config.list_physical_devices("GPU")


def seed_everything(seed: int) -> None:
    """Seed Python, NumPy and TensorFlow and clear Keras's global state, so that earlier work has no influence.

    Args:
        seed: The seed.
    """
    keras.backend.clear_session()
    keras.utils.set_random_seed(seed)
    random.seed(seed)
    np.random.seed(seed % 2**32)  # noqa: NPY002 - TFMOT and Keras use the legacy generator
