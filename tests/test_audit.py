"""The audit: counts agree with counting by hand, and every way of losing what was won is found."""

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from collabopt.analysis import audit
from collabopt.techniques import layers

# Few distinct values, so that zeros and repeats are common.
KERNELS = arrays.arrays(
    np.float32,
    arrays.array_shapes(min_dims=2, max_dims=4, max_side=4),
    elements=st.sampled_from([-1.5, -0.5, -0.0, 0.0, 1e-30, 0.25, 3.0]),
)


def found(parent, own=None, codes=None, clusters=None, per_channel=False) -> list[str]:
    """`losses` of a kernel of a stage; what is not given is as it was in the parent."""
    own = parent if own is None else own
    codes = np.clip(np.round(own * 127), -127, 127).astype(np.int8) if codes is None else codes
    row = audit.audit_layers({"conv": "conv2d"}, {"conv": own}, {"conv": codes}).iloc[0]
    return audit.find_defects(row, parent, own, codes, clusters, per_channel)


def half_zero(shape=(1, 1, 50, 100)) -> np.ndarray:
    """A kernel whose first half is zero, and whose other weights are no zero in int8 either."""
    kernel = np.random.default_rng(0).uniform(0.1, 1, shape).astype(np.float32)
    kernel.reshape(-1)[: kernel.size // 2] = 0
    return kernel


def of_values(k: int, shape=(1, 1, 64, 4)) -> np.ndarray:
    """A kernel of which every channel holds the same k values."""
    return np.broadcast_to(np.resize(np.linspace(-1, 1, k), shape[-2]).reshape(-1, 1), shape).astype(np.float32).copy()


@given(KERNELS)
def test_sparsity_is_the_share_of_zeros(kernel):
    assert audit.compute_sparsity(kernel) == pytest.approx(sum(value == 0 for value in kernel.flat) / kernel.size)


@given(KERNELS)
def test_unique_counts_distinct_values(kernel):
    assert audit.count_unique(kernel) == len(set(kernel.ravel().tolist()))


@given(KERNELS)
def test_unique_per_channel_is_that_of_the_richest_channel(kernel):
    channels = [set(kernel[..., channel].ravel().tolist()) for channel in range(kernel.shape[-1])]
    assert audit.count_unique_per_channel(kernel) == max(map(len, channels))
    assert audit.count_unique_per_channel(kernel) <= audit.count_unique(kernel)


@pytest.mark.parametrize("value", [0.0, 0.5])
@pytest.mark.parametrize("shape", [(1, 1), (1, 1, 1, 1), (3, 3, 2, 5)])
def test_a_kernel_of_one_value_has_one_value(value, shape):
    kernel = np.full(shape, value, np.float32)
    assert audit.count_unique(kernel) == audit.count_unique_per_channel(kernel) == 1
    assert audit.compute_sparsity(kernel) == (value == 0)


def test_every_kind_of_layer_is_told_and_depthwise_is_no_convolution(small_cnn):
    model = small_cnn()
    assert layers.read_kinds(model) == {"conv": "conv2d", "dw": "depthwise", "pw": "conv2d", "fc": "dense"}
    assert {name: kernel.shape for name, kernel in layers.read_kernels(model).items()} == {
        "conv": (3, 3, 1, 8),
        "dw": (3, 3, 8, 1),
        "pw": (1, 1, 8, 16),
        "fc": (16, 10),
    }


@given(KERNELS)
def test_nothing_is_found_on_a_kernel_that_did_not_change(kernel):
    codes = np.sign(kernel).astype(np.int8)
    assert found(kernel, codes=codes) == []
    assert found(kernel, codes=codes, clusters=audit.count_unique(kernel)) == []


def test_one_lost_zero_is_found():
    own = half_zero()
    own.reshape(-1)[0] = 0.5
    assert found(half_zero(), own) == ["0.0% of the weights are zeros of the parent that were lost"]


def test_a_zero_lost_in_int8_alone_is_found():
    parent = half_zero((1, 1, 10, 10))
    codes = np.round(parent * 127).astype(np.int8)
    codes.reshape(-1)[0] = 1
    assert found(parent, codes=codes) == ["1.0% of the int8 codes are zeros of the parent that were lost"]


def test_a_weight_that_only_rounds_to_zero_in_int8_is_no_failure():
    parent = half_zero()
    assert found(parent, codes=np.zeros_like(parent, np.int8)) == []
    assert audit.compute_rounded_to_zero([parent], [np.zeros_like(parent, np.int8)]) == 1
    assert audit.compute_rounded_to_zero([parent], [np.ones_like(parent, np.int8)]) == 0
    assert audit.compute_rounded_to_zero([np.zeros((2, 2))], [np.zeros((2, 2))]) == 0


@pytest.mark.parametrize(("gained", "message"), [(5, []), (6, ["0.1% of the weights became zero"])])
def test_more_than_a_tenth_of_a_point_of_new_zeros_is_found(gained, message):
    own = half_zero()  # of 5,000 weights
    own.reshape(-1)[-gained:] = 0
    assert found(half_zero(), own) == message


def test_one_value_too_many_in_a_tensor_is_found():
    parent = of_values(8)
    assert found(parent, clusters=8) == []
    own = parent.copy()
    own[own == 1] = [1, 0.9, 1, 0.9] * 8  # in channels of their own, so that no channel has too many
    assert audit.count_unique_per_channel(own) == 8
    assert found(parent, own, clusters=8) == ["9 values in a tensor instead of 8"]
    assert found(parent, own, clusters=8, per_channel=True) == []
    assert found(parent, own, clusters=None) == []


def test_one_value_too_many_in_a_channel_is_found():
    parent = of_values(8)
    own = parent.copy()
    own[0, 0, 0, 2] = -0.999  # the same int8 code as its neighbour
    assert found(parent, own, clusters=8, per_channel=True) == ["9 values in a channel instead of 8"]


def test_one_code_too_many_in_a_channel_is_found():
    parent = of_values(8)
    codes = np.round(parent * 127).astype(np.int8)
    codes[0, 0, 0, 2] = -126
    assert found(parent, codes=codes, clusters=8) == ["9 int8 codes in a channel instead of 8"]


def test_all_that_is_wrong_is_said():
    parent = half_zero((1, 1, 10, 10))
    own = parent[..., ::-1, ::-1].copy()
    assert len(found(parent, own, clusters=2)) == 4


def test_a_row_a_kernel_says_what_it_is():
    own = {"fc": np.array([[0, 1], [2, 2]], np.float32)}
    codes = {"fc": np.array([[0, 64], [127, 127]], np.int8)}
    row = audit.audit_layers({"fc": "dense"}, own, codes, {"fc": "LastValueQuantizer"}, {"fc": "depthwise, by design"})
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
