"""The search over settings: it stays in its budget, finds the smallest file that it trained, and can be continued."""

from pathlib import Path

import pandas as pd
import pytest
from conftest import run_of

from collabopt import figures
from collabopt.batch import plan
from collabopt.config import loading
from collabopt.config.experiment import ExperimentError
from collabopt.config.scores import ACCURACY
from collabopt.config.stages import get_lineage
from collabopt.deploy import candidates, model_card, recommendation, settings_search, targets, variants
from collabopt.report import answers, tables

pytestmark = pytest.mark.timeout(900)

SETTINGS = {"search.sparsity": [0.3, 0.5], "search.number_of_clusters": [32, 8], "max_accuracy_drop": 0.3}


@pytest.fixture(scope="module")
def found(small, place) -> settings_search.SettingsSearch:
    return settings_search.search_settings(run_of(small, place, "found", **SETTINGS, **{"search.max_trainings": 5}))


def count_trained(place: Path) -> int:
    return len([*(place / "stages").glob("[a-z]*/weights.npz")])


def test_it_keeps_its_budget_and_chooses_the_smallest_that_meets_all_targets(found):
    trials = found.trials
    assert trials["stage"].iloc[0] == "baseline"
    assert list(trials["trainings"]) == list(range(1, len(trials) + 1)) and len(trials) <= 5
    fit = trials[trials["verdict"] == "meets all targets"]
    assert found.table.loc[found.chosen, "gzip_bytes"] == fit["gzip_bytes"].min()
    assert (trials.loc[trials["best"], "gzip_bytes"].diff().dropna() < 0).all()
    misses = [found.find_misses(label) for label in found.table.index[1:]]
    assert [not one for one in misses] == [*(trials["verdict"] == "meets all targets")]


def test_test_is_read_for_the_chosen_file_only(found):
    is_read = [*found.table["accuracy"].notna()]
    assert is_read == [label == found.nearest for label in found.table.index]
    results = pd.read_csv(found.run.directory / "results.csv")
    assert results[["accuracy", "accuracy_int8"]].isna().all(axis=None)


def test_results_have_the_settings_of_the_chosen_file_and_its_ancestors(found):
    results = pd.read_csv(found.run.directory / "results.csv").set_index("stage")
    stage = found.tried[found.nearest].stage
    lineage = [one.name for one in get_lineage(stage.name, found.run.experiment.tree)]
    assert [*results.index] == lineage
    assert set(pd.read_csv(found.run.directory / "layers.csv")["stage"]) == {*lineage}
    assert results.loc[stage.name, "gzip_bytes"] == found.table.loc[found.nearest, "gzip_bytes"]
    for name, column in {"sparsity": "target_sparsity", "number_of_clusters": "number_of_clusters"}.items():
        assert set(results[column].dropna()) <= {getattr(found.run.experiment, name)}


def test_a_second_run_trains_nothing_and_takes_the_same_path(found, small, place):
    before = count_trained(place)
    again = settings_search.search_settings(run_of(small, place, "again", **SETTINGS, **{"search.max_trainings": 5}))
    assert count_trained(place) == before
    pd.testing.assert_frame_equal(again.trials, found.trials)


def test_a_smaller_budget_is_the_beginning_of_the_path(found, small, place):
    short = settings_search.search_settings(run_of(small, place, "short", **SETTINGS, **{"search.max_trainings": 2}))
    assert len(short.trials) == 2
    pd.testing.assert_frame_equal(short.trials, found.trials.head(len(short.trials)))
    brief = settings_search.search_settings(run_of(small, place, "brief", **SETTINGS, **{"search.max_minutes": 1e-6}))
    assert len(brief.trials) == 1 and "budget is spent" in brief.ended


def test_the_report_names_the_file_with_its_settings(found):
    card, row = model_card.write(found), found.table.loc[found.chosen]
    assert card.content["setting"] == row["setting"] != ""
    assert row["setting"] in next(line for line in card.text.splitlines() if line.startswith("# "))
    advice = recommendation.recommend(found.run.directory)
    assert advice.tflite.read_bytes() == card.tflite.read_bytes()
    assert row["setting"] in str(advice)
    assert row["setting"] in answers.describe_search(found).text
    assert len(tables.trials(found).rows) == len(found.trials)


def test_files_of_one_name_are_timed_and_drawn_one_by_one(found, tmp_path):
    base, one = (found.tried[label] for label in (found.table.index[0], found.table.index[1]))
    table = variants.make_table([base, one, one])
    table = table.set_axis(["base", "one", "other"]).assign(setting=["", "sparsity 0.5", "sparsity 0.8"])
    assert table["latency_ms"].is_unique
    figures.draw_costs(table, csv=tmp_path / "costs.csv")
    assert len(pd.read_csv(tmp_path / "costs.csv")) == 3


def test_the_figure_shows_every_file_in_order(found, tmp_path):
    figure = figures.draw_search_path(found.trials, ACCURACY, 0.3, csv=tmp_path / "path.csv")
    assert len(pd.read_csv(tmp_path / "path.csv")) == len(found.trials)
    texts = {text.get_text() for axes in figure.axes for text in axes.texts}
    assert {str(number) for number in found.trials["trainings"]} <= texts


def test_candidates_share_stages_and_per_layer_values_need_no_more_bytes(small, place):
    run = run_of(small, place, "layers", **SETTINGS, **{"search.per_layer": True}).without_test()
    every = candidates.list_candidates(run)
    first, *others = every.values()
    assert first.key == first.trainings[-1] and first.stage.name == "baseline" and first.drop == 0
    assert all(one.trainings[0] == first.key for one in others)
    assert all(one.kernel_bytes < first.kernel_bytes for one in others if one.stage.prunes or one.stage.clusters)
    pcqat = [one for one in others if one.stage.name == "pcqat"]
    assert len(pcqat) in range(5, 9)  # four combinations, and values per layer where they differ
    for one in (one for one in pcqat if "per layer" in one.setting):
        uniform = one.setting.replace(" per layer", "")
        (like,) = [other for other in pcqat if other.setting == uniform]
        assert one.kernel_bytes <= 1.1 * like.kernel_bytes
    strong = max(pcqat, key=lambda one: one.strength)
    assert strong.compresses_as_much_as(first) and not first.compresses_as_much_as(strong)


def test_filters_are_pruned_where_the_search_says_so(small, place):
    run = run_of(small, place, "filters", **{"search.filter_sparsity": [0, 0.5], "max_accuracy_drop": 0.5})
    every = [*candidates.list_candidates(run.without_test()).values()]
    assert {"filter_pruned" in one.experiment.tree for one in every} == {True, False}
    whole, smaller = ([one for one in every if one.stage.name == "pcqat"][place] for place in (0, 1))
    assert smaller.kernel_bytes < 0.7 * whole.kernel_bytes


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"search.sparsety": [0.5]}, "search.sparsety=.*unknown key; did you mean sparsity"),
        ({"search.sparsity": []}, r"search.sparsity: \[\]: expected at least one value"),
        ({"search.sparsity": [1.5]}, "search.sparsity.0=1.5: expected less than 1"),
        ({"search.sparsity": 0.5}, "search.sparsity=0.5: expected a list"),
        ({"search.number_of_clusters": [2]}, "number_of_clusters=2: expected greater than or equal to 3"),
        ({"search.sparsity": [0.5], "search.max_trainings": 0}, "search.max_trainings=0: expected greater than or"),
        ({"search.sparsity": [0.5], "search.max_minutes": 0}, "search.max_minutes=0: expected greater than 0"),
        ({"search.max_trainings": 5}, "max_trainings=5: nothing to search; give sparsity"),
        ({"search.sparsity": [0.7], "sparsity_pattern": "2:4"}, "sparsity=.*0.7.*: expected 0.5"),
    ],
)
def test_a_wrong_search_is_one_line(settings, message):
    with pytest.raises(ExperimentError, match=message) as error:
        loading.load("digits", max_accuracy_drop=0.01, **settings)
    assert len(str(error.value).splitlines()) == 1


def test_a_search_needs_targets_and_something_to_search(small, place):
    with pytest.raises(ExperimentError, match="search: needs targets"):
        loading.load("digits", **{"search.sparsity": [0.5]})
    with pytest.raises(ExperimentError, match="search: nothing to search"):
        settings_search.search_settings(run_of(small, place, "nothing"))


def test_the_batch_takes_the_search_as_parameters():
    grid = plan.parse_settings(
        "search.sparsity=[0.5,0.7] search.number_of_clusters=[8,16] targets.max_accuracy_drop=0.01"
    )
    assert set(plan.plan_work("digits", grid, []).jobs) == {"search"}
    (cell,) = plan.sweep.list_cells(grid)
    experiment = loading.load("digits", **cell)
    assert experiment.search.grid == {"sparsity": (0.5, 0.7), "number_of_clusters": (8, 16)}
    assert experiment.targets.max_accuracy_drop == 0.01
    assert loading.load("digits", targets={"max_accuracy_drop": 0.01}).targets == experiment.targets


def test_of_a_search_over_settings_the_smallest_is_chosen_at_any_level():
    table = pd.DataFrame(
        {
            "stage": ["baseline", "baseline", "pcqat"],
            "format": ["float32", "int8", "int8"],
            "validation_accuracy": [0.9, 0.9, 0.9],
            "gzip_bytes": [400, 100, 50],
        },
        ["float32", "int8", "pcqat"],
    )
    limits = loading.load("digits", max_accuracy_drop=0.01).targets
    assert targets.choose(table, limits) == "int8"
    assert targets.choose(table.assign(setting=["", "", "sparsity 0.8"]), limits) == "pcqat"


def test_a_stage_is_judged_by_its_own_files_and_not_by_what_its_parent_lost():
    experiment = loading.load("digits", max_accuracy_drop=0.01)
    rule = object.__new__(settings_search._Searching)
    rule.tolerance, rule.trials, rule.limits = 0.01, {}, experiment.targets

    def make(name: str, sparsity: float) -> candidates.Candidate:
        stages = ["baseline", "pruned", "sparse_clustered"]
        trainings = ["baseline", *(f"{one} {sparsity}" for one in stages[1:])][: stages.index(name) + 1]
        return candidates.Candidate(experiment.tree[name], experiment, "", (*trainings,), (sparsity,), 100, sparsity)

    def end(candidate: candidates.Candidate, drop: float, noise: float = 0.005) -> None:
        variant = variants.Variant(candidate.stage, "int8", Path("model.tflite"), {"gzip_bytes": 100})
        misses = {"max_accuracy_drop": drop - 0.01} if drop > 0.01 else {}
        rule.trials[candidate.key] = settings_search._Trial(candidate, variant, drop, noise, misses, (drop, 100))

    end(make("baseline", 0), 0)
    end(make("pruned", 0.5), 0.1)
    end(make("pruned", 0.8), 0.3)
    strong, strongest = make("sparse_clustered", 0.8), make("sparse_clustered", 0.9)
    assert not rule._is_hopeless(strong) and rule._is_hopeless(make("pruned", 0.9))
    feared = rule.predict_drop(strong)
    end(make("sparse_clustered", 0.5), 0.005)  # it recovers what the pruned one lost
    assert 0.005 <= rule.predict_drop(strong) < 0.2 * feared
    end(strong, 0.02, noise=0.015)
    assert not rule._is_hopeless(strongest)  # chance explains a miss of 0.01
    end(strong, 0.02)
    assert rule._is_hopeless(strongest) and rule.predict_drop(strongest) >= 0.02
