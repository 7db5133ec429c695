"""The one place that imports TensorFlow. TFMOT works on Keras 2 only, so Keras 2 is forced and checked here.

from collabopt.runtime.tensorflow import keras, tf, tfmot
"""

import contextlib
import logging
import os
import random
import re
import sys
import tempfile
from collections.abc import Iterator

import numpy as np

_FLAG = "TF_USE_LEGACY_KERAS"


def _demand_keras_2() -> None:
    """Set the flag that makes `tf.keras` Keras 2; it is read once, when TensorFlow is imported."""
    if "tensorflow" in sys.modules and os.environ.get(_FLAG) not in ("1", "true", "True"):
        raise ImportError(
            f"TensorFlow was imported before collabopt and with {_FLAG}={os.environ.get(_FLAG)!r}, so tf.keras is "
            "Keras 3, which tensorflow-model-optimization cannot wrap. Import collabopt first, or set "
            f"{_FLAG}=1 before TensorFlow is imported, and restart the kernel."
        )
    os.environ[_FLAG] = "1"


# What TensorFlow's native code says about CPU features, absent GPUs and each conversion: nothing to act on.
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
    """Drop the known notices that native code writes to descriptor 2 inside the block, and let all else through."""
    sys.stderr.flush()
    kept = os.dup(2)
    with tempfile.TemporaryFile() as caught:
        os.dup2(caught.fileno(), 2)
        try:
            yield
        finally:
            os.dup2(kept, 2)
            os.close(kept)
            caught.seek(0)
            rest = [line for line in caught.read().decode(errors="replace").splitlines() if not _NOTICES.match(line)]
            if any(line.strip() for line in rest):
                print("\n".join(rest), file=sys.stderr)


@contextlib.contextmanager
def drop_log_records(*fragments: str) -> Iterator[None]:
    """Drop TensorFlow's Python log records that say so inside the block, and let all else through."""

    def wanted(record: logging.LogRecord) -> bool:
        return not any(fragment in record.getMessage() for fragment in fragments)

    logger = logging.getLogger("tensorflow")
    logger.addFilter(wanted)
    try:
        yield
    finally:
        logger.removeFilter(wanted)


@contextlib.contextmanager
def _keras_3_hidden() -> Iterator[None]:
    """TFMOT looks for a Keras 2 of old in the package `keras`, which is Keras 3: two seconds of imports, in vain."""
    if "keras" in sys.modules:
        yield
        return
    sys.modules["keras"] = None
    try:
        yield
    finally:
        del sys.modules["keras"]


_demand_keras_2()


os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")


with drop_native_notices():
    import tensorflow as tf
    import tf_keras as keras

    tf.config.list_physical_devices()
    if tf.keras.layers.Layer is not keras.layers.Layer:
        raise ImportError("tf.keras is not tf_keras (Keras 2), which tensorflow-model-optimization needs.")
    with _keras_3_hidden():
        import tensorflow_model_optimization as tfmot


# Layers such as dropout draw from a generator whose state is a variable, which a checkpoint can hold.
keras.backend.experimental.enable_tf_random_generator()


def read_versions() -> dict[str, str]:
    """Versions that decide the numbers: of TensorFlow, tf-keras and TFMOT."""
    return {
        "tensorflow": tf.__version__,
        "tf-keras": keras.__version__,
        "tensorflow-model-optimization": tfmot.__version__,
    }


def configure(threads: int) -> None:
    """Fix the number of threads (results depend on it in the last bit) and ask for deterministic kernels.

    GPU kernels of the per-channel fake-quant gradient have no deterministic version, so a machine with a GPU does
    without; `deterministic()` says which it was.

    Raises RuntimeError when TensorFlow already runs with another number of threads.
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
    """Whether op determinism is on: on CPUs, not where a GPU is used."""
    return not tf.config.list_physical_devices("GPU")


def seed_everything(seed: int) -> None:
    """Seed Python, NumPy and TensorFlow, and forget Keras's global state, so that a stage's result does not depend on
    what the process did before it."""
    keras.backend.clear_session()
    keras.utils.set_random_seed(seed)
    random.seed(seed)
    np.random.seed(seed % 2**32)  # noqa: NPY002 - TFMOT and Keras draw from the legacy generator.
