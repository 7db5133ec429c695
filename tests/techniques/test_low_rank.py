"""Low rank: full rank changes nothing, a split saves multiplications, and the network is rebuilt from its arrays."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from collabopt.config import loading
from collabopt.models import weights
from collabopt.runtime.tensorflow import keras, seed_everything
from collabopt.techniques import low_rank
from collabopt.techniques.multiplications import count_multiplications

L = keras.layers
FULL = 1.0


def build(strides: int = 1, padding: str = "same", activation: str | None = "relu", bias: bool = True) -> keras.Model:
    seed_everything(0)
    inputs = keras.Input((15, 15, 3))
    x = L.Conv2D(8, 3, strides, padding, use_bias=bias, activation=activation, name="conv")(inputs)
    x = L.Conv2D(10, 1, strides, use_bias=bias, activation=activation, name="point")(x)
    x = L.Conv2D(9, (3, 2), padding=padding, dilation_rate=2 if padding == "same" else 1, name="dilated")(x)
    x = L.Dense(12, activation=activation, name="pixels")(x)
    model = keras.Model(inputs, L.Dense(5, name="fc")(L.Flatten()(x)))
    model.set_weights([np.random.default_rng(1).normal(size=one.shape) for one in model.get_weights()])
    return model


def total(model: keras.Model) -> int:
    return sum(map(count_multiplications, model.layers))


def compare(model: keras.Model, other: keras.Model) -> None:
    inputs = np.random.default_rng(0).normal(size=(3, 15, 15, 3)).astype(np.float32)
    expected = model(inputs).numpy()
    np.testing.assert_allclose(other(inputs).numpy(), expected, atol=1e-4 * np.abs(expected).max())


@settings(max_examples=6, deadline=None)
@given(
    strides=st.sampled_from([1, 2]),
    padding=st.sampled_from(["same", "valid"]),
    activation=st.sampled_from(["relu", None]),
    bias=st.booleans(),
)
def test_at_full_rank_the_outputs_are_equal(**settings):
    model = build(**settings)
    spectra = low_rank.find_spectra(model)
    assert list(spectra) == ["conv", "point", "dilated", "pixels", "fc"]
    ranks = {name: one.choose(FULL) for name, one in spectra.items()}
    split = low_rank.factorize(model, ranks)
    assert [layer.name for layer in split.layers if layer.weights][:4] == ["conv_1", "conv_2", "conv_3", "point_1"]
    compare(model, split)
    compare(split, low_rank.restore(model, weights.get_arrays(split)))


@pytest.mark.parametrize("energy", [0.3, 0.7, 0.9])
def test_the_promised_multiplications_are_those_of_the_split_network(energy):
    model = build()
    spectra = low_rank.find_spectra(model)
    ranks = {name: one.choose(energy) for name, one in spectra.items()}
    saved = sum(one.cost - one.count(ranks[name]) for name, one in spectra.items())
    assert total(low_rank.factorize(model, ranks)) == total(model) - saved


def test_a_kernel_of_low_rank_is_split_without_loss():
    model = build()
    layer = model.get_layer("pixels")
    kernel = np.random.default_rng(2).normal(size=(9, 2)) @ np.random.default_rng(3).normal(size=(2, 12))
    layer.set_weights([kernel, layer.get_weights()[1]])
    ranks = low_rank.choose_ranks(model, loading.load("digits", rank_energy=0.999999))
    assert ranks["pixels"] == (2,)
    compare(model, low_rank.factorize(model, {"pixels": (2,)}))


@pytest.mark.parametrize("energy", [0.5, 0.8, 1.0])
def test_only_layers_that_save_multiplications_are_split(energy):
    model = build()
    ranks = low_rank.choose_ranks(model, loading.load("digits", rank_energy=energy))
    spectra = low_rank.find_spectra(model)
    assert all(spectra[name].count(one) < spectra[name].cost for name, one in ranks.items())
    split = low_rank.factorize(model, ranks)
    assert (total(split) < total(model)) == bool(ranks)
    if energy == FULL:
        assert not ranks


@pytest.mark.parametrize("share", [0.3, 0.6, 1.0])
def test_at_most_the_given_share_of_multiplications_remains(share):
    model = build()
    ranks = low_rank.choose_ranks(model, loading.load("digits", max_flops=share))
    remaining = total(low_rank.factorize(model, ranks)) / total(model)
    assert remaining <= share
    assert remaining > 0.6 * share  # no more is given up than the limit asks for


def test_a_share_that_even_rank_1_exceeds_is_an_error():
    with pytest.raises(ValueError, match=r"^max_flops=0\.01: 0\.\d+ of the multiplications remain at rank 1; raise"):
        low_rank.choose_ranks(build(), loading.load("digits", max_flops=0.01))


def test_frozen_and_excluded_layers_stay_whole():
    model = build()
    model.get_layer("conv").trainable = False
    assert list(low_rank.find_spectra(model, ("fc", "point"))) == ["dilated", "pixels"]


def test_parts_are_never_named_like_another_layer():
    inputs = keras.Input((8,))
    x = L.Dense(8, name="dense")(inputs)
    model = keras.Model(inputs, L.Dense(8, name="dense_1")(x))
    split = low_rank.factorize(model, {"dense": (2,), "dense_1": (3,)})
    names = [layer.name for layer in split.layers[1:]]
    assert names == ["dense_part_1", "dense_part_2", "dense_1_1", "dense_1_2"]
    restored = low_rank.restore(model, weights.get_arrays(split))
    values = np.ones((2, 8), np.float32)
    np.testing.assert_array_equal(split(values), restored(values))


@pytest.mark.parametrize("value", [0, 1.1])
@pytest.mark.parametrize("setting", ["rank_energy", "max_flops"])
def test_a_share_outside_its_range_is_one_line(setting, value):
    with pytest.raises(loading.ExperimentError, match=f"{setting}={value}: expected (greater|less) than") as caught:
        loading.load("digits", **{setting: value})
    assert "\n" not in str(caught.value)
