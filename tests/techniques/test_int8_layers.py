"""Quantization-aware training of layers that TFMOT does not know: the files run in int8 and agree with the model."""

import functools

import numpy as np
import pytest

from collabopt.analysis import audit
from collabopt.models import ds_cnn, mobilenet
from collabopt.models.importing.layers import Constant, Operation, Slice
from collabopt.runtime.tensorflow import keras, run_eagerly, seed_everything, tf
from collabopt.techniques import int8_rewrites, kmeans, quantization
from collabopt.techniques import layers as model_layers
from collabopt.techniques.kernel_state import Clusters
from collabopt.tflite import convert, flatbuffer
from collabopt.tflite.interpreter import open_interpreter

layers = keras.layers
PLAIN = quantization.Preservation()
K = 6


def chain(input_shape: tuple[int, ...], *middle: keras.layers.Layer) -> keras.Model:
    inputs = x = keras.Input(input_shape, name="input")
    for layer in middle:
        x = layer(x)
    return keras.Model(inputs, x)


def build_activations() -> keras.Model:
    inputs = keras.Input((8, 8, 3), name="input")
    x = layers.Conv2D(3, 3, padding="same", name="conv")(layers.Rescaling(2.0, -1.0, name="rescaling")(inputs))
    first = x = layers.PReLU("uniform", shared_axes=[1, 2], name="prelu")(x)
    x = layers.ReLU(name="relu")(layers.BatchNormalization(name="norm")(x))
    x = layers.Activation("hard_sigmoid", name="gate")(layers.Average(name="average")([x, first, inputs]))
    x = layers.Add(name="add")([layers.Multiply(name="multiply")([x, first]), first, inputs])
    x = layers.ReLU(1.0, name="clip")(x)
    x = layers.Concatenate(name="concatenate")([x, layers.Activation("swish", name="swish")(first)])
    for name in ("swish", "gelu", "relu6"):
        x = layers.Conv2D(4, 1, activation=name, name=f"conv_{name}")(x)
    return keras.Model(inputs, x)


def build_shapes() -> keras.Model:
    inputs = keras.Input((6, 6, 3), name="input")
    x = layers.Permute((2, 1, 3), name="permute")(layers.GaussianNoise(0.1, name="noise")(inputs))
    x = layers.Subtract(name="subtract")([layers.UpSampling2D(2, name="up")(x), layers.ZeroPadding2D(3)(inputs)])
    x = layers.Maximum(name="maximum")([x, layers.LeakyReLU(0.1, name="leaky")(x)])
    x = layers.Conv2D(4, 3, dilation_rate=2, padding="same", name="dilated")(x)
    x = layers.ReLU(name="relu")(x)
    x = layers.DepthwiseConv2D(3, dilation_rate=2, name="dilated_depthwise")(x)
    x = layers.MaxPooling1D(2, name="pool")(layers.Reshape((64, 4), name="reshape")(x))
    return keras.Model(inputs, layers.Dense(4, name="fc")(x))


def build_transposed() -> keras.Model:
    return chain(
        (4, 4, 3),
        layers.Conv2DTranspose(5, 3, strides=2, padding="same", name="up_1"),
        layers.BatchNormalization(name="norm_1"),
        layers.ReLU(name="relu_1"),
        layers.Conv2DTranspose(4, 3, strides=2, padding="same", name="up_2"),
        layers.ReLU(name="relu_2"),
        layers.Conv2DTranspose(3, 2, name="up_3"),
    )


def build_dense() -> keras.Model:
    return chain(
        (12,),
        layers.Dense(16, name="hidden_1"),
        layers.BatchNormalization(name="norm_1"),
        layers.ReLU(name="relu_1"),
        layers.Dense(16, use_bias=False, name="hidden_2"),
        layers.BatchNormalization(name="norm_2"),
        layers.Dense(4, name="fc"),
    )


def build_conv1d() -> keras.Model:
    return chain(
        (16, 3),
        layers.Conv1D(4, 3, padding="same", name="conv_1"),
        layers.BatchNormalization(name="norm"),
        layers.ReLU(name="relu"),
        layers.Conv1D(4, 3, dilation_rate=2, padding="causal", activation="relu", name="conv_2"),
        layers.Flatten(name="flatten"),
        layers.Dense(4, name="fc"),
    )


def build_operations() -> keras.Model:
    """Layers that imported models have for arithmetic on tensors."""
    inputs = keras.Input((6, 6, 3), name="input")
    first = x = layers.Conv2D(4, 3, activation="elu", padding="same", name="conv_1")(inputs)
    x = Operation("exp", name="exp")(layers.Activation("tanh", name="tanh")(x))
    x = Constant("add", [0.5, 1.0, 1.5, 2.0], name="add")(Constant("maximum", 0.9, name="maximum")(x))
    x = Operation("divide", name="divide")([layers.ELU(name="elu")(first), Operation("sqrt", name="sqrt")(x)])
    x = Slice([[None, None, None], [1, None, 2]], name="slice")(layers.Resizing(5, 5, name="resizing")(x))
    x = Operation("reduce_max", {"axis": [1], "keepdims": True}, name="largest")(x)
    x = Operation("reduce_sum", {"axis": [2], "keepdims": True}, name="sum")(Constant("multiply", 0.5, name="half")(x))
    return keras.Model(inputs, layers.Conv2D(3, 1, name="conv_2")(x))


NETWORKS = {
    "operations": build_operations,
    "activations": build_activations,
    "shapes": build_shapes,
    "transposed": build_transposed,
    "dense": build_dense,
    "conv1d": build_conv1d,
}


def draw_statistics(model: keras.Model) -> keras.Model:
    """The model with statistics of trained batch norms: gammas of both signs."""
    generator = np.random.default_rng(1)
    for layer in model.layers:
        if isinstance(layer, layers.BatchNormalization):
            gamma, *others = (generator.uniform(0.5, 1.5, weight.shape) for weight in layer.get_weights())
            layer.set_weights([gamma * np.where(np.arange(gamma.size) % 2, -1, 1), *others])
    return model


def draw_inputs(model: keras.Model, number: int = 32) -> np.ndarray:
    return np.random.default_rng(0).normal(size=(number, *model.input_shape[1:])).astype(np.float32)


def train(model: keras.Model, preservation: quantization.Preservation) -> keras.Model:
    """Fake-quantize a model, and train it until its ranges follow the data."""
    wrapped, inputs = quantization.wrap(model, preservation), draw_inputs(model)
    wrapped.compile("sgd", "mse")
    with run_eagerly():  # tracing takes longer than the steps
        wrapped.fit(inputs, model(inputs), batch_size=16, epochs=2, verbose=0)
    adapt = tf.function(functools.partial(wrapped, training=True))
    for _ in range(100):
        adapt(tf.constant(inputs))
    return wrapped


@functools.cache
def make_trained(name: str, preservation: quantization.Preservation) -> tuple[keras.Model, bytes]:
    seed_everything(0)
    wrapped = train(draw_statistics(NETWORKS[name]()), preservation)
    return wrapped, convert.convert_as_trained(wrapped)


def read_schema():
    from tensorflow.lite.python import schema_py_generated  # after collabopt, which selects Keras 2

    return schema_py_generated


def list_operators(tflite: bytes) -> list[tuple[str, list[int], list[int]]]:
    """Name, and indices of input and output tensors, of each operator."""
    schema = read_schema()
    model = schema.Model.GetRootAs(tflite, 0)
    graph, names = model.Subgraphs(0), {code: name for name, code in vars(schema.BuiltinOperator).items()}
    operators = [graph.Operators(index) for index in range(graph.OperatorsLength())]
    codes = [model.OperatorCodes(operator.OpcodeIndex()) for operator in operators]
    return [
        (
            names[max(code.BuiltinCode(), code.DeprecatedBuiltinCode())],
            [int(index) for index in operator.InputsAsNumpy() if index >= 0],
            [int(index) for index in operator.OutputsAsNumpy()],
        )
        for operator, code in zip(operators, codes, strict=True)
    ]


def list_float_operators(tflite: bytes) -> set[str]:
    schema = read_schema()
    graph = schema.Model.GetRootAs(tflite, 0).Subgraphs(0)
    return {
        name
        for name, read, written in list_operators(tflite)
        if any(graph.Tensors(index).Type() == schema.TensorType.FLOAT32 for index in (*read, *written))
    }


def find_pairs(tflite: bytes) -> list[tuple[str, str]]:
    """QUANTIZE after DEQUANTIZE, and the reverse, on the same tensor."""
    operators = list_operators(tflite)
    makers = {index: name for name, _, written in operators for index in written}
    kinds = {"QUANTIZE", "DEQUANTIZE"}
    found = [(makers.get(index), name) for name, read, _ in operators for index in read if name in kinds]
    return [(before, after) for before, after in found if before in kinds and before != after]


def run(tflite: bytes, inputs: np.ndarray) -> tuple[np.ndarray, float]:
    """The dequantized outputs of a file, and its output's scale."""
    interpreter = open_interpreter(tflite, 1)
    (source,), (target,) = interpreter.get_input_details(), interpreter.get_output_details()
    (scale, zero), outputs = source["quantization"], []
    for example in inputs:
        interpreter.set_tensor(source["index"], np.clip(np.round(example / scale) + zero, -128, 127)[None].astype("i1"))
        interpreter.invoke()
        outputs.append(interpreter.get_tensor(target["index"])[0].astype(np.float32))
    scale, zero = target["quantization"]
    return (np.array(outputs) - zero) * scale, scale


@pytest.mark.parametrize("name", NETWORKS)
def test_a_file_has_only_int8_operators_and_agrees_with_the_model(name):
    wrapped, tflite = make_trained(name, PLAIN)
    assert int8_rewrites.find_layers_without_qat(NETWORKS[name]()) == {}
    assert list_float_operators(tflite) == set()
    assert find_pairs(tflite) == []
    kernels = quantization.read_kernels(wrapped)
    flatbuffer.read_layer_kernels(tflite, {layer: kernel.shape for layer, kernel in kernels.items()})
    inputs = draw_inputs(wrapped, 16)
    outputs, scale = run(tflite, inputs)
    steps = np.abs(outputs - wrapped(inputs).numpy()) / scale
    assert steps.max() < 6
    assert steps.mean() < 0.6


@pytest.mark.parametrize("name", NETWORKS)
def test_rewrites_compute_the_same(name):
    model = draw_statistics(NETWORKS[name]())
    rewritten = int8_rewrites.make_quantizable(model, keeps_clusters=True)
    # Layers that clip are fake-quantized in steps of 1 / 255.
    clips = any(getattr(layer, "limit", None) for layer in rewritten.layers)
    np.testing.assert_allclose(rewritten(draw_inputs(model)), model(draw_inputs(model)), atol=0.02 if clips else 1e-4)


def test_a_model_of_layers_that_tfmot_knows_is_not_rewritten(small_cnn):
    for model in (small_cnn(), ds_cnn.ds_cnn_s((49, 10, 1), 12), mobilenet.mobilenet_v2((32, 32, 3), 10)):
        assert int8_rewrites.make_quantizable(model, keeps_clusters=True) is model


def compress(model: keras.Model, zeros: bool, clusters: str | None) -> keras.Model:
    """The model with half of the weights zero, and with `K` values per tensor or channel."""
    generator = np.random.default_rng(0)
    for layer in filter(model_layers.is_eligible, model.layers):
        kernels = model_layers.read_layer_kernels(layer)
        for name, kernel in kernels.items():
            kernels[name] = kernel = kernel * (generator.random(kernel.shape) < 0.5) if zeros else kernel
            if clusters:
                is_by_channel = clusters == "channel" and model_layers.is_convolution(layer)
                kernels[name] = kmeans.cluster_kernel(kernel, K, is_by_channel, zeros)
        model_layers.assign_kernels(layer, kernels)
    return model


@pytest.mark.parametrize(
    ("zeros", "clusters", "name"),
    [
        *((True, "tensor", name) for name in ("shapes", "transposed", "dense", "conv1d")),
        (False, "channel", "conv1d"),
        *(pytest.param(True, "tensor", name, marks=pytest.mark.slow) for name in ("operations", "activations")),
        *(pytest.param(False, "channel", name, marks=pytest.mark.slow) for name in NETWORKS if name != "conv1d"),
        *(pytest.param(True, None, name, marks=pytest.mark.slow) for name in NETWORKS),
    ],
)
def test_zeros_and_clusters_are_preserved_in_int8(name, zeros, clusters):
    seed_everything(0)
    model = compress(draw_statistics(NETWORKS[name]()), zeros, clusters)
    wrapped = train(model, quantization.Preservation(zeros, Clusters(clusters) if clusters else None))
    tflite, kernels = convert.convert_as_trained(wrapped), quantization.read_kernels(wrapped)
    assert list_float_operators(tflite) == set()
    assert find_pairs(tflite) == []
    parent, kinds = model_layers.read_kernels(model), model_layers.read_kinds(model)
    int8_values = flatbuffer.read_layer_kernels(tflite, {layer: kernel.shape for layer, kernel in kernels.items()})
    assert all(np.any(kernels[layer] != kernel) for layer, kernel in parent.items())
    for _, row in audit.audit_layers(kinds, kernels, int8_values).iterrows():
        layer, by_channel = row["layer"], clusters == "channel" and row["kind"].startswith("conv2d")
        most = K if clusters else None
        if row["kind"] != "depthwise":
            arrays = parent[layer], kernels[layer], int8_values[layer]
            assert audit.find_defects(row, *arrays, most, by_channel, by_channel) == [], layer


def test_layers_without_qat_are_named_and_stay_in_float():
    model = chain(
        (8, 6),
        layers.Dense(6, activation="selu", name="dense"),
        layers.LayerNormalization(name="norm"),
        layers.Flatten(name="flatten"),
        layers.Dense(4, name="fc"),
    )
    assert int8_rewrites.find_layers_without_qat(model) == {"dense": "Activation selu", "norm": "LayerNormalization"}
    tflite = convert.convert_as_trained(train(model, PLAIN))
    assert "EXP" in list_float_operators(tflite)
    assert "FULLY_CONNECTED" not in list_float_operators(tflite)
    recurrent = chain((8, 6), layers.LSTM(4, return_sequences=True, name="lstm"), layers.GRU(4, name="gru"))
    assert int8_rewrites.find_layers_without_qat(recurrent) == {"lstm": "LSTM", "gru": "GRU"}
    assert quantization.wrap(recurrent, PLAIN)(draw_inputs(recurrent)).shape == (32, 4)


def test_a_norm_of_features_runs_in_int8():
    norm = layers.Normalization(name="norm")
    norm.adapt(np.random.default_rng(0).normal(3, 2, (99, 5)))
    model = chain((5,), norm, layers.Dense(3, name="fc"))
    assert int8_rewrites.find_layers_without_qat(model) == {}
    rewritten = int8_rewrites.make_quantizable(model, keeps_clusters=False)
    np.testing.assert_allclose(rewritten(draw_inputs(model)), model(draw_inputs(model)), atol=1e-4)


def test_norms_over_another_axis_than_channels_stay_in_float():
    for norm in (layers.BatchNormalization(axis=1, name="norm"), layers.Normalization(axis=(1, 2), name="norm")):
        model = chain((5, 5, 5), layers.Conv2D(5, 1, name="conv"), norm, layers.Conv2D(3, 1, name="last"))
        if isinstance(norm, layers.BatchNormalization):
            norm.gamma.assign([-1.0, 1, 1, 1, 1])
        before = model(draw_inputs(model))
        np.testing.assert_allclose(model_layers.make_gammas_positive(model)(draw_inputs(model)), before, atol=1e-5)
        rewritten = int8_rewrites.make_quantizable(model, keeps_clusters=True)
        np.testing.assert_allclose(rewritten(draw_inputs(model)), before, atol=1e-5)
        assert list(int8_rewrites.find_layers_without_qat(model)) == ["norm"]
        assert np.isfinite(quantization.wrap(model, PLAIN)(draw_inputs(model))).all()


def test_an_excluded_layer_is_not_rounded_and_keeps_its_zeros():
    seed_everything(0)
    model = chain((12,), layers.Dense(8, activation="relu", name="hidden"), layers.Dense(4, name="fc"))
    kernel, bias = model.get_layer("hidden").get_weights()
    model.get_layer("hidden").set_weights([np.where(kernel < 0, 0, kernel), bias])
    wrapped = train(model, quantization.Preservation(zeros=True, unquantized=("hidden",)))
    assert quantization.read_quantizers(wrapped) == {"hidden": "KernelHolder", "fc": "KernelQuantizer"}
    assert ((quantization.read_kernels(wrapped)["hidden"] == 0) == (kernel <= 0)).all()


def test_a_kernel_before_a_relu_is_quantized_in_plain_training():
    convolutions = layers.Conv2D(4, 3, name="conv"), layers.DepthwiseConv2D(3, name="dw")
    model = chain((6, 6, 3), convolutions[0], layers.ReLU(name="relu_1"), convolutions[1], layers.ReLU(name="relu_2"))
    assert set(quantization.read_quantizers(quantization.wrap(model, PLAIN)).values()) == {
        "Default8BitConvWeightsQuantizer"
    }
