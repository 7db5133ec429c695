"""Pre-flight checks: each known problem is found with its layer and remedy, and nothing else is."""

import pytest

from collabopt.analysis import preflight
from collabopt.config import experiment, loading, sections
from collabopt.runtime.tensorflow import keras

layers = keras.layers


@pytest.fixture
def make_experiment(tiny):
    """Makes the tiny experiment with overrides, and with excluded layers."""

    def make(pruning=(), clustering=(), quantization=(), **overrides) -> experiment.Experiment:
        exclude = sections.Exclude(pruning=pruning, clustering=clustering, quantization=quantization)
        return loading.load(str(tiny), **overrides).model_copy(update={"exclude": exclude})

    return make


def build_network(*middle: keras.layers.Layer, use_bias: bool = True) -> keras.Model:
    inputs = x = keras.Input((8, 8, 4), name="input")
    for layer in (layers.Conv2D(8, 3, padding="same", use_bias=use_bias, name="conv"), *middle):
        x = layer(x)
    return keras.Model(inputs, layers.Dense(10, name="fc")(layers.GlobalAveragePooling2D(name="pool")(x)))


def build_network_with_norm(use_bias: bool = True) -> keras.Model:
    return build_network(layers.BatchNormalization(name="bn"), layers.ReLU(name="relu"), use_bias=use_bias)


def find_problems(model: keras.Model, settings: experiment.Experiment) -> dict[str, preflight.Finding]:
    findings = preflight.find_known_problems(model, settings)
    assert all(one.reason and one.remedy for one in findings)
    assert len({one.layer for one in findings}) == len(findings)
    return {one.layer: one for one in findings}


def check(model: keras.Model, settings: experiment.Experiment) -> None:
    preflight.check(preflight.find_known_problems(model, settings))


@pytest.mark.parametrize("scheme", ["collabopt", "tfmot"])
def test_a_model_without_problems_has_no_finding(make_experiment, scheme):
    assert find_problems(build_network_with_norm(), make_experiment(scheme=scheme)) == {}


@pytest.mark.parametrize("relu", [layers.ReLU, lambda name: layers.Activation("relu", name=name)])
def test_f1_a_relu_without_batch_norm_is_found_only_for_tfmot(make_experiment, relu):
    model = build_network(relu(name="relu"))
    findings = find_problems(model, make_experiment(scheme="tfmot"))
    assert set(findings) == {"conv"}
    assert "neither quantizes nor preserves" in findings["conv"].reason
    assert not findings["conv"].stops
    assert find_problems(model, make_experiment()) == {}


def test_f3_a_convolution_without_bias_is_found_only_for_tfmot_per_channel(make_experiment):
    findings = find_problems(
        build_network_with_norm(use_bias=False), make_experiment(scheme="tfmot", cluster_per_channel=True)
    )
    assert set(findings) == {"conv"}
    assert "use_bias=False" in findings["conv"].reason
    assert find_problems(build_network_with_norm(use_bias=False), make_experiment(scheme="tfmot")) == {}
    assert find_problems(build_network_with_norm(use_bias=False), make_experiment(cluster_per_channel=True)) == {}


@pytest.mark.parametrize(
    ("initialization", "words"),
    [("linear", None), ("kmeans_plus_plus", "fails if a channel")],
)
def test_f4_a_failure_per_channel_is_found_only_for_tfmot(make_experiment, initialization, words):
    overrides = {"cluster_per_channel": True, "centroid_initialization": initialization}
    findings = find_problems(build_network_with_norm(), make_experiment(scheme="tfmot", **overrides))
    assert set(findings) == ({"conv"} if words else set())
    assert all(words in one.reason for one in findings.values())
    assert find_problems(build_network_with_norm(), make_experiment(**overrides)) == {}


def test_f5_a_layer_excluded_from_pruning_is_found_only_for_tfmot(make_experiment):
    assert set(find_problems(build_network_with_norm(), make_experiment(pruning=("fc",), scheme="tfmot"))) == {"fc"}
    assert find_problems(build_network_with_norm(), make_experiment(pruning=("fc",))) == {}


def test_a_layer_with_no_more_weights_than_clusters_is_found(make_experiment):
    findings = find_problems(
        build_network_with_norm(), make_experiment(number_of_clusters=80)
    )  # of the 8 × 10 weights of fc
    assert set(findings) == {"fc"}
    assert find_problems(build_network_with_norm(), make_experiment(number_of_clusters=79)) == {}
    assert find_problems(build_network_with_norm(), make_experiment(number_of_clusters=80, clustering=("fc",))) == {}
    assert set(
        find_problems(build_network_with_norm(), make_experiment(number_of_clusters=36, cluster_per_channel=True))
    ) == {"conv"}  # 3 × 3 × 4 weights


def test_a_layer_that_is_neither_pruned_nor_clustered_is_found(make_experiment):
    findings = find_problems(build_network(layers.PReLU("ones", name="prelu")), make_experiment())
    assert set(findings) == {"prelu"}
    assert "PReLU with 512 weights" in findings["prelu"].reason
    assert find_problems(build_network(layers.Conv2DTranspose(8, 2, name="up")), make_experiment()) == {}


def test_an_unknown_excluded_layer_stops_and_the_known_ones_are_listed(make_experiment):
    with pytest.raises(
        preflight.PreflightError, match=r"^conf: exclude.pruning names no layer.*expected some of .*'conv'"
    ):
        check(build_network_with_norm(), make_experiment(pruning=("conf",)))
    with pytest.raises(preflight.PreflightError, match=r"^bn: exclude.clustering names no layer"):
        preflight.check(preflight.find_unknown_names(build_network_with_norm(), make_experiment(clustering=("bn",))))


def test_a_layer_left_in_float_is_any_layer_and_an_unknown_one_stops_with_a_suggestion(make_experiment):
    check(build_network_with_norm(), make_experiment(quantization=("bn", "relu", "conv")))
    with pytest.raises(preflight.PreflightError, match=r"^rel: exclude.quantization .*did you mean relu\?"):
        check(build_network_with_norm(), make_experiment(quantization=("rel",)))


def test_a_layer_without_int8_form_is_named_and_does_not_stop(make_experiment):
    model = build_network(layers.LayerNormalization(name="norm"))
    findings = preflight.find_known_problems(model, make_experiment())
    assert {one.layer for one in findings} == {"norm"}
    assert any("QAT stages are not available: LayerNormalization" in one.reason for one in findings)
    check(model, make_experiment())
    findings = preflight.find_known_problems(model, make_experiment(quantization=("norm",)))
    assert not any("QAT" in one.reason for one in findings)


def test_a_dense_layer_before_batch_norm_has_no_finding(make_experiment):
    inputs = keras.Input((60,), name="input")
    x = layers.BatchNormalization(name="bn")(layers.Dense(8, name="hidden")(inputs))
    assert find_problems(keras.Model(inputs, layers.Dense(10, name="fc")(x)), make_experiment()) == {}


def test_a_separable_convolution_stops(make_experiment):
    with pytest.raises(preflight.PreflightError, match=r"^separable: .*; use DepthwiseConv2D and a 1×1 Conv2D"):
        check(build_network(layers.SeparableConv2D(4, 3, name="separable")), make_experiment())


def test_a_problem_that_only_compresses_less_does_not_stop(make_experiment):
    check(build_network(layers.ReLU(name="relu")), make_experiment(scheme="tfmot"))
