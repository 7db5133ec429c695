"""The pre-flight check: each pattern that goes wrong is named with its layer and remedy, and nothing else is."""

import pytest

from collabopt.analysis import preflight
from collabopt.config import experiment, loading
from collabopt.runtime.tensorflow import keras

layers = keras.layers


@pytest.fixture
def plan(tiny):
    """The tiny experiment with knobs, and layers excluded by what they are left out of."""

    def make(pruning: tuple[str, ...] = (), clustering: tuple[str, ...] = (), **knobs) -> experiment.Experiment:
        exclude = experiment.Exclude(pruning=pruning, clustering=clustering)
        return loading.load(str(tiny), **knobs).model_copy(update={"exclude": exclude})

    return make


def network(*middle: keras.layers.Layer, use_bias: bool = True) -> keras.Model:
    inputs = x = keras.Input((8, 8, 4), name="input")
    for layer in (layers.Conv2D(8, 3, padding="same", use_bias=use_bias, name="conv"), *middle):
        x = layer(x)
    return keras.Model(inputs, layers.Dense(10, name="fc")(layers.GlobalAveragePooling2D(name="pool")(x)))


def normed(use_bias: bool = True) -> keras.Model:
    return network(layers.BatchNormalization(name="bn"), layers.ReLU(name="relu"), use_bias=use_bias)


def found(model: keras.Model, plan: experiment.Experiment) -> dict[str, preflight.Finding]:
    findings = preflight.find_problems(model, plan)
    assert all(one.reason and one.remedy for one in findings)
    assert len({one.layer for one in findings}) == len(findings)
    return {one.layer: one for one in findings}


@pytest.mark.parametrize("scheme", ["collabopt", "tfmot"])
def test_nothing_is_found_where_all_is_well(plan, scheme):
    assert found(normed(), plan(scheme=scheme)) == {}


@pytest.mark.parametrize("relu", [layers.ReLU, lambda name: layers.Activation("relu", name=name)])
def test_f1_a_relu_without_batch_norm_is_found_for_tfmot_alone(plan, relu):
    model = network(relu(name="relu"))
    findings = found(model, plan(scheme="tfmot"))
    assert set(findings) == {"conv"}
    assert "preserves nothing" in findings["conv"].reason
    assert not findings["conv"].stops
    assert found(model, plan()) == {}


def test_f3_a_convolution_without_bias_is_found_for_tfmot_per_channel_alone(plan):
    findings = found(normed(use_bias=False), plan(scheme="tfmot", cluster_per_channel=True))
    assert set(findings) == {"conv"}
    assert "use_bias=False" in findings["conv"].reason
    assert found(normed(use_bias=False), plan(scheme="tfmot")) == {}
    assert found(normed(use_bias=False), plan(cluster_per_channel=True)) == {}


@pytest.mark.parametrize(
    ("initialization", "words"),
    [("linear", "further weights to zero"), ("kmeans_plus_plus", "fails where"), ("density_based", None)],
)
def test_f4_what_happens_to_zeros_per_channel_is_found_for_tfmot_alone(plan, initialization, words):
    knobs = {"cluster_per_channel": True, "centroid_initialization": initialization}
    findings = found(normed(), plan(scheme="tfmot", **knobs))
    assert set(findings) == ({"conv"} if words else set())
    assert all(words in one.reason for one in findings.values())
    assert found(normed(), plan(**knobs)) == {}


def test_f5_a_layer_left_out_of_pruning_is_found_for_tfmot_alone(plan):
    assert set(found(normed(), plan(pruning=("fc",), scheme="tfmot"))) == {"fc"}
    assert found(normed(), plan(pruning=("fc",))) == {}


def test_as_many_clusters_as_weights_are_found(plan):
    findings = found(normed(), plan(number_of_clusters=80))  # of the 8 × 10 weights of fc
    assert set(findings) == {"fc"}
    assert found(normed(), plan(number_of_clusters=79)) == {}
    assert found(normed(), plan(number_of_clusters=80, clustering=("fc",))) == {}
    assert set(found(normed(), plan(number_of_clusters=36, cluster_per_channel=True))) == {"conv"}  # 3 × 3 × 4 weights


def test_a_layer_that_is_neither_pruned_nor_clustered_is_found(plan):
    findings = found(network(layers.Conv2DTranspose(8, 2, name="up")), plan())
    assert set(findings) == {"up"}
    assert "Conv2DTranspose with 264 weights" in findings["up"].reason


def test_an_excluded_layer_that_is_not_there_stops_and_says_which_are(plan):
    with pytest.raises(preflight.PreflightError, match=r"^conf: exclude.pruning names it.*expected some of .*'conv'"):
        preflight.check(normed(), plan(pruning=("conf",)))
    with pytest.raises(preflight.PreflightError, match=r"^bn: exclude.clustering names it"):
        preflight.check(normed(), plan(clustering=("bn",)), every_layer=False)


def test_a_layer_that_tfmot_cannot_quantize_stops_and_is_named(plan):
    with pytest.raises(preflight.PreflightError, match=r"norm: TFMOT cannot quantize it: .*LayerNormalization"):
        preflight.check(network(layers.LayerNormalization(name="norm")), plan())


def test_a_dense_layer_before_batch_norm_stops(plan):
    inputs = keras.Input((6,), name="input")
    x = layers.BatchNormalization(name="bn")(layers.Dense(8, name="hidden")(inputs))
    model = keras.Model(inputs, layers.Dense(10, name="fc")(x))
    with pytest.raises(preflight.PreflightError, match=r"^hidden: "):
        preflight.check(model, plan())


def test_a_separable_convolution_stops(plan):
    with pytest.raises(preflight.PreflightError, match=r"^separable: .*; use DepthwiseConv2D and a 1×1 Conv2D"):
        preflight.check(network(layers.SeparableConv2D(4, 3, name="separable")), plan())


def test_what_only_does_less_than_asked_stops_nothing(plan):
    preflight.check(network(layers.ReLU(name="relu")), plan(scheme="tfmot"))
