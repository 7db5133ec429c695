"""What int8 costs per layer: a layer that it hurts is found and proposed; a harmless network gets no proposal."""

import dataclasses
import re
import shutil

import numpy as np
import pytest

from collabopt import figures, tables
from collabopt.analysis import quantization_sensitivity
from collabopt.analysis.switched_model import SwitchedModel
from collabopt.config import loading
from collabopt.config.sections import Exclude
from collabopt.datasets import Data, Split
from collabopt.run import Run
from collabopt.runtime.tensorflow import keras
from collabopt.techniques import activation_ranges, layers, quantization

SHAPE = (8, 8, 3)


def make_model() -> keras.Model:
    """A network whose first outputs have kernels and tensors of similar magnitudes."""
    keras.utils.set_random_seed(0)
    inputs = x = keras.Input(SHAPE, name="input")
    for layer in (
        keras.layers.Conv2D(8, 3, padding="same", use_bias=False, name="conv_1"),
        keras.layers.BatchNormalization(name="bn_1"),
        keras.layers.ReLU(name="relu_1"),
        keras.layers.DepthwiseConv2D(3, padding="same", activation="relu", name="depthwise"),
        keras.layers.Flatten(name="flatten"),
        keras.layers.Dense(16, activation="relu", name="hidden"),
        keras.layers.Dense(4, name="fc"),
    ):
        x = layer(x)
    return keras.Model(inputs, x)


def make_data(model: keras.Model) -> Data:
    """Random examples that the float model predicts correctly and clearly: every mistake is one of much rounding."""
    examples = np.random.default_rng(0).normal(size=(1000, *SHAPE)).astype(np.float32)
    outputs = model.predict(examples, verbose=0)
    margins = np.diff(np.sort(outputs, axis=-1)[:, -2:])[:, 0]
    clear = np.argsort(margins)[-400:]
    split = Split(examples[clear], outputs[clear].argmax(axis=-1))
    return Data("random", tuple("0123"), split, split, split, "", SHAPE, (4,))


def wrap(model: keras.Model, data: Data, unquantized: tuple[str, ...] = ()) -> keras.Model:
    wrapped = quantization.wrap(model, quantization.Preservation(unquantized=unquantized))
    activation_ranges.calibrate(wrapped, data, 0)
    return wrapped


def diagnose(model: keras.Model, data: Data) -> quantization_sensitivity.Diagnosis:
    return quantization_sensitivity.measure(
        wrap(model, data), [layer.name for layer in model.layers], data, Exclude(), 0
    )


@pytest.fixture(scope="module")
def harmless() -> tuple[keras.Model, Data]:
    model = make_model()
    return model, make_data(model)


@pytest.fixture(scope="module")
def diagnosis(harmless) -> quantization_sensitivity.Diagnosis:
    """What int8 costs the harmless network."""
    return diagnose(*harmless)


def test_all_on_is_the_fake_quantized_model_and_all_off_the_float_model(harmless):
    model, data = harmless
    examples, wrapped = data.validation.examples, wrap(model, data)
    expected = wrapped.predict(examples, verbose=0)
    wrapped.predict_function = None
    switched = SwitchedModel(wrapped, [layer.name for layer in model.layers])
    assert list(switched.units) == ["input", "conv_1", "depthwise", "hidden", "fc"]
    assert switched.units["conv_1"].layers == ["conv_1", "bn_1", "relu_1"]
    assert switched.units["depthwise"].layers == ["depthwise", "flatten"]
    assert switched.set_float(()) == ()
    np.testing.assert_array_equal(switched.model.predict(examples, verbose=0), expected)
    switched.set_float(switched.everything)
    np.testing.assert_array_equal(switched.model.predict(examples, verbose=0), model.predict(examples, verbose=0))


def test_branches_merges_and_split_layers_are_units_with_names_that_can_be_excluded():
    inputs = keras.Input(SHAPE, name="input")
    x = keras.layers.MaxPooling2D(name="pool")(keras.layers.Conv2D(8, 3, padding="same", name="conv")(inputs))
    left = keras.layers.Conv2D(4, 1, activation="swish", name="left")(x)
    right = keras.layers.SeparableConv2D(4, 3, padding="same", name="separable")(x)
    x = keras.layers.Flatten(name="flatten")(keras.layers.Concatenate(name="merge")([left, right]))
    model = keras.Model(inputs, keras.layers.Dense(4, name="fc")(x))
    data = make_data(model)
    switched = SwitchedModel(wrap(model, data), [layer.name for layer in model.layers])
    found = {name: unit.layers for name, unit in switched.units.items()}
    assert {name for names in found.values() for name in names} == {layer.name for layer in model.layers}
    assert found["conv"] == ["conv", "pool"]
    assert found["separable"] == ["separable"]
    assert len(switched.units["separable"].kernels) == 2
    assert switched.units["conv"].readers == {"left", "separable"}
    assert switched.units["merge"].readers == {"fc"}


@pytest.mark.parametrize("floats", [("conv_1",), ("hidden", "fc"), ("conv_1", "depthwise", "hidden", "fc")])
def test_layers_in_float_compute_as_if_they_were_excluded(harmless, floats):
    model, data = harmless
    wrapped = wrap(model, data)
    ranges = activation_ranges._list_ranges(wrapped)
    switched = SwitchedModel(wrapped, [layer.name for layer in model.layers])
    excluded = wrap(model, data, switched.set_float(floats))
    kept = [one for one, unit in zip(ranges, switched.units.values(), strict=True) if unit.range_switch.numpy()]
    for old, new in zip(kept, activation_ranges._list_ranges(excluded), strict=True):
        for bound, value in zip(new, old, strict=True):
            bound.assign(value)
    found = switched.model.predict(data.validation.examples, verbose=0)
    np.testing.assert_allclose(found, excluded.predict(data.validation.examples, verbose=0), atol=1e-5)


def test_a_harmless_network_gets_no_proposal(diagnosis):
    assert list(diagnosis.table.columns) == quantization_sensitivity.COLUMNS
    assert list(diagnosis.table["layer"]) == ["input", "conv_1", "depthwise", "hidden", "fc"]
    assert (diagnosis.table["snr_db"] > 20).all()
    assert diagnosis.table["kernel_snr_db"].notna().tolist() == [False, True, True, True, True]
    assert (diagnosis.proposed, diagnosis.exclude) == ((), Exclude())
    assert "lost nothing" in diagnosis.answer


def test_a_kernel_with_a_huge_weight_is_found_and_proposed():
    """A dense kernel has one range: one huge weight, at an input that is zero, leaves few int8 values to the others."""
    model = make_model()
    depthwise, hidden = model.get_layer("depthwise"), model.get_layer("hidden")
    kernel, bias = depthwise.get_weights()
    kernel[:, :, 0] = 0  # the first channel, and so the first input of `hidden`
    depthwise.set_weights([kernel, bias])
    kernel, bias = hidden.get_weights()
    kernel[0, 0] = 500 * np.abs(kernel).max()
    hidden.set_weights([kernel, bias])
    data = make_data(model)
    found = diagnose(model, data)
    rows = found.table.set_index("layer")
    assert rows["only_int8_drop"].idxmax() == "hidden"
    assert rows.loc["hidden", "kernel_peak"] > 500
    assert found.proposed == ("hidden",)
    assert found.drops.loc["int8", "drop"] > 20
    assert found.drops.loc["proposed", "drop"] < 5  # inputs and outputs are int8
    assert "Where: hidden" in found.answer
    assert "rounding its kernel" in found.answer
    assert found.yaml == "exclude:\n  quantization: [hidden]"
    assert layers.read_kernels(model)["hidden"][0, 0] == kernel[0, 0]  # the model stays as it is


def test_a_tensor_with_a_huge_range_is_found_with_the_layers_on_both_its_sides():
    """One channel of the first convolution is 1,000 times as large as the others, and nothing reads it."""
    model = make_model()
    norm, depthwise = model.get_layer("bn_1"), model.get_layer("depthwise")
    gamma, *others = norm.get_weights()
    gamma[0] *= 1000
    norm.set_weights([gamma, *others])
    kernel, bias = depthwise.get_weights()
    kernel[:, :, 0] = 0
    depthwise.set_weights([kernel, bias])
    data = make_data(model)
    found = diagnose(model, data)
    assert found.proposed == ("conv_1", "bn_1", "relu_1", "depthwise", "flatten")
    assert "the output of conv_1 has the range" in found.answer
    assert found.drops.loc["int8", "drop"] > 20 > found.drops.loc["proposed", "drop"]
    assert found.yaml.startswith("exclude:\n  quantization: [conv_1, bn_1, relu_1, depthwise")


def test_a_layer_that_is_proposed_is_red_in_figure_and_table(diagnosis, tmp_path):
    proposed = dataclasses.replace(diagnosis, proposed=("hidden",))
    figure = figures.draw_quantization(proposed, csv=tmp_path / "diagnose.csv")
    colours = {label.get_text(): label.get_color() for label in figure.axes[0].get_yticklabels()}
    assert [name for name, colour in colours.items() if colour == figures.style.ALARM] == ["hidden"]
    assert (tmp_path / "diagnose.png").is_file()
    rows = tables.quantization(proposed).rows
    assert [row["Layer"].text for row in rows if row["Layer"].kind == "no"] == ["hidden"]


@pytest.mark.parametrize("stage", ["baseline", "pqat"])
def test_a_stage_has_the_validation_score_of_its_network(stage, small, trained_small, tmp_path):
    shutil.copytree(trained_small / "stages", tmp_path / "stages")
    run = Run(loading.load(str(small)), tmp_path / "report", small, tmp_path / "stages")
    found, result = quantization_sensitivity.diagnose(run, stage), run.stage(stage).result
    score = result["validation_accuracy"]
    if stage == "pqat":
        assert found.drops.loc["int8", "score"] == pytest.approx(score)
    else:
        assert re.search(f"is {100 * score:.2f}% in float32", found.answer)


def test_an_input_with_a_huge_range_is_found_and_no_layer_proposed(harmless):
    model, data = harmless
    examples = data.validation.examples.copy()
    examples[0] *= 3_000
    outlier = dataclasses.replace(data, train=dataclasses.replace(data.train, examples=examples))
    wrapped = quantization.wrap(model, quantization.Preservation())
    activation_ranges.calibrate(wrapped, outlier, 0, "min_max")
    found = quantization_sensitivity.measure(wrapped, [layer.name for layer in model.layers], data, Exclude(), 0)
    assert found.proposed == ()
    assert "Where: input" in found.answer
    assert "no choice of float32 layers helps" in found.answer
    assert "nothing to add" in found.yaml
