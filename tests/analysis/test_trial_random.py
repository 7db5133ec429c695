"""Random networks whose trial finds nothing go through all stages, conversions and measurements."""

import os
import tempfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from collabopt.analysis import evaluate, preflight, trial
from collabopt.config import loading
from collabopt.config.stages import STAGES
from collabopt.datasets import Data, Split
from collabopt.runtime.tensorflow import keras, seed_everything
from collabopt.techniques import int8_rewrites, layers, quantization, registry
from collabopt.techniques.checkpoints import NO_CHECKPOINT

NETWORKS = int(os.environ.get("COLLABOPT_RANDOM_NETWORKS", "4"))
"""How many are tried; hundreds take hours."""
k = keras.layers

ON_IMAGES = {
    "conv": lambda n: k.Conv2D(4 + n, 3, padding="same", use_bias=bool(n % 2)),
    "conv_relu": lambda n: k.Conv2D(4 + n, 1 + n % 3, padding="same", activation="relu"),
    "conv_swish": lambda n: k.Conv2D(4, 3, strides=1 + n % 2, padding="same", activation="swish"),
    "dilated": lambda n: k.Conv2D(4, 3, dilation_rate=1 + n % 2, padding="same"),
    "depthwise": lambda n: k.DepthwiseConv2D(3, depth_multiplier=1 + n % 2, padding="same"),
    "transposed": lambda n: k.Conv2DTranspose(3 + n, 3, strides=1 + n % 2, padding="same"),
    "norm": lambda n: k.BatchNormalization(scale=bool(n % 2)),
    "relu": lambda n: k.ReLU(max_value=(None, 6.0, 1.0)[n % 3]),
    "leaky": lambda _: k.LeakyReLU(0.2),
    "prelu": lambda _: k.PReLU(shared_axes=[1, 2]),
    "activation": lambda n: k.Activation(("elu", "tanh", "sigmoid", "hard_sigmoid", "gelu", "softplus")[n % 6]),
    "max_pool": lambda _: k.MaxPooling2D(2, padding="same"),
    "average_pool": lambda _: k.AveragePooling2D(2, padding="same"),
    "up": lambda _: k.UpSampling2D(2),
    "pad": lambda n: k.ZeroPadding2D(1 + n % 2),
    "permute": lambda _: k.Permute((2, 1, 3)),
    "dense": lambda n: k.Dense(4 + n),
    "rescaling": lambda n: k.Rescaling(0.5 + n, -0.5),
    "dropout": lambda _: k.Dropout(0.2),
    "noise": lambda _: k.GaussianNoise(0.1),
}
MERGES = {
    "add": k.Add,
    "multiply": k.Multiply,
    "average": k.Average,
    "maximum": k.Maximum,
    "concatenate": k.Concatenate,
}
ENDS = {
    "flatten": lambda: [k.Flatten()],
    "pool": lambda: [k.GlobalAveragePooling2D()],
    "max": lambda: [k.GlobalMaxPooling2D()],
    "steps": lambda: [k.Reshape((-1, 2)), k.GRU(4)],
    "hidden": lambda: [k.Flatten(), k.Dense(8), k.BatchNormalization(), k.ReLU()],
}
STEP = st.tuples(st.sampled_from(sorted([*ON_IMAGES, *MERGES])), st.integers(0, 5))


def build(steps: list[tuple[str, int]], end: str) -> keras.Model:
    seed_everything(0)
    inputs = x = keras.Input((6, 6, 2), name="input")
    for number, (kind, setting) in enumerate(steps):
        if kind in MERGES:
            x = MERGES[kind](name=f"{kind}_step_{number}")([x, k.Conv2D(x.shape[-1], 1, name=f"branch_{number}")(x)])
        else:
            layer = ON_IMAGES[kind](setting)
            layer._name = f"{kind}_step_{number}"  # no name that Keras gives
            x = layer(x)
    for layer in ENDS[end]():
        x = layer(x)
    return keras.Model(inputs, k.Dense(3, name="fc")(x))


def make_data() -> Data:
    generator = np.random.default_rng(0)
    splits = [Split(generator.normal(size=(n, 6, 6, 2)).astype("f4"), np.arange(n) % 3) for n in (24, 12, 12)]
    return Data("random", ("a", "b", "c"), *splits, "", (6, 6, 2), (3,))


@pytest.mark.slow
@pytest.mark.timeout(300 * NETWORKS)
@settings(
    max_examples=NETWORKS,
    deadline=None,
    suppress_health_check=list(HealthCheck),
    derandomize=NETWORKS < 10,
    phases=[Phase.generate],
)
@given(steps=st.lists(STEP, min_size=1, max_size=4), end=st.sampled_from(sorted(ENDS)))
def test_what_the_trial_passes_goes_through_every_stage(tiny, steps, end):
    model, data = build(steps, end), make_data()
    experiment = trial._shorten(loading.load(str(tiny), number_of_clusters=3, calibration_examples=8))
    known = preflight.find_known_problems(model, experiment)
    if any(one.stops for one in [*known, *trial.try_stages(model, data, experiment)]):
        return
    without_qat, trained, kernels = int8_rewrites.find_layers_without_qat(model), {}, {}
    for stage in STAGES.values():
        if stage.quantizes and without_qat:
            continue
        start = trained[stage.parent] if stage.parent else layers.clone_model(model)
        result, _ = registry.find_trainer(stage)(stage, start, data, experiment, NO_CHECKPOINT)
        trained[stage.name] = result
        kernels[stage.name] = (quantization if stage.quantizes else layers).read_kernels(result)
        with tempfile.TemporaryDirectory() as folder:
            parent = kernels[stage.parent] if stage.keeps_zeros or stage.clusters else None
            evaluate.write_measurements(Path(folder), stage, result, data, experiment, parent)
