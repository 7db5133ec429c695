"""Quantization-aware training: each scheme keeps what it is for, and the audit sees where it does not."""

import dataclasses

import numpy as np
import pytest

from collabopt.analysis import audit
from collabopt.config import loading
from collabopt.config.experiment import Training
from collabopt.config.stages import STAGES
from collabopt.runtime.tensorflow import keras, seed_everything
from collabopt.techniques import clustering, layers, quantization, registry
from collabopt.tflite import convert, flatbuffer

ONE_EPOCH = Training(epochs=1, batch_size=32, optimizer="adam", learning_rate=0.001)
K = 8
VALUES = np.linspace(-0.7, 0.7, K).astype(np.float32)
KEEP = {
    "qat": quantization.Preservation(),
    "pqat": quantization.Preservation(zeros=True),
    "cqat": quantization.Preservation(clusters="tensor"),
    "pcqat": quantization.Preservation(zeros=True, clusters="tensor"),
}
SCHEMES = ["collabopt", "tfmot"]
SPARSE_VALUES = np.array([-0.6, -0.4, -0.2, 0, 0.2, 0.4, 0.5, 0.6], np.float32)


def with_kernels_of(values: np.ndarray | None, model: keras.Model) -> keras.Model:
    """A copy of `model` whose kernels hold these values only; with None half of each kernel is zero."""
    copy, draw = layers.clone_model(model), np.random.default_rng(0)
    for layer in filter(clustering.clusterable, copy.layers):
        kernel, *bias = layer.get_weights()
        if values is None:
            kernel = np.where(np.abs(kernel) < np.median(np.abs(kernel)), 0, kernel)
        else:
            kernel = draw.choice(values, kernel.shape)
        layer.set_weights([kernel, *bias])
    return copy


def keep(stage: str, scheme: str) -> quantization.Preservation:
    """What the stage must keep, by that scheme."""
    return dataclasses.replace(KEEP[stage], scheme=scheme)


def dense_network() -> keras.Model:
    """Dense kernels only: of these TFMOT knows that clusters are shared by the whole tensor."""
    seed_everything(0)
    inputs = keras.Input((8, 8, 1), name="input")
    x = keras.layers.Flatten(name="flatten")(inputs)
    x = keras.layers.Dense(16, activation="relu", name="hidden")(x)
    return keras.Model(inputs, keras.layers.Dense(10, name="fc")(x))


@dataclasses.dataclass
class Quantized:
    """A stage trained from `parent`, with what the audit is given of it."""

    stage: str
    scheme: str
    parent: keras.Model
    model: keras.Model
    own: dict
    codes: dict

    def defects(self, clusters: int | None) -> dict[str, str]:
        kinds, before = quantization.read_kinds(self.model), layers.read_kernels(self.parent)
        rows = audit.audit_layers(kinds, self.own, self.codes, quantization.read_quantizers(self.model))
        by_channel = self.scheme == "tfmot"  # the stock ranges; ours have k codes in the whole tensor
        return {
            row["layer"]: "; ".join(
                audit.find_defects(
                    row, *(of[row["layer"]] for of in (before, self.own, self.codes)), clusters, False, by_channel
                )
            )
            for _, row in rows.iterrows()
            if row["kind"] != "depthwise"
        }


def trained(stage: str, scheme: str, parent: keras.Model, data) -> Quantized:
    before = parent.get_weights()
    model, _ = quantization.fine_tune(parent, data, ONE_EPOCH, 0, stage, keep(stage, scheme))
    for old, new in zip(before, parent.get_weights(), strict=True):
        np.testing.assert_array_equal(old, new)
    own = quantization.read_kernels(model)
    codes = flatbuffer.read_layer_kernels(
        convert.convert_as_trained(model), {name: kernel.shape for name, kernel in own.items()}
    )
    return Quantized(stage, scheme, parent, model, own, codes)


@pytest.fixture(scope="module", params=SCHEMES)
def pqat(request, tiny_data, small_cnn):
    return trained("pqat", request.param, with_kernels_of(None, small_cnn()), tiny_data)


@pytest.fixture(scope="module", params=SCHEMES)
def cqat(request, tiny_data):
    return trained("cqat", request.param, with_kernels_of(VALUES, dense_network()), tiny_data)


@pytest.fixture(scope="module", params=SCHEMES)
def pcqat(request, tiny_data):
    return trained("pcqat", request.param, with_kernels_of(SPARSE_VALUES, dense_network()), tiny_data)


@pytest.mark.parametrize(
    ("stage", "scheme", "expected"),
    [
        ("qat", "collabopt", "Default8BitConvWeightsQuantizer"),
        ("qat", "tfmot", "Default8BitConvWeightsQuantizer"),
        ("pqat", "tfmot", "PrunePreserveDefault8BitConvWeightsQuantizer"),
        ("cqat", "tfmot", "ClusterPreserveDefault8BitConvWeightsQuantizer"),
        ("pcqat", "tfmot", "ClusterPreserveDefault8BitConvWeightsQuantizer"),
        ("pqat", "collabopt", "KernelQuantizer"),
        ("cqat", "collabopt", "KernelQuantizer"),
        ("pcqat", "collabopt", "KernelQuantizer"),
    ],
)
def test_each_scheme_wraps_a_clone_in_its_quantizers(small_cnn, stage, scheme, expected):
    model = small_cnn()
    before, kinds = model.get_weights(), [type(layer) for layer in model.layers]
    wrapped = quantization.wrap(model, keep(stage, scheme))
    assert quantization.is_wrapped(wrapped)
    assert not quantization.is_wrapped(model)
    assert quantization.read_kinds(wrapped) == {"conv": "conv2d", "dw": "depthwise", "pw": "conv2d", "fc": "dense"}
    named = quantization.read_quantizers(wrapped)
    assert list(named) == ["conv", "dw", "pw", "fc"]
    assert (named["dw"], named["pw"]) == ("Default8BitConvWeightsQuantizer", expected)
    assert [type(layer) for layer in model.layers] == kinds
    wrapped.set_weights([array + 1 for array in wrapped.get_weights()])
    for old, new in zip(before, model.get_weights(), strict=True):
        np.testing.assert_array_equal(old, new)


def test_a_kernel_that_got_no_quantizer_is_told_as_such():
    # F1: a convolution without activation or batch norm, followed by a ReLU layer.
    seed_everything(0)
    inputs = keras.Input((4, 4, 2), name="input")
    x = keras.layers.ReLU(name="relu")(keras.layers.Conv2D(3, 1, name="conv")(inputs))
    model = keras.Model(inputs, keras.layers.Dense(2, name="fc")(keras.layers.Flatten(name="flatten")(x)))
    named = quantization.read_quantizers(quantization.wrap(model, keep("pqat", "collabopt")))
    assert named == {"conv": "KernelQuantizer", "fc": "KernelQuantizer"}
    named = quantization.read_quantizers(quantization.wrap(model, keep("pqat", "tfmot")))
    assert named == {"conv": "none", "fc": "PrunePreserveDefault8BitWeightsQuantizer"}


def test_pqat_keeps_every_zero_in_keras_and_in_the_int8_file(pqat):
    for name, kernel in layers.read_kernels(pqat.parent).items():
        if name != "dw":
            assert audit.compute_sparsity(kernel) == 0.5
            assert np.all(pqat.own[name][kernel == 0] == 0), name
            assert np.all(pqat.codes[name][kernel == 0] == 0), name
    assert set(pqat.defects(None).values()) == {""}


def test_pqat_trains_the_weights_that_are_left(pqat):
    before = layers.read_kernels(pqat.parent)["pw"]
    assert np.all(pqat.own["pw"][before != 0] != 0)
    assert np.any(pqat.own["pw"] != before)


def test_cqat_keeps_the_clusters_also_by_tfmot_where_it_guesses_their_granularity_right(cqat):
    assert {name: audit.count_unique(kernel) for name, kernel in cqat.own.items()} == {"hidden": K, "fc": K}
    assert set(cqat.defects(K).values()) == {""}
    assert set(cqat.defects(K - 1).values()) != {""}


def test_pcqat_keeps_zeros_and_clusters(pcqat):
    for name, kernel in layers.read_kernels(pcqat.parent).items():
        np.testing.assert_array_equal(pcqat.own[name] == 0, kernel == 0)
        assert np.all(pcqat.codes[name][kernel == 0] == 0)
    assert {name: audit.count_unique(kernel) for name, kernel in pcqat.own.items()} == {"hidden": K, "fc": K}
    assert set(pcqat.defects(K).values()) == {""}


def test_the_audit_notices_where_cqat_guesses_the_granularity_wrong(tiny_data):
    # F2: each of the four channels holds all of the values, so TFMOT takes them for clusters of a channel.
    seed_everything(0)
    inputs = keras.Input((8, 8, 1), name="input")
    x = keras.layers.Conv2D(4, 5, use_bias=False, name="conv")(inputs)
    x = keras.layers.ReLU(name="relu")(keras.layers.BatchNormalization(name="bn")(x))
    parent = keras.Model(inputs, keras.layers.Dense(10, name="fc")(keras.layers.Flatten(name="flatten")(x)))
    parent = with_kernels_of(VALUES, parent)
    conv = parent.get_layer("conv")
    conv.set_weights([np.stack([np.resize(VALUES, (5, 5, 1))] * 4, axis=-1)])
    assert set(trained("cqat", "collabopt", parent, tiny_data).defects(K).values()) == {""}
    defects = trained("cqat", "tfmot", parent, tiny_data).defects(K)
    assert "values in a tensor instead of 8" in defects["conv"]
    assert defects["fc"] == ""


def predicts_the_same_restored(one: Quantized, data) -> bool:
    images = data.validation.take(np.arange(64)).batches(64)
    plan = loading.load("digits", scheme=one.scheme)
    restored = registry.restore_model(STAGES[one.stage], registry.read_arrays(one.model), one.parent, plan, data)
    return np.array_equal(restored.predict(images, verbose=0), one.model.predict(images, verbose=0))


def test_a_restored_pqat_predicts_the_same_to_the_bit(pqat, tiny_data):
    assert predicts_the_same_restored(pqat, tiny_data)


def test_a_restored_cqat_predicts_the_same_to_the_bit(cqat, tiny_data):
    assert predicts_the_same_restored(cqat, tiny_data)


def test_a_restored_pcqat_predicts_the_same_to_the_bit(pcqat, tiny_data):
    assert predicts_the_same_restored(pcqat, tiny_data)
