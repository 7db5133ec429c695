"""Our scheme: what was zero stays zero and k values stay k, in Keras and in the int8 file, where TFMOT's loses them.

Each defect of TFMOT 0.8.1 has a test that TFMOT still has it (`..._fails_..._by_tfmot`). When one of these starts to
fail, upstream has mended the defect: take it out of DESIGN.md's table and of the pre-flight check, and then the test.
"""

import functools
import warnings
from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from collabopt.analysis import audit
from collabopt.config import loading
from collabopt.config.experiment import Training
from collabopt.config.stages import STAGES
from collabopt.datasets import Data, Split
from collabopt.run import PreservationError, Run
from collabopt.runtime.tensorflow import drop_native_notices, keras, seed_everything, tf
from collabopt.techniques import clustering, kmeans, preserving_scheme, quantization, registry
from collabopt.techniques import layers as model_layers
from collabopt.tflite import convert, flatbuffer

layers = keras.layers

# A high rate moves every weight in the few steps that there are.
FEW_STEPS = Training(epochs=1, batch_size=8, optimizer="adam", learning_rate=0.003)
UNTRAINED = FEW_STEPS.model_copy(update={"epochs": 0})
K = 6
CLUSTERS = ["tensor", "channel"]


def random_data(input_shape: tuple[int, ...], examples: int = 16, classes: int = 3) -> Data:
    draw = np.random.default_rng(0)
    split = Split(draw.uniform(-1, 1, (examples, *input_shape)).astype(np.float32), draw.integers(0, classes, examples))
    return Data("random", tuple(map(str, range(classes))), split, split, split, "", input_shape)


# Networks: each ends in three logits. Inputs are small, but where it matters.


def normed(x, layer: keras.layers.Layer):
    """Batch norm and ReLU after a layer."""
    return layers.ReLU(name=f"{layer.name}_relu")(layers.BatchNormalization(name=f"{layer.name}_bn")(layer(x)))


def headed(inputs, x) -> keras.Model:
    """The network that ends in a dense head."""
    x = layers.GlobalAveragePooling2D(name="pool")(x)
    return keras.Model(inputs, layers.Dense(3, name="fc")(x))


def relu_without_norm() -> keras.Model:
    """Linear layers that a ReLU follows with no batch norm between (F1), by layer and by activation layer."""
    inputs = x = keras.Input((6, 6, 2), name="input")
    x = layers.ReLU(name="conv_relu")(layers.Conv2D(8, 3, name="conv")(x))
    x = layers.Activation("relu", name="conv_2_relu")(layers.Conv2D(6, 3, name="conv_2")(x))
    x = layers.ReLU(name="hidden_relu")(layers.Dense(8, name="hidden")(layers.Flatten(name="flatten")(x)))
    return keras.Model(inputs, layers.Dense(3, name="fc")(x))


def every_convolution() -> keras.Model:
    """With and without bias, one input channel, depthwise, 1×1, grouped, each with batch norm."""
    inputs = x = keras.Input((8, 8, 1), name="input")
    x = normed(x, layers.Conv2D(8, 3, use_bias=False, name="conv"))
    x = normed(x, layers.DepthwiseConv2D(3, padding="same", name="dw"))
    x = normed(x, layers.Conv2D(8, 1, use_bias=False, name="pw"))
    x = normed(x, layers.Conv2D(8, 3, groups=2, strides=2, padding="same", name="grouped"))
    return headed(inputs, x)


def residual() -> keras.Model:
    """ResNet's blocks on 32×32 images, as in tensorflow/model-optimization #979 and #1056."""
    inputs = x = keras.Input((32, 32, 3), name="input")
    x = normed(x, layers.Conv2D(8, 3, strides=2, padding="same", use_bias=False, name="stem"))
    for name, width, strides in (("first", 8, 1), ("second", 12, 2)):
        y = normed(x, layers.Conv2D(width, 3, strides, padding="same", use_bias=False, name=f"{name}_1"))
        y = layers.Conv2D(width, 3, padding="same", use_bias=False, name=f"{name}_2")(y)
        y = layers.BatchNormalization(name=f"{name}_2_bn")(y)
        if strides > 1:
            x = layers.Conv2D(width, 1, strides, use_bias=False, name=f"{name}_short")(x)
            x = layers.BatchNormalization(name=f"{name}_short_bn")(x)
        x = layers.ReLU(name=f"{name}_relu")(layers.Add(name=f"{name}_add")([x, y]))
    return headed(inputs, x)


def wide_channels() -> keras.Model:
    """A convolution each of whose channels has room for all centroids many times over (F2)."""
    inputs = x = keras.Input((8, 8, 4), name="input")
    return headed(inputs, normed(x, layers.Conv2D(6, 3, name="conv")))


def prepared(
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
    """The network with random batch norms (`signs`: gammas of both), half of its weights zero, at most k values."""
    seed_everything(0)
    model, draw = network(), np.random.default_rng(1)
    for layer in model.layers:
        if isinstance(layer, layers.BatchNormalization):
            gamma = draw.uniform(0.5, 1.5, layer.gamma.shape) * (
                draw.choice([-1, 1], layer.gamma.shape) if signs else 1
            )
            beta, mean, variance = (draw.uniform(*ends, gamma.shape) for ends in ((-0.5, 0.5), (-0.2, 0.2), (0.1, 0.5)))
            layer.set_weights([gamma, beta, mean, variance])
        elif zeros and clustering.clusterable(layer) and layer.name not in unpruned:
            layer.kernel.assign(layer.kernel * (draw.random(layer.kernel.shape) < 0.5))
    if not clusters:
        return model
    data = random_data(model.input_shape[1:])
    how = clustering.Clusters(k, zeros, clusters == "channel", initialization, unclustered)
    return clustering.fine_tune(model, data, how, UNTRAINED, scheme=scheme)[0]


def stage_of(clusters: str | None, zeros: bool) -> str:
    return {(False, False): "qat", (True, False): "pqat", (False, True): "cqat", (True, True): "pcqat"}[
        zeros, clusters is not None
    ]


def quantized(
    model: keras.Model, clusters: str | None, zeros: bool, scheme: str = "collabopt", unclustered: tuple[str, ...] = ()
) -> keras.Model:
    """The model fine-tuned for a few steps; the parent must come out of it as it went in."""
    before = model.get_weights()
    keep = quantization.Preservation(zeros, clusters, unclustered, scheme)
    stage = stage_of(clusters, zeros)
    wrapped, _ = quantization.fine_tune(model, random_data(model.input_shape[1:]), FEW_STEPS, 0, stage, keep)
    for old, new in zip(before, model.get_weights(), strict=True):
        np.testing.assert_array_equal(old, new)
    return wrapped


def codes_of(content: bytes, kernels: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    return flatbuffer.read_layer_kernels(content, {name: kernel.shape for name, kernel in kernels.items()})


def defects(
    parent: keras.Model,
    own: dict[str, np.ndarray],
    codes: dict[str, np.ndarray],
    clusters: str | None,
    k: int = K,
    unclustered: tuple[str, ...] = (),
) -> dict[str, str]:
    """What was lost, by layer, as the audit says it, for the kernels that lost something."""
    kinds, before, found = model_layers.read_kinds(parent), model_layers.read_kernels(parent), {}
    for _, row in audit.audit_layers(kinds, own, codes).iterrows():
        name = row["layer"]
        if kinds[name] == "depthwise":
            continue
        per_channel = clusters == "channel" and kinds[name] == "conv2d"
        most = k if clusters and name not in unclustered else None
        said = audit.find_defects(row, before[name], own[name], codes[name], most, per_channel, per_channel)
        if said:
            found[name] = "; ".join(said)
    return found


def lost(
    model: keras.Model, clusters: str | None, zeros: bool, scheme: str = "collabopt", unclustered: tuple[str, ...] = ()
) -> dict[str, str]:
    """What fine-tuning loses of the model's kernels, in Keras and in the int8 file."""
    wrapped = quantized(model, clusters, zeros, scheme, unclustered)
    own = quantization.read_kernels(wrapped)
    moved = [name for name, kernel in model_layers.read_kernels(model).items() if np.any(own[name] != kernel)]
    assert moved == list(own), "every kernel is trained"
    return defects(model, own, codes_of(convert.convert_as_trained(wrapped), own), clusters, unclustered=unclustered)


# What holds, whatever the layers.


@pytest.mark.parametrize(
    ("network", "clusters", "zeros"),
    [
        (relu_without_norm, None, True),
        (relu_without_norm, "tensor", True),
        (relu_without_norm, "channel", True),
        (every_convolution, "tensor", True),
        (every_convolution, "channel", True),
        (every_convolution, "tensor", False),
        (residual, "tensor", True),
    ],
    ids=lambda value: getattr(value, "__name__", str(value)),
)
def test_zeros_and_clusters_are_kept_whatever_the_layers(network, clusters, zeros):
    assert lost(prepared(network, clusters, zeros), clusters, zeros) == {}


# F1: a linear layer before a ReLU, without batch norm.


def test_f1_a_kernel_before_a_relu_loses_zeros_by_tfmot():
    found = lost(prepared(relu_without_norm, None, zeros=True), None, zeros=True, scheme="tfmot")
    assert {"conv", "conv_2", "hidden"} == found.keys()
    assert all("zeros of the parent that were lost" in said for said in found.values())


# F2: a kernel clustered per tensor, whose channels hold all the centroids.


@pytest.fixture(scope="module")
def full_channels() -> keras.Model:
    model = prepared(wide_channels, "tensor", zeros=False)
    kernel = model.get_layer("conv").kernel.numpy()
    assert audit.count_unique(kernel) == audit.count_unique_per_channel(kernel) == K
    return model


def test_f2_the_granularity_is_said_and_not_guessed(full_channels):
    assert lost(full_channels, "tensor", zeros=False) == {}


def test_f2_clusters_of_a_tensor_are_taken_for_those_of_channels_by_tfmot(full_channels):
    assert "values in a tensor instead of 6" in lost(full_channels, "tensor", zeros=False, scheme="tfmot")["conv"]


# F3: clustering per channel where there is no bias.


def per_channel_without_bias(scheme: str) -> np.ndarray:
    return prepared(every_convolution, "channel", zeros=False, scheme=scheme).get_layer("conv").kernel.numpy()


def test_f3_a_convolution_without_bias_is_clustered_per_channel():
    kernel = per_channel_without_bias("collabopt")
    assert audit.count_unique_per_channel(kernel) == K < audit.count_unique(kernel)


def test_f3_a_convolution_without_bias_is_passed_over_by_tfmot():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        assert audit.count_unique_per_channel(per_channel_without_bias("tfmot")) == 9  # all of its 3 × 3 × 1 weights


# F4: clustering per channel with zeros.


@pytest.mark.parametrize("k", [3, 4])
@pytest.mark.parametrize("initialization", sorted(kmeans.INITIALIZATIONS))
def test_f4_per_channel_every_initialization_keeps_the_zeros_and_makes_none(initialization, k):
    # prepared() draws the same zeros for both.
    before = prepared(wide_channels, None, zeros=True).get_layer("conv").kernel.numpy()
    model = prepared(wide_channels, "channel", zeros=True, k=k, initialization=initialization)
    after = model.get_layer("conv").kernel.numpy()
    np.testing.assert_array_equal(after == 0, before == 0)
    assert audit.count_unique_per_channel(after) <= k


def test_f4_per_channel_linear_centroids_make_zeros_by_tfmot():
    before = prepared(wide_channels, None, zeros=True).get_layer("conv").kernel.numpy()
    model = prepared(wide_channels, "channel", zeros=True, k=3, initialization="linear", scheme="tfmot")
    assert audit.compute_sparsity(model.get_layer("conv").kernel.numpy()) > audit.compute_sparsity(before) + 0.02


@pytest.mark.parametrize("scheme", ["collabopt", "tfmot"])
def test_f4_a_channel_of_few_weights_is_clustered_and_fails_by_tfmot(scheme):
    model = prepared(wide_channels, None, zeros=True)
    kernel = model.get_layer("conv").kernel.numpy()
    kernel[..., 0] = 0
    kernel[0, 0, :2, 0] = [0.2, 0.3]
    model.get_layer("conv").kernel.assign(kernel)
    how = clustering.Clusters(K, preserve_sparsity=True, per_channel=True)
    data = random_data(model.input_shape[1:])
    if scheme == "tfmot":
        with pytest.raises(tf.errors.InvalidArgumentError, match="Expected num_to_sample"):
            clustering.fine_tune(model, data, how, UNTRAINED, scheme=scheme)
        return
    after = clustering.fine_tune(model, data, how, UNTRAINED)[0].get_layer("conv").kernel.numpy()
    np.testing.assert_array_equal(after == 0, kernel == 0)
    np.testing.assert_allclose(after[..., 0], kernel[..., 0])


# F5: a kernel without zeros among sparse ones.


def test_f5_a_layer_left_out_of_pruning_gets_no_zero_and_others_keep_theirs():
    model = prepared(relu_without_norm, "tensor", zeros=True, unpruned=("conv_2",))
    sparsities = {name: audit.compute_sparsity(kernel) for name, kernel in model_layers.read_kernels(model).items()}
    assert sparsities.pop("conv_2") == 0
    assert min(sparsities.values()) > 0.3
    assert lost(model, "tensor", zeros=True) == {}


def test_f5_a_layer_left_out_of_pruning_gets_zeros_by_tfmot():
    model = prepared(relu_without_norm, "tensor", zeros=True, unpruned=("conv_2",), scheme="tfmot")
    assert audit.compute_sparsity(model.get_layer("conv_2").kernel.numpy()) > 0


def two_dense() -> keras.Model:
    inputs = keras.Input((20,), name="input")
    x = layers.Dense(12, activation="relu", name="hidden")(inputs)
    return keras.Model(inputs, layers.Dense(3, name="fc")(x))


def test_f5_one_kernel_without_zeros_switches_off_the_others_by_tfmot():
    # Clustered by ours, which gives `fc` no zero; TFMOT's dense layers share one quantizer.
    model = prepared(two_dense, "tensor", zeros=True, unpruned=("fc",))
    assert lost(model, "tensor", zeros=True) == {}
    assert "zeros of the parent that were lost" in lost(model, "tensor", zeros=True, scheme="tfmot")["hidden"]


# F6: depthwise kernels, and layers left out.


@pytest.mark.parametrize("scheme", ["collabopt", "tfmot"])
def test_f6_depthwise_kernels_are_left_alone_and_not_counted(scheme):
    before = prepared(every_convolution, None, zeros=True, signs=False)
    after = prepared(every_convolution, "tensor", zeros=True, signs=False, scheme=scheme)
    np.testing.assert_array_equal(model_layers.read_kernels(after)["dw"], model_layers.read_kernels(before)["dw"])
    assert not clustering.clusterable(after.get_layer("dw"))


def test_a_layer_left_out_of_clustering_is_trained_freely():
    model = prepared(relu_without_norm, "tensor", zeros=True, unclustered=("conv_2",))
    wrapped = quantized(model, "tensor", zeros=True, unclustered=("conv_2",))
    own = quantization.read_kernels(wrapped)
    codes = codes_of(convert.convert_as_trained(wrapped), own)
    assert defects(model, own, codes, "tensor", unclustered=("conv_2",)) == {}
    assert audit.count_unique(own["conv_2"]) == np.count_nonzero(own["conv_2"]) + 1


# F7: as many int8 codes as values.


def scores(content: bytes, split: Split) -> np.ndarray:
    """The logits (n, classes) that an int8 file gives each example."""
    from ai_edge_litert.interpreter import Interpreter

    with drop_native_notices():
        interpreter = Interpreter(model_content=content, num_threads=1)
        interpreter.allocate_tensors()
    (entry,), (exit_,) = interpreter.get_input_details(), interpreter.get_output_details()
    found = []
    for example in split.examples:
        scale, zero = entry["quantization"]
        code = np.clip(np.round(example / scale) + zero, -128, 127).astype(np.int8)
        interpreter.set_tensor(entry["index"], code[None])
        interpreter.invoke()
        scale, zero = exit_["quantization"]
        found.append((interpreter.get_tensor(exit_["index"])[0].astype(np.float32) - zero) * scale)
    return np.array(found)


@pytest.mark.parametrize("network", [every_convolution, relu_without_norm], ids=["every", "relu"])
def test_f7_a_file_with_shared_ranges_has_k_codes_and_computes_the_same(network):
    model = prepared(network, "tensor", zeros=True)
    split, kernels = random_data(model.input_shape[1:]).test, model_layers.read_kernels(model)
    clustered = {name: kernel for name, kernel in kernels.items() if name != "dw"}
    stock = convert.convert_to_int8(model, split.examples)
    shared = flatbuffer.rewrite_ranges(stock, clustered, of="tensor")
    assert len(shared) == len(stock)
    before, after = codes_of(stock, kernels), codes_of(shared, kernels)
    assert max(audit.count_unique(before[name]) for name in clustered) > K  # the stock converter's own ranges
    assert defects(model, kernels, after, "tensor") == {}
    if "dw" in kernels:
        np.testing.assert_array_equal(before["dw"], after["dw"])
    back = flatbuffer.rewrite_ranges(shared, clustered, of="channel")
    np.testing.assert_equal(codes_of(back, kernels), before)
    exact = model.predict(split.examples, verbose=0)
    errors = [np.sqrt(np.mean((scores(content, split) - exact) ** 2)) for content in (stock, shared)]
    assert errors[1] < 2 * errors[0] + 0.02 * np.std(exact)


def test_f7_int8_codes_are_more_than_the_values_by_tfmot():
    # Each channel of `pw` has eight weights only: some lack the largest centroid, and have a range of their own.
    model = prepared(every_convolution, "tensor", zeros=False)
    codes = lost(model, "tensor", zeros=False, scheme="tfmot")
    assert "int8 codes in a tensor instead of 6" in codes["pw"]


# Batch norms with positive gammas.


def test_a_model_with_positive_gammas_computes_the_same_from_the_same_zeros():
    model = prepared(every_convolution, None, zeros=True)
    before, inputs = model.get_weights(), random_data((8, 8, 1)).test.examples
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
    model = headed(inputs, normed(inputs, layers.Conv2D(4, 1, name="conv")))
    positive = model_layers.make_gammas_positive(model)
    norm, gradient = positive.get_layer("conv_bn"), tf.ones(4)
    keras.optimizers.SGD(10.0).apply_gradients([(gradient, norm.gamma)])
    np.testing.assert_allclose(norm.gamma.numpy(), layers.Positive.LEAST)


# How it is held.


@pytest.mark.parametrize("clusters", CLUSTERS)
def test_the_gradient_of_a_centroid_is_the_sum_over_its_members(clusters):
    kernel = kmeans.cluster_kernel(
        np.random.default_rng(0).normal(size=(3, 3, 4, 5)).astype(np.float32), 4, clusters == "channel"
    )
    values, where = preserving_scheme.make_lookup(kernel, clusters)
    np.testing.assert_array_equal(values[where], kernel)
    assert len(values) == (4 if clusters == "tensor" else 4 * 5)
    slope = np.random.default_rng(1).normal(size=kernel.shape).astype(np.float32)
    variable, index = tf.Variable(values), tf.constant(where)
    with tf.GradientTape() as tape:
        loss = tf.reduce_sum(preserving_scheme.gather_centroids(variable, index) ** 2 * slope)
    found = tape.gradient(loss, variable).numpy()
    with tf.GradientTape() as tape:  # a one-hot product: each member's slope is added by hand
        one_hot = tf.one_hot(where.ravel(), len(values))
        loss = tf.reduce_sum(tf.linalg.matvec(one_hot, variable) ** 2 * slope.ravel())
    np.testing.assert_allclose(found, tape.gradient(loss, variable).numpy(), rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(found, np.bincount(where.ravel(), (2 * kernel * slope).ravel()), rtol=1e-4, atol=1e-4)


def test_a_restored_stage_predicts_the_same_to_the_bit():
    model = prepared(every_convolution, "channel", zeros=True)
    wrapped = quantized(model, "channel", zeros=True)
    plan = loading.load("digits", cluster_per_channel=True)
    data = random_data((8, 8, 1))
    restored = registry.restore_model(STAGES["pcqat"], registry.read_arrays(wrapped), model, plan, data)
    inputs = data.test.examples
    np.testing.assert_array_equal(restored.predict(inputs, verbose=0), wrapped.predict(inputs, verbose=0))
    for name, kernel in quantization.read_kernels(wrapped).items():
        np.testing.assert_array_equal(quantization.read_kernels(restored)[name], kernel)


# Whatever the network.

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


def drawn_network(described: list[dict], hidden: bool) -> keras.Model:
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


@settings(
    max_examples=4,
    deadline=None,
    derandomize=True,
    phases=[Phase.generate],  # an example takes seconds: what fails is told as it was drawn, not shrunk
    suppress_health_check=list(HealthCheck),
)
@given(
    described=st.lists(LAYERS, min_size=1, max_size=2),
    hidden=st.booleans(),
    k=st.integers(3, 8),
    clusters=st.sampled_from(CLUSTERS),
    zeros=st.booleans(),
)
def test_zeros_and_clusters_are_kept_in_any_small_network(described, hidden, k, clusters, zeros):
    model = prepared(functools.partial(drawn_network, described, hidden), clusters, zeros, k=k)
    wrapped = quantized(model, clusters, zeros)
    own = quantization.read_kernels(wrapped)
    assert defects(model, own, codes_of(convert.convert_as_trained(wrapped), own), clusters, k) == {}


# A strict run.


def test_a_strict_run_stops_where_tfmot_loses_clusters_and_goes_on_with_ours(tiny, tmp_path, monkeypatch):
    monkeypatch.setattr(loading, "DATA", tmp_path)
    path = tmp_path / "strict.yaml"
    text = tiny.read_text().replace("name: digits_cnn", 'function: "conftest:small_network"')
    path.write_text(text.replace("number_of_clusters: 32", "number_of_clusters: 4").replace("epochs: 6", "epochs: 1"))
    # Per channel, as TFMOT then passes over the convolutions, which have no bias (F3).
    plan = loading.load(str(path), strict=True, cluster_per_channel=True)
    run = Run(plan, tmp_path / "report", path, tmp_path / "stages")
    assert run.stage("clustered").result["preserved"] is True
    with pytest.raises(PreservationError, match=r"^clustered does not preserve .*\bpw: 8 values in a channel instead"):
        run.with_scheme("tfmot").stage("clustered")
