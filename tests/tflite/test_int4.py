"""Files with 4-bit weights are smaller, run, and compute nearly the same; the rest is refused."""

import numpy as np
import pytest
from example_files import make_file, make_inputs, make_network

from collabopt.runtime.tensorflow import keras
from collabopt.tflite import convert, int4, interpreter, micro

pytest.importorskip("ai_edge_quantizer")


def test_weights_take_four_bits_but_for_depthwise_convolutions(capfd):
    content = int4.quantize_to_int4(make_file("float32"))
    assert capfd.readouterr().out == ""
    assert int4.count_int4_tensors(make_file("float32")) == 0
    assert int4.count_int4_tensors(content) == 2  # conv and fc, of four kernels
    quantized = [make_network().get_layer(name).kernel.shape.num_elements() for name in ("conv", "fc")]
    assert len(make_file("float32")) - len(content) == pytest.approx(sum(quantized) * 3.5, rel=0.15)


def test_outputs_are_near_those_of_the_float32_file():
    inputs = make_inputs(make_network(), 20, seed=1)
    expected = interpreter.run_or_refuse(make_file("float32"), inputs)
    found = interpreter.run_or_refuse(int4.quantize_to_int4(make_file("float32")), inputs)
    assert 0 < np.abs(found - expected).max() < 0.3 * np.abs(expected).max()


def test_microcontrollers_cannot_run_it():
    reasons = micro.list_obstacles(int4.quantize_to_int4(make_file("float32")))
    assert "its CONV_2D takes no integer weights with float32 inputs" in reasons


def test_a_file_without_such_weights_is_refused():
    inputs = keras.Input((8, 8, 4))
    model = keras.Model(inputs, keras.layers.DepthwiseConv2D(3)(inputs))
    with pytest.raises(convert.ConversionRefused, match="no weights that ai-edge-quantizer stores in 4 bits"):
        int4.quantize_to_int4(convert.convert(model, "float32"))
