"""The examples that set ranges: drawn by class, named if far outside, and clipped where that helps on validation."""

import dataclasses

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from collabopt import datasets
from collabopt.analysis import ptq, scoring
from collabopt.config import loading
from collabopt.config.scores import ACCURACY, SCORES
from collabopt.config.sections import Training
from collabopt.config.tasks import TASKS
from collabopt.datasets import Data, Split
from collabopt.runtime.tensorflow import keras, seed_everything
from collabopt.techniques import activation_ranges, calibration, quantization, training
from collabopt.techniques.calibration import METHODS, Sample, compute_range
from collabopt.tflite import convert

FACTOR = 300


def make_split(count: int, seed: int) -> Split:
    """Three patterns of 16 numbers with noise, in turn."""
    patterns = np.random.default_rng(0).normal(size=(3, 16))
    labels = np.arange(count) % 3
    noise = np.random.default_rng(seed).normal(0, 0.5, (count, 16))
    return Split((patterns[labels] + noise).astype(np.float32), labels)


@pytest.fixture(scope="module")
def data() -> Data:
    """510 training examples, the first of them times 300."""
    train = make_split(510, 1)
    train.examples[0] *= FACTOR
    return Data("patterns", ("a", "b", "c"), train, make_split(150, 2), make_split(150, 3), "", (16,), (3,))


@pytest.fixture(scope="module")
def model(data: Data) -> keras.Model:
    """A trained dense network, which the outlier does not hurt."""
    seed_everything(0)
    hidden = keras.layers.Dense(16, activation="relu", name="hidden")
    built = keras.Sequential([keras.Input((16,), name="input"), hidden, keras.layers.Dense(3, name="fc")])
    plain = keras.Model(built.inputs, built.outputs)
    clean = dataclasses.replace(data, train=make_split(510, 1))
    section = Training(epochs=5, batch_size=32, optimizer="adam", learning_rate=0.01)
    training.fit(plain, clean, section, 0, "baseline", training.progress.Clock())
    return plain


def plan(setting: str):
    digits = loading.load("digits")
    return digits.model_copy(update={"calibration": setting, "calibration_examples": 510})


def score(content: bytes, data: Data) -> float:
    return float(scoring.score_file(content, data.test, data.task).mean())


@pytest.mark.parametrize(("setting", "good"), [("min_max", False), ("percentile", True), ("auto", True)])
def test_one_extreme_example_does_not_spoil_a_file_by_ptq(data, model, setting: str, good: bool) -> None:
    content, method = ptq.convert_calibrated(model, "int8", data, plan(setting), [], False, "baseline")
    assert (score(content, data) >= 0.98) == good
    assert method == ("percentile" if setting == "auto" else setting)


@pytest.mark.parametrize(("setting", "good"), [("min_max", False), ("auto", True)])
def test_one_extreme_example_does_not_spoil_quantization_aware_training(
    data, model, setting, good, monkeypatch
) -> None:
    monkeypatch.setattr(activation_ranges, "EXAMPLES", 510)
    section = Training(epochs=1, batch_size=32, optimizer="adam", learning_rate=1e-4)
    wrapped, fit = quantization.fine_tune(model, data, section, setting=setting)
    assert (score(convert.convert_as_trained(wrapped), data) >= 0.98) == good
    assert fit.details["calibration"] == ("percentile" if setting == "auto" else setting)


def test_an_extreme_example_that_is_not_drawn_does_not_move_the_input_range(data, model, monkeypatch) -> None:
    # TFMOT's quantizer of inputs widens its range to every value that it ever sees.
    monkeypatch.setattr(activation_ranges, "EXAMPLES", 100)
    assert 0 not in calibration.draw_examples(model, data.train, 100, seed=1).indices
    section = Training(epochs=1, batch_size=32, optimizer="adam", learning_rate=1e-4)
    wrapped, _ = quantization.fine_tune(model, data, section, seed=1)
    assert score(convert.convert_as_trained(wrapped), data) >= 0.98


def test_the_activations_behind_a_robust_input_range_have_robust_ranges_too(data, model) -> None:
    # A robust range is needed for the input alone: it is where the example enters.
    wrapped = quantization.wrap(model, quantization.Preservation())
    sample = calibration.draw_examples(model, data.train, 510, 0)
    ends = []
    for inputs in (sample.select("percentile"), sample.inputs[sample.indices != 0], sample.inputs):
        activation_ranges._set_ranges(wrapped, inputs)
        ends.append([float(high) for _, high in activation_ranges._list_ranges(wrapped)])
    robust, without, raw = map(np.array, ends)
    assert len(robust) == 3
    assert ((robust / without > 0.8) & (robust / without < 1.01)).all()
    assert (raw / without > 10).all()


def test_the_extreme_example_is_named(data, model, monkeypatch) -> None:
    sample = calibration.draw_examples(model, data.train, 510, 0)
    outlier, values = sample.find_outlier(), data.train.examples
    assert outlier.index == 0
    assert abs(outlier.value) == np.abs(values[0]).max()
    assert values[1:].min() <= outlier.low < 0 < outlier.high <= values[1:].max()
    line = f"training example 0 has the value {outlier.value:.4g}; without such examples the range is"
    assert str(outlier).startswith(line)
    logged = []
    monkeypatch.setattr(calibration.progress, "log", lambda text, **_: logged.append(text))
    calibration.log_choice(sample, "percentile", "qat")
    assert logged == [f"qat: {outlier}; ranges are set by percentile"]


def test_ordinary_data_has_no_extreme_example_and_keeps_min_max() -> None:
    data = datasets.load(loading.load("digits"))
    network = keras.Sequential([keras.Input((8, 8, 1)), keras.layers.Flatten()])
    sample = calibration.draw_examples(network, data.train, 256, 0)
    assert sample.find_outlier() is None
    assert sample.list_methods("auto") == ("min_max",)
    assert sample.list_methods("mse") == ("mse",)
    for seed in range(20):
        values = np.random.default_rng(seed).normal(size=(256, 40)).astype(np.float32)
        assert Sample(values, np.arange(256)).find_outlier() is None


@pytest.mark.parametrize("labels", [np.arange(600) % 100 < 3, np.repeat([0, 1], [590, 10])])
def test_every_class_is_drawn(labels: np.ndarray) -> None:
    network = keras.Sequential([keras.Input((1,)), keras.layers.Dense(2)])
    train = Split(np.zeros((600, 1), np.float32), labels.astype(int))
    for seed in range(20):
        drawn = calibration.draw_examples(network, train, 200, seed).indices
        share = labels[drawn].mean() / labels.mean()
        assert 0.5 < share < 2
        assert len(set(drawn)) == 200
        assert set(calibration.draw_examples(network, train, 50, seed).indices) <= set(drawn)


@given(st.integers(0, 10_000), st.sampled_from(METHODS), st.floats(0.01, 100), st.floats(-3, 3))
@settings(max_examples=60, deadline=None)
def test_a_range_includes_zero_and_lies_within_that_of_all_values(seed, method, scale, offset) -> None:
    values = np.random.default_rng(seed).normal(offset, scale, (30, 5))
    low, high = compute_range(values, method)
    assert min(values.min(), 0) <= low <= 0 <= high <= max(values.max(), 0)
    if method == "mse":
        assert calibration._compute_error(values, low, high) <= calibration._compute_error(
            values, *compute_range(values, "min_max")
        )


@pytest.mark.parametrize("values", [np.zeros((10, 3)), np.ones((1, 3)), np.eye(300)[:, :1]])
def test_a_range_is_as_wide_as_the_values_if_they_are_few_or_nearly_all_zero(values: np.ndarray) -> None:
    assert compute_range(values, "percentile") == compute_range(values, "min_max")


def test_indices_of_an_embedding_are_not_clipped() -> None:
    tokens = np.array([[1], [2], [3], [90_000]])
    sample = Sample({"tokens": tokens, "numbers": tokens.astype(np.float32)}, np.arange(4))
    clipped = sample.select("percentile")
    np.testing.assert_array_equal(clipped["tokens"], tokens[:3])  # the last example is far outside by its numbers
    assert clipped["numbers"].max() == 3
    alone = Sample({"tokens": tokens}, np.arange(4))
    np.testing.assert_array_equal(alone.select("percentile")["tokens"], tokens)
    assert alone.find_outlier() is None
    assert sample.find_outlier().input == "numbers"


def test_a_method_is_chosen_only_if_it_is_better_beyond_chance() -> None:
    base = np.r_[np.zeros(50), np.ones(50)]
    better, barely = np.ones(100), base.copy()
    barely[:2] = 1
    assert calibration.choose({"min_max": base, "mse": base}, ACCURACY) == "min_max"
    assert calibration.choose({"min_max": base, "mse": barely}, ACCURACY) == "min_max"
    assert calibration.choose({"min_max": base, "mse": better}, ACCURACY) == "mse"
    assert calibration.choose({"min_max": base, "percentile": better, "mse": better}, ACCURACY) == "percentile"
    assert calibration.choose({"min_max": better, "mse": base}, SCORES["mae"]) == "mse"


def test_training_without_epochs_has_the_ranges_of_the_data(data, model) -> None:
    section = Training(epochs=0, batch_size=32, optimizer="adam", learning_rate=1e-4)
    wrapped, _ = quantization.fine_tune(model, data, section)
    ranges = activation_ranges.compare(wrapped, calibration.draw_examples(model, data.train, 256, 0))
    assert ranges["factor"].max() < 1.01


@pytest.mark.parametrize(("scheme", "fits"), [("collabopt", True), ("tfmot", False)])
def test_the_audit_finds_ranges_that_do_not_fit_the_data(model, scheme: str, fits: bool) -> None:
    far = [
        dataclasses.replace(one, examples=one.examples * 40 + 200) for one in (make_split(300, 1), make_split(90, 2))
    ]
    data = Data("far", ("a", "b", "c"), *far, far[1], "", (16,), (3,), TASKS["classification"])
    section = Training(epochs=1, batch_size=32, optimizer="adam", learning_rate=1e-4)
    preservation = quantization.Preservation(zeros=True, scheme=scheme)
    wrapped, _ = quantization.fine_tune(model, data, section, preservation=preservation)
    before = wrapped.get_weights()
    ranges = activation_ranges.compare(wrapped, calibration.draw_examples(model, data.train, 256, 0))
    assert list(ranges.columns) == activation_ranges.COLUMNS
    assert {"hidden", "fc"} <= {*ranges["activation"]}
    assert (ranges["factor"].max() < 1.5) == fits
    relu = ranges.set_index("activation").loc["hidden"]
    assert (relu["low"] == 0) == fits
    assert relu["observed_low"] == 0
    for old, new in zip(before, wrapped.get_weights(), strict=True):
        np.testing.assert_array_equal(old, new)
