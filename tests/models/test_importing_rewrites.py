"""Imported networks compute what the originals compute, of whatever layers and Keras they are made."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from user_networks import BOTH, NETWORKS, keras_3, randomize

from collabopt.models import importing
from collabopt.models.importing import evaluation, proof, rewrites, stored
from collabopt.runtime.tensorflow import keras, tf
from collabopt.techniques import int8_rewrites
from collabopt.techniques.layers import is_eligible
from collabopt.techniques.multiplications import count_multiplications

IN_BOTH = pytest.mark.parametrize("package", BOTH.values(), ids=BOTH)
EXAMPLES = 4


def check_equal(original, imported: importing.Imported) -> None:
    """Compare an imported model with the original on inputs that the import did not see."""
    entries = importing.loading.extraction.extract(original)
    inputs = [array[:: evaluation.EXAMPLES // EXAMPLES] for array in evaluation.draw_inputs(entries, seed=1)]
    expected = original(evaluation.arrange(original, inputs), training=False)
    found = imported.model(evaluation.arrange(imported.model, inputs), training=False)
    single = len(imported.output_activations) == 1
    expected, found = ([expected], [found]) if single else (expected, found)
    for activation, given_output, logits in zip(imported.output_activations.values(), expected, found, strict=True):
        output = getattr(tf.nn, activation)(logits) if activation else logits
        scale = np.abs(np.asarray(given_output)).max()
        np.testing.assert_allclose(np.asarray(output), np.asarray(given_output), atol=1e-4 * scale, rtol=0)


def check_can_be_kept(imported: importing.Imported, directory: Path) -> None:
    """Write an imported model as the store does, and compare what is read again."""
    importing.write_import(imported, directory)
    again = importing.read_import(directory, {})
    assert stored.encode(again.graph)[0] == stored.encode(imported.graph)[0]
    for one, other in zip(imported.model.get_weights(), again.model.get_weights(), strict=True):
        np.testing.assert_array_equal(one, other)
    assert [layer.get_config() for layer in again.model.layers] == [
        layer.get_config() for layer in imported.model.layers
    ]
    assert (again.augmentation is None) == (imported.augmentation is None)


def list_kinds(model: keras.Model) -> list[str]:
    return [type(layer).__name__ for layer in model.layers]


@IN_BOTH
@pytest.mark.parametrize("name", NETWORKS)
def test_a_network_keeps_its_outputs_and_can_be_kept(name, package, tmp_path):
    original = randomize(NETWORKS[name](package))
    imported = importing.import_model(lambda: original)
    check_equal(original, imported)
    assert type(imported.model).__module__.startswith("tf_keras")
    assert not any(hasattr(layer, "layers") for layer in imported.model.layers)
    assert {layer.compute_dtype for layer in imported.model.layers} == {"float32"}
    assert imported.largest_difference <= proof.TOLERANCE
    eligible = [layer for layer in imported.model.layers if is_eligible(layer)]
    assert all(count_multiplications(layer) > 0 for layer in eligible)
    copy = keras.models.clone_model(imported.model)  # as the techniques do
    copy.set_weights(imported.model.get_weights())
    if package is keras:
        check_can_be_kept(imported, tmp_path)


@pytest.mark.parametrize(
    ("name", "removed", "lines"),
    [
        ("separable", ("SeparableConv2D",), ("Separable convolutions became",)),
        (
            "signal",
            ("Conv1D", "MaxPooling1D", "SeparableConv1D", "DepthwiseConv1D", "Conv1DTranspose"),
            ("1-D layers",),
        ),
        ("norm_first", ("BatchNormalization",), ("Batch norm was folded",)),
        ("norm_after_relu", ("BatchNormalization",), ("Batch norm was folded", "Batch norm became a 1×1 depthwise")),
        ("norm_before_padding", ("BatchNormalization",), ("Batch norm became a 1×1 depthwise",)),
        ("dense_norm", ("BatchNormalization",), ("Batch norm was folded",)),
        ("transposed", ("BatchNormalization",), ("Batch norm was folded",)),
        ("preprocessing", ("RandomFlip", "RandomRotation"), ("Augmentation layers act in training only",)),
        ("arithmetic", ("TFOpLambda", "SlicingOpLambda"), ("multiply on tensors", "getitem on tensors")),
        ("binary", (), ("sigmoid was taken off",)),
        ("nested", (), ("Models inside the model were replaced by their layers: base",)),
    ],
)
def test_rewrites_replace_layers_and_are_listed(name, removed, lines):
    imported = importing.import_model(lambda: randomize(NETWORKS[name](keras)))
    assert not set(removed) & set(list_kinds(imported.model))
    for line in lines:
        assert any(rewrite.startswith(line) for rewrite in imported.rewrites), imported.rewrites
    assert not int8_rewrites.find_layers_without_qat(imported.model)


def test_a_row_of_1d_layers_has_one_reshape_at_its_start():
    imported = importing.import_model(lambda: randomize(NETWORKS["signal"](keras)))
    assert list_kinds(imported.model).count("Reshape") == 1


def test_activations_are_left_inside_layers_only_where_qat_knows_them():
    imported = importing.import_model(lambda: randomize(NETWORKS["activations"](keras)))
    inside = {layer.activation.__name__ for layer in imported.model.layers if isinstance(layer, keras.layers.Dense)}
    assert inside <= {"linear", "relu"}


def test_layers_without_qat_are_named():
    imported = importing.import_model(lambda: randomize(NETWORKS["recurrent"](keras)))
    assert int8_rewrites.find_layers_without_qat(imported.model) == {"gru_1": "GRU", "bidirectional_1": "Bidirectional"}


def test_several_inputs_and_outputs_keep_names_and_activations():
    imported = importing.import_model(lambda: randomize(NETWORKS["two_ends"](keras_3)))
    assert imported.model.input_names == ["image", "table"]
    assert imported.output_activations == {"kind": "softmax", "size": None}
    assert imported.output_activation is None


@pytest.mark.parametrize("version", ["sigmoid", "softmax"])
def test_differences_of_logits_are_seen_behind_saturated_outputs(version, monkeypatch):
    layers = keras.layers
    units = 1 if version == "sigmoid" else 3
    model = keras.Sequential([keras.Input((4,)), layers.Dense(5), layers.Dense(units, activation=version)])
    weights = model.get_weights()
    weights[-1] += np.array([100, 0, 0])[:units]  # outputs of 1 and 0 whatever the inputs
    model.set_weights([*(weight * 1e-3 for weight in weights[:-1]), weights[-1]])
    spoil(monkeypatch, "dense_2", 1.01)
    with pytest.raises(importing.ImportRefused, match="other outputs"):
        importing.import_model(lambda: model)


@IN_BOTH
def test_the_first_layer_that_differs_is_named(package, monkeypatch):
    layers = package.layers
    steps = [
        layers.Dense(5, name="one"),
        layers.Dense(5, activation="relu6", name="two"),
        layers.Dense(2, name="three"),
    ]
    model = package.Sequential([package.Input((4,)), *steps])
    spoil(monkeypatch, "two", 1.01)
    with pytest.raises(importing.ImportRefused, match="the first layer that differs is two"):
        importing.import_model(lambda: model)


def spoil(monkeypatch, name: str, factor: float) -> None:
    """Make the rewrites multiply a layer's weights."""
    rewrite = rewrites.rewrite

    def rewrite_badly(graph):
        graph.get(name).weights = [weight * factor for weight in graph.get(name).weights]
        return rewrite(graph)

    monkeypatch.setattr(rewrites, "rewrite", rewrite_badly)


def test_what_training_needs_is_kept():
    k, l2 = keras.layers, keras.regularizers.l2(0.1)

    def build():
        steps = [k.Conv2D(4, 3, kernel_regularizer=l2), k.Flatten(), k.Dense(4), k.BatchNormalization(momentum=0.7)]
        return keras.Sequential([keras.Input((8, 8, 1)), *steps, k.Dropout(0.3), k.Dense(2, bias_regularizer="l1")])

    original = build()
    imported = importing.import_model(lambda: original)
    assert list_kinds(imported.model)[1:] == [type(layer).__name__ for layer in original.layers]
    np.testing.assert_allclose(sum(imported.model.losses), sum(original.losses))
    assert (imported.model.layers[4].momentum, imported.model.layers[5].rate) == (0.7, 0.3)
    assert imported.rewrites == []


@IN_BOTH
def test_what_training_loses_is_said(package):
    k = package.layers
    frozen = k.Dense(4, name="base")
    bound = k.Dense(2, name="head", kernel_constraint="non_neg")
    model = package.Sequential([package.Input((3,), dtype="uint8"), frozen, bound])
    frozen.trainable = False
    imported = importing.import_model(lambda: randomize(model))
    assert imported.rewrites == [
        "Constraints on weights were dropped: head",
        "Frozen layers (trainable=False) stay as they are: base; set trainable = True to let stages train, prune and "
        "cluster them",
        "Input input_layer_1 takes float32 instead of uint8",
    ]
    assert [weight.name for weight in imported.model.trainable_weights] == ["head/kernel:0", "head/bias:0"]


def make_image_step(layers, kind: str, channels: int, flag: bool, activation: str | None):
    """One layer of a random network on images; `flag` is its padding or another of its options."""
    padding = "same" if flag else "valid"
    match kind:
        case "conv":
            return layers.Conv2D(channels, 3, padding=padding, activation=activation)
        case "pointwise":
            return layers.Conv2D(channels, 1, use_bias=flag, activation=activation)
        case "depthwise":
            return layers.DepthwiseConv2D(3, padding=padding, depth_multiplier=1 + flag, activation=activation)
        case "separable":
            return layers.SeparableConv2D(channels, 3, padding="same", use_bias=flag, activation=activation)
        case "transposed":
            return layers.Conv2DTranspose(channels, 3, padding="same", use_bias=flag, activation=activation)
        case "norm":
            return layers.BatchNormalization(scale=flag)
        case "relu":
            return layers.ReLU(6.0 if flag else None)
        case "prelu":
            return layers.PReLU(shared_axes=[1, 2] if flag else None)
    return layers.Dropout(0.2)


def make_signal_step(layers, kind: str, channels: int, flag: bool, activation: str | None):
    """One layer of a random network on signals."""
    padding = "same" if flag else "valid"
    match kind:
        case "conv":
            return layers.Conv1D(channels, 3, padding="causal" if flag else "valid", activation=activation)
        case "pointwise":
            return layers.Conv1D(channels, 1, use_bias=flag, activation=activation)
        case "depthwise":
            return layers.DepthwiseConv1D(3, padding=padding, depth_multiplier=1 + flag, activation=activation)
        case "separable":
            return layers.SeparableConv1D(channels, 3, padding="same", use_bias=flag, activation=activation)
        case "transposed":
            return layers.Conv1DTranspose(channels, 3, padding="same", use_bias=flag, activation=activation)
        case "norm":
            return layers.BatchNormalization(scale=flag)
        case "relu":
            return layers.LeakyReLU(0.1) if flag else layers.ReLU()
        case "prelu":
            return layers.PReLU(shared_axes=[1] if flag else None)
    return layers.Dropout(0.2)


def make_table_step(layers, kind: str, channels: int, flag: bool, activation: str | None):
    """One layer of a random network on tables."""
    match kind:
        case "norm":
            return layers.BatchNormalization(scale=flag)
        case "relu":
            return layers.ELU() if flag else layers.ReLU()
        case "prelu":
            return layers.PReLU()
        case "dropout":
            return layers.Dropout(0.2)
    return layers.Dense(channels, use_bias=flag, activation=activation)


KINDS = ["conv", "depthwise", "dropout", "norm", "pointwise", "prelu", "relu", "separable", "transposed"]
ACTIVATIONS = [None, "relu", "elu", "swish", "relu6", "hard_sigmoid"]
STEP = st.tuples(st.sampled_from(KINDS), st.integers(1, 4), st.booleans(), st.sampled_from(ACTIVATIONS))
FORMS = {
    "image": ((14, 14, 2), make_image_step),
    "signal": ((18, 2), make_signal_step),
    "table": ((5,), make_table_step),
}


@settings(max_examples=10, deadline=None)
@given(st.sampled_from(list(FORMS)), st.lists(STEP, min_size=1, max_size=6), st.booleans(), st.integers(0, 9))
def test_random_networks(form, steps, new, seed):
    package = keras_3 if new else keras
    shape, make_step = FORMS[form]
    layers = [make_step(package.layers, *step) for step in steps]
    end = [package.layers.Flatten(), package.layers.BatchNormalization(), package.layers.Dense(3, activation="softmax")]
    original = randomize(package.Sequential([package.Input(shape), *layers, *end]), seed)
    imported = importing.import_model(lambda: original)
    check_equal(original, imported)
    assert not int8_rewrites.find_layers_without_qat(imported.model)
