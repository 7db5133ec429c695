"""Vela's estimates of real files, and the reasons for files that cannot run on an NPU."""

from pathlib import Path

import numpy as np
import pytest

from collabopt.config import experiment
from collabopt.config.formats import FORMATS
from collabopt.runtime.tensorflow import keras, tf
from collabopt.tflite import convert, flatbuffer, vela

NUMBERS = {"npu_cycles", "npu_ms", "npu_sram_kib", "npu_flash_kib", "npu_weight_bytes", "npu_operators"}


def convert_calibrated(model: keras.Model, format: str = "int8") -> bytes:
    generator = np.random.default_rng(0)
    return convert.convert(model, format, generator.uniform(0, 1, (8, *model.input_shape[1:])).astype(np.float32))


def make_wide(density: float = 1.0, values: int | None = None) -> keras.Model:
    """A network of one large kernel with a share of nonzero weights and, if given, a number of different values."""
    inputs = keras.Input((8, 8, 64), name="input")
    model = keras.Model(inputs, keras.layers.Conv2D(256, 1, use_bias=False, name="conv")(inputs))
    generator = np.random.default_rng(0)
    shape = (1, 1, 64, 256)
    kernel = generator.integers(1, values + 1, shape) if values else generator.standard_normal(shape)
    kernel[..., 0, :] = kernel.max()  # so that all channels have the same scale
    model.set_weights([kernel * (generator.random(kernel.shape) < density)])
    return model


@pytest.fixture(scope="module")
def int8(small_cnn) -> bytes:
    return convert_calibrated(small_cnn())


@pytest.mark.parametrize("accelerator", experiment.ACCELERATORS)
def test_an_int8_file_runs_completely_on_every_accelerator(int8, accelerator):
    found = vela.estimate(int8, accelerator)
    assert set(found) == NUMBERS | {"npu_note"}
    assert (found["npu_operators"], found["npu_note"]) == (1, "")
    assert all(found[column] > 0 for column in NUMBERS)
    assert found["npu_ms"] == pytest.approx(found["npu_cycles"] / 500_000)
    assert found["npu_flash_kib"] * 1024 >= found["npu_weight_bytes"]


def test_common_accelerators_are_supported():
    assert {"ethos-u55-128", "ethos-u55-256", "ethos-u65-256", "ethos-u85-256"} <= set(experiment.ACCELERATORS)


def test_an_estimate_is_deterministic(int8):
    assert vela.estimate(int8, "ethos-u55-128") == vela.estimate(int8, "ethos-u55-128")


def test_more_multipliers_take_fewer_cycles():
    cycles = [
        vela.estimate(convert_calibrated(make_wide()), f"ethos-u55-{macs}")["npu_cycles"] for macs in (32, 64, 128)
    ]
    assert cycles[0] > cycles[1] > cycles[2]


def test_zeros_and_few_values_shrink_the_encoded_weights():
    files = [
        convert_calibrated(make_wide()),
        convert_calibrated(make_wide(density=0.5)),
        convert_calibrated(make_wide(density=0.5, values=7)),
    ]
    sizes = [vela.estimate(file, "ethos-u55-128")["npu_weight_bytes"] for file in files]
    assert sizes[0] > sizes[1] > sizes[2]
    assert sizes[2] < sum(values.size for values in flatbuffer.read_weights(files[2])) / 2


def test_an_int16x8_file_runs_completely_on_the_npu(small_cnn):
    found = vela.estimate(convert_calibrated(small_cnn(), "int16x8"), "ethos-u55-128")
    assert (found["npu_operators"], found["npu_note"]) == (1, "")


@pytest.mark.parametrize("format", ["float32", "float16", "dynamic_range"])
def test_nothing_of_a_float_file_runs_on_the_npu(small_cnn, format):
    found = vela.estimate(convert.convert(small_cnn(), format), "ethos-u55-128")
    assert "nothing runs on the NPU" in found["npu_note"]
    assert "nothing runs on the NPU" in FORMATS[format].npu_obstacle  # said without Vela
    assert "Float32" in found["npu_note"]
    assert all(found[column] is None for column in NUMBERS)


def test_operators_on_the_cpu_are_named():
    inputs = x = keras.Input((8, 8, 4), name="input")
    x = keras.layers.Conv2D(8, 3, padding="same", activation="relu", name="conv")(x)
    x = keras.layers.Lambda(lambda x: tf.gather(x, [3, 1, 2], axis=1), name="gather")(x)
    model = keras.Model(inputs, keras.layers.Dense(3, name="fc")(keras.layers.Flatten(name="flatten")(x)))
    found = vela.estimate(convert_calibrated(model), "ethos-u55-128")
    assert found["npu_note"] == "1 of 3 operators run on the CPU and are not counted: GATHER (Unsupported opType)"
    assert found["npu_operators"] == pytest.approx(2 / 3)
    assert found["npu_cycles"] > 0


@pytest.mark.parametrize("cut", [0, 100, 3000])
def test_a_damaged_file_cannot_be_compiled(int8, cut):
    """Vela crashes on some of these files."""
    found = vela.estimate(int8[:cut], "ethos-u55-128")
    assert found["npu_note"].startswith("Vela cannot compile the file: ")
    assert found["npu_cycles"] is None


def test_vela_prints_nothing_and_leaves_nothing(int8, capfd, tmp_path: Path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    vela.estimate(int8, "ethos-u85-256")
    assert capfd.readouterr() == ("", "")
    assert list(tmp_path.iterdir()) == []


def test_an_unknown_accelerator_is_an_error_that_lists_all(int8):
    with pytest.raises(ValueError, match=r"accelerator='ethos-u55': expected one of ethos-u55-32, .*ethos-u85-2048"):
        vela.estimate(int8, "ethos-u55")
