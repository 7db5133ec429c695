"""Sweeps: grids, the jobs that cells share, means over seeds, and a real sweep."""

import json
import re
import shutil
import subprocess
import sys
from collections import Counter
from pathlib import Path
from urllib.parse import quote

import example_network
import pandas as pd
import pytest
from example_batch import DIFFICULT_DIRECTORY, DIFFICULT_NAME, Place

from collabopt import __main__
from collabopt.batch.plan import parse_settings
from collabopt.config import loading, sweep
from collabopt.config.experiment import ExperimentError
from collabopt.config.scores import ACCURACY
from collabopt.figures.pareto import find_front
from collabopt.report import summary
from collabopt.storage import results

GRID = {"sparsity": [0.5, 0.7], "number_of_clusters": [8, 16, 32], "seed": [0, 1]}


def test_a_grid_has_a_cell_for_every_combination():
    found = sweep.list_cells(GRID)
    assert len(found) == len({tuple(cell.values()) for cell in found}) == 12
    assert found[0] == {"sparsity": 0.5, "number_of_clusters": 8, "seed": 0}
    assert sweep.list_cells({}) == [{}]


@pytest.mark.parametrize(
    ("grid", "shared"),
    [
        (
            GRID,
            {
                "qat": ["seed"],
                "pqat": ["sparsity", "seed"],
                "cqat": GRID.keys() - {"sparsity"},
            },
        ),
        ({"sparsity": [0.5, 0.7]}, {"qat": [], "cqat": []}),
        ({"number_of_clusters": [8, 16]}, {"qat": [], "pqat": []}),
        ({"seed": [0, 1]}, {}),
        ({"scheme": ["collabopt", "tfmot"]}, {"qat": []}),
        ({"sparsity": [0.5]}, {}),
    ],
)
def test_a_branch_is_shared_where_fewer_values_decide_it_than_the_cells(grid, shared):
    assert {branch: set(part) for branch, part in sweep.find_shared_branches(grid).items()} == {
        branch: set(settings) for branch, settings in shared.items()
    }


def plan_jobs(tmp_path: Path, keys: str, notebook: str, cores: int, grid=None) -> tuple[dict[str, int], str]:
    """The number of jobs by rule, and the inputs of a notebook, of a batch of an experiment that extends `digits`."""
    experiment = tmp_path / "planned.yaml"
    experiment.write_text(f"extends: digits\n{keys}\n")
    batch = {"experiment": str(experiment), "notebooks": [notebook], "place": str(tmp_path), "pages": str(tmp_path)}
    batch |= {"cores": cores, "grid": grid or {}}
    command = [sys.executable, "-m", "snakemake", "--snakefile", str(loading.ROOT / "Snakefile"), "--dry-run"]
    command += ["--nolock", "--cores", str(cores), "--directory", str(tmp_path)]
    command += ["--config", f"batch={quote(json.dumps(batch), safe='')}"]
    planned = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    jobs = {rule: int(count) for rule, count in re.findall(r"^(\w+) +(\d+)$", planned, re.MULTILINE)}
    inputs = [line for line in planned.splitlines() if f"{notebook}.ipynb" in line and "input:" in line]
    return {rule: count for rule, count in jobs.items() if rule not in ("report", "total")}, inputs[0]


def test_published_waits_for_a_job_per_further_seed(tmp_path):
    jobs, inputs = plan_jobs(tmp_path, "repeat_seeds: [1, 2]", "published", 1)
    assert jobs == {"check": 1, "notebook": 6, "repeat": 2}
    assert all(f"repeat/seed={seed}.done" in inputs for seed in (1, 2))


@pytest.mark.parametrize(
    ("keys", "cores", "expected"),
    [
        ("", 2, {"check": 1, "notebook": 6, "variants": 1}),
        ("threads: 2", 3, {"check": 1, "notebook": 6}),
        ("targets: {max_accuracy_drop: 0.01}", 2, {"check": 1, "notebook": 1}),
    ],
    ids=["two cores", "two threads", "targets"],
)
def test_variants_are_measured_beside_the_last_trainings_where_a_core_is_free(tmp_path, keys, cores, expected):
    jobs, inputs = plan_jobs(tmp_path, keys, "deployment_tree", cores)
    assert jobs == expected
    assert ("variants.done" in inputs) == ("variants" in expected)


def test_a_shared_branch_waits_for_every_baseline_that_it_could_need(tmp_path):
    grid = {"stages.qat.epochs": [1, 2], "number_of_clusters": [8, 16], "seed": [0, 1]}
    jobs, _ = plan_jobs(tmp_path, "", "deployment_tree", 2, grid)
    assert (jobs["cell"], jobs["qat"]) == (8, 4)


def test_the_names_of_all_cells_differ_and_read_back():
    names = [sweep.format_name(cell) for cell in sweep.list_cells(GRID)]
    assert len(set(names)) == 12
    assert names[0] == "sparsity=0.5,number_of_clusters=8,seed=0"
    assert sweep.format_name(GRID) == "sparsity=0.5+0.7,number_of_clusters=8+16+32,seed=0+1"
    long = sweep.format_name({"seed": list(range(100))})
    assert len(long) < 200 and long != sweep.format_name({"seed": list(range(101))})


@pytest.mark.parametrize(
    ("text", "grid"),
    [
        ("", {}),
        ("sparsity=0.8", {"sparsity": [0.8]}),
        ("sparsity=5e-1,0.7 cluster_per_channel=true", {"sparsity": [0.5, 0.7], "cluster_per_channel": [True]}),
        ("seed=0,1,2 scheme=tfmot", {"seed": [0, 1, 2], "scheme": ["tfmot"]}),
    ],
)
def test_a_grid_is_written_as_values_with_commas(text, grid):
    assert parse_settings(text) == grid


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("sparsity=0.5,", "'sparsity=0.5,': expected name=value, or name=value,value for a sweep"),
        ("sparsity=0.5,,0.7", "expected name=value"),
        ("seed=0,1,0", "'seed=0,1,0': a value is given twice"),
        ("sparsity=0.5,5e-1", "a value is given twice"),
        ("seed=0 seed=1", "seed: given twice; a sweep is seed=value,value"),
        ("sparsities=0.5,0.7", "sparsities: no notebook has this parameter; did you mean sparsity?"),
    ],
)
def test_a_wrong_grid_is_an_error(text, message):
    with pytest.raises(ExperimentError, match=r"^SET: ") as error:
        parse_settings(text)
    assert message in str(error.value)


def test_the_front_has_the_points_that_no_other_beats():
    sizes, accuracies = pd.Series([10, 20, 20, 30, 40]), pd.Series([0.8, 0.9, 0.85, 0.9, 0.95])
    assert find_front(sizes, accuracies).tolist() == [True, True, False, False, True]
    assert find_front(pd.Series([1, 1]), pd.Series([0.5, 0.5])).tolist() == [True, True]


def row(**values: object) -> dict:
    base = dict.fromkeys(results.list_columns(ACCURACY))
    numbers = {"accuracy": 0.9, "accuracy_int8": 0.9, "gzip_bytes": 100, "zip_bytes": 100, "tflite_bytes": 200}
    return (
        base
        | numbers
        | {"experiment": "x", "stage": "pruned", "seed": 0, "sparsity": 0.5, "unique_weights": 9}
        | values
    )


def test_figures_are_means_over_seeds_and_a_stage_of_several_cells_counts_once():
    rows = pd.DataFrame(
        [
            row(seed=0, accuracy_int8=0.90, preserved=True),
            row(seed=0, accuracy_int8=0.90, preserved=True),  # the same, in another cell
            row(seed=1, accuracy_int8=0.94, preserved=False),
            row(stage="baseline", accuracy_int8=0.99),
        ]
    )
    table = summary.average_over_seeds(rows).set_index("stage")
    assert list(table.index) == ["baseline", "pruned"]
    assert table.loc["pruned", "seeds"] == 2
    assert table.loc["pruned", "accuracy_int8"] == pytest.approx(0.92)
    assert table.loc["pruned", "accuracy_int8_std"] == pytest.approx(0.04 / 2**0.5)
    assert table.loc["pruned", "preserved"] is False
    assert pd.isna(table.loc["baseline", "accuracy_int8_std"]) and table.loc["baseline", "preserved"] is None


SHARED = ["baseline", "qat", "pruned", "pqat"]
PER_CELL = ["clustered", "cqat", "sparse_clustered", "pcqat"]
CELLS = [f"stages__pcqat__epochs={number}" for number in (1, 2)]


@pytest.fixture(scope="module")
def swept(searched_small, small, tmp_path_factory) -> tuple[Path, str]:
    """The directory and the output of a sweep by the real Snakemake, with difficult names.

    The store has every stage of the first cell.
    """
    place = Place(tmp_path_factory.mktemp("sweep") / DIFFICULT_DIRECTORY)
    place.environment["PYTHONPATH"] = str(Path(example_network.__file__).parent)
    shutil.copytree(searched_small / "stages", place.data / "stages")
    experiment = shutil.copy(small, place.root / f"{DIFFICULT_NAME}.yaml")
    return run_sweep(place, experiment, "stages.pcqat.epochs=1,2")


def run_sweep(place: Place, experiment: Path, grid: str) -> tuple[Path, str]:
    done = place.run(experiment, "--set", grid)
    assert done.status == 0, done.stderr
    return place.reports / experiment.stem / f"sweep,{sweep.encode(grid).replace(',', '+')}", done.stdout


def count_trainings(output: str) -> Counter:
    """How often each stage was trained."""
    return Counter(re.findall(r" (\w+): \d+ epochs? took ", output))


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_sweep_trains_and_lists_the_stages_that_its_cells_share_once(tiny, tmp_path):
    directory, output = run_sweep(Place(tmp_path), tiny, "number_of_clusters=16,32")
    assert count_trainings(output) == Counter(SHARED + 2 * PER_CELL)
    assert Counter(pd.read_csv(directory / "sweep.csv")["stage"]) == Counter(SHARED + 2 * PER_CELL)


@pytest.mark.timeout(900)
def test_a_sweep_trains_only_missing_stages_and_has_every_cell(swept):
    directory, output = swept
    assert count_trainings(output) == {"pcqat": 1}
    table = pd.read_csv(directory / "sweep.csv")
    assert set(table["experiment"]) == {DIFFICULT_NAME}
    # The setting is in no column, so each cell has its own rows.
    assert Counter(table["stage"]) == Counter(2 * (SHARED + PER_CELL))
    front = find_front(table["gzip_bytes"], table["validation_accuracy_int8"])
    assert table["front"].tolist() == front.tolist() and front.any()
    assert len(results.read(directory / "results.csv")) == 16
    for epochs, cell in enumerate(CELLS, start=1):
        assert {"deployment_tree.html", "results.csv", "run.json", "models"} <= {
            path.name for path in (directory / cell).iterdir()
        }
        about = json.loads((directory / cell / "run.json").read_text())
        assert about["experiment"]["stages"]["pcqat"]["epochs"] == epochs


def test_the_page_of_a_sweep_links_every_cell(swept):
    directory, _ = swept
    page = (directory / "index.html").read_text(encoding="utf-8")
    for cell in CELLS:
        assert f'href="{cell.replace("=", "%3D")}/deployment_tree.html"' in page
    assert "Pareto front" in page


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["sparsity=0.5,1.5"], "sparsity=1.5: expected less than 1"),
        (["seed=0,-1"], "seed=-1: expected greater than or equal to 0"),
        (["number_of_clusters=8,two"], "number_of_clusters='two': expected a valid integer"),
        (["scheme=collabopt,ours"], "scheme='ours': expected 'collabopt' or 'tfmot'"),
        (["cluster_per_channel=true,2"], "cluster_per_channel=2: expected a valid boolean"),
        (["train_fraction=0.5,0"], "train_fraction=0: expected greater than 0"),
        (["sparsity=0.5,0.6 number_of_clusters=2,8"], "number_of_clusters=2: expected greater than or equal to 3"),
        (["seed=0,1", "--notebooks", "pqat"], "NOTEBOOKS=pqat: a sweep runs deployment_tree in every cell"),
        (["seed=0,1 max_npu_ms=2"], "targets: a sweep trains every stage of its cells"),
        (["seed=0", "--notebooks", "pqta"], "NOTEBOOKS: pqta: no such notebook; did you mean pqat?"),
        (["seed=0", "--profile", "profiles/slrm"], "PROFILE=profiles/slrm: expected a directory with a config.yaml"),
    ],
)
def test_one_wrong_cell_stops_a_sweep_before_anything_is_made(monkeypatch, capsys, tmp_path, options, message):
    monkeypatch.setattr(loading, "DATA", tmp_path / "data")
    monkeypatch.setattr(loading, "REPORTS", tmp_path / "reports")
    assert __main__.main(["report", "--experiment", "digits", "--set", *options]) == 2
    output = capsys.readouterr()
    assert (output.out, len(output.err.splitlines())) == ("", 1)
    assert message in output.err
    assert not any(tmp_path.iterdir())
