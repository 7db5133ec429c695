"""Steps that a mask skips stay without effect in every stage."""

from types import SimpleNamespace

import numpy as np
import pytest

from collabopt.config.sections import Pruning
from collabopt.runtime.tensorflow import keras, seed_everything
from collabopt.techniques import clustering, pruning, quantization, training

pytestmark = pytest.mark.usefixtures("eagerly")
SECTION = Pruning(epochs=1, batch_size=8, optimizer="adam", learning_rate=1e-3)


class _StoppedError(Exception):
    """A training that does not begin; its argument is the wrapped model."""


def build() -> keras.Model:
    """Two recurrent layers behind an embedding whose index 0 is padding."""
    seed_everything(0)
    layers = keras.layers
    steps = [layers.Embedding(20, 4, mask_zero=True, name="words")]
    steps += [
        layers.LSTM(6, return_sequences=True, name="first"),
        layers.LSTM(3, name="second"),
        layers.Dense(2, name="last"),
    ]
    return keras.Sequential([keras.Input((9,), dtype="int32"), *steps])


def prune(model: keras.Model, monkeypatch) -> keras.Model:
    """The model in TFMOT's wrappers, before the first step."""

    def stop(wrapped: keras.Model, *_: object) -> None:
        raise _StoppedError(wrapped)

    monkeypatch.setattr(training, "fit", stop)
    with pytest.raises(_StoppedError) as error:
        pruning.fine_tune(model, SimpleNamespace(train=range(8)), 0.5, SECTION)
    return error.value.args[0]


@pytest.mark.parametrize("stage", ["plain", "pruned", "clustered", "qat"])
def test_padding_has_no_effect(stage, monkeypatch):
    model = build()
    if stage == "pruned":
        model = prune(model, monkeypatch)
    if stage == "clustered":
        model = clustering._wrap(model, clustering.Settings(8, rate=0.0), 0, {})
    if stage == "qat":
        model = quantization.wrap(model, quantization.Preservation())
    words = np.array([[3, 7, 1, 0, 0, 0, 0, 0, 0], [5, 0, 0, 0, 0, 0, 0, 0, 0]])
    before = model(words, training=False).numpy()
    (embeddings,) = (one for one in model.weights if one.shape == (20, 4))
    embeddings.assign(embeddings.numpy() + np.eye(20, 1) * 3)  # those of the padding
    np.testing.assert_allclose(model(words, training=False), before, atol=1e-6)
    embeddings.assign(embeddings.numpy() + 3)
    assert np.abs(model(words, training=False) - before).max() > 1e-3
