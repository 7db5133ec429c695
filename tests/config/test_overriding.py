"""Overrides of nested keys: dotted, as dicts, and in `settings`; what is wrong with one; batches and sweeps of them."""

import pytest

from collabopt.batch import notebook, plan
from collabopt.config import loading, overriding, sweep
from collabopt.config.experiment import ExperimentError


@pytest.mark.parametrize(
    "overrides",
    [
        {"stages.pruned.epochs": 9, "exclude.pruning": ["conv_1"]},
        {"stages": {"pruned": {"epochs": 9}}, "exclude": {"pruning": ["conv_1"]}},
        {"settings": {"stages.pruned": {"epochs": 9}, "exclude.pruning": ["conv_1"]}},
    ],
)
def test_a_nested_key_is_overridden_and_its_neighbours_stay(overrides):
    own, changed = loading.load("digits"), loading.load("digits", **overrides)
    assert changed.stages.pruned == own.stages.pruned.model_copy(update={"epochs": 9})
    assert changed.exclude == own.exclude.model_copy(update={"pruning": ("conv_1",)})
    assert changed.stages.pqat == own.stages.pqat
    directory = loading.find_report_directory("digits", **overrides)
    assert directory.name == "exclude.pruning=conv_1,stages.pruned.epochs=9"


def test_an_override_with_the_own_value_is_none():
    epochs = loading.load("digits").stages.pruned.epochs
    assert loading.list_overrides("digits", **{"stages.pruned.epochs": epochs}) == {}


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ({"stages.pruned.epoch": 3}, "stages.pruned.epoch=3: unknown key; did you mean epochs"),
        ({"stages.prunned.epochs": 3}, "did you mean pruned"),
        ({"stages.pruned.epochs": "x"}, "stages.pruned.epochs='x': expected a valid integer"),
        ({"exclude.prunning": ["a"]}, "did you mean pruning"),
        ({"settings": 3}, "settings=3: expected a dict"),
    ],
)
def test_a_wrong_nested_override_is_named(overrides, message):
    with pytest.raises(ExperimentError, match=message):
        loading.load("digits", **overrides)


def test_set_takes_nested_keys_and_lists():
    grid = plan.parse_settings("stages.pruned.epochs=9 stages.pqat.learning_rate=3e-5 exclude.pruning=[conv_1,pw_2]")
    assert grid == {
        "stages.pruned.epochs": [9],
        "stages.pqat.learning_rate": [3e-5],
        "exclude.pruning": [["conv_1", "pw_2"]],
    }
    (cell,) = sweep.list_cells(grid)
    assert notebook._select(cell | {"sparsity": 0.8, "kernel": 1}, {"sparsity"}) == {"sparsity": 0.8, "settings": cell}
    others = {"weight_bits": 4, "max_accuracy_drop": 0.01}
    assert notebook._select(others, {"sparsity"}) == {"settings": others}
    with pytest.raises(ExperimentError, match="a sweep over lists is not possible"):
        plan.parse_settings("exclude.pruning=[conv_1],[pw_2]")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("sparsity={conv_9:0.5}", "expected a space after the colon: conv_9: 0.5"),
        ("number_of_clusters={default: 8,fc:16}", "expected a space after the colon: fc: 16"),
        ("exclude.pruning=[conv_1", r"expected a value, such as 0.5, true, .* close every bracket"),
        ("epochs=3", "expected stages.<stage>.epochs, where <stage> is one of baseline, .*pqat"),
        ("pruned.epochs=3", "expected stages.pruned.epochs$"),
    ],
)
def test_set_says_what_would_be_right(text, message):
    with pytest.raises(ExperimentError, match=f"^SET: {text.partition('=')[0]}.*{message}"):
        plan.parse_settings(text)


def test_a_sweep_shares_the_branches_that_a_nested_key_does_not_decide():
    grid = plan.parse_settings("stages.pruned.epochs=9,10")
    shared = sweep.find_shared_branches(grid)
    assert {"qat", "cqat"} <= set(shared)
    assert not {"pqat", "pcqat"} & set(shared)
    assert [sweep.decode(sweep.encode(key)) for key in grid] == [*grid]
    assert all("." not in job for job in plan.plan_work("digits", grid, []).jobs)


def test_values_are_formatted_for_names_of_directories():
    assert [overriding.format_value(value) for value in (0.8, True, ("a", "b"))] == ["0.8", "True", "a+b"]


def test_a_key_of_a_section_that_the_file_does_not_have_is_an_override():
    name = "stages.pruned.distill.temperature"
    teacher = {"temperature": 2.0, "weight": 0.5}
    assert loading.list_overrides("digits", stages={"pruned": {"distill": teacher}})[name] == 2.0


def test_braces_around_a_list_are_refused():
    with pytest.raises(ExperimentError, match=r"exclude\.pruning=.*: expected a list"):
        loading.load("digits", **{"exclude.pruning": loading.parse_value("{conv_1}", "exclude.pruning")})
