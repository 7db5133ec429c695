"""What TensorFlow Lite Micro needs: operators, memory, and what it cannot run."""

import numpy as np
import pytest
from example_files import make_file
from hypothesis import given
from hypothesis import strategies as st

from collabopt.tflite import convert, micro

BUFFERS = st.lists(
    st.tuples(st.integers(1, 99).map(lambda size: 16 * size), st.integers(0, 9), st.integers(0, 9)).map(
        lambda buffer: (buffer[0], *sorted(buffer[1:]))
    ),
    min_size=1,
    max_size=12,
)


@given(BUFFERS)
def test_a_plan_takes_what_is_alive_at_once_and_no_more_than_all(buffers):
    peak = max(sum(size for size, first, last in buffers if first <= time <= last) for time in range(10))
    assert peak <= micro.plan_memory(buffers) <= sum(size for size, _, _ in buffers)


def test_buffers_share_memory_unless_they_are_used_at_once():
    assert micro.plan_memory([(32, 0, 1), (48, 2, 3)]) == 48
    assert micro.plan_memory([(32, 0, 2), (48, 2, 3)]) == 80
    assert micro.plan_memory([(64, 0, 1), (32, 1, 2), (64, 2, 3)]) == 96  # the third goes where the first was
    assert micro.plan_memory([]) == 0


def test_a_chain_needs_its_largest_neighbours():
    """Input 8 × 8 × 3, then 8 × 8 × 4 twice, 6 × 6 × 8, and its copy of another shape, which is the most."""
    for format, size in (("int8", 1), ("int16x8", 2), ("float32", 4)):
        arena, planned = micro.estimate_arena(make_file(format))
        assert planned == size * 2 * 6 * 6 * 8
        assert planned < arena < planned + 10_000


def test_operators_are_those_of_the_file():
    expected = ["CONV_2D", "DEPTHWISE_CONV_2D", "RESHAPE", "FULLY_CONNECTED"]
    assert micro.list_operator_kinds(make_file("int8")) == expected
    assert [*map(micro.get_method, expected)] == ["AddConv2D", "AddDepthwiseConv2D", "AddReshape", "AddFullyConnected"]


@pytest.mark.parametrize(
    ("operator", "method"),
    [
        *(("L2_POOL_2D", "AddL2Pool2D"), ("ADD_N", "AddAddN"), ("RELU6", "AddRelu6"), ("PADV2", "AddPadV2")),
        *(("BATCH_MATMUL", "AddBatchMatMul"), ("UNIDIRECTIONAL_SEQUENCE_LSTM", "AddUnidirectionalSequenceLSTM")),
        *(("SPACE_TO_BATCH_ND", "AddSpaceToBatchNd"), ("CUMSUM", "AddCumSum"), ("SELECT_V2", "AddSelectV2")),
    ],
)
def test_irregular_names_of_methods(operator, method):
    assert micro.get_method(operator) == method


def test_what_cannot_run_is_said():
    found = {format: micro.list_obstacles(make_file(format)) for format in convert.STANDARD}
    assert found["float32"] == found["int8"] == found["int16x8"] == []
    assert found["float16"] == ["it has no float16 weights"]
    assert "its FULLY_CONNECTED takes no integer weights with float32 inputs" in found["dynamic_range"]


def test_an_operator_that_it_does_not_have_is_an_obstacle():
    from collabopt.runtime.tensorflow import keras

    inputs = keras.Input((4,))
    model = keras.Model(inputs, keras.layers.Lambda(lambda x: keras.activations.gelu(x, approximate=False))(inputs))
    content = convert.convert(model, "float32", np.zeros((1, 4), np.float32))
    (kind,) = set(micro.list_operator_kinds(content)) - set(micro._OPERATORS.split())
    assert micro.list_obstacles(content) == [f"it has no {kind}"]
