"""An entry of the store is complete and made once, and a damaged one is made again."""

import errno
import logging
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from collabopt.runtime import progress
from collabopt.storage import atomic, store
from collabopt.storage.store import StoreError

MATERIAL = {"stage": "qat", "seed": 0}
MAKER = """
import sys, time
from pathlib import Path
from collabopt.storage import store

store_directory, tally, seconds = Path(sys.argv[1]), Path(sys.argv[2]), float(sys.argv[3])

def make(directory):
    (directory / "weights").write_text("whole")
    with tally.open("a") as file:
        file.write("made\\n")
    print("making", flush=True)
    time.sleep(seconds)

print(store.get_or_make(store_directory, "qat", {"stage": "qat", "seed": 0}, make), flush=True)
"""


@pytest.fixture
def progress_lines():
    """The progress lines of the test."""
    lines, level = [], progress.logger.level
    handler = logging.Handler()
    handler.emit = lambda record: lines.append(record.getMessage())
    progress.logger.addHandler(handler)
    progress.logger.setLevel(logging.INFO)
    yield lines
    progress.logger.removeHandler(handler)
    progress.logger.setLevel(level)


@pytest.fixture
def made() -> list[str]:
    """One item per call of `maker`."""
    return []


@pytest.fixture
def maker(made):
    def make(directory: Path) -> None:
        made.append("made")
        (directory / "weights.npz").write_bytes(bytes(range(64)))
        (directory / "more").mkdir()
        (directory / "more" / "fit.json").write_text('{"epochs": 2}')

    return make


@pytest.fixture
def full_disk(tmp_path):
    """A real file system of 64 kB."""
    place = tmp_path / "disk"
    place.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(place)]
    if os.geteuid() != 0 or not shutil.which("mount"):
        pytest.skip("only root can mount a small disk")
    done = subprocess.run(mount, capture_output=True, text=True, check=False)
    if done.returncode:
        pytest.skip(f"a small disk cannot be mounted here: {done.stderr.strip()}")
    yield place
    subprocess.run(["umount", "-l", str(place)], check=True)


def start(store_directory: Path, seconds: float) -> subprocess.Popen:
    command = [sys.executable, "-c", MAKER, str(store_directory), str(store_directory.parent / "tally"), str(seconds)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True)


def list_entries(store_directory: Path) -> list[str]:
    return sorted(path.name for path in store_directory.iterdir() if path.name != "locks")


def test_an_entry_is_made_once_and_found_again(tmp_path, maker, made):
    first = store.get_or_make(tmp_path, "qat", MATERIAL, maker)
    assert (first / "weights.npz").read_bytes() == bytes(range(64))
    assert store.get_or_make(tmp_path, "qat", dict(reversed(MATERIAL.items())), maker) == first
    assert made == ["made"]


def test_other_material_is_another_entry(tmp_path, maker, made):
    first = store.get_or_make(tmp_path, "qat", MATERIAL, maker)
    assert store.get_or_make(tmp_path, "qat", MATERIAL | {"seed": 1}, maker) != first
    assert len(made) == 2


def test_processes_that_want_the_same_entry_at_once_make_it_once(tmp_path):
    store_directory = tmp_path / "store"
    processes = [start(store_directory, 1) for _ in range(3)]
    found = {process.communicate(timeout=120)[0].splitlines()[-1] for process in processes}
    assert [process.returncode for process in processes] == [0, 0, 0]
    assert (tmp_path / "tally").read_text() == "made\n"
    assert found == {str(store_directory / list_entries(store_directory)[0])}
    assert len(list_entries(store_directory)) == 1


def test_a_waiting_process_reports_the_maker(tmp_path, maker, made, progress_lines):
    process = start(tmp_path / "store", 1)
    assert process.stdout.readline() == "making\n"
    store.get_or_make(tmp_path / "store", "qat", MATERIAL, maker)
    assert process.wait(timeout=120) == 0
    assert progress_lines == [f"qat: waiting for process {process.pid}, which is making it"]
    assert made == []


def test_a_failing_make_leaves_nothing_behind(tmp_path, maker):
    def fail(directory: Path) -> None:
        (directory / "weights.npz").write_bytes(b"half")
        raise FloatingPointError("the loss is not finite")

    with pytest.raises(FloatingPointError, match="the loss is not finite"):
        store.get_or_make(tmp_path, "qat", MATERIAL, fail)
    assert list_entries(tmp_path) == []
    assert (store.get_or_make(tmp_path, "qat", MATERIAL, maker) / "weights.npz").stat().st_size == 64


def test_a_process_killed_while_making_leaves_no_entry_and_no_lock(tmp_path, maker, made):
    store_directory = tmp_path / "store"
    process = start(store_directory, 600)
    assert process.stdout.readline() == "making\n"
    process.send_signal(signal.SIGKILL)
    process.wait(timeout=60)
    assert [name.endswith(".partial") for name in list_entries(store_directory)] == [True]
    entry = store.get_or_make(store_directory, "qat", MATERIAL, maker)
    assert made == ["made"]
    assert list_entries(store_directory) == [entry.name]


def test_a_lock_file_that_names_a_dead_process_does_not_block(tmp_path, maker, progress_lines):
    lock = tmp_path / "locks" / f"qat-{store.compute_key(MATERIAL)}.lock"
    lock.parent.mkdir()
    lock.write_text("999999999")
    store.get_or_make(tmp_path, "qat", MATERIAL, maker)
    assert progress_lines == []
    assert lock.read_text() == str(os.getpid())


def test_any_changed_byte_is_noticed_reported_and_repaired(tmp_path, maker, made, progress_lines):
    entry = store.get_or_make(tmp_path, "qat", MATERIAL, maker)
    files = [path for path in entry.rglob("*") if path.is_file()]
    contents = {path: path.read_bytes() for path in files}
    assert len(files) == 4
    # In every file, including the key and the checksums; a sample of about 100 bytes per file.
    spots = [(path, at) for path, content in contents.items() for at in range(0, len(content), 1 + len(content) // 100)]
    for count, (path, at) in enumerate(spots, 1):
        broken = bytearray(contents[path])
        broken[at] ^= 1
        path.write_bytes(broken)
        store.get_or_make(tmp_path, "qat", MATERIAL, maker)
        assert len(made) == 1 + count, f"byte {at} of {path.name}"
        assert {path: path.read_bytes() for path in files} == contents
    assert progress_lines == [f"qat: the stored entry {entry.name} is damaged; making it again"] * len(spots)


@pytest.mark.parametrize("name", ["weights.npz", "more/fit.json", "key.json", "checksums.json"])
@pytest.mark.parametrize("damage", ["deleted", "emptied", "shortened", "lengthened"])
def test_a_damaged_file_is_made_again(tmp_path, maker, made, progress_lines, name, damage):
    entry = store.get_or_make(tmp_path, "qat", MATERIAL, maker)
    file = entry / name
    content = file.read_bytes()
    if damage == "deleted":
        file.unlink()
    else:
        file.write_bytes({"emptied": b"", "shortened": content[:-1], "lengthened": content + b"}"}[damage])
    assert store.get_or_make(tmp_path, "qat", MATERIAL, maker) == entry
    assert file.read_bytes() == content
    assert len(made) == 2
    assert [entry.name in line and "damaged" in line for line in progress_lines] == [True]


@pytest.mark.parametrize("checksums", ["{}", "[]", "null", "1", '{"weights.npz": null}'])
def test_checksums_must_cover_the_files(tmp_path, maker, made, checksums):
    entry = store.get_or_make(tmp_path, "qat", MATERIAL, maker)
    (entry / "checksums.json").write_text(checksums)
    store.get_or_make(tmp_path, "qat", MATERIAL, maker)
    assert len(made) == 2


KEY_MATERIAL = {
    "stage": "qat",
    "parent": None,
    "training": {"epochs": 2, "learning_rate": 1e-4, "augment": False},
    "data": ["a", "b"],
}


@pytest.mark.parametrize(
    "changed",
    [
        {"stage": "pqat"},
        {"parent": "baseline"},
        {"training": KEY_MATERIAL["training"] | {"epochs": 3}},
        {"training": KEY_MATERIAL["training"] | {"learning_rate": 1.0000000000000002e-4}},
        {"training": KEY_MATERIAL["training"] | {"augment": True}},
        {"data": ["b", "a"]},
        {"data": ["ab"]},
        {"more": None},
    ],
    ids=str,
)
def test_the_key_changes_with_any_value(changed):
    assert store.compute_key(KEY_MATERIAL | changed) != store.compute_key(KEY_MATERIAL)


def test_the_key_does_not_depend_on_the_order_of_names():
    assert store.compute_key(dict(reversed(KEY_MATERIAL.items()))) == store.compute_key(KEY_MATERIAL)
    assert len(store.compute_key(KEY_MATERIAL)) == 16


@pytest.mark.parametrize(
    ("number", "reason"),
    [
        (errno.ENOSPC, "the disk is full"),
        (errno.EDQUOT, "the disk quota is used up"),
        (errno.EACCES, "the directory is not writable"),
        (errno.EROFS, "the directory is not writable"),
    ],
)
def test_an_unwritable_store_is_reported_in_one_line(tmp_path, number, reason):
    def make(directory: Path) -> None:
        raise OSError(number, os.strerror(number), str(directory / "weights.npz"))

    with pytest.raises(StoreError) as caught:
        store.get_or_make(tmp_path, "qat", MATERIAL, make)
    line = str(caught.value)
    assert reason in line
    assert "COLLABOPT_DATA" in line
    assert str(tmp_path) in line
    assert "\n" not in line
    assert list_entries(tmp_path) == []


def test_other_errors_of_a_make_are_not_changed(tmp_path):
    def make(_directory: Path) -> None:
        raise FileNotFoundError(errno.ENOENT, "no such file", "weights.h5")

    with pytest.raises(FileNotFoundError, match=r"weights\.h5"):
        store.get_or_make(tmp_path, "qat", MATERIAL, make)


def test_a_full_disk_is_an_error_and_damages_nothing(full_disk, maker):
    first = store.get_or_make(full_disk, "qat", MATERIAL, maker)
    atomic.write(full_disk / "results.csv", "old")

    def large(directory: Path) -> None:
        (directory / "weights.npz").write_bytes(bytes(100_000))

    with pytest.raises(StoreError, match="the disk is full"):
        store.get_or_make(full_disk, "pqat", MATERIAL, large)
    with pytest.raises(OSError, match="No space left"):
        atomic.write(full_disk / "results.csv", bytes(100_000))
    assert list_entries(full_disk) == [first.name, "results.csv"]
    assert (full_disk / "results.csv").read_text() == "old"
    # A smaller entry still fits.
    store.get_or_make(full_disk, "pqat", MATERIAL, maker)


def test_a_read_only_store_can_be_read_and_refuses_new_entries(full_disk, maker):
    first = store.get_or_make(full_disk, "qat", MATERIAL, maker)
    subprocess.run(["mount", "-o", "remount,ro", str(full_disk)], check=True)
    assert store.get_or_make(full_disk, "qat", MATERIAL, maker) == first
    with pytest.raises(StoreError, match="not writable"):
        store.get_or_make(full_disk, "pqat", MATERIAL, maker)
