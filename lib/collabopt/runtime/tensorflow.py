"""TensorFlow with Keras 2, which TFMOT needs. All other modules import `tf`, `keras` and `tfmot` from here.

TensorFlow itself is imported when a name of it is first used (`loaded_tensorflow`). A notebook whose stages are all in
the store does not need it. The modules of such a notebook have `from __future__ import annotations`, and import those
that define layers where they call them.
"""

import contextlib
import importlib
import logging
import os
import random
import re
import sys
import tempfile
import warnings
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    import tensorflow as tf
    import tensorflow_model_optimization as tfmot  # noqa: F401 - for other modules
    import tf_keras as keras

_LOADED = "collabopt.runtime.loaded_tensorflow"
_FLAG = "TF_USE_LEGACY_KERAS"
_GPUS = ("nvidia*", "dxg", "kfd")  # devices of NVIDIA, of Windows below Linux, and of AMD


class _Lazy:
    """A module of `loaded_tensorflow`, which is imported when one of its names is used."""

    def __init__(self, name: str) -> None:
        self._name = name

    def __getattr__(self, name: str) -> Any:
        return getattr(getattr(importlib.import_module(_LOADED), self._name), name)


globals().update({name: _Lazy(name) for name in ("tf", "keras", "tfmot")})
_threads: list[int] = []  # at most one


def _select_keras_2() -> None:
    """Set the flag that makes `tf.keras` Keras 2. TensorFlow reads it once, on import."""
    if "tensorflow" in sys.modules and os.environ.get(_FLAG) not in ("1", "true", "True"):
        raise ImportError(
            f"TensorFlow was imported before collabopt and with {_FLAG}={os.environ.get(_FLAG)!r}, so tf.keras is "
            "Keras 3, which tensorflow-model-optimization cannot wrap. Import collabopt first, or set "
            f"{_FLAG}=1 before TensorFlow is imported, and restart the kernel."
        )
    os.environ[_FLAG] = "1"


_select_keras_2()
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
# Several notebooks of a batch share a GPU; by default the first would take all of its memory.
os.environ.setdefault("TF_FORCE_GPU_ALLOW_GROWTH", "true")
# By default, TensorFlow uses the kernels of oneDNN only on CPUs with AVX-512. They also train faster with AVX2.
os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "1")

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
    """Drop TensorFlow's Python log records that contain one of the `fragments` while the block runs."""

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


def read_versions() -> dict[str, str]:
    """Return the versions of TensorFlow, tf-keras and TFMOT."""
    return {name: metadata.version(name) for name in ("tensorflow", "tf-keras", "tensorflow-model-optimization")}


def name_device() -> str:
    """Return the name of the GPU, or "CPU" without one."""
    if not _has_gpu():
        return "CPU"
    gpus = tf.config.list_physical_devices("GPU")
    return tf.config.experimental.get_device_details(gpus[0]).get("device_name", "GPU")


def configure(threads: int) -> None:
    """Fix the number of `threads`, which decides the last bit of results; be deterministic if `is_deterministic`.

    Raises:
        RuntimeError: If TensorFlow already runs with another number of threads.
    """
    _threads[:] = [threads]
    if _LOADED in sys.modules:
        apply_threads()


def apply_threads() -> None:
    """Do to TensorFlow what `configure` asked for, if it did.

    Raises:
        RuntimeError: As in `configure`.
    """
    settings = tf.config.threading
    for threads in _threads:
        if settings.get_intra_op_parallelism_threads() == threads:
            continue
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
    return not _has_gpu()


def _has_gpu() -> bool:
    """Whether TensorFlow sees a GPU. It is not imported where there can be none."""
    is_possible = sys.platform != "linux" or any(any(Path("/dev").glob(pattern)) for pattern in _GPUS)
    return (is_possible or _LOADED in sys.modules) and bool(tf.config.list_physical_devices("GPU"))


def seed_everything(seed: int) -> None:
    """Seed Python, NumPy and TensorFlow with `seed`, and clear Keras's state, so that earlier work has no influence."""
    keras.backend.clear_session()
    keras.utils.set_random_seed(seed)
    random.seed(seed)
    np.random.seed(seed % 2**32)  # noqa: NPY002 - TFMOT and Keras use the legacy generator
