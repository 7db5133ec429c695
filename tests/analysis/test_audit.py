"""The audit: counts agree with counting by hand, and every lost zero or cluster is found."""

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from collabopt.analysis import audit, defects
from collabopt.config import loading
from collabopt.config.stages import STAGES
from collabopt.techniques import layers

# Few distinct values, so that zeros and repeats are common.
KERNELS = arrays.arrays(
    np.float32,
    arrays.array_shapes(min_dims=2, max_dims=4, max_side=4),
    elements=st.sampled_from([-1.5, -0.5, -0.0, 0.0, 1e-30, 0.25, 3.0]),
)


def find_defects(parent, kernel=None, int8_values=None, clusters=None, per_channel=False) -> list[str]:
    """The defects of one kernel; by default it is the parent's."""
    kernel = parent if kernel is None else kernel
    int8_values = np.clip(np.round(kernel * 127), -127, 127).astype(np.int8) if int8_values is None else int8_values
    row = audit.audit_layers({"conv": "conv2d"}, {"conv": kernel}, {"conv": int8_values}).iloc[0]
    return audit.find_defects(row, parent, kernel, int8_values, clusters, per_channel)


def make_half_zero(shape=(1, 1, 50, 100)) -> np.ndarray:
    """A kernel whose first half is zero. Its other weights do not round to zero in int8."""
    kernel = np.random.default_rng(0).uniform(0.1, 1, shape).astype(np.float32)
    kernel.reshape(-1)[: kernel.size // 2] = 0
    return kernel


def make_clustered(k: int, shape=(1, 1, 64, 4)) -> np.ndarray:
    """A kernel whose channels all hold the same k values."""
    return np.broadcast_to(np.resize(np.linspace(-1, 1, k), shape[-2]).reshape(-1, 1), shape).astype(np.float32).copy()


@given(KERNELS)
def test_sparsity_is_the_fraction_of_zeros(kernel):
    assert audit.compute_sparsity(kernel) == pytest.approx(sum(value == 0 for value in kernel.flat) / kernel.size)


@given(KERNELS)
def test_unique_counts_distinct_values(kernel):
    assert audit.count_unique(kernel) == len(set(kernel.ravel().tolist()))


@given(KERNELS)
def test_unique_per_channel_is_the_largest_count_of_a_channel(kernel):
    channels = [set(kernel[..., channel].ravel().tolist()) for channel in range(kernel.shape[-1])]
    assert audit.count_unique_per_channel(kernel) == max(map(len, channels))
    assert audit.count_unique_per_channel(kernel) <= audit.count_unique(kernel)


@pytest.mark.parametrize("value", [0.0, 0.5])
@pytest.mark.parametrize("shape", [(1, 1), (1, 1, 1, 1), (3, 3, 2, 5)])
def test_a_kernel_of_one_value_has_one_value(value, shape):
    kernel = np.full(shape, value, np.float32)
    assert audit.count_unique(kernel) == audit.count_unique_per_channel(kernel) == 1
    assert audit.compute_sparsity(kernel) == (value == 0)


def test_each_kernel_has_a_kind_and_depthwise_is_one_of_its_own(small_cnn):
    model = small_cnn()
    assert layers.read_kinds(model) == {"conv": "conv2d", "dw": "depthwise", "pw": "conv2d", "fc": "dense"}
    assert {name: kernel.shape for name, kernel in layers.read_kernels(model).items()} == {
        "conv": (3, 3, 1, 8),
        "dw": (3, 3, 8, 1),
        "pw": (1, 1, 8, 16),
        "fc": (16, 10),
    }


@given(KERNELS)
def test_an_unchanged_kernel_has_no_defect(kernel):
    int8_values = np.sign(kernel).astype(np.int8)
    assert find_defects(kernel, int8_values=int8_values) == []
    assert find_defects(kernel, int8_values=int8_values, clusters=audit.count_unique(kernel)) == []


def test_one_lost_zero_is_found():
    kernel = make_half_zero()
    kernel.reshape(-1)[0] = 0.5
    assert find_defects(make_half_zero(), kernel) == ["0.0% of the weights are zeros of the parent that were lost"]


def test_a_zero_lost_only_in_int8_is_found():
    parent = make_half_zero((1, 1, 10, 10))
    int8_values = np.round(parent * 127).astype(np.int8)
    int8_values.reshape(-1)[0] = 1
    assert find_defects(parent, int8_values=int8_values) == [
        "1.0% of the int8 codes are zeros of the parent that were lost"
    ]


def test_a_weight_that_rounds_to_zero_in_int8_is_no_defect():
    parent = make_half_zero()
    assert find_defects(parent, int8_values=np.zeros_like(parent, np.int8)) == []
    assert audit.compute_rounded_to_zero([parent], [np.zeros_like(parent, np.int8)]) == 1
    assert audit.compute_rounded_to_zero([parent], [np.ones_like(parent, np.int8)]) == 0
    assert audit.compute_rounded_to_zero([np.zeros((2, 2))], [np.zeros((2, 2))]) == 0


@pytest.mark.parametrize("gained", [0, 5, 6, 2500])
def test_new_zeros_are_counted_and_are_no_defect(gained):
    kernel = make_half_zero()  # of 5,000 weights
    kernel.reshape(-1)[kernel.size - gained :] = 0
    assert find_defects(make_half_zero(), kernel) == []
    assert audit.compute_gained_zeros([make_half_zero()], [kernel]) == gained / 5000
    assert audit.compute_gained_zeros([kernel], [make_half_zero()]) == 0


def test_one_value_too_many_in_a_tensor_is_found():
    parent = make_clustered(8)
    assert find_defects(parent, clusters=8) == []
    kernel = parent.copy()
    kernel[kernel == 1] = [1, 0.9, 1, 0.9] * 8  # each channel has one of the two, so no channel has too many values
    assert audit.count_unique_per_channel(kernel) == 8
    assert find_defects(parent, kernel, clusters=8) == ["9 values in a tensor instead of 8"]
    assert find_defects(parent, kernel, clusters=8, per_channel=True) == []
    assert find_defects(parent, kernel, clusters=None) == []


def test_one_value_too_many_in_a_channel_is_found():
    parent = make_clustered(8)
    kernel = parent.copy()
    kernel[0, 0, 0, 2] = -0.999  # the same int8 value as its neighbour
    assert find_defects(parent, kernel, clusters=8, per_channel=True) == ["9 values in a channel instead of 8"]


def test_one_int8_value_too_many_in_a_channel_is_found():
    parent = make_clustered(8)
    int8_values = np.round(parent * 127).astype(np.int8)
    int8_values[0, 0, 0, 2] = -126
    assert find_defects(parent, int8_values=int8_values, clusters=8) == ["9 int8 codes in a channel instead of 8"]


def test_all_defects_are_reported():
    parent = make_half_zero((1, 1, 10, 10))
    kernel = parent[..., ::-1, ::-1].copy()
    assert len(find_defects(parent, kernel, clusters=2)) == 3  # gained zeros are none


def test_the_audit_has_one_row_per_kernel():
    kernels = {"fc": np.array([[0, 1], [2, 2]], np.float32)}
    int8_values = {"fc": np.array([[0, 64], [127, 127]], np.int8)}
    row = audit.audit_layers(
        {"fc": "dense"}, kernels, int8_values, {"fc": "LastValueQuantizer"}, {"fc": "depthwise, by design"}
    )
    expected = pd.DataFrame(
        [
            {
                "layer": "fc",
                "kind": "dense",
                "shape": "2×2",
                "weights": 4,
                "sparsity": 0.25,
                "unique_tensor": 3,
                "unique_channel": 2,
                "int8_sparsity": 0.25,
                "int8_unique_tensor": 3,
                "int8_unique_channel": 2,
                "quantizer": "LastValueQuantizer",
                "skipped": "depthwise, by design",
            }
        ]
    )
    pd.testing.assert_frame_equal(row, expected)


def test_only_a_stage_that_keeps_zeros_may_lose_none():
    parent = make_clustered(3, (1, 1, 60, 4))  # values −1, 0 and 1; a third of the weights are zeros
    kernel = np.where(parent == 0, np.float32(0.1), parent)
    int8_values = np.round(kernel * 127).astype(np.int8)
    table = audit.audit_layers({"conv": "conv2d"}, {"conv": kernel}, {"conv": int8_values})
    experiment = loading.load("digits", number_of_clusters=3)

    def describe(stage: str) -> list[str]:
        arrays = {"conv": kernel}, {"conv": int8_values}, {"conv": parent}
        return defects.describe_defects(table, *arrays, experiment, STAGES[stage])

    assert describe("clustered") == describe("cqat") == [""]
    assert describe("pcqat") == ["33.3% of the weights are zeros of the parent that were lost"]
