"""Patterns of zeros: every group of four input channels has them, in Keras and in every int8 file."""

import shutil

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tensorflow_model_optimization.python.core.sparsity.keras import pruning_impl, pruning_schedule, pruning_utils

from collabopt.analysis import preflight
from collabopt.config import loading
from collabopt.config.experiment import ExperimentError
from collabopt.config.sections import Exclude, Pruning
from collabopt.run import Run
from collabopt.runtime.tensorflow import keras, run_eagerly, tf
from collabopt.techniques import layers, patterns, pruning

SECTION = {"epochs": 2, "batch_size": 64, "optimizer": "adam", "learning_rate": 0.01, "frequency": 1}
POLYNOMIAL = SECTION | {"sparsity_schedule": "polynomial", "end_epoch": 1}


@settings(deadline=None, max_examples=30)
@given(
    place=st.lists(st.integers(1, 3), min_size=0, max_size=2),
    groups=st.integers(1, 5),
    outputs=st.integers(1, 5),
    values=st.integers(1, 30),
    seed=st.integers(0, 9),
)
def test_every_group_has_two_zeros_and_keeps_its_two_largest_weights(place, groups, outputs, values, seed):
    """Few distinct `values` make many equal weights."""
    shape = (*place, 4 * groups, outputs)
    kernel = np.random.default_rng(seed).integers(-values, values, shape, endpoint=True).astype(np.float32)
    mask = patterns.make_mask(kernel, "2:4", 0.5)
    kept = patterns.split_groups(mask) == 1
    assert (kept.sum(axis=1) == 2).all()
    magnitude = np.abs(patterns.split_groups(kernel))
    smallest_kept = np.where(kept, magnitude, np.inf).min(axis=1)
    assert (np.where(kept, 0, magnitude).max(axis=1) <= smallest_kept).all()
    assert patterns.find_defect(kernel * mask, "2:4", 0.5) == ""


@pytest.mark.parametrize("shape", [(8, 3), (3, 2, 8, 5)])
def test_two_of_four_is_tfmots_mask(shape):
    kernel = np.random.default_rng(0).normal(size=shape).astype(np.float32)
    rows = pruning_utils.weights_rearrange(tf.constant(kernel))
    theirs = pruning_utils.m_by_n_sparsity_mask_prepare(
        pruning_utils.generate_m_by_n_mask(rows), tf.constant(kernel).shape
    )
    np.testing.assert_array_equal(patterns.make_mask(kernel, "2:4", 0.5), theirs.numpy())


def test_blocks_of_a_dense_kernel_are_tfmots_mask():
    kernel = np.random.default_rng(0).normal(size=(16, 7)).astype(np.float32)
    schedule = pruning_schedule.ConstantSparsity(0.7, begin_step=0)
    _, theirs = pruning_impl.Pruning(lambda: 0, [], schedule, (4, 1), "AVG")._maybe_update_block_mask(
        tf.constant(kernel)
    )
    np.testing.assert_array_equal(patterns.make_mask(kernel, "block", 0.7), theirs.numpy())


@pytest.mark.parametrize(
    ("pattern", "sparsity", "section"),
    [
        pytest.param("2:4", 0.5, SECTION, id="2:4, constant"),
        pytest.param("block", 0.6, POLYNOMIAL, id="block, polynomial"),
        pytest.param("2:4", 0.5, POLYNOMIAL, id="2:4, polynomial", marks=pytest.mark.slow),
        pytest.param("block", 0.6, SECTION, id="block, constant", marks=pytest.mark.slow),
    ],
)
def test_training_ends_with_the_pattern_in_every_kind_of_kernel(few_data, pattern, sparsity, section):
    inputs = keras.Input((8, 8, 1), name="input")
    x = keras.layers.Conv2D(8, 3, name="conv")(inputs)
    x = keras.layers.Conv2DTranspose(6, 3, name="up")(x)  # 8 input channels; four does not divide its output channels
    x = keras.layers.GlobalAveragePooling2D(name="pool")(keras.layers.Conv2D(12, 3, name="second")(x))
    model = keras.Model(inputs, keras.layers.Dense(10, name="fc")(x))
    exclude = ("conv", "second")
    section = Pruning.model_validate(section)
    with run_eagerly():  # tracing takes longer than the steps
        pruned, _ = pruning.fine_tune(model, few_data, sparsity, section, exclude, pattern=pattern)
    kernels = layers.read_kernels(pruned)
    for name in ("up", "fc"):
        assert patterns.find_defect(kernels[name], pattern, sparsity) == ""
        assert np.mean(kernels[name] == 0) == pytest.approx(sparsity, abs=4 / kernels[name].size)
    assert not any((kernels[name] == 0).any() for name in exclude)


def test_a_missing_zero_is_found():
    kernel = np.tile([0.0, 0.0, 1.0, 1.0], 10).reshape(8, 5, order="F")
    assert patterns.find_defect(kernel, "2:4", 0.5) == ""
    assert "blocks of four input channels are zero" in patterns.find_defect(kernel, "block", 0.5)
    kernel[0, 0] = 1
    assert patterns.find_defect(kernel, "2:4", 0.5).startswith("10.0% of the groups")
    assert patterns.find_defect(kernel, "2:4", 0.0) == ""


def test_layers_that_the_pattern_does_not_fit_are_named_and_stop_only_if_nothing_else_is_pruned(small_cnn, small):
    experiment, model = loading.load(str(small), sparsity_pattern="2:4"), small_cnn()
    (finding,) = preflight._find_misfits(model, experiment)
    assert (finding.layer, finding.stops) == ("conv", False)
    assert "3×3×1×8: 4 does not divide its 1 input channels" in finding.reason
    alone = experiment.model_copy(update={"exclude": Exclude(pruning=("pw", "fc"))})
    assert [one.stops for one in preflight._find_misfits(model, alone)] == [True]
    everything = experiment.model_copy(update={"exclude": Exclude(pruning=("conv",))})
    assert preflight._find_misfits(model, everything) == []


def test_two_of_four_means_a_sparsity_of_a_half(tiny):
    with pytest.raises(ExperimentError, match=r"sparsity=0.8: expected 0.5 \(0 for single layers\)"):
        loading.load(str(tiny), sparsity_pattern="2:4", sparsity=0.8)
    assert loading.load(str(tiny), sparsity_pattern="block", sparsity=0.8).sparsity == 0.8
    assert loading.parse_value("2:4", "sparsity_pattern") == "2:4"


def test_the_pattern_survives_every_stage_and_is_in_every_file(small, trained_small, tmp_path):
    shutil.copytree(trained_small / "stages", tmp_path / "stages")
    experiment = loading.load(str(small), sparsity_pattern="2:4", strict=True, number_of_clusters=8)
    run = Run(experiment, None, small, tmp_path / "stages")
    for name in ("pruned", "pqat", "sparse_clustered", "pcqat"):
        finished = run.stage(name)
        assert finished.result["preserved"] is True
        assert finished.layers.set_index("layer").loc["conv", "skipped"].startswith("not pruned: sparsity_pattern 2:4")
        for values in (finished.kernels(), finished.int8_values()):
            for layer in ("pw", "fc"):
                assert (np.sum(patterns.split_groups(values[layer]) == 0, axis=1) >= 2).all(), (name, layer)
    assert run.stage("baseline").result["preserved"] is None
