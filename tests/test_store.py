"""What the store holds is whole, made once, and made again when it is not what was put there."""

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
from collabopt import store

keep, tally, seconds = Path(sys.argv[1]), Path(sys.argv[2]), float(sys.argv[3])

def make(directory):
    (directory / "weights").write_text("whole")
    with tally.open("a") as file:
        file.write("made\\n")
    print("making", flush=True)
    time.sleep(seconds)

print(store.get_or_make(keep, "qat", {"stage": "qat", "seed": 0}, make), flush=True)
"""


@pytest.fixture
def said():
    """What is said meanwhile, a string a call."""
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
    """Grows by a word each time `maker` makes."""
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
        pytest.skip("mounting a small disk needs root")
    done = subprocess.run(mount, capture_output=True, text=True, check=False)
    if done.returncode:
        pytest.skip(f"a small disk cannot be mounted here: {done.stderr.strip()}")
    yield place
    subprocess.run(["umount", "-l", str(place)], check=True)


def start(keep: Path, seconds: float) -> subprocess.Popen:
    command = [sys.executable, "-c", MAKER, str(keep), str(keep.parent / "tally"), str(seconds)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True)


def entries(keep: Path) -> list[str]:
    return sorted(path.name for path in keep.iterdir() if path.name != "locks")


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
    keep = tmp_path / "keep"
    processes = [start(keep, 1) for _ in range(3)]
    found = {process.communicate(timeout=120)[0].splitlines()[-1] for process in processes}
    assert [process.returncode for process in processes] == [0, 0, 0]
    assert (tmp_path / "tally").read_text() == "made\n"
    assert found == {str(keep / entries(keep)[0])}
    assert len(entries(keep)) == 1


def test_one_that_waits_says_for_whom(tmp_path, maker, made, said):
    process = start(tmp_path / "keep", 1)
    assert process.stdout.readline() == "making\n"
    store.get_or_make(tmp_path / "keep", "qat", MATERIAL, maker)
    assert process.wait(timeout=120) == 0
    assert said == [f"qat: waiting for process {process.pid}, which is making it"]
    assert made == []


def test_a_make_that_fails_leaves_nothing_behind(tmp_path, maker):
    def fail(directory: Path) -> None:
        (directory / "weights.npz").write_bytes(b"half")
        raise FloatingPointError("the loss is not finite")

    with pytest.raises(FloatingPointError, match="the loss is not finite"):
        store.get_or_make(tmp_path, "qat", MATERIAL, fail)
    assert entries(tmp_path) == []
    assert (store.get_or_make(tmp_path, "qat", MATERIAL, maker) / "weights.npz").stat().st_size == 64


def test_a_process_killed_while_making_leaves_nothing_that_looks_whole_and_no_lock(tmp_path, maker, made):
    keep = tmp_path / "keep"
    process = start(keep, 600)
    assert process.stdout.readline() == "making\n"
    process.send_signal(signal.SIGKILL)
    process.wait(timeout=60)
    assert [name.endswith(".partial") for name in entries(keep)] == [True]
    entry = store.get_or_make(keep, "qat", MATERIAL, maker)
    assert made == ["made"]
    assert entries(keep) == [entry.name]


def test_a_lock_file_that_names_a_dead_process_does_not_block(tmp_path, maker, said):
    lock = tmp_path / "locks" / f"qat-{store.compute_key(MATERIAL)}.lock"
    lock.parent.mkdir()
    lock.write_text("999999999")
    store.get_or_make(tmp_path, "qat", MATERIAL, maker)
    assert said == []
    assert lock.read_text() == str(os.getpid())


def test_any_single_byte_that_is_altered_is_noticed_said_and_made_good(tmp_path, maker, made, said):
    entry = store.get_or_make(tmp_path, "qat", MATERIAL, maker)
    files = [path for path in entry.rglob("*") if path.is_file()]
    contents = {path: path.read_bytes() for path in files}
    assert len(files) == 4
    # In every file, the key and the seal too; of the hashes in the seal some digits are enough.
    spots = [(path, at) for path, content in contents.items() for at in range(0, len(content), 1 + len(content) // 100)]
    for count, (path, at) in enumerate(spots, 1):
        broken = bytearray(contents[path])
        broken[at] ^= 1
        path.write_bytes(broken)
        store.get_or_make(tmp_path, "qat", MATERIAL, maker)
        assert len(made) == 1 + count, f"byte {at} of {path.name}"
        assert {path: path.read_bytes() for path in files} == contents
    assert said == [f"qat: the stored entry {entry.name} is damaged; making it again"] * len(spots)


@pytest.mark.parametrize("name", ["weights.npz", "more/fit.json", "key.json", "checksums.json"])
@pytest.mark.parametrize("damage", ["deleted", "emptied", "shortened", "lengthened"])
def test_a_file_that_is_not_as_it_was_left_is_made_again(tmp_path, maker, made, said, name, damage):
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
    assert [entry.name in line and "damaged" in line for line in said] == [True]


@pytest.mark.parametrize("seal", ["{}", "[]", "null", "1", '{"weights.npz": null}'])
def test_a_seal_that_does_not_cover_the_files_is_no_seal(tmp_path, maker, made, seal):
    entry = store.get_or_make(tmp_path, "qat", MATERIAL, maker)
    (entry / "checksums.json").write_text(seal)
    store.get_or_make(tmp_path, "qat", MATERIAL, maker)
    assert len(made) == 2


LEAVES = {
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
        {"training": LEAVES["training"] | {"epochs": 3}},
        {"training": LEAVES["training"] | {"learning_rate": 1.0000000000000002e-4}},
        {"training": LEAVES["training"] | {"augment": True}},
        {"data": ["b", "a"]},
        {"data": ["ab"]},
        {"more": None},
    ],
    ids=str,
)
def test_the_key_changes_with_any_value(changed):
    assert store.compute_key(LEAVES | changed) != store.compute_key(LEAVES)


def test_the_key_does_not_depend_on_the_order_of_names():
    assert store.compute_key(dict(reversed(LEAVES.items()))) == store.compute_key(LEAVES)
    assert len(store.compute_key(LEAVES)) == 16


def test_the_digest_of_sources_depends_on_names_and_contents_alone(tmp_path):
    files = [tmp_path / "a.py", tmp_path / "b.py"]
    for file in files:
        file.write_text(file.name)
    digest = atomic.compute_files_digest(files)
    assert atomic.compute_files_digest(files[::-1]) == digest
    assert atomic.compute_files_digest(files * 2) == digest
    moved = shutil.copytree(tmp_path, tmp_path / "moved")
    assert atomic.compute_files_digest([moved / file.name for file in files]) == digest
    assert atomic.compute_files_digest(files[:1]) != digest
    files[0].write_text("a.pz")
    assert atomic.compute_files_digest(files) != digest
    files[0].write_text("a.py")
    files[0].rename(tmp_path / "c.py")
    assert atomic.compute_files_digest([tmp_path / "c.py", files[1]]) != digest


def test_write_leaves_the_old_content_when_writing_fails(tmp_path, monkeypatch):
    file = tmp_path / "results.csv"
    atomic.write(file, "old")

    def full(_descriptor: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space left"):
        atomic.write(file, "new")
    assert file.read_text() == "old"
    assert list(tmp_path.iterdir()) == [file]


def test_write_makes_directories_and_replaces(tmp_path):
    file = tmp_path / "a" / "b" / "page.html"
    atomic.write(file, "old")
    atomic.write(file, "né".encode())
    assert file.read_text(encoding="utf-8") == "né"


@pytest.mark.parametrize(
    ("number", "reason"),
    [
        (errno.ENOSPC, "the disk is full"),
        (errno.EDQUOT, "the disk quota is used up"),
        (errno.EACCES, "the directory is not writable"),
        (errno.EROFS, "the directory is not writable"),
    ],
)
def test_what_keeps_the_store_from_writing_is_said_in_a_line(tmp_path, number, reason):
    def make(directory: Path) -> None:
        raise OSError(number, os.strerror(number), str(directory / "weights.npz"))

    with pytest.raises(StoreError) as caught:
        store.get_or_make(tmp_path, "qat", MATERIAL, make)
    line = str(caught.value)
    assert reason in line
    assert "COLLABOPT_DATA" in line
    assert str(tmp_path) in line
    assert "\n" not in line
    assert entries(tmp_path) == []


def test_other_errors_of_a_make_are_left_as_they_are(tmp_path):
    def make(_directory: Path) -> None:
        raise FileNotFoundError(errno.ENOENT, "no such file", "weights.h5")

    with pytest.raises(FileNotFoundError, match=r"weights\.h5"):
        store.get_or_make(tmp_path, "qat", MATERIAL, make)


def test_a_full_disk_stops_with_a_line_and_keeps_what_was_there(full_disk, maker):
    first = store.get_or_make(full_disk, "qat", MATERIAL, maker)
    atomic.write(full_disk / "results.csv", "old")

    def large(directory: Path) -> None:
        (directory / "weights.npz").write_bytes(bytes(100_000))

    with pytest.raises(StoreError, match="the disk is full"):
        store.get_or_make(full_disk, "pqat", MATERIAL, large)
    with pytest.raises(OSError, match="No space left"):
        atomic.write(full_disk / "results.csv", bytes(100_000))
    assert entries(full_disk) == [first.name, "results.csv"]
    assert (full_disk / "results.csv").read_text() == "old"
    # There is room again for what fits.
    store.get_or_make(full_disk, "pqat", MATERIAL, maker)


def test_a_store_that_is_read_only_gives_what_it_holds_and_says_that_it_takes_no_more(full_disk, maker):
    first = store.get_or_make(full_disk, "qat", MATERIAL, maker)
    subprocess.run(["mount", "-o", "remount,ro", str(full_disk)], check=True)
    assert store.get_or_make(full_disk, "qat", MATERIAL, maker) == first
    with pytest.raises(StoreError, match="not writable"):
        store.get_or_make(full_disk, "pqat", MATERIAL, maker)
