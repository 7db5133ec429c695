"""A run whose network changes its shape: every later stage starts from the smaller network, and is restored from it."""

import re

import numpy as np
import pandas as pd
import pytest
from conftest import run_of

from collabopt import answers, figures, shape
from collabopt.analysis import preflight
from collabopt.config import loading
from collabopt.report import tables
from collabopt.run import Run
from collabopt.runtime.tensorflow import keras
from collabopt.techniques import training

SETTINGS = {"filter_sparsity": 0.3, "rank_energy": 0.7}
PATH = ["baseline", "filter_pruned", "factorized", "pruned", "sparse_clustered", "pcqat"]


@pytest.fixture(scope="module")
def run(small, place):
    """The small experiment with both optional stages, trained up to PCQAT. Its baseline comes from the store."""
    found = run_of(small, place, "report", **SETTINGS)
    found.stage(PATH[-1])
    return found


def test_every_stage_starts_from_the_last_optional_one(run):
    assert [run.stage(name).stage.parent for name in PATH] == [None, *PATH[:-1]]
    sizes = [run.model(name).count_params() for name in PATH[:-1]]
    assert sizes[0] > sizes[1] > sizes[2] == sizes[3] == sizes[4]
    assert run.stage("sparse_clustered").result["preserved"] is True
    assert run.stage("pcqat").result["preserved"] is True


def test_stored_stages_are_restored_without_training(run, monkeypatch):
    monkeypatch.setattr(training, "fit", None)
    again = Run(run.experiment, None, run.source, run.store_directory)
    for name in PATH:
        with np.load(again.stage(name).trained / "weights.npz") as arrays:
            stored = [arrays[key] for key in arrays.files]
        found = again.model(name).get_weights()
        assert sorted(map(np.sum, stored)) == pytest.approx(sorted(map(np.sum, found)))


def test_the_tables_have_the_settings_of_the_stages_that_they_decide(run):
    rows = pd.read_csv(run.directory / "results.csv").set_index("stage")
    assert list(rows.index) == PATH
    assert rows["filter_sparsity"].isna().tolist() == [True, *[False] * 5]
    assert rows["rank_energy"].isna().tolist() == [True, True, *[False] * 4]


def test_the_notebook_s_table_and_figure_show_the_savings(run):
    rows = shape.measure(run)
    assert rows.loc[rows["format"] == "int8", "multiplications"].is_monotonic_decreasing
    assert len(tables.shape(rows).rows) == len(rows) == 6
    assert rows["accuracy"].astype(float).between(0, 1).all()
    assert [*re.findall("([A-Za-z ]+) keeps", str(answers.describe_shape(rows)))] == ["Filter pruned", " factorized"]
    alone = rows[rows["stage"] == "baseline"]
    assert str(answers.describe_shape(alone)) == "No setting changes the shape of the network."
    channels = shape.count_channels(run)
    assert list(channels) == PATH[:3]
    assert "filter pruned" in figures.draw_channels(channels).alt


def test_a_network_of_which_nothing_can_be_removed_is_one_line(small):
    inputs = keras.Input((4,))
    model = keras.Model(inputs, keras.layers.Dense(3)(inputs), name="single")
    experiment = loading.load(str(small), filter_sparsity=0.5)
    with pytest.raises(preflight.PreflightError) as caught:
        preflight.check(preflight.find_known_problems(model, experiment))
    line = "single: filter_sparsity=0.5: none of its filters can be removed; leave filter_sparsity out"
    assert str(caught.value).startswith(line)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("value", [-0.1, 1])
def test_a_filter_sparsity_outside_its_range_is_one_line(small, value):
    with pytest.raises(
        loading.ExperimentError, match=f"filter_sparsity={value}: expected (greater|less) than"
    ) as caught:
        loading.load(str(small), filter_sparsity=value)
    assert "\n" not in str(caught.value)
