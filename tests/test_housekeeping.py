"""What the store holds is listed by experiment, and pruning never takes what a process uses that runs."""

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from collabopt.config.experiment import ExperimentError
from collabopt.storage import retention, store

DAY = retention.DAY
HOLDER = """
import sys, time
from pathlib import Path
from collabopt import housekeeping
housekeeping.hold(Path(sys.argv[1]), sys.argv[2])
print("held", flush=True)
time.sleep(600)
"""


def stored(keep: Path, seed: int, uses: dict[str, float], size: int = 1000) -> Path:
    """An entry that experiments used so many days ago."""
    entry = store.get_or_make(keep, "qat", {"seed": seed}, lambda path: (path / "weights").write_bytes(bytes(size)))
    for name, days in uses.items():
        retention.note_use(keep, entry, name)
        then = time.time() - days * DAY
        os.utime(keep / "uses" / entry.name / name, (then, then))
    return entry


@pytest.fixture
def holder(tmp_path):
    """Another process that runs the experiment `busy`."""
    process = subprocess.Popen([sys.executable, "-c", HOLDER, str(tmp_path), "busy"], stdout=subprocess.PIPE, text=True)
    assert process.stdout.readline() == "held\n"
    yield process
    process.kill()
    process.wait()


def test_an_empty_store_is_listed(tmp_path):
    assert retention.summarize(tmp_path / "none").empty


def test_experiments_are_listed_with_what_they_use_alone_and_together(tmp_path):
    stored(tmp_path, 0, {"digits": 3}, size=2_000_000)
    stored(tmp_path, 1, {"digits": 1, "mine": 5}, size=1_000_000)
    table = retention.summarize(tmp_path).set_index("experiment")
    assert list(table["entries"]) == [2, 1]
    assert list(table["MB"]) == pytest.approx([3.0, 1.0], abs=0.1)
    assert list(table["MB of its own"]) == pytest.approx([2.0, 0.0], abs=0.1)
    assert list(table["days unused"]) == [1.0, 5.0]
    assert list(table["runs"]) == ["", ""]


def test_what_was_used_lately_stays(tmp_path):
    old, new = stored(tmp_path, 0, {"digits": 40}), stored(tmp_path, 1, {"digits": 20})
    removed, running = retention.prune(tmp_path, unused_days=30)
    assert [entry.path for entry in removed] == [old] and not running
    assert new.is_dir() and not old.exists()
    assert not (tmp_path / "uses" / old.name).exists()


def test_an_experiment_is_pruned_but_for_what_another_uses(tmp_path):
    own, common, other = (
        stored(tmp_path, seed, dict.fromkeys(names, 1)) for seed, names in enumerate((["a"], ["a", "b"], ["b"]))
    )
    retention.prune(tmp_path, name="a")
    assert (own.exists(), common.exists(), other.exists()) == (False, True, True)


def test_what_a_running_process_uses_stays_until_it_ends(tmp_path, holder):
    used, idle = stored(tmp_path, 0, {"busy": 99, "digits": 99}), stored(tmp_path, 1, {"digits": 99})
    assert list(retention.summarize(tmp_path).set_index("experiment")["runs"]) == ["yes", ""]
    removed, running = retention.prune(tmp_path, unused_days=30)
    assert [entry.path for entry in removed] == [idle]
    assert [entry.path for entry in running] == [used]
    holder.kill()
    holder.wait()
    assert [entry.path for entry in retention.prune(tmp_path, unused_days=30)[0]] == [used]


def test_a_checkpoint_of_a_training_that_was_stopped_is_listed_and_pruned(tmp_path):
    left = store.get_unfinished_directory(tmp_path, "qat", {"seed": 0})
    left.mkdir(parents=True)
    (left / "epoch.npz").write_bytes(bytes(500))
    (entry,) = retention.list_entries(tmp_path)
    assert entry.bytes == 500
    retention.prune(tmp_path, unused_days=1)
    assert left.is_dir()
    retention.prune(tmp_path)
    assert not left.exists()


@pytest.mark.parametrize("text", ["digits", "experiment=", "unused_days=soon", "age=3"])
def test_what_cannot_be_pruned_by_is_told(text):
    with pytest.raises(ExperimentError, match=r"^PRUNE: .*expected experiment=<name>, unused_days=<number>, or both"):
        retention._settings(text)
