"""Tables of a report whose experiment, data or model change."""

from pathlib import Path

import pandas as pd
import pytest

from collabopt.config import loading
from collabopt.config.experiment import ExperimentError
from collabopt.storage import results

LAYERS = pd.DataFrame(columns=results.LAYERS)


@pytest.fixture(autouse=True)
def _data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loading, "DATA", tmp_path / "data")


def make_row(**changes) -> dict:
    row = dict.fromkeys(results.list_columns(results.find_score([])), 1)
    return row | {"experiment": "mine", "stage": "baseline", "scheme": "", "seed": 0} | changes


def record(directory: Path, seed: int = 0, start: str = "now", model: str = "m", task: str = "t", **data) -> None:
    row = make_row(seed=seed)
    about = {"experiment": {"name": "mine"}, "seed": 0, "start": start, "model_digest": model, "task_digest": task}
    about["data"] = {"fingerprint": "one", "validation": 10 + seed} | data
    results.record(directory, row, LAYERS, about, ("then", "trained"))


def read_seeds(directory: Path) -> list[int]:
    return results.read(directory / "results.csv")["seed"].tolist()


@pytest.mark.parametrize("changed", [{"fingerprint": "two"}, {"model": "n"}, {"task": "u"}])
def test_nothing_of_other_data_or_another_model_stays(tmp_path, changed):
    report = tmp_path / "report"
    record(report, seed=1)
    made = "published.html", "published.ipynb", "models/pqat.tflite", "deployed/mine-pqat.tflite", "variants.csv"
    for name in (*made, "notes.html", "exports/pqat/pqat.tflite"):
        (report / name).parent.mkdir(parents=True, exist_ok=True)
        (report / name).touch()
    record(report, start="now")
    assert read_seeds(report) == [0, 1]
    record(report, start="later", **changed)
    assert read_seeds(report) == [0]
    assert not [name for name in made if (report / name).exists()]
    assert (report / "notes.html").exists() and (report / "exports/pqat/pqat.tflite").exists()


def test_what_changes_within_a_run_is_refused(tmp_path):
    record(tmp_path / "report")
    for part in ("model", "task"):
        with pytest.raises(ExperimentError, match=f"^{part}: changed since this run began. Leave it as it is"):
            record(tmp_path / "report", seed=1, **{part: "other"})
    with pytest.raises(ExperimentError, match=r"data: changed since this run began.*seed its random"):
        record(tmp_path / "report", seed=1, fingerprint="two")
    assert read_seeds(tmp_path / "report") == [0]


def test_run_json_describes_the_data_of_its_own_seed(tmp_path):
    record(tmp_path / "report")
    record(tmp_path / "report", seed=1)
    assert results.read_run(tmp_path / "report")["data"]["validation"] == 10


@pytest.mark.parametrize("name", ["1e3", "true", "null", "2024_01"])
def test_an_experiment_keeps_a_name_that_pandas_would_read_as_a_value(tmp_path, name):
    about = {"experiment": {"name": name}, "seed": 0, "start": "now"}
    for stage in ("baseline", "pruned", "qat"):
        results.record(tmp_path / "report", make_row(experiment=name, stage=stage), LAYERS, about, ("then", "trained"))
    assert results.read(tmp_path / "report" / "results.csv")["experiment"].tolist() == 3 * [name]


def test_rows_of_other_stages_are_dropped(tmp_path):
    record(tmp_path / "report")
    about = results.read_run(tmp_path / "report")
    for stage in ("pruned", "pqat"):
        results.record(tmp_path / "report", make_row(stage=stage), LAYERS, about, ("then", "trained"))
    results.keep_stages(tmp_path / "report", ["baseline", "pruned"])
    assert results.read(tmp_path / "report" / "results.csv")["stage"].tolist() == ["baseline", "pruned"]
