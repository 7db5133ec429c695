"""Our scheme preserves zeros and clusters in Keras and in the int8 file, where TFMOT's schemes lose them.

F1 to F7 number the defects of TFMOT 0.8.1, and each has a test `test_f…_with_tfmot` that the defect exists. If such a
test starts to fail, TFMOT has fixed the defect: remove its check from `analysis.preflight`, and then the test.

F1: A layer without activation before a ReLU layer, without batch norm between, gets no weight quantizer.
F2: TFMOT guesses from counts of values whether clusters are per tensor or per channel.
F3: Clustering per channel skips convolutions without bias.
F4: Clustering per channel with preserved zeros fails, or sets further weights to zero.
F5: Clustering with preserved zeros makes zeros in unpruned layers, and layers of a kind share one quantizer.
F6: Depthwise kernels are neither pruned nor clustered, by design.
F7: A range per channel gives a tensor more int8 values than clusters.

The lock file pins TFMOT, so these tests are slow. That of F2 is fast, so that one file is made by TFMOT's scheme.
"""

import contextlib
import functools
import shutil
import warnings
from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from collabopt.analysis import audit
from collabopt.analysis.finished import PreservationError
from collabopt.config import loading
from collabopt.config.sections import Training
from collabopt.config.stages import STAGES
from collabopt.datasets import Data, Split
from collabopt.run import Run
from collabopt.runtime.tensorflow import drop_native_notices, keras, run_eagerly, seed_everything, tf
from collabopt.techniques import clustering, kernel_state, kmeans, quantization, registry
from collabopt.techniques import layers as model_layers
from collabopt.techniques.kernel_state import Clusters
from collabopt.tflite import convert, flatbuffer

layers = keras.layers

# A high learning rate moves every weight in few steps.
FEW_STEPS = Training(epochs=1, batch_size=8, optimizer="adam", learning_rate=0.003)
UNTRAINED = FEW_STEPS.model_copy(update={"epochs": 0})
K = 6
CLUSTERS = ["tensor", "channel"]


def draw_data(input_shape: tuple[int, ...], examples: int = 16, classes: int = 3) -> Data:
    generator = np.random.default_rng(0)
    inputs = generator.uniform(-1, 1, (examples, *input_shape)).astype(np.float32)
    split = Split(inputs, generator.integers(0, classes, examples))
    return Data("random", tuple(map(str, range(classes))), split, split, split, "", input_shape)


# Networks. Each ends in three logits.


def add_with_norm(x, layer: keras.layers.Layer):
    """Add a layer with batch norm and ReLU."""
    return layers.ReLU(name=f"{layer.name}_relu")(layers.BatchNormalization(name=f"{layer.name}_bn")(layer(x)))


def add_head(inputs, x) -> keras.Model:
    """Add a dense head."""
    x = layers.GlobalAveragePooling2D(name="pool")(x)
    return keras.Model(inputs, layers.Dense(3, name="fc")(x))


def relu_without_norm() -> keras.Model:
    """Linear layers before a ReLU or an activation layer, without batch norm (F1)."""
    inputs = x = keras.Input((6, 6, 2), name="input")
    x = layers.ReLU(name="conv_relu")(layers.Conv2D(8, 3, name="conv")(x))
    x = layers.Activation("relu", name="conv_2_relu")(layers.Conv2D(6, 3, name="conv_2")(x))
    x = layers.ReLU(name="hidden_relu")(layers.Dense(8, name="hidden")(layers.Flatten(name="flatten")(x)))
    return keras.Model(inputs, layers.Dense(3, name="fc")(x))


def every_convolution() -> keras.Model:
    """Convolutions with and without bias, depthwise, 1×1 and grouped, each with batch norm."""
    inputs = x = keras.Input((8, 8, 1), name="input")
    x = add_with_norm(x, layers.Conv2D(8, 3, use_bias=False, name="conv"))
    x = add_with_norm(x, layers.DepthwiseConv2D(3, padding="same", name="dw"))
    x = add_with_norm(x, layers.Conv2D(8, 1, use_bias=False, name="pw"))
    x = add_with_norm(x, layers.Conv2D(8, 3, groups=2, strides=2, padding="same", name="grouped"))
    return add_head(inputs, x)


def transposed() -> keras.Model:
    """Transposed convolutions with and without batch norm, and a dilated one."""
    inputs = x = keras.Input((4, 4, 3), name="input")
    x = add_with_norm(x, layers.Conv2DTranspose(5, 3, strides=2, padding="same", name="up_1"))
    x = layers.ReLU(name="relu")(layers.Conv2DTranspose(6, 3, use_bias=False, name="up_2")(x))
    x = layers.Conv2DTranspose(4, 3, strides=2, activation="relu", name="up_3")(x)
    return add_head(inputs, add_with_norm(x, layers.Conv2D(6, 3, dilation_rate=2, padding="same", name="dilated")))


def residual() -> keras.Model:
    """Blocks of a ResNet on 32×32 images, as in tensorflow/model-optimization #979 and #1056."""
    inputs = x = keras.Input((32, 32, 3), name="input")
    x = add_with_norm(x, layers.Conv2D(8, 3, strides=2, padding="same", use_bias=False, name="stem"))
    for name, width, strides in (("first", 8, 1), ("second", 12, 2)):
        y = add_with_norm(x, layers.Conv2D(width, 3, strides, padding="same", use_bias=False, name=f"{name}_1"))
        y = layers.Conv2D(width, 3, padding="same", use_bias=False, name=f"{name}_2")(y)
        y = layers.BatchNormalization(name=f"{name}_2_bn")(y)
        if strides > 1:
            x = layers.Conv2D(width, 1, strides, use_bias=False, name=f"{name}_short")(x)
            x = layers.BatchNormalization(name=f"{name}_short_bn")(x)
        x = layers.ReLU(name=f"{name}_relu")(layers.Add(name=f"{name}_add")([x, y]))
    return add_head(inputs, x)


def wide_channels() -> keras.Model:
    """A convolution whose every channel has many more weights than there are centroids (F2)."""
    inputs = x = keras.Input((8, 8, 4), name="input")
    return add_head(inputs, add_with_norm(x, layers.Conv2D(6, 3, name="conv")))


def prepare(
    network: Callable[[], keras.Model],
    clusters: str | None,
    zeros: bool,
    signs: bool = True,
    k: int = K,
    unpruned: tuple[str, ...] = (),
    unclustered: tuple[str, ...] = (),
    initialization: str = "kmeans_plus_plus",
    scheme: str = "collabopt",
) -> keras.Model:
    """The network with random batch norms (with `signs`, gammas of both signs); with `zeros`, half of its weights zero;
    with `clusters`, at most k values."""
    seed_everything(0)
    model, generator = network(), np.random.default_rng(1)
    for layer in model.layers:
        if isinstance(layer, layers.BatchNormalization):
            gamma = generator.uniform(0.5, 1.5, layer.gamma.shape) * (
                generator.choice([-1, 1], layer.gamma.shape) if signs else 1
            )
            beta, mean, variance = (
                generator.uniform(*ends, gamma.shape) for ends in ((-0.5, 0.5), (-0.2, 0.2), (0.1, 0.5))
            )
            layer.set_weights([gamma, beta, mean, variance])
        elif zeros and model_layers.is_eligible(layer) and layer.name not in unpruned:
            layer.kernel.assign(layer.kernel * (generator.random(layer.kernel.shape) < 0.5))
    if not clusters:
        return model
    data = draw_data(model.input_shape[1:])
    settings = clustering.Settings(k, zeros, Clusters(clusters), initialization, unclustered)
    return clustering.fine_tune(model, data, settings, UNTRAINED, scheme=scheme)[0]


def get_stage(clusters: str | None, zeros: bool) -> str:
    return {(False, False): "qat", (True, False): "pqat", (False, True): "cqat", (True, True): "pcqat"}[
        zeros, clusters is not None
    ]


def quantize(
    model: keras.Model, clusters: str | None, zeros: bool, scheme: str = "collabopt", unclustered: tuple[str, ...] = ()
) -> keras.Model:
    """The model after a few steps of QAT; the parent must stay as it is."""
    before = model.get_weights()
    preservation = quantization.Preservation(zeros, Clusters(clusters) if clusters else None, unclustered, scheme)
    stage = get_stage(clusters, zeros)
    # Tracing takes longer than the steps, but the gradients of grouped convolutions need it on a CPU.
    with contextlib.nullcontext() if model_layers.has_groups(model) else run_eagerly():
        wrapped, _ = quantization.fine_tune(model, draw_data(model.input_shape[1:]), FEW_STEPS, 0, stage, preservation)
    for old, new in zip(before, model.get_weights(), strict=True):
        np.testing.assert_array_equal(old, new)
    return wrapped


def read_int8_values(content: bytes, kernels: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    return flatbuffer.read_layer_kernels(content, {name: kernel.shape for name, kernel in kernels.items()})


def find_defects(
    parent: keras.Model,
    kernels: dict[str, np.ndarray],
    int8_values: dict[str, np.ndarray],
    clusters: str | None,
    k: int = K,
    unclustered: tuple[str, ...] = (),
) -> dict[str, str]:
    """The audit's text by layer, for the kernels that have defects."""
    kinds, before, found = model_layers.read_kinds(parent), model_layers.read_kernels(parent), {}
    for _, row in audit.audit_layers(kinds, kernels, int8_values).iterrows():
        name = row["layer"]
        if kinds[name] == "depthwise":
            continue
        per_channel = clusters == "channel" and kinds[name] in ("conv2d", "conv2d_transpose")
        most = k if clusters and name not in unclustered else None
        defects = audit.find_defects(
            row, before[name], kernels[name], int8_values[name], most, per_channel, per_channel
        )
        if defects:
            found[name] = "; ".join(defects)
    return found


def fine_tune_and_audit(
    model: keras.Model, clusters: str | None, zeros: bool, scheme: str = "collabopt", unclustered: tuple[str, ...] = ()
) -> dict[str, str]:
    """The defects by layer after QAT, in Keras and in the int8 file."""
    return audit_wrapped(model, quantize(model, clusters, zeros, scheme, unclustered), clusters, unclustered)


def audit_wrapped(
    model: keras.Model, wrapped: keras.Model, clusters: str | None, unclustered: tuple[str, ...] = ()
) -> dict[str, str]:
    kernels = quantization.read_kernels(wrapped)
    trained = [name for name, kernel in model_layers.read_kernels(model).items() if np.any(kernels[name] != kernel)]
    assert trained == list(kernels)
    int8_values = read_int8_values(convert.convert_as_trained(wrapped), kernels)
    return find_defects(model, kernels, int8_values, clusters, unclustered=unclustered)


@functools.cache
def prepare_and_quantize(
    network: Callable[[], keras.Model], clusters: str | None, zeros: bool
) -> tuple[keras.Model, keras.Model]:
    model = prepare(network, clusters, zeros)
    return model, quantize(model, clusters, zeros)


# For all kinds of layers.


@pytest.mark.parametrize(
    ("network", "clusters", "zeros"),
    [
        (relu_without_norm, "channel", True),
        (every_convolution, "channel", True),
        (transposed, "channel", True),
        pytest.param(transposed, "tensor", False, marks=pytest.mark.slow),
        pytest.param(transposed, None, True, marks=pytest.mark.slow),
        pytest.param(relu_without_norm, None, True, marks=pytest.mark.slow),
        pytest.param(relu_without_norm, "tensor", True, marks=pytest.mark.slow),
        pytest.param(every_convolution, "tensor", True, marks=pytest.mark.slow),
        pytest.param(every_convolution, "tensor", False, marks=pytest.mark.slow),
        pytest.param(residual, "tensor", True, marks=pytest.mark.slow),
    ],
    ids=lambda value: getattr(value, "__name__", str(value)),
)
def test_zeros_and_clusters_are_preserved(network, clusters, zeros):
    model, wrapped = prepare_and_quantize(network, clusters, zeros)
    assert audit_wrapped(model, wrapped, clusters) == {}


# F1: a linear layer before a ReLU, without batch norm.


@pytest.mark.slow
def test_f1_a_kernel_before_a_relu_loses_zeros_with_tfmot():
    found = fine_tune_and_audit(prepare(relu_without_norm, None, zeros=True), None, zeros=True, scheme="tfmot")
    assert {"conv", "conv_2", "hidden"} == found.keys()
    assert all("zeros of the parent that were lost" in text for text in found.values())


# F2: a kernel clustered per tensor, whose channels hold all the centroids.


@pytest.fixture(scope="module")
def full_channels() -> keras.Model:
    model = prepare(wide_channels, "tensor", zeros=False)
    kernel = model.get_layer("conv").kernel.numpy()
    assert audit.count_unique(kernel) == audit.count_unique_per_channel(kernel) == K
    return model


def test_f2_the_granularity_is_a_setting_and_not_guessed(full_channels):
    assert fine_tune_and_audit(full_channels, "tensor", zeros=False) == {}


def test_f2_clusters_per_tensor_are_mistaken_for_clusters_per_channel_with_tfmot(full_channels):
    assert (
        "values in a tensor instead of 6"
        in fine_tune_and_audit(full_channels, "tensor", zeros=False, scheme="tfmot")["conv"]
    )


# F3: clustering per channel where there is no bias.


def cluster_per_channel_without_bias(scheme: str) -> np.ndarray:
    return prepare(every_convolution, "channel", zeros=False, scheme=scheme).get_layer("conv").kernel.numpy()


def test_f3_a_convolution_without_bias_is_clustered_per_channel():
    kernel = cluster_per_channel_without_bias("collabopt")
    assert audit.count_unique_per_channel(kernel) == K < audit.count_unique(kernel)


@pytest.mark.slow
def test_f3_a_convolution_without_bias_is_skipped_with_tfmot():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        assert (
            audit.count_unique_per_channel(cluster_per_channel_without_bias("tfmot")) == 9
        )  # all of its 3 × 3 × 1 weights


# F4: clustering per channel with zeros.


@pytest.mark.parametrize("k", [3, pytest.param(4, marks=pytest.mark.slow)])
@pytest.mark.parametrize("initialization", sorted(kmeans.INITIALIZATIONS))
def test_f4_per_channel_every_initialization_preserves_zeros(initialization, k):
    # prepare() draws the same zeros both times.
    before = prepare(wide_channels, None, zeros=True).get_layer("conv").kernel.numpy()
    model = prepare(wide_channels, "channel", zeros=True, k=k, initialization=initialization)
    after = model.get_layer("conv").kernel.numpy()
    assert not after[before == 0].any()
    assert audit.count_unique_per_channel(after) <= k


@pytest.mark.slow
def test_f4_per_channel_linear_centroids_make_zeros_with_tfmot():
    before = prepare(wide_channels, None, zeros=True).get_layer("conv").kernel.numpy()
    model = prepare(wide_channels, "channel", zeros=True, k=3, initialization="linear", scheme="tfmot")
    assert audit.compute_sparsity(model.get_layer("conv").kernel.numpy()) > audit.compute_sparsity(before) + 0.02


@pytest.mark.parametrize("scheme", ["collabopt", pytest.param("tfmot", marks=pytest.mark.slow)])
def test_f4_a_channel_of_few_weights_is_clustered_and_fails_with_tfmot(scheme):
    model = prepare(wide_channels, None, zeros=True)
    kernel = model.get_layer("conv").kernel.numpy()
    kernel[..., 0] = 0
    kernel[0, 0, :2, 0] = [0.2, 0.3]
    model.get_layer("conv").kernel.assign(kernel)
    per_channel_settings = clustering.Settings(K, True, Clusters("channel"))
    data = draw_data(model.input_shape[1:])
    if scheme == "tfmot":
        with pytest.raises(tf.errors.InvalidArgumentError, match="Expected num_to_sample"):
            clustering.fine_tune(model, data, per_channel_settings, UNTRAINED, scheme=scheme)
        return
    after = clustering.fine_tune(model, data, per_channel_settings, UNTRAINED)[0].get_layer("conv").kernel.numpy()
    assert not after[kernel == 0].any()
    np.testing.assert_allclose(after[..., 0], kernel[..., 0])


# F5: a kernel without zeros among sparse ones.


def test_f5_an_unpruned_layer_gets_no_zeros_and_the_others_keep_theirs():
    model = prepare(relu_without_norm, "tensor", zeros=True, unpruned=("conv_2",))
    sparsities = {name: audit.compute_sparsity(kernel) for name, kernel in model_layers.read_kernels(model).items()}
    assert sparsities.pop("conv_2") == 0
    assert min(sparsities.values()) > 0.3
    assert fine_tune_and_audit(model, "tensor", zeros=True) == {}


@pytest.mark.slow
def test_f5_an_unpruned_layer_gets_zeros_with_tfmot():
    model = prepare(relu_without_norm, "tensor", zeros=True, unpruned=("conv_2",), scheme="tfmot")
    assert audit.compute_sparsity(model.get_layer("conv_2").kernel.numpy()) > 0


def two_dense() -> keras.Model:
    inputs = keras.Input((20,), name="input")
    x = layers.Dense(12, activation="relu", name="hidden")(inputs)
    return keras.Model(inputs, layers.Dense(3, name="fc")(x))


@pytest.mark.slow
def test_f5_one_kernel_without_zeros_lets_the_others_lose_theirs_with_tfmot():
    # Clustered by our scheme, which gives `fc` no zero. TFMOT's dense layers share one quantizer.
    model = prepare(two_dense, "tensor", zeros=True, unpruned=("fc",))
    assert fine_tune_and_audit(model, "tensor", zeros=True) == {}
    assert (
        "zeros of the parent that were lost"
        in fine_tune_and_audit(model, "tensor", zeros=True, scheme="tfmot")["hidden"]
    )


# F6: depthwise kernels, and excluded layers.


@pytest.mark.parametrize("scheme", ["collabopt", "tfmot"])
def test_f6_depthwise_kernels_are_not_eligible(scheme):
    before = prepare(every_convolution, None, zeros=True, signs=False)
    after = prepare(every_convolution, "tensor", zeros=True, signs=False, scheme=scheme)
    np.testing.assert_array_equal(model_layers.read_kernels(after)["dw"], model_layers.read_kernels(before)["dw"])
    assert not model_layers.is_eligible(after.get_layer("dw"))


def test_an_unclustered_layer_is_trained_freely():
    model = prepare(relu_without_norm, "tensor", zeros=True, unclustered=("conv_2",))
    wrapped = quantize(model, "tensor", zeros=True, unclustered=("conv_2",))
    kernels = quantization.read_kernels(wrapped)
    int8_values = read_int8_values(convert.convert_as_trained(wrapped), kernels)
    assert find_defects(model, kernels, int8_values, "tensor", unclustered=("conv_2",)) == {}
    assert audit.count_unique(kernels["conv_2"]) == np.count_nonzero(kernels["conv_2"]) + 1


# F7: as many int8 values as clusters.


def compute_logits(content: bytes, split: Split) -> np.ndarray:
    """Logits (n, classes) of an int8 file."""
    from ai_edge_litert.interpreter import Interpreter

    with drop_native_notices():
        interpreter = Interpreter(model_content=content, num_threads=1)
        interpreter.allocate_tensors()
    (source,), (target,) = interpreter.get_input_details(), interpreter.get_output_details()
    found = []
    for example in split.examples:
        scale, zero = source["quantization"]
        int8_input = np.clip(np.round(example / scale) + zero, -128, 127).astype(np.int8)
        interpreter.set_tensor(source["index"], int8_input[None])
        interpreter.invoke()
        scale, zero = target["quantization"]
        found.append((interpreter.get_tensor(target["index"])[0].astype(np.float32) - zero) * scale)
    return np.array(found)


@pytest.mark.parametrize("network", [every_convolution, relu_without_norm], ids=["every", "relu"])
def test_f7_a_file_with_shared_ranges_has_k_int8_values_and_the_same_outputs(network):
    model = prepare(network, "tensor", zeros=True)
    split, kernels = draw_data(model.input_shape[1:]).test, model_layers.read_kernels(model)
    clustered = {name: kernel for name, kernel in kernels.items() if name != "dw"}
    stock = convert.convert_to_int8(model, split.examples)
    shared = flatbuffer.rewrite_ranges(stock, clustered, of="tensor")
    assert len(shared) == len(stock)
    before, after = read_int8_values(stock, kernels), read_int8_values(shared, kernels)
    assert max(audit.count_unique(before[name]) for name in clustered) > K  # with the stock ranges
    assert find_defects(model, kernels, after, "tensor") == {}
    if "dw" in kernels:
        np.testing.assert_array_equal(before["dw"], after["dw"])
    back = flatbuffer.rewrite_ranges(shared, clustered, of="channel")
    np.testing.assert_equal(read_int8_values(back, kernels), before)
    exact = model.predict(split.examples, verbose=0)
    errors = [np.sqrt(np.mean((compute_logits(content, split) - exact) ** 2)) for content in (stock, shared)]
    assert errors[1] < 2 * errors[0] + 0.02 * np.std(exact)


@pytest.mark.slow
def test_f7_a_tensor_has_more_int8_values_than_clusters_with_tfmot():
    # Each channel of `pw` has only eight weights. Some lack the largest centroid, and so have another range.
    model = prepare(every_convolution, "tensor", zeros=False)
    found = fine_tune_and_audit(model, "tensor", zeros=False, scheme="tfmot")
    assert "int8 codes in a tensor instead of 6" in found["pw"]


# Batch norms with positive gammas.


def test_a_model_with_positive_gammas_has_the_same_outputs_and_zeros():
    model = prepare(every_convolution, None, zeros=True)
    before, inputs = model.get_weights(), draw_data((8, 8, 1)).test.examples
    positive = model_layers.make_gammas_positive(model)
    expected = model.predict(inputs, verbose=0)
    np.testing.assert_allclose(
        positive.predict(inputs, verbose=0), expected, rtol=1e-5, atol=1e-5 * np.abs(expected).max()
    )
    for name, kernel in model_layers.read_kernels(model).items():
        np.testing.assert_array_equal(model_layers.read_kernels(positive)[name] == 0, kernel == 0)
        np.testing.assert_array_equal(np.abs(model_layers.read_kernels(positive)[name]), np.abs(kernel))
    for name in ("conv_bn", "pw_bn", "grouped_bn"):
        assert np.any(model.get_layer(name).gamma.numpy() < 0)
        assert np.all(positive.get_layer(name).gamma.numpy() > 0)
    for old, new in zip(before, model.get_weights(), strict=True):
        np.testing.assert_array_equal(old, new)


def test_training_makes_no_gamma_negative():
    inputs = keras.Input((4, 4, 2), name="input")
    model = add_head(inputs, add_with_norm(inputs, layers.Conv2D(4, 1, name="conv")))
    positive = model_layers.make_gammas_positive(model)
    norm, gradient = positive.get_layer("conv_bn"), tf.ones(4)
    keras.optimizers.SGD(10.0).apply_gradients([(gradient, norm.gamma)])
    np.testing.assert_allclose(norm.gamma.numpy(), model_layers.PositiveGamma.LEAST)


# How clusters are trained and stored.


@pytest.mark.parametrize("clusters", CLUSTERS)
def test_centroids_and_latent_weights_get_gradients(clusters):
    kernel = kmeans.cluster_kernel(
        np.random.default_rng(0).normal(size=(3, 3, 4, 5)).astype(np.float32), 4, clusters == "channel"
    )
    values, indices = kernel_state.make_lookup(kernel, clusters)
    np.testing.assert_array_equal(values.ravel()[indices], kernel)
    assert values.shape == ((1, 4) if clusters == "tensor" else (5, 4))
    slope = np.random.default_rng(1).normal(size=kernel.shape).astype(np.float32)
    centroids, latent, index = tf.Variable(values), tf.Variable(tf.zeros_like(kernel)), tf.constant(indices)
    with tf.GradientTape() as tape:
        found = kernel_state.look_up(tf.convert_to_tensor(centroids), tf.convert_to_tensor(latent), index)
        loss = tf.reduce_sum(found**2 * slope)
    np.testing.assert_array_equal(found, kernel)
    of_centroids, of_latent = (one.numpy() for one in tape.gradient(loss, [centroids, latent]))
    with tf.GradientTape() as tape:  # the same with a one-hot product
        one_hot = tf.one_hot(indices.ravel(), values.size)
        loss = tf.reduce_sum(tf.linalg.matvec(one_hot, tf.reshape(centroids, [-1])) ** 2 * slope.ravel())
    np.testing.assert_allclose(of_centroids, tape.gradient(loss, centroids).numpy(), rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(of_latent, 2 * kernel * slope, rtol=1e-5)  # as if there were no clusters


def test_a_restored_stage_predicts_bit_identically():
    model, wrapped = prepare_and_quantize(every_convolution, "channel", True)
    experiment = loading.load("digits", cluster_per_channel=True)
    data = draw_data((8, 8, 1))
    restored = registry.restore_model(STAGES["pcqat"], registry.read_arrays(wrapped), model, experiment, data)
    inputs = data.test.examples
    np.testing.assert_array_equal(restored.predict(inputs, verbose=0), wrapped.predict(inputs, verbose=0))
    for name, kernel in quantization.read_kernels(wrapped).items():
        np.testing.assert_array_equal(quantization.read_kernels(restored)[name], kernel)


# For random networks.

LAYERS = st.fixed_dictionaries(
    {
        "kind": st.sampled_from(["conv", "grouped", "depthwise"]),
        "side": st.sampled_from([1, 3]),
        "strides": st.sampled_from([1, 2]),
        "norm": st.booleans(),
        "bias": st.booleans(),
        "relu": st.sampled_from(["layer", "activation layer", "activation", "none"]),
    }
)


def build_network(described: list[dict], hidden: bool) -> keras.Model:
    inputs = x = keras.Input((6, 6, 4), name="input")
    for number, one in enumerate(described):
        name = f"{one['kind']}_{number}"
        settings = {
            "strides": one["strides"],
            "padding": "same",
            "use_bias": one["bias"],
            # TFMOT supports a batch norm right after a linear layer only.
            "activation": "relu" if one["relu"] == "activation" and not one["norm"] else None,
            "name": name,
        }
        if one["kind"] == "depthwise":
            x = layers.DepthwiseConv2D(one["side"], **settings)(x)
        else:
            x = layers.Conv2D(4, one["side"], groups=2 if one["kind"] == "grouped" else 1, **settings)(x)
        x = layers.BatchNormalization(name=f"{name}_bn")(x) if one["norm"] else x
        if one["relu"] == "layer":
            x = layers.ReLU(name=f"{name}_relu")(x)
        elif one["relu"] == "activation layer":
            x = layers.Activation("relu", name=f"{name}_relu")(x)
    x = layers.Flatten(name="flatten")(x)
    if hidden:
        x = layers.ReLU(name="hidden_relu")(layers.Dense(6, name="hidden")(x))
    return keras.Model(inputs, layers.Dense(3, name="fc")(x))


@pytest.mark.slow
@settings(
    max_examples=4,
    deadline=None,
    derandomize=True,
    phases=[Phase.generate],  # an example takes seconds, so failures are not shrunk
    suppress_health_check=list(HealthCheck),
)
@given(
    described=st.lists(LAYERS, min_size=1, max_size=2),
    hidden=st.booleans(),
    k=st.integers(3, 8),
    clusters=st.sampled_from(CLUSTERS),
    zeros=st.booleans(),
)
def test_zeros_and_clusters_are_preserved_in_any_small_network(described, hidden, k, clusters, zeros):
    model = prepare(functools.partial(build_network, described, hidden), clusters, zeros, k=k)
    wrapped = quantize(model, clusters, zeros)
    kernels = quantization.read_kernels(wrapped)
    int8_values = read_int8_values(convert.convert_as_trained(wrapped), kernels)
    assert find_defects(model, kernels, int8_values, clusters, k) == {}


# A strict run.


def test_a_strict_run_stops_where_tfmot_loses_clusters_but_not_with_our_scheme(
    small, trained_small, tmp_path, monkeypatch
):
    monkeypatch.setattr(loading, "DATA", tmp_path)
    shutil.copytree(trained_small / "stages", tmp_path / "stages")
    # Per channel, because TFMOT then skips the convolutions, which have no bias (F3).
    experiment = loading.load(str(small), strict=True, cluster_per_channel=True, number_of_clusters=4)
    run = Run(experiment, tmp_path / "report", small, tmp_path / "stages")
    assert run.stage("clustered").result["preserved"] is True
    with pytest.raises(PreservationError, match=r"^clustered does not preserve .*\bpw: 8 values in a channel instead"):
        run.with_scheme("tfmot").stage("clustered")
