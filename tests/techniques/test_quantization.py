"""Quantization-aware training: each scheme preserves zeros or clusters, and the audit detects where TFMOT does not."""

import dataclasses

import numpy as np
import pytest

from collabopt.analysis import audit
from collabopt.config import loading
from collabopt.config.sections import Training
from collabopt.config.stages import STAGES
from collabopt.runtime.tensorflow import keras, run_eagerly, seed_everything
from collabopt.techniques import layers, quantization, registry
from collabopt.techniques.kernel_state import Clusters
from collabopt.tflite import convert, flatbuffer

ONE_EPOCH = Training(epochs=1, batch_size=64, optimizer="adam", learning_rate=0.001)
K = 8
VALUES = np.linspace(-0.7, 0.7, K).astype(np.float32)
PRESERVATIONS = {
    "qat": quantization.Preservation(),
    "pqat": quantization.Preservation(zeros=True),
    "cqat": quantization.Preservation(clusters=Clusters("tensor")),
    "pcqat": quantization.Preservation(zeros=True, clusters=Clusters("tensor")),
}
SCHEMES = ["collabopt", "tfmot"]
SPARSE_VALUES = np.array([-0.6, -0.4, -0.2, 0, 0.2, 0.4, 0.5, 0.6], np.float32)


def fill_kernels(values: np.ndarray | None, model: keras.Model) -> keras.Model:
    """A copy of `model` whose eligible kernels hold these values only; with None half of each kernel is zero."""
    copy, generator = layers.clone_model(model), np.random.default_rng(0)
    for layer in filter(layers.is_eligible, copy.layers):
        kernel, *bias = layer.get_weights()
        if values is None:
            kernel = np.where(np.abs(kernel) < np.median(np.abs(kernel)), 0, kernel)
        else:
            kernel = generator.choice(values, kernel.shape)
        layer.set_weights([kernel, *bias])
    return copy


def get_preservation(stage: str, scheme: str) -> quantization.Preservation:
    return dataclasses.replace(PRESERVATIONS[stage], scheme=scheme)


def build_dense_network() -> keras.Model:
    """Dense kernels only: TFMOT does not guess the granularity of these."""
    seed_everything(0)
    inputs = keras.Input((8, 8, 1), name="input")
    x = keras.layers.Flatten(name="flatten")(inputs)
    x = keras.layers.Dense(16, activation="relu", name="hidden")(x)
    return keras.Model(inputs, keras.layers.Dense(10, name="fc")(x))


@dataclasses.dataclass
class Quantized:
    """A stage trained from `parent`, with its kernels in float32 and int8."""

    stage: str
    scheme: str
    parent: keras.Model
    model: keras.Model
    kernels: dict
    int8_values: dict

    def find_defects(self, clusters: int | None) -> dict[str, str]:
        kinds, before = quantization.read_kinds(self.model), layers.read_kernels(self.parent)
        rows = audit.audit_layers(kinds, self.kernels, self.int8_values, quantization.read_quantizers(self.model))
        by_channel = self.scheme == "tfmot"  # stock ranges; ours give k int8 values per tensor
        return {
            row["layer"]: "; ".join(
                audit.find_defects(
                    row,
                    *(one[row["layer"]] for one in (before, self.kernels, self.int8_values)),
                    clusters,
                    False,
                    by_channel,
                )
            )
            for _, row in rows.iterrows()
            if row["kind"] != "depthwise"
        }


def train(stage: str, scheme: str, parent: keras.Model, data) -> Quantized:
    """Train a stage; the parent must stay as it is."""
    before = parent.get_weights()
    with run_eagerly():  # tracing takes longer than the steps
        model, _ = quantization.fine_tune(parent, data, ONE_EPOCH, 0, stage, get_preservation(stage, scheme))
    for old, new in zip(before, parent.get_weights(), strict=True):
        np.testing.assert_array_equal(old, new)
    kernels = quantization.read_kernels(model)
    int8_values = flatbuffer.read_layer_kernels(
        convert.convert_as_trained(model), {name: kernel.shape for name, kernel in kernels.items()}
    )
    return Quantized(stage, scheme, parent, model, kernels, int8_values)


@pytest.fixture(scope="module", params=SCHEMES)
def pqat(request, few_data, small_cnn):
    return train("pqat", request.param, fill_kernels(None, small_cnn()), few_data)


@pytest.fixture(scope="module", params=SCHEMES)
def cqat(request, few_data):
    return train("cqat", request.param, fill_kernels(VALUES, build_dense_network()), few_data)


@pytest.fixture(scope="module", params=SCHEMES)
def pcqat(request, few_data):
    return train("pcqat", request.param, fill_kernels(SPARSE_VALUES, build_dense_network()), few_data)


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
def test_each_scheme_wraps_a_clone_with_its_own_quantizers(small_cnn, stage, scheme, expected):
    model = small_cnn()
    before, kinds = model.get_weights(), [type(layer) for layer in model.layers]
    wrapped = quantization.wrap(model, get_preservation(stage, scheme))
    assert quantization.is_wrapped(wrapped)
    assert not quantization.is_wrapped(model)
    assert quantization.read_kinds(wrapped) == {"conv": "conv2d", "dw": "depthwise", "pw": "conv2d", "fc": "dense"}
    quantizers = quantization.read_quantizers(wrapped)
    assert list(quantizers) == ["conv", "dw", "pw", "fc"]
    assert (quantizers["dw"], quantizers["pw"]) == ("Default8BitConvWeightsQuantizer", expected)
    assert [type(layer) for layer in model.layers] == kinds
    wrapped.set_weights([array + 1 for array in wrapped.get_weights()])
    for old, new in zip(before, model.get_weights(), strict=True):
        np.testing.assert_array_equal(old, new)


def test_a_kernel_without_quantizer_is_reported():
    # F1: a convolution without activation or batch norm, followed by a ReLU layer.
    seed_everything(0)
    inputs = keras.Input((4, 4, 2), name="input")
    x = keras.layers.ReLU(name="relu")(keras.layers.Conv2D(3, 1, name="conv")(inputs))
    model = keras.Model(inputs, keras.layers.Dense(2, name="fc")(keras.layers.Flatten(name="flatten")(x)))
    quantizers = quantization.read_quantizers(quantization.wrap(model, get_preservation("pqat", "collabopt")))
    assert quantizers == {"conv": "KernelQuantizer", "fc": "KernelQuantizer"}
    quantizers = quantization.read_quantizers(quantization.wrap(model, get_preservation("pqat", "tfmot")))
    assert quantizers == {"conv": "none", "fc": "PrunePreserveDefault8BitWeightsQuantizer"}


def test_pqat_preserves_every_zero_in_keras_and_in_the_int8_file(pqat):
    for name, kernel in layers.read_kernels(pqat.parent).items():
        if name != "dw":
            assert audit.compute_sparsity(kernel) == 0.5
            assert np.all(pqat.kernels[name][kernel == 0] == 0), name
            assert np.all(pqat.int8_values[name][kernel == 0] == 0), name
    assert set(pqat.find_defects(None).values()) == {""}


def test_pqat_trains_the_remaining_weights(pqat):
    before = layers.read_kernels(pqat.parent)["pw"]
    assert np.all(pqat.kernels["pw"][before != 0] != 0)
    assert np.any(pqat.kernels["pw"] != before)


def test_cqat_preserves_clusters_also_with_tfmot_where_its_guess_is_right(cqat):
    assert {name: audit.count_unique(kernel) for name, kernel in cqat.kernels.items()} == {"hidden": K, "fc": K}
    assert set(cqat.find_defects(K).values()) == {""}
    assert set(cqat.find_defects(K - 1).values()) != {""}


def test_pcqat_preserves_zeros_and_clusters(pcqat):
    for name, kernel in layers.read_kernels(pcqat.parent).items():
        np.testing.assert_array_equal(pcqat.kernels[name] == 0, kernel == 0)
        assert np.all(pcqat.int8_values[name][kernel == 0] == 0)
    assert {name: audit.count_unique(kernel) for name, kernel in pcqat.kernels.items()} == {"hidden": K, "fc": K}
    assert set(pcqat.find_defects(K).values()) == {""}


def test_the_audit_detects_a_wrong_guess_of_the_granularity(few_data):
    # F2: each of the four channels holds all values, so TFMOT takes them for clusters per channel.
    seed_everything(0)
    inputs = keras.Input((8, 8, 1), name="input")
    x = keras.layers.Conv2D(4, 5, use_bias=False, name="conv")(inputs)
    x = keras.layers.ReLU(name="relu")(keras.layers.BatchNormalization(name="bn")(x))
    parent = keras.Model(inputs, keras.layers.Dense(10, name="fc")(keras.layers.Flatten(name="flatten")(x)))
    parent = fill_kernels(VALUES, parent)
    conv = parent.get_layer("conv")
    conv.set_weights([np.stack([np.resize(VALUES, (5, 5, 1))] * 4, axis=-1)])
    assert set(train("cqat", "collabopt", parent, few_data).find_defects(K).values()) == {""}
    defects = train("cqat", "tfmot", parent, few_data).find_defects(K)
    assert "values in a tensor instead of 8" in defects["conv"]
    assert defects["fc"] == ""


def predicts_the_same_when_restored(one: Quantized, data) -> bool:
    images = data.validation.take(np.arange(64)).batches(64)
    experiment = loading.load("digits", scheme=one.scheme)
    restored = registry.restore_model(STAGES[one.stage], registry.read_arrays(one.model), one.parent, experiment, data)
    return np.array_equal(restored.predict(images, verbose=0), one.model.predict(images, verbose=0))


def test_a_restored_pqat_predicts_bit_identically(pqat, few_data):
    assert predicts_the_same_when_restored(pqat, few_data)


def test_a_restored_cqat_predicts_bit_identically(cqat, few_data):
    assert predicts_the_same_when_restored(cqat, few_data)


def test_a_restored_pcqat_predicts_bit_identically(pcqat, few_data):
    assert predicts_the_same_when_restored(pcqat, few_data)
