"""A batch with nothing to do ends at once, and only then."""

import json
import os
from pathlib import Path

import numpy as np
import pytest

from collabopt.batch import plan, scheduler
from collabopt.config import loading


def read_times(experiment: Path) -> dict[str, int]:
    return loading.read_input_times(loading.load(str(experiment)))


@pytest.fixture
def finished(tmp_path, monkeypatch):
    """An experiment on a file, and what its last batch left: the record of its inputs and its pages."""
    monkeypatch.setattr(loading, "REPORTS", tmp_path / "reports")
    np.savez(tmp_path / "data.npz", x_train=np.zeros((8, 4)), y_train=np.arange(8) % 2)
    experiment = tmp_path / "mine.yaml"
    experiment.write_text(f"dataset: {{path: {tmp_path}/data.npz}}\nmodel: {{name: digits_cnn}}\n")
    work = plan.plan_work(str(experiment), {}, [])
    for page in (*work.jobs.values(), work.pages / "index.html", loading.REPORTS / "index.html"):
        page.parent.mkdir(parents=True, exist_ok=True)
        page.touch()
    place = tmp_path / "place"
    place.mkdir()
    (place / scheduler._INPUTS).write_text(
        json.dumps(scheduler._describe_inputs(str(experiment), work, read_times(experiment)))
    )
    return experiment, place


def is_unchanged(experiment: Path, place: Path, grid: dict | None = None, chosen: tuple[str, ...] = ()) -> bool:
    work = plan.plan_work(str(experiment), grid or {}, list(chosen))
    return scheduler._is_unchanged(
        scheduler._describe_inputs(str(experiment), work, read_times(experiment)), work, place
    )


def test_a_batch_whose_inputs_and_pages_are_those_of_the_last_one_is_not_run(finished):
    assert is_unchanged(*finished)


def test_another_parameter_or_notebook_is_run(finished):
    assert not is_unchanged(*finished, {"sparsity": [0.7]})
    assert not is_unchanged(*finished, chosen=("baseline",))


@pytest.mark.parametrize(
    "find",
    [
        lambda experiment: experiment,
        lambda experiment: experiment.with_name("data.npz"),
        lambda _: loading.ROOT / "Snakefile",
        lambda _: plan.NOTEBOOKS / "pqat.ipynb",
        lambda _: Path(scheduler.__file__),
        lambda _: Path(scheduler.__file__).parents[1] / "report" / "templates" / "page.css",
    ],
    ids=["experiment", "data", "Snakefile", "notebook", "library", "template"],
)
def test_a_changed_input_is_run_again(finished, find, monkeypatch):
    changed, stat = find(finished[0]), Path.stat

    def read(path: Path, **keywords):
        values = stat(path, **keywords)
        times = {name: getattr(values, name) + 1 for name in ("st_mtime_ns", "st_ctime_ns")}
        later = os.stat_result(tuple(values), times)
        return later if path == changed else values

    monkeypatch.setattr(Path, "stat", read)
    assert not is_unchanged(*finished)


def test_folders_and_modules_of_the_user_are_inputs(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "pictures" / "train" / "cat").mkdir(parents=True)
    (tmp_path / "unchanged_model.py").write_text("import steps.round\n\n\ndef build(): ...\n")
    (tmp_path / "steps").mkdir()
    experiment = tmp_path / "mine.yaml"
    experiment.write_text("dataset: {path: pictures}\nmodel: {function: unchanged_model:build}\n")
    for name in ("helper.py", "steps/round.py"):
        (tmp_path / name).touch()
    names = (
        "unchanged_model.py",
        "helper.py",
        "steps/round.py",
        "pictures",
        "pictures/train/cat",
        "pictures/train/cat/1.png",
    )
    (tmp_path / names[-1]).touch()
    loaded = loading.load(str(experiment))
    assert {str(tmp_path / name) for name in names} <= {*loading.read_input_times(loaded)}
    before = loading.describe_inputs(loading.read_input_times(loaded))
    assert loading.describe_inputs(loading.read_input_times(loaded)) == before
    state = (tmp_path / names[-1]).stat()
    (tmp_path / names[-1]).write_bytes(b"another picture")
    os.utime(tmp_path / names[-1], ns=(state.st_atime_ns, state.st_mtime_ns))
    assert loading.describe_inputs(loading.read_input_times(loaded)) != before


def test_marks_older_than_the_experiment_are_forgotten(finished):
    experiment, place = finished
    for name, age in (("baseline", 10), ("pqat", -10)):
        (place / f"{name}.done").touch()
        changed = experiment.stat().st_mtime_ns - age * 10**9
        os.utime(place / f"{name}.done", ns=(changed, changed))
    work = plan.plan_work(str(experiment), {}, ["pqat"])
    scheduler._reset_marks(str(experiment), work, place, read_times(experiment))
    assert [path.stem for path in place.glob("*.done")] == ["pqat"]


def test_a_missing_page_is_written_again(finished):
    (loading.REPORTS / "mine" / "pcqat.html").unlink()
    assert not is_unchanged(*finished)
