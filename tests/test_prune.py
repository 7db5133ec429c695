"""Pruning: each kernel reaches its sparsity to the weight, zeros stay, and the parent is left alone."""

import dataclasses

import numpy as np
import pytest

from collabopt.analysis import audit
from collabopt.config.experiment import Pruning
from collabopt.techniques import layers, pruning

CONSTANT = {"epochs": 2, "batch_size": 64, "optimizer": "adam", "learning_rate": 0.01, "frequency": 1}
CLIMBING = CONSTANT | {"sparsity_schedule": "polynomial", "end_epoch": 1}


@dataclasses.dataclass
class Pruned:
    parent: object
    before: list
    model: object
    sparsity: float


@pytest.fixture(scope="module", params=[(CONSTANT, 0.5), (CLIMBING, 0.83)], ids=["constant", "polynomial"])
def pruned(request, tiny_data, small_cnn):
    """The small network with all of its kernels pruned but the depthwise one."""
    section, sparsity = request.param
    parent = small_cnn()
    before = parent.get_weights()
    model, _ = pruning.fine_tune(parent, tiny_data, sparsity, Pruning.model_validate(section))
    return Pruned(parent, before, model, sparsity)


@pytest.fixture(scope="module")
def without_pw(tiny_data, small_cnn):
    """The small network pruned in all kernels but pw's, from a network already half pruned."""
    parent = small_cnn()
    for name in ("conv", "fc"):
        layer = parent.get_layer(name)
        kernel, *bias = layer.get_weights()
        layer.set_weights([np.where(np.abs(kernel) < np.median(np.abs(kernel)), 0, kernel), *bias])
    model, _ = pruning.fine_tune(parent, tiny_data, 0.7, Pruning.model_validate(CONSTANT), exclude=("pw",))
    return parent, model


def test_each_kernel_reaches_its_sparsity_to_the_weight(pruned):
    kernels = layers.read_kernels(pruned.model)
    for name in ("conv", "pw", "fc"):
        zeros = kernels[name].size - np.count_nonzero(kernels[name])
        assert abs(zeros - pruned.sparsity * kernels[name].size) <= 0.5, name


def test_depthwise_kernels_are_not_pruned(pruned):
    assert audit.compute_sparsity(layers.read_kernels(pruned.model)["dw"]) == 0


def test_the_parent_is_the_same_to_the_bit(pruned):
    for before, after in zip(pruned.before, pruned.parent.get_weights(), strict=True):
        np.testing.assert_array_equal(before, after)


def test_a_plain_model_comes_out(pruned):
    assert [(type(layer), layer.name) for layer in pruned.model.layers] == [
        (type(layer), layer.name) for layer in pruned.parent.layers
    ]
    assert [variable.name for variable in pruned.model.weights] == [variable.name for variable in pruned.parent.weights]


def test_the_weights_that_are_left_were_trained(pruned):
    before, after = (layers.read_kernels(model)["pw"] for model in (pruned.parent, pruned.model))
    assert np.any(before[after != 0] != after[after != 0])


def test_excluded_kernels_have_no_zeros(without_pw):
    _, model = without_pw
    kernels = layers.read_kernels(model)
    assert audit.compute_sparsity(kernels["pw"]) == 0
    assert abs(kernels["fc"].size * 0.7 - np.sum(kernels["fc"] == 0)) <= 0.5


def test_training_with_a_sparsity_of_zero_prunes_nothing(tiny_data, small_cnn):
    model, fit = pruning.fine_tune(small_cnn(), tiny_data, 0.0, Pruning.model_validate(CONSTANT | {"epochs": 1}))
    assert all(audit.compute_sparsity(kernel) == 0 for kernel in layers.read_kernels(model).values())
    assert len(fit.history) == 1


@pytest.mark.parametrize("frequency", [1, 3, 7])
def test_a_polynomial_climb_ends_at_the_target_and_never_falls(frequency):
    section = Pruning.model_validate(
        CLIMBING | {"epochs": 4, "begin_epoch": 0.5, "end_epoch": 2, "frequency": frequency}
    )
    schedule = pruning.make_schedule(0.8, section, 10)
    renewed = [step for step in range(1, 41) if bool(schedule(step)[0])]
    held = [float(schedule(step)[1]) for step in renewed]
    assert renewed[0] >= 5
    assert held == sorted(held)
    assert held[-1] == pytest.approx(0.8)


def test_a_clone_shares_no_variable_with_its_model(small_cnn):
    model = small_cnn()
    copy = layers.clone_model(model)
    before = model.get_weights()
    copy.set_weights([array + 1 for array in before])
    for old, new in zip(before, model.get_weights(), strict=True):
        np.testing.assert_array_equal(old, new)


@pytest.mark.parametrize(
    "section", [{}, {"sparsity_schedule": "polynomial", "end_epoch": 2, "frequency": 5}], ids=["constant", "polynomial"]
)
def test_a_training_shorter_than_the_frequency_reaches_its_sparsity_too(tiny_data, small_cnn, section):
    how = Pruning(epochs=2, batch_size=64, optimizer="adam", learning_rate=0.01, **section)
    model, _ = pruning.fine_tune(small_cnn(), tiny_data, 0.5, how)
    assert audit.compute_sparsity(layers.read_kernels(model)["pw"]) == 0.5
