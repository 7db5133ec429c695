"""Pruning: each kernel reaches its sparsity to the weight, and the parent stays as it is."""

import dataclasses

import numpy as np
import pytest

from collabopt.analysis import audit
from collabopt.config.sections import Pruning
from collabopt.techniques import layers, pruning

pytestmark = pytest.mark.usefixtures("eagerly")
CONSTANT = {"epochs": 2, "batch_size": 64, "optimizer": "adam", "learning_rate": 0.01, "frequency": 1}
POLYNOMIAL = CONSTANT | {"sparsity_schedule": "polynomial", "end_epoch": 1}


@dataclasses.dataclass
class Pruned:
    parent: object
    before: list
    model: object
    sparsity: float


@pytest.fixture(scope="module", params=[(CONSTANT, 0.5), (POLYNOMIAL, 0.83)], ids=["constant", "polynomial"])
def pruned(request, few_data, small_cnn):
    """The small network, pruned. Its depthwise kernel is not eligible."""
    section, sparsity = request.param
    parent = small_cnn()
    before = parent.get_weights()
    model, _ = pruning.fine_tune(parent, few_data, sparsity, Pruning.model_validate(section))
    return Pruned(parent, before, model, sparsity)


@pytest.fixture(scope="module")
def pruned_without_pw(few_data, small_cnn):
    """A half pruned network, and the same pruned further except for layer pw."""
    parent = small_cnn()
    for name in ("conv", "fc"):
        layer = parent.get_layer(name)
        kernel, *bias = layer.get_weights()
        layer.set_weights([np.where(np.abs(kernel) < np.median(np.abs(kernel)), 0, kernel), *bias])
    model, _ = pruning.fine_tune(parent, few_data, 0.7, Pruning.model_validate(CONSTANT), exclude=("pw",))
    return parent, model


def test_each_kernel_reaches_its_sparsity_to_the_weight(pruned):
    kernels = layers.read_kernels(pruned.model)
    for name in ("conv", "pw", "fc"):
        zeros = kernels[name].size - np.count_nonzero(kernels[name])
        assert abs(zeros - pruned.sparsity * kernels[name].size) <= 0.5, name


def test_depthwise_kernels_are_not_pruned(pruned):
    assert audit.compute_sparsity(layers.read_kernels(pruned.model)["dw"]) == 0


def test_the_parent_stays_bit_identical(pruned):
    for before, after in zip(pruned.before, pruned.parent.get_weights(), strict=True):
        np.testing.assert_array_equal(before, after)


def test_the_result_is_a_plain_model_like_its_parent(pruned):
    assert [(type(layer), layer.name) for layer in pruned.model.layers] == [
        (type(layer), layer.name) for layer in pruned.parent.layers
    ]
    assert [variable.name for variable in pruned.model.weights] == [variable.name for variable in pruned.parent.weights]


def test_the_remaining_weights_are_trained(pruned):
    before, after = (layers.read_kernels(model)["pw"] for model in (pruned.parent, pruned.model))
    assert np.any(before[after != 0] != after[after != 0])


def test_excluded_kernels_have_no_zeros(pruned_without_pw):
    _, model = pruned_without_pw
    kernels = layers.read_kernels(model)
    assert audit.compute_sparsity(kernels["pw"]) == 0
    assert abs(kernels["fc"].size * 0.7 - np.sum(kernels["fc"] == 0)) <= 0.5


def test_training_with_a_sparsity_of_zero_prunes_nothing(few_data, small_cnn):
    model, fit = pruning.fine_tune(small_cnn(), few_data, 0.0, Pruning.model_validate(CONSTANT | {"epochs": 1}))
    assert all(audit.compute_sparsity(kernel) == 0 for kernel in layers.read_kernels(model).values())
    assert len(fit.history) == 1


@pytest.mark.parametrize("frequency", [1, 3, 7])
def test_a_polynomial_schedule_rises_to_the_target(frequency):
    section = Pruning.model_validate(
        POLYNOMIAL | {"epochs": 4, "begin_epoch": 0.5, "end_epoch": 2, "frequency": frequency}
    )
    schedule = pruning.make_schedule(0.8, section, 10)
    steps = [step for step in range(1, 41) if bool(schedule(step)[0])]
    sparsities = [float(schedule(step)[1]) for step in steps]
    assert steps[0] >= 5
    assert sparsities == sorted(sparsities)
    assert sparsities[-1] == pytest.approx(0.8)


def test_a_clone_shares_no_variable_with_its_model(small_cnn):
    model = small_cnn()
    copy = layers.clone_model(model)
    before = model.get_weights()
    copy.set_weights([array + 1 for array in before])
    for old, new in zip(before, model.get_weights(), strict=True):
        np.testing.assert_array_equal(old, new)


@pytest.mark.parametrize(
    "schedule",
    [{}, {"sparsity_schedule": "polynomial", "end_epoch": 2, "frequency": 5}],
    ids=["constant", "polynomial"],
)
def test_a_training_shorter_than_the_mask_frequency_reaches_its_sparsity(few_data, small_cnn, schedule):
    section = Pruning(epochs=2, batch_size=64, optimizer="adam", learning_rate=0.01, **schedule)
    model, _ = pruning.fine_tune(small_cnn(), few_data, 0.5, section)
    assert audit.compute_sparsity(layers.read_kernels(model)["pw"]) == 0.5


def test_layers_have_sparsities_of_their_own(few_data, small_cnn):
    wanted = {"default": 0.5, "pw": 0.75, "conv": 0.0}
    model, _ = pruning.fine_tune(small_cnn(), few_data, wanted, Pruning.model_validate(CONSTANT))
    kernels = layers.read_kernels(model)
    for name, sparsity in (("pw", 0.75), ("conv", 0.0), ("fc", 0.5)):
        assert np.sum(kernels[name] == 0) == pytest.approx(sparsity * kernels[name].size, abs=0.5)


def test_equal_weights_at_the_threshold_are_no_failure(few_data, small_cnn):
    """The weights of a model that was quantized take few values. TFMOT keeps all that equal the threshold."""
    parent = small_cnn()
    for layer in parent.layers:
        layer.set_weights([np.round(array * 4) / 4 for array in layer.get_weights()])
    model, _ = pruning.fine_tune(parent, few_data, 0.5, Pruning.model_validate(CONSTANT | {"frequency": 1000}))
    before, after = (layers.read_kernels(one)["fc"] for one in (parent, model))
    threshold = np.quantile(np.abs(before), 0.5, method="lower")
    np.testing.assert_array_equal(after == 0, np.abs(before) < threshold)
    assert np.mean(after == 0) < 0.45


def test_zeros_of_the_parent_that_training_fills_are_a_failure(few_data, small_cnn):
    """With more zeros than asked for, TFMOT's threshold is zero, and it keeps every weight."""
    parent = small_cnn()
    kernel, *bias = parent.get_layer("fc").get_weights()
    parent.get_layer("fc").set_weights([np.where(np.abs(kernel) < np.quantile(np.abs(kernel), 0.7), 0, kernel), *bias])
    with pytest.raises(RuntimeError, match=r"^pruned: layer fc reached sparsity 0\.\d+ instead of 0\.5"):
        pruning.fine_tune(parent, few_data, 0.5, Pruning.model_validate(CONSTANT | {"frequency": 1000}))
