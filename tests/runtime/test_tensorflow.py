"""TensorFlow comes with Keras 2 or not at all, and only its known notices are dropped."""

import os
import random
import subprocess
import sys
from pathlib import Path

import pytest

from collabopt.runtime import tensorflow

KNOWN = (
    "WARNING: All log messages before absl::InitializeLog() is called are written to STDERR",
    "I0000 00:00:1763714000.123456   12345 port.cc:153] oneDNN custom operations are on.",
    "INFO: Created TensorFlow Lite XNNPACK delegate for CPU.",
    "fully_quantize: 0, inference_type: 6, input_inference_type: INT8, output_inference_type: INT8",
)

KERAS = """
from collabopt.runtime.tensorflow import keras, tf, tfmot, read_versions
assert tf.keras.layers.Dense is keras.layers.Dense
assert tf.keras.Sequential is keras.Sequential
assert keras.__version__.startswith("2."), keras.__version__
print("versions:", *read_versions())
"""
THREADS = """
from collabopt.runtime import tensorflow
tensorflow.configure(1)
tensorflow.configure(1)
assert float(tf.reduce_sum(tf.ones((2, 2)))) == 4
tensorflow.configure(1)
try:
    tensorflow.configure(2)
except RuntimeError as error:
    print(error)
"""
TFMOT = """
# It wraps no layer of Keras 3.
tfmot.sparsity.keras.prune_low_magnitude(keras.Sequential([keras.layers.Dense(1, input_shape=(2,))]))
print("pruned")
"""
CONVOLUTIONS = """
import numpy as np
generator = np.random.default_rng(0)
x, kernel = (generator.random(shape, np.float32) for shape in ((16, 60, 60, 8), (1, 1, 8, 16)))

def differentiate(x, kernel):
    with tf.GradientTape() as tape:
        tape.watch([x, kernel])
        outputs = tf.nn.conv2d(x, kernel, 2, "SAME")
    return tape.gradient(outputs, [x, kernel])

# Each sum runs over the positions or channels that a value meets.
expected = np.zeros_like(x)
expected[:, ::2, ::2] = kernel[0, 0].sum(axis=1)
sums = x[:, ::2, ::2].sum(axis=(0, 1, 2))
for function in (differentiate, tf.function(differentiate)):
    for _ in range(10):  # the memory after a buffer is not always in use
        of_inputs, of_kernel = function(tf.constant(x), tf.constant(kernel))
        np.testing.assert_allclose(of_inputs, expected, rtol=1e-5)
        np.testing.assert_allclose(of_kernel[0, 0], np.tile(sums[:, None], 16), rtol=1e-4)
print("differentiated")
"""


def python(code: str, **variables: str) -> subprocess.CompletedProcess:
    """Run code in a separate process, with no variables of TensorFlow other than these."""
    others = {name: value for name, value in os.environ.items() if not name.startswith("TF_")}
    return subprocess.run(
        [sys.executable, "-u", "-c", code], env=others | variables, capture_output=True, text=True, check=False
    )


@pytest.fixture(scope="module")
def done() -> subprocess.CompletedProcess:
    """All scripts, in turn, in one process, which imports TensorFlow once. Its environment asks for Keras 3."""
    return python(KERAS + THREADS + TFMOT + CONVOLUTIONS, TF_USE_LEGACY_KERAS="0")


def test_importing_gives_keras_2_and_prints_nothing(done):
    assert done.stderr == ""
    assert done.stdout.startswith("versions: tensorflow tf-keras tensorflow-model-optimization\n")


def test_changing_the_number_of_threads_later_asks_to_restart_the_kernel(done):
    assert "threads=2: TensorFlow already runs with 1 threads" in done.stdout, done.stderr
    assert "Restart the kernel" in done.stdout


def test_tfmot_wraps_a_layer(done):
    assert "\npruned\n" in done.stdout, done.stderr


def test_training_strided_1x1_convolutions_of_few_channels_keeps_within_its_memory(done):
    assert done.returncode == 0, done.stderr[-500:]
    assert done.stdout.endswith("\ndifferentiated\n")


@pytest.mark.parametrize(
    "variables",
    [pytest.param({}, id="unset"), pytest.param({"TF_USE_LEGACY_KERAS": "0"}, id="0", marks=pytest.mark.slow)],
)
def test_tensorflow_imported_before_with_keras_3_is_an_error_with_the_reason(variables):
    code = """
import tensorflow
try:
    import collabopt.runtime.tensorflow
except ImportError as error:
    print(error)
"""
    message = python(code, TF_CPP_MIN_LOG_LEVEL="3", **variables).stdout
    assert "TensorFlow was imported before collabopt" in message
    assert f"TF_USE_LEGACY_KERAS={variables.get('TF_USE_LEGACY_KERAS')!r}" in message
    assert "Keras 3" in message
    assert "TF_USE_LEGACY_KERAS=1 before TensorFlow is imported" in message
    assert "restart the kernel" in message


@pytest.mark.parametrize("line", KNOWN, ids=lambda line: line[:20])
def test_a_known_notice_is_dropped(capfd, line):
    with tensorflow.drop_native_notices():
        os.write(2, f"{line}\n".encode())
    assert capfd.readouterr() == ("", "")


def test_other_lines_are_passed_on_once_and_in_order(capfd):
    with tensorflow.drop_native_notices():
        os.write(2, f"first\n{KNOWN[0]}\nsecond: E0000 is not at the beginning\n".encode())
        os.write(1, b"out\n")
    os.write(2, b"after\n")
    assert capfd.readouterr() == ("out\n", "first\nsecond: E0000 is not at the beginning\nafter\n")


def test_descriptor_2_is_restored_even_after_an_exception(capfd):
    before = len(list(Path("/dev/fd").iterdir()))
    with pytest.raises(KeyError), tensorflow.drop_native_notices():
        os.write(2, f"{KNOWN[0]}\nwhy it failed\n".encode())
        raise KeyError
    os.write(2, b"after\n")
    assert capfd.readouterr().err == "why it failed\nafter\n"
    assert len(list(Path("/dev/fd").iterdir())) == before


def test_seeding_repeats_random_numbers():
    drawn = []
    for _ in range(2):
        tensorflow.seed_everything(7)
        layer = tensorflow.keras.layers.Dense(3)
        layer.build((None, 4))
        drawn.append(
            [random.random(), layer.kernel.numpy().tolist(), tensorflow.tf.random.normal((3,)).numpy().tolist()]
        )
    assert drawn[0] == drawn[1]
