"""4-bit weights in quantization-aware training: what the converter writes, and that int8 storage holds the same."""

import dataclasses
import shutil

import numpy as np
import pytest

from collabopt.config import loading
from collabopt.config.experiment import ExperimentError
from collabopt.config.sections import Training
from collabopt.config.stages import STAGES
from collabopt.deploy import variants
from collabopt.run import Run
from collabopt.runtime.tensorflow import run_eagerly
from collabopt.storage import results
from collabopt.techniques import layers, quantization, registry
from collabopt.techniques.kernel_state import Clusters
from collabopt.tflite import convert, flatbuffer, int4, interpreter, micro

ONE_EPOCH = Training(epochs=1, batch_size=32, optimizer="adam", learning_rate=0.001)
VALUES = np.array([-0.6, -0.4, -0.2, 0, 0.2, 0.4, 0.5, 0.6], np.float32)
PLAIN, ALL = quantization.Preservation(), quantization.Preservation(zeros=True, clusters=Clusters("tensor"))


def train(small_cnn, data, preservation: quantization.Preservation):
    """A network of few values after one epoch, and its plain start."""
    model, generator = small_cnn(), np.random.default_rng(0)
    for layer in filter(layers.is_eligible, model.layers):
        kernel, *bias = layer.get_weights()
        layer.set_weights([generator.choice(VALUES, kernel.shape), *bias])
    data = dataclasses.replace(data, train=data.train.take(slice(96)))
    with run_eagerly():  # tracing takes longer than the steps
        return quantization.fine_tune(model, data, ONE_EPOCH, 0, "qat", preservation)[0], model


@pytest.mark.parametrize("preservation", [PLAIN, ALL], ids=["qat", "pcqat"])
def test_the_file_holds_int4_and_int8_storage_computes_the_same(small_cnn, tiny_data, preservation):
    wrapped, start = train(small_cnn, tiny_data, dataclasses.replace(preservation, bits=4))
    content = convert.convert_as_trained(wrapped)
    int8, kernels = int4.unpack_int4(content), quantization.read_kernels(wrapped)
    eligible = [layer.name for layer in start.layers if layers.is_eligible(layer)]
    assert int4.count_int4_tensors(content) == len(eligible) and int4.count_int4_tensors(int8) == 0
    assert len(content) < len(int8)
    values = flatbuffer.read_layer_kernels(int8, {name: kernel.shape for name, kernel in kernels.items()})
    assert all(np.abs(values[name].astype(int)).max() == 7 for name in eligible)
    others = [name for name in kernels if name not in eligible]  # depthwise
    assert others and all(np.abs(values[name].astype(int)).max() > 100 for name in others)
    if preservation is ALL:
        for name in eligible:
            (before,) = layers.read_layer_kernels(start.get_layer(name)).values()
            assert not values[name][before == 0].any() and not kernels[name][before == 0].any()
            assert len(np.unique(kernels[name])) <= len(VALUES)
    ((inputs, _),) = tiny_data.validation.take(slice(20)).batches(20).as_numpy_iterator()
    files = content, int8
    found, same = (interpreter.run(interpreter.open_interpreter(one, 1, reference=True), inputs) for one in files)
    np.testing.assert_array_equal(found, same)
    assert interpreter.run_or_refuse(content, inputs) == pytest.approx(found, abs=float(0.1 * np.abs(found).max()))
    assert any("4-bit weights" in reason for reason in micro.list_obstacles(content)) and not micro.list_obstacles(int8)


def test_bits_may_differ_between_layers(small_cnn, tiny_data):
    first, *others = (layer.name for layer in small_cnn().layers if layers.is_eligible(layer))
    wrapped, _ = train(small_cnn, tiny_data, dataclasses.replace(PLAIN, bits={"default": 4, first: 8}))
    assert int4.count_int4_tensors(convert.convert_as_trained(wrapped)) == len(others) > 0


def test_a_stage_has_an_int8_and_an_int4_file(trained_small, small, tmp_path, monkeypatch):
    shutil.copytree(trained_small / "stages", tmp_path / "stages")
    monkeypatch.setattr(loading, "DATA", tmp_path)
    run = Run(loading.load(str(small), weight_bits=4), None, small, tmp_path / "stages").without_test()
    qat = run.experiment.tree["qat"]
    assert variants.list_formats(qat, run.experiment) == ["int8", "int4"]
    int8, packed = (variants.measure(run, qat, name) for name in ("int8", "int4"))
    assert packed.row["tflite_bytes"] < int8.row["tflite_bytes"]
    assert np.mean(packed.scores != int8.scores) < 0.05  # other kernels round one step differently
    assert packed.row["npu_note"] == "Vela has no 4-bit weights" and int8.row["npu_cycles"] > 0
    assert variants.list_formats(qat, loading.load(str(small))) == ["int8"]


def test_the_setting_is_in_the_key_only_where_it_is_used(tiny, tiny_data):
    ordinary, few = loading.load(str(tiny)), loading.load(str(tiny), weight_bits={"default": 4, "fc": 8})
    for name in ("pruned", "pqat"):
        keys = [registry.describe_training(STAGES[name], "parent", one, tiny_data) for one in (ordinary, few)]
        assert "weight_bits" not in keys[0]["settings"]
        assert ("weight_bits" in keys[1]["settings"]) == STAGES[name].quantizes
    assert results.describe_options(few, STAGES["pqat"]) == "4-bit weights, 8-bit fc"
    assert results.describe_options(ordinary, STAGES["pqat"]) == results.describe_options(few, STAGES["pruned"]) == ""


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"weight_bits": 5}, "weight_bits=5: expected 4 or 8"),
        ({"weight_bits": {"conv_1": 4}}, "weight_bits: .*expected a value for default"),
        ({"weight_bits": 4, "scheme": "tfmot"}, "weight_bits=4: TFMOT's schemes have 8; set scheme=collabopt"),
    ],
)
def test_wrong_bits_are_one_line(settings, message):
    with pytest.raises(ExperimentError, match=message) as error:
        loading.load("digits", **settings)
    assert len(str(error.value).splitlines()) == 1
