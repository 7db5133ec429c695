"""Files of every format have the types, sizes and weights of their format."""

import numpy as np
import pytest
from ai_edge_litert.interpreter import Interpreter
from example_files import make_file, make_inputs, make_network, run_each

from collabopt.analysis import agreement
from collabopt.runtime.tensorflow import keras, tf
from collabopt.techniques import layers, quantization
from collabopt.tflite import convert, flatbuffer

DTYPES = {
    "float32": np.float32,
    "float16": np.float32,
    "int16x8": np.int16,
    "dynamic_range": np.float32,
    "int8": np.int8,
}


@pytest.mark.parametrize("format", convert.STANDARD)
def test_inputs_and_outputs_have_the_type_of_the_format(format):
    interpreter = Interpreter(model_content=make_file(format))
    (input_,), (output,) = interpreter.get_input_details(), interpreter.get_output_details()
    assert (input_["dtype"], output["dtype"]) == (DTYPES[format], DTYPES[format])


def test_the_float32_file_computes_the_same_as_keras():
    inputs = make_inputs(make_network(), 5, seed=1)
    np.testing.assert_allclose(run_each(make_file("float32"), inputs), make_network()(inputs), rtol=1e-4, atol=1e-5)


def test_float16_halves_the_weights_of_float32_and_int8_halves_them_again():
    weights = make_network().count_params()
    saved = len(make_file("float32")) - len(make_file("float16"))
    assert saved == pytest.approx(2 * weights, abs=4000)  # the graph takes a few kB
    assert len(make_file("float16")) - len(make_file("int8")) == pytest.approx(weights, abs=4000)


def test_int8_and_int16x8_have_the_same_weights():
    shapes = {name: kernel.shape for name, kernel in layers.read_kernels(make_network()).items()}
    int8, int16x8 = (flatbuffer.read_layer_kernels(make_file(format), shapes) for format in ("int8", "int16x8"))
    for name, kernel in int8.items():
        np.testing.assert_array_equal(int16x8[name], kernel, err_msg=name)


def test_an_unknown_format_is_an_error_that_lists_all_formats():
    with pytest.raises(ValueError, match=rf"format='int4': expected one of {', '.join(DTYPES)}$"):
        convert.convert(make_network(), "int4")


@pytest.mark.parametrize("format", ["int8", "int16x8"])
def test_a_format_with_activation_ranges_needs_calibration_inputs(format):
    with pytest.raises(ValueError, match=rf"calibration=None: {format} takes activation ranges"):
        convert.convert(make_network(), format)


def test_an_operation_without_an_operator_is_refused_by_its_name():
    inputs = keras.Input((8,))
    model = keras.Model(inputs, keras.layers.Lambda(lambda x: tf.math.real(tf.signal.fft(tf.complex(x, x))))(inputs))
    with pytest.raises(convert.ConversionRefused, match=r"(?s)conversion to float32 failed: .*FFT"):
        convert.convert(model, "float32")


def test_a_loop_with_an_initial_state_is_unrolled():
    inputs = keras.Input((9, 3))
    x, state = keras.layers.GRU(4, return_sequences=True, return_state=True)(inputs)
    model = keras.Model(inputs, keras.layers.SimpleRNN(4)(x, initial_state=state))
    example = np.random.default_rng(0).normal(size=(1, 9, 3)).astype(np.float32)
    file = convert.convert(model, "int8", np.repeat(example, 8, axis=0))
    assert "WHILE" not in str(Interpreter(model_content=file)._get_ops_details())


def test_a_conversion_prints_nothing(capfd):
    for format in convert.STANDARD:
        convert.convert(make_network(), format, np.zeros((1, 8, 8, 3), np.float32))
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("is_wrapped", [False, True])
def test_the_file_of_a_trial_computes_the_same_and_names_the_same_layers(is_wrapped):
    network = make_network()
    network = quantization.wrap(network, quantization.Preservation()) if is_wrapped else network
    inputs = make_inputs(network, 5, seed=1)
    kept = convert.convert_as_trained(network) if is_wrapped else convert.convert_to_int8(network, inputs)
    tried = convert.convert_for_trial(network, None if is_wrapped else inputs)
    np.testing.assert_array_equal(run_each(tried, inputs), run_each(kept, inputs))
    assert agreement.find_floats(network, tried) == agreement.find_floats(network, kept)
    shapes = {name: kernel.shape for name, kernel in layers.read_kernels(make_network()).items()}
    expected = flatbuffer.read_layer_kernels(kept, shapes)
    for name, kernel in flatbuffer.read_layer_kernels(tried, shapes).items():
        np.testing.assert_array_equal(kernel, expected[name], err_msg=name)


def test_the_file_of_a_trial_keeps_the_names_of_several_outputs():
    inputs = keras.Input((4,), name="in")
    network = keras.Model(inputs, [keras.layers.Dense(2, name=name)(inputs) for name in ("right", "left")])
    examples = np.ones((1, 4), np.float32)
    assert convert.convert_for_trial(network, examples) == convert.convert_to_int8(network, examples)
