"""Batches of experiments, data and report directories whose names YAML, Snakemake, shells or URLs would misread.

The sweep of `test_sweep.py` has such names too.
"""

from pathlib import Path

import pandas as pd
import pytest
from example_batch import DIFFICULT_DIRECTORY, DIFFICULT_NAME, Place

pytestmark = pytest.mark.timeout(600)


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Place:
    """Data and reports in a directory whose name is difficult too. The batches share one store."""
    return Place(tmp_path_factory.mktemp("names") / DIFFICULT_DIRECTORY)


@pytest.mark.slow
@pytest.mark.parametrize(
    "name", ["2024_01", "1e3", "true", "null", DIFFICULT_NAME], ids=["integer", "float", "truth", "null", "signs"]
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
    rows = pd.read_csv(report / "results.csv", dtype=str, keep_default_na=False)
    assert rows["experiment"].unique().tolist() == [name]


def test_braces_in_a_path_are_an_error_of_one_line(place: Place, tiny: Path) -> None:
    experiment = place.root / "a {b}.yaml"
    experiment.write_text(tiny.read_text())
    done = place.run(experiment, "--notebooks", "baseline")
    assert done.status == 2
    assert "a {b}.yaml: expected a path without braces" in done.stderr
    assert len(done.stderr.splitlines()) == 1, done.stderr
