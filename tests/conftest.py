"""What several test modules share: a small experiment, its data, and a small network with each kind of layer."""

import sys
from collections.abc import Callable
from pathlib import Path

import pytest

# With 32 clusters TFMOT guesses the granularity of every kernel of digits_cnn right (see DESIGN.md, F2), which also
# makes CQAT and PCQAT several times faster to set up.
TINY = """
dataset: {name: digits}
model: {name: digits_cnn}
train_fraction: 0.3
calibration_examples: 20
sparsity: 0.5
number_of_clusters: 32
stages:
  baseline: {epochs: 6, batch_size: 16, optimizer: adam, learning_rate: 3e-3}
  pruned: {epochs: 2, batch_size: 16, optimizer: adam, learning_rate: 1e-3, frequency: 5}
  clustered: {epochs: 1, batch_size: 16, optimizer: adam, learning_rate: 1e-4}
  sparse_clustered: {epochs: 1, batch_size: 16, optimizer: adam, learning_rate: 1e-4}
  qat: {epochs: 1, batch_size: 16, optimizer: adam, learning_rate: 1e-4}
  pqat: {epochs: 1, batch_size: 16, optimizer: adam, learning_rate: 1e-4}
  cqat: {epochs: 1, batch_size: 16, optimizer: adam, learning_rate: 1e-4}
  pcqat: {epochs: 1, batch_size: 16, optimizer: adam, learning_rate: 1e-4}
"""


def pytest_collection_finish() -> None:
    """Fix threads and kernels before the first operation, as a run does, where a test uses TensorFlow at all."""
    if "collabopt.runtime.tensorflow" in sys.modules:
        from collabopt.runtime import tensorflow

        tensorflow.configure(1)
        tensorflow.seed_everything(0)


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The file of an experiment whose stages take seconds."""
    path = tmp_path_factory.mktemp("experiment") / "tiny.yaml"
    path.write_text(TINY)
    return path


@pytest.fixture(scope="session")
def tiny_data(tiny: Path):
    """The data of the tiny experiment."""
    from collabopt import datasets
    from collabopt.config import loading

    return datasets.load(loading.load(str(tiny)))


def plan_of(model: str, dataset: str):
    """An experiment on a model and a data set, by name; nothing in it can be trained well."""
    from collabopt.config.experiment import Experiment, Stages

    training = {"epochs": 1, "batch_size": 8, "optimizer": "adam", "learning_rate": 1e-3}
    return Experiment.model_validate(
        {
            "name": "test",
            "dataset": {"name": dataset},
            "model": {"name": model},
            "sparsity": 0.5,
            "number_of_clusters": 8,
            "stages": dict.fromkeys(Stages.model_fields, training),
        }
    )


def small_network(input_shape: tuple[int, ...], classes: int, use_bias: bool = False):
    """A network of each kind of layer: kernels conv (3, 3, 1, 8), dw (3, 3, 8, 1), pw (1, 1, 8, 16), fc (16, 10).

    An experiment has it as `model: {function: "conftest:small_network"}`.
    """
    from collabopt.runtime.tensorflow import keras

    layers = keras.layers
    inputs = x = keras.Input(input_shape, name="input")
    for convolution in (
        layers.Conv2D(8, 3, padding="same", use_bias=use_bias, name="conv"),
        layers.DepthwiseConv2D(3, 2, padding="same", use_bias=use_bias, name="dw"),
        layers.Conv2D(16, 1, use_bias=use_bias, name="pw"),
    ):
        x = layers.BatchNormalization(momentum=0.9, name=f"{convolution.name}_bn")(convolution(x))
        x = layers.ReLU(name=f"{convolution.name}_relu")(x)
    outputs = layers.Dense(classes, name="fc")(layers.GlobalAveragePooling2D(name="pool")(x))
    return keras.Model(inputs, outputs, name="small_network")


@pytest.fixture(scope="session")
def small_cnn() -> Callable:
    """Builds `small_network` for the digits from `seed`; its convolutions `use_bias` or not."""
    from collabopt.runtime.tensorflow import seed_everything

    def build(seed: int = 0, use_bias: bool = False):
        seed_everything(seed)
        return small_network((8, 8, 1), 10, use_bias)

    return build
