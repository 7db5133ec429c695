"""The trial finds before training what would fail or stay in float32 later, and names the layer and a remedy."""

import numpy as np
import pytest

from collabopt.analysis import agreement, preflight, trial
from collabopt.config import experiment, loading, sections
from collabopt.datasets import Data, Split
from collabopt.runtime.tensorflow import keras, tf
from collabopt.techniques import annotation, int8_layers

layers = keras.layers
CLASSES = 10


@pytest.fixture
def make_experiment(tiny):
    """Makes the tiny experiment with excluded layers."""

    def make(scheme: str = "collabopt", **exclude: tuple[str, ...]) -> experiment.Experiment:
        section = sections.Exclude(**exclude)
        return loading.load(str(tiny), scheme=scheme).model_copy(update={"exclude": section})

    return make


def make_data(shape: tuple[int, ...] = (8, 8, 4)) -> Data:
    inputs = np.random.default_rng(0).normal(size=(6, *shape)).astype(np.float32)
    split = Split(inputs, np.arange(6) % CLASSES)
    return Data("random", tuple(map(str, range(CLASSES))), split, split, split, "", shape, (CLASSES,))


def build(*middle: keras.layers.Layer) -> keras.Model:
    inputs = x = keras.Input((8, 8, 4), name="in")
    for layer in (layers.Conv2D(8, 3, padding="same", name="conv"), *middle, layers.Flatten(name="flatten")):
        x = layer(x)
    return keras.Model(inputs, layers.Dense(CLASSES, name="fc")(x))


class Broken(layers.ReLU):
    """A ReLU that fails in training."""

    def call(self, inputs, training=None):
        if training and tf.executing_eagerly():
            raise RuntimeError(f"layer {self.name}: cannot be differentiated")
        return super().call(inputs)


class Folded(layers.Layer):
    """A layer of an operator that LiteRT has in float32 only."""

    def call(self, inputs):
        return tf.sin(inputs)

    def compute_output_shape(self, input_shape):
        return input_shape


@pytest.mark.parametrize("scheme", ["collabopt", "tfmot"])
def test_a_usual_model_has_no_finding_and_stays_as_it_is(make_experiment, scheme):
    model = build(layers.BatchNormalization(name="bn"), layers.ReLU(name="relu"))
    before = model.get_weights()
    assert trial.try_stages(model, make_data(), make_experiment(scheme)) == []
    for array, other in zip(before, model.get_weights(), strict=True):
        np.testing.assert_array_equal(array, other)
    assert not tf.config.functions_run_eagerly()


def test_a_grouped_convolution_is_trained(make_experiment):
    model = build(layers.Conv2D(8, 3, groups=2, name="grouped"), layers.ReLU(name="relu"))
    assert trial.try_stages(model, make_data(), make_experiment()) == []


def test_4_bit_weights_have_no_finding(make_experiment):
    given = make_experiment().model_copy(update={"weight_bits": 4})
    assert trial.try_stages(build(layers.ReLU(name="relu")), make_data(), given) == []


def test_stages_of_another_shape_have_no_finding(tiny):
    shaped = loading.load(str(tiny), filter_sparsity=0.25, rank_energy=0.9)
    assert {"filter_pruned", "factorized"} <= {*shaped.tree}
    assert trial.try_stages(build(layers.ReLU(name="relu")), make_data(), shaped) == []


@pytest.mark.parametrize("scheme", ["collabopt", "tfmot"])
def test_a_frozen_layer_has_no_finding(make_experiment, scheme):
    model = build(layers.ReLU(name="relu"))
    model.get_layer("conv").trainable = False
    assert trial.try_stages(model, make_data(), make_experiment(scheme)) == []


def test_a_layer_that_fails_in_a_step_stops(make_experiment):
    (found,) = trial.try_stages(build(Broken(name="broken")), make_data(), make_experiment())
    assert (found.layer, found.stops) == ("broken", True)
    assert found.reason.startswith(f"a training step of baseline fails (RuntimeError in {__file__}, line ")
    assert found.remedy == "correct this line"  # of our own layer
    assert "cannot be differentiated" in found.reason
    with pytest.raises(preflight.PreflightError, match=r"^broken: a training step of baseline fails"):
        preflight.check([found])


def test_an_operator_in_float32_is_found_with_its_layer(make_experiment, monkeypatch):
    """As if we believed that LiteRT runs the sine in int8."""
    monkeypatch.setattr(int8_layers, "WITHOUT_RANGE", (*int8_layers.WITHOUT_RANGE, Folded))
    known = annotation.list_custom_objects
    monkeypatch.setattr(annotation, "list_custom_objects", lambda model: known(model) | {"Folded": Folded})
    found = trial.try_stages(build(Folded(name="sine")), make_data(), make_experiment())
    assert "sine" in {one.layer for one in found}
    assert any("SIN" in one.reason for one in found)


def test_layers_left_in_float32_on_purpose_are_no_finding(make_experiment):
    model = build(layers.Activation("softplus", name="softplus"))
    assert trial.try_stages(model, make_data(), make_experiment(quantization=("softplus",))) == []
    assert trial.try_stages(model, make_data(), make_experiment()) == []  # its QAT stages are not available


def test_names_of_layers_are_matched_as_words():
    model = build(
        layers.BatchNormalization(name="batch_normalization"), layers.BatchNormalization(name="batch_normalization_1")
    )
    for text, name in {
        "Layer batch_normalization_1:<class 'BatchNormalization'> is not supported": "batch_normalization_1",
        "Layer batch_normalization:<class 'BatchNormalization'> is not supported": "batch_normalization",
        "model/quant_conv/BiasAdd;model/quant_conv/Conv2D": "conv",
        "error in the layer": model.name,
        "model/conv_swish/mul": "conv",
    }.items():
        assert agreement.find_layer(model, text) == name


def test_new_biases_and_norms_become_those_of_a_trained_model():
    model = build(layers.BatchNormalization(name="bn"))
    for before, after in zip(model.get_weights(), trial.randomize(model).get_weights(), strict=True):
        assert (before.ndim == 1) == (not np.array_equal(before, after))


def test_the_store_keeps_the_findings(make_experiment, tmp_path):
    model, data, settings = build(Broken(name="broken")), make_data(), make_experiment()
    found = trial.find_failures(model, data, settings, tmp_path)
    assert trial.find_failures(model, data, settings, tmp_path) == found
    assert len(list(tmp_path.glob("trial-*"))) == 1
    trial.find_failures(model, data, settings.model_copy(update={"number_of_clusters": 3}), tmp_path)
    trial.find_failures(build(), data, settings, tmp_path)
    assert len(list(tmp_path.glob("trial-*"))) == 3
