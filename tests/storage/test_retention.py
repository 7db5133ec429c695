"""The store is listed by experiment, and pruning never removes what a running process uses."""

import errno
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from collabopt.config import loading
from collabopt.config.experiment import ExperimentError
from collabopt.storage import retention, store

DAY = 24 * 3600
HOLDER = """
import sys, time
from pathlib import Path
from collabopt.storage import retention
retention.hold(Path(sys.argv[1]), sys.argv[2])
print("held", flush=True)
time.sleep(600)
"""


def add_entry(store_directory: Path, seed: int, uses: dict[str, float], size: int = 1000) -> Path:
    """Store an entry that experiments used so many days ago."""
    entry = store.get_or_make(
        store_directory, "qat", {"seed": seed}, lambda path: (path / "weights").write_bytes(bytes(size))
    )
    for name, days in uses.items():
        retention.note_use(store_directory, entry, name)
        then = time.time() - days * DAY
        os.utime(store_directory / "uses" / entry.name / name, (then, then))
    return entry


def add_checkpoint(store_directory: Path) -> Path:
    """Store the checkpoint of a stage that is not finished."""
    directory = store.get_unfinished_directory(store_directory, "qat", {"seed": 0})
    directory.mkdir(parents=True)
    (directory / "epoch.npz").write_bytes(bytes(500_000))
    return directory


@pytest.fixture
def list_store(tmp_path, monkeypatch, capsys):
    """Lists the store in `tmp_path / "stages"` after pruning by settings. Returns the printed lines."""
    monkeypatch.setattr(loading, "DATA", tmp_path)

    def run(settings: str = "") -> list[str]:
        assert retention.list_or_prune(settings) == 0
        return [" ".join(line.split()) for line in capsys.readouterr().out.splitlines()]

    return run


@pytest.fixture
def holder(tmp_path):
    """Another process that runs the experiment `busy`."""
    process = subprocess.Popen([sys.executable, "-c", HOLDER, str(tmp_path), "busy"], stdout=subprocess.PIPE, text=True)
    assert process.stdout.readline() == "held\n"
    yield process
    process.kill()
    process.wait()


def test_an_empty_store_is_listed(list_store, tmp_path):
    assert list_store() == [f"{tmp_path / 'stages'}: nothing is stored"]


def test_experiments_are_listed_with_all_entries_and_those_not_shared(list_store, tmp_path):
    add_entry(tmp_path / "stages", 0, {"digits": 3}, size=2_000_000)
    add_entry(tmp_path / "stages", 1, {"digits": 1, "mine": 5}, size=1_000_000)
    assert list_store() == [
        "experiment entries MB MB not shared days unused",
        "digits 2 3.0 2.0 1.0",
        "mine 1 1.0 0.0 5.0",
    ]


def test_checkpoints_of_stopped_trainings_are_listed(list_store, tmp_path):
    add_checkpoint(tmp_path / "stages")
    assert list_store()[1] == "(none) 1 0.5 0.5 0.0"


def test_the_store_is_pruned_by_experiment_and_unused_days(list_store, tmp_path):
    old, new, other = (
        add_entry(tmp_path / "stages", seed, uses)
        for seed, uses in enumerate(({"digits": 40}, {"digits": 20}, {"mine": 40}))
    )
    lines = list_store("experiment=notebooks/digits.yaml unused_days=30.5")
    assert lines[0] == "removed 1 entries; kept 0 that a running batch or notebook uses"
    assert (old.exists(), new.exists(), other.exists()) == (False, True, True)
    assert [line.split()[0] for line in lines[2:]] == ["digits", "mine"]


def test_recently_used_entries_stay(tmp_path):
    old, new = add_entry(tmp_path, 0, {"digits": 40}), add_entry(tmp_path, 1, {"digits": 20})
    assert retention.prune(tmp_path, unused_days=30) == ([old], [])
    assert new.is_dir() and not old.exists()
    assert not (tmp_path / "uses" / old.name).exists()


def test_pruning_an_experiment_keeps_what_another_one_uses(tmp_path):
    own, common, other = (
        add_entry(tmp_path, seed, dict.fromkeys(names, 1)) for seed, names in enumerate((["a"], ["a", "b"], ["b"]))
    )
    retention.prune(tmp_path, experiment="a")
    assert (own.exists(), common.exists(), other.exists()) == (False, True, True)


def test_entries_of_a_running_process_stay_until_it_ends(tmp_path, holder):
    used, idle = add_entry(tmp_path, 0, {"busy": 99, "digits": 99}), add_entry(tmp_path, 1, {"digits": 99})
    assert retention.prune(tmp_path, unused_days=30) == ([idle], [used])
    assert used.is_dir() and not idle.exists()
    holder.kill()
    holder.wait()
    assert retention.prune(tmp_path, unused_days=30) == ([used], [])


def test_checkpoints_stay_while_any_process_runs(tmp_path, holder):
    checkpoint = add_checkpoint(tmp_path)
    assert retention.prune(tmp_path) == ([], [checkpoint])
    holder.kill()
    holder.wait()
    assert retention.prune(tmp_path, unused_days=1) == ([], [])
    assert checkpoint.is_dir()
    assert retention.prune(tmp_path) == ([checkpoint], [])
    assert not checkpoint.exists()


def test_a_run_can_use_a_read_only_store(tmp_path, monkeypatch):
    entry = add_entry(tmp_path, 0, {"digits": 3})

    def fail(*_arguments, **_options) -> None:
        raise OSError(errno.EROFS, os.strerror(errno.EROFS))

    for method in ("mkdir", "touch", "open"):
        monkeypatch.setattr(Path, method, fail)
    retention.hold(tmp_path, "mine")
    retention.note_use(tmp_path, entry, "mine")
    assert [path.name for path in (tmp_path / "uses" / entry.name).iterdir()] == ["digits"]


@pytest.mark.parametrize("text", ["digits", "experiment=", "unused_days=soon", "age=3"])
def test_an_unknown_setting_is_an_error(list_store, text):
    with pytest.raises(ExperimentError, match=r"^PRUNE: .*expected experiment=<name>, unused_days=<number>, or both"):
        list_store(text)


def test_an_experiment_that_the_store_does_not_hold_is_an_error(list_store, tmp_path):
    add_entry(tmp_path / "stages", 0, {"digits": 3})
    with pytest.raises(
        ExperimentError, match=r"experiment=digit: the store .*stages holds nothing of it; did you mean"
    ):
        list_store("experiment=digit")
    assert list_store("experiment=digits")[0].startswith("removed 1 entries")
