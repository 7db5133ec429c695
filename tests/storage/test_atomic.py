"""Files are written as a whole, and digests depend on names and contents."""

import errno
import os
import shutil

import pytest

from collabopt.storage import atomic


def test_the_digest_of_files_depends_on_names_and_contents_alone(tmp_path):
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
