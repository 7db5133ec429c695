"""Batches of experiments, data and report directories whose names YAML, Snakemake, shells or URLs would misread."""

from pathlib import Path

import pandas as pd
import pytest
from example_batch import Place

pytestmark = pytest.mark.timeout(600)


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Place:
    """Data and reports in a directory whose name is difficult too. The batches share one store."""
    root = tmp_path_factory.mktemp("names") / "it's #1: a b"
    root.mkdir()
    return Place(root)


@pytest.mark.parametrize(
    "name",
    [
        pytest.param("2024_01", id="integer", marks=pytest.mark.slow),
        pytest.param("1e3", id="float", marks=pytest.mark.slow),
        pytest.param("true", id="truth", marks=pytest.mark.slow),
        pytest.param("null", id="null", marks=pytest.mark.slow),
        pytest.param("a: b #2 'c' 50% ü", id="signs"),
    ],
)
def test_a_batch_runs_whatever_the_name_of_its_experiment(name: str, place: Place, tiny: Path) -> None:
    experiment = place.root / f"{name}.yaml"
    experiment.write_text(tiny.read_text().replace("epochs: 6", "epochs: 1"))
    done = place.run(experiment, "--notebooks", "baseline")
    assert done.status == 0, done.stderr
    report = place.reports / name
    assert {path.name for path in place.reports.iterdir() if path.is_dir()} >= {name}
    assert (report / "baseline.html").is_file()
    assert (report / "index.html").is_file()
    assert pd.read_csv(report / "results.csv", dtype=str)["experiment"].unique().tolist() == [name]


def test_braces_in_a_path_are_an_error_of_one_line(place: Place, tiny: Path) -> None:
    experiment = place.root / "a {b}.yaml"
    experiment.write_text(tiny.read_text())
    done = place.run(experiment, "--notebooks", "baseline")
    assert done.status == 2
    assert "a {b}.yaml: expected a path without braces" in done.stderr
    assert len(done.stderr.splitlines()) == 1, done.stderr
