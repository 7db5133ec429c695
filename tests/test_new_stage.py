"""A new stage is one module and one row: it is then trained, drawn and listed like every other."""

import shutil

import pandas as pd
import pytest
import toy_stage

from collabopt import figures
from collabopt.config import loading, stages, sweep
from collabopt.config.stages import STAGES
from collabopt.deploy import search
from collabopt.report import index_page, sweep_page, tables
from collabopt.run import Run

NAME = toy_stage.ROW.name


@pytest.fixture(scope="module", autouse=True)
def _registered(searched_small):  # noqa: ARG001 - searched without the new stage
    before = dict(STAGES)
    stages.register(toy_stage.ROW)
    yield
    STAGES.clear()
    STAGES.update(before)  # in their order


@pytest.fixture(scope="module")
def run(_registered, searched_small, small, tmp_path_factory) -> Run:
    """A run of the tiny experiment, whose file does not mention the new stage, in a tree of three stages."""
    place = tmp_path_factory.mktemp("new_stage")
    shutil.copytree(searched_small / "stages", place / "stages")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(loading, "DATA", place)
        experiment = loading.load(str(small))
        for name in STAGES.keys() - {"baseline", "pruned", NAME}:
            del STAGES[name]
        yield Run(experiment, place / "report", small, place / "stages")


@pytest.fixture(scope="module")
def found(run):
    """Every variant of the small tree, measured and recorded in the report."""
    return search.search(run)


def test_an_experiment_that_does_not_mention_the_stage_has_its_section(tiny):
    assert loading.load(str(tiny)).stages.rounded.epochs == 4


def test_the_stage_is_trained_and_keeps_the_zeros_of_its_parent(run):
    finished, parent = run.stage(NAME), run.stage("pruned").kernels()
    for name, kernel in finished.kernels().items():
        assert not (kernel * 64 % 1).any()
        assert not kernel[parent[name] == 0].any()
    assert finished.result["preserved"] is True


def test_its_row_is_in_results_layers_and_variants(run, found):
    for name in ("results", "layers", "variants"):
        assert NAME in set(pd.read_csv(run.directory / f"{name}.csv")["stage"])
    assert {f"{NAME}-int8", f"{NAME}-float16"} <= set(found.table.index)


def test_it_is_drawn_in_the_tree_and_the_figures(found):
    assert "rounded" in figures.draw_tree(found.results).alt
    assert "rounded" in figures.draw_layer_properties(found.layers).alt
    assert figures.style.get_colour("rounded int8") == toy_stage.ROW.colour


def test_it_is_listed_in_the_tables(found):
    for table in (tables.stages(found.finished), tables.verdicts(found.finished), tables.search(found)):
        assert "rounded" in table._repr_html_().lower()


def test_it_is_listed_on_the_index_page(found):
    page = index_page.write(found.run.directory, "# A tiny experiment.\n", {}).read_text()
    assert page.count("rounded") > 3


def test_a_sweep_trains_it_once_for_the_cells_that_share_it():
    grid = {"sparsity": [0.5, 0.7], "number_of_clusters": [8, 16]}
    assert sweep.find_shared_branches(grid)[NAME] == {"sparsity": [0.5, 0.7]}


def test_it_is_listed_on_the_page_of_a_sweep(found, tmp_path):
    cell = tmp_path / "sparsity=0.5"
    cell.mkdir()
    (cell / "results.csv").write_text((found.run.directory / "results.csv").read_text())
    page = sweep_page.write(tmp_path, "digits", {cell.name: "ok"}).read_text()
    assert "rounded" in page
