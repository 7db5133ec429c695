"""Frozen layers (`trainable=False`) have the same weights in every stage, and tables say why they are skipped."""

import re
from pathlib import Path

import numpy as np
import pytest
from conftest import skip_trial

from collabopt.analysis import sensitivity
from collabopt.config import loading
from collabopt.config.stages import STAGES
from collabopt.run import Run
from collabopt.runtime.tensorflow import keras
from collabopt.techniques import layers, quantization

pytestmark = pytest.mark.timeout(600)

FROZEN = ("conv", "conv_bn", "dw")
FEW = ("baseline", "qat", "pruned", "sparse_clustered", "pcqat")
"""Each technique once. The other stages are tested by `make test-all`."""


@pytest.fixture(scope="module", params=["collabopt", pytest.param("tfmot", marks=pytest.mark.slow)])
def run(request: pytest.FixtureRequest, small: Path, tmp_path_factory: pytest.TempPathFactory) -> Run:
    place = tmp_path_factory.mktemp("frozen")
    text = small.read_text().replace("example_network:build", "example_network:build_frozen")
    # Large steps, so that a weight that is trained moves.
    text = re.sub("learning_rate: [0-9e-]+", "learning_rate: 0.01", text)
    text = text.replace("number_of_clusters: 32", f"number_of_clusters: 8\nscheme: {request.param}")
    (place / "frozen.yaml").write_text(text)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(loading, "DATA", place)
        skip_trial(patch)  # the stages themselves are trained
        run = Run(loading.load(str(place / "frozen.yaml")), place / "report", place / "frozen.yaml", place / "stages")
        yield run


def read_weights(model: keras.Model) -> dict[str, list[np.ndarray]]:
    """The weights of each plain layer, without the variables of fake quantization."""
    found = {}
    for layer in model.layers:
        inner = layer.layer if hasattr(layer, "quantize_config") else layer
        # A wrapper takes the kernel from its layer.
        kernels = [variable for variable, _, _ in getattr(layer, "_weight_vars", [])]
        found[inner.name] = [one.numpy() for one in (*kernels, *inner.weights)]
    return found


NAMES = [one if one in FEW else pytest.param(one, marks=pytest.mark.slow) for one in STAGES]


@pytest.mark.parametrize("name", NAMES)
def test_frozen_weights_do_not_change(run: Run, name: str) -> None:
    trained, given = read_weights(run.model(name)), read_weights(run.imported().model)
    for layer in FROZEN:
        assert len(trained[layer]) == len(given[layer])
        for old, new in zip(given[layer], trained[layer], strict=True):
            np.testing.assert_array_equal(old, new)
    assert (given["pw"][0] != trained["pw"][0]).any()


@pytest.mark.parametrize("name", NAMES)
def test_layers_csv_says_that_they_are_frozen(run: Run, name: str) -> None:
    skipped = run.stage(name).layers.set_index("layer")["skipped"]
    assert skipped["conv"] == skipped["dw"] == "frozen (trainable=False)"
    assert "frozen" not in skipped["pw"]


def test_sparsity_and_clusters_count_only_what_may_change(run: Run) -> None:
    assert run.stage("pruned").result["sparsity"] == 0.5
    assert run.stage("sparse_clustered").result["unique_weights"] <= 8
    assert run.stage("pcqat").result["preserved"] or run.experiment.scheme == "tfmot"


def test_the_sensitivity_leaves_them_out(run: Run) -> None:
    table = sensitivity.measure(run)
    assert table["layer"].tolist() == ["pw", "fc"]


def test_frozen_layers_are_found_in_wrapped_models_too(run: Run) -> None:
    assert layers.find_frozen(run.model("pruned")) == ("conv", "dw")
    assert layers.find_frozen(quantization.wrap(run.model("pruned"), quantization.Preservation())) == ("conv", "dw")
