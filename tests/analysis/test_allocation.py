"""Settings per layer: within the budget, the cheapest accuracy first, and never worse than a choice within it."""

import numpy as np
import pandas as pd
import pytest
import yaml
from conftest import plan_of
from hypothesis import given, settings
from hypothesis import strategies as st

from collabopt.analysis import allocation
from collabopt.config import loading

EXPERIMENT = plan_of("digits_cnn", "digits")


def make_table(**layers: list[tuple[float, float, float]]) -> pd.DataFrame:
    """Value, drop and bytes of each layer."""
    rows = [["sparsity", layer, value, "accuracy", *rest] for layer, part in layers.items() for value, *rest in part]
    return pd.DataFrame(rows, columns=allocation.COLUMNS)


def test_the_layer_that_loses_least_per_byte_is_compressed():
    table = make_table(
        a=[(0.0, 0.0, 100), (0.5, 5.0, 60), (0.9, 9.0, 20)], b=[(0.0, 0.0, 100), (0.5, 1.0, 60), (0.9, 2.0, 20)]
    )
    found = allocation.allocate(table, "sparsity", EXPERIMENT)
    assert found.value == {"default": 0.5, "a": 0.0, "b": 0.9}
    assert list(found.rows["bytes"]) == [100, 20]
    assert "120 bytes, drops add up to 2.00 points" in found.note
    assert "own setting 120 bytes, drops add up to 6.00 points" in found.note
    assert yaml.safe_load(found.yaml) == {"sparsity": {"default": 0.5, "a": 0.0, "b": 0.9}}


@settings(deadline=None)
@given(drops=st.lists(st.integers(0, 9), min_size=9, max_size=9), share=st.floats(0.2, 1))
def test_the_budget_holds_or_the_note_says_why(drops, share):
    values, sizes = (0.0, 0.5, 0.9), (90, 50, 30)
    parts = {name: map(float, drops[3 * place : 3 * place + 3]) for place, name in enumerate("abc")}
    table = make_table(**{name: [*zip(values, part, sizes, strict=True)] for name, part in parts.items()})
    found = allocation.allocate(table, "sparsity", EXPERIMENT, budget=270 * share)
    assert (found.rows["bytes"].sum() <= 270 * share) != ("No values of the table fit" in found.note)
    assert list(found.rows["layer"]) == ["a", "b", "c"]


def test_layers_are_measured_on_validation_and_stay_as_they_are(small_cnn, tiny_data):
    model, experiment = small_cnn(), EXPERIMENT.model_copy(update={"number_of_clusters": 6})
    before = model.get_weights()
    table = allocation.measure_layers(model, tiny_data.validation, experiment)
    for old, new in zip(before, model.get_weights(), strict=True):
        np.testing.assert_array_equal(old, new)
    for (setting, _), rows in table.groupby(["setting", "layer"]):
        assert list(rows["value"]) == allocation.list_levels(setting, experiment)
        assert 6 in {*rows["value"]} or setting == "sparsity"
        assert rows["bytes"].iloc[-1] < rows["bytes"].iloc[0]
    assert (table.loc[table["value"] == 0, "drop"] == 0).all()
    found = allocation.allocate(table, "number_of_clusters", experiment)
    assert set(found.rows["layer"]) == {"conv", "pw", "fc"}
    loading.change(experiment, number_of_clusters=found.value)  # it is a valid setting
    with pytest.raises(ValueError, match="setting='sparsty': expected one"):
        allocation.allocate(table, "sparsty", experiment)


def test_fixed_settings_are_not_allocated():
    assert allocation.list_levels("sparsity", EXPERIMENT.model_copy(update={"sparsity_pattern": "2:4"})) == []
    assert allocation.list_levels("number_of_clusters", EXPERIMENT.model_copy(update={"symmetric": True})) == []
    table = pd.DataFrame([["sparsity", "conv", 0.5, "accuracy", 0.0, 9.0]], columns=allocation.COLUMNS)
    fixed = allocation.allocate(table, "number_of_clusters", EXPERIMENT.model_copy(update={"symmetric": True}))
    assert fixed.value == EXPERIMENT.number_of_clusters and "nothing to choose" in repr(fixed)
    assert "nothing to choose" in fixed._repr_html_()
    assert 0.65 in allocation.list_levels("sparsity", EXPERIMENT.model_copy(update={"sparsity": 0.65}))
