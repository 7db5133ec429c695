"""The lock file is what the project asks for, on every Python and system it names, and what is installed here."""

import os
import re
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Callable
from importlib import metadata
from pathlib import Path
from types import SimpleNamespace

import pytest
import yaml
from packaging.markers import default_environment
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name

from collabopt.config import loading

ROOT = loading.ROOT
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
ASKED = [Requirement(text) for text in (*PROJECT["project"]["dependencies"], *PROJECT["dependency-groups"]["dev"])]
PYTHONS = ["3.11", "3.12", "3.13"]
SYSTEMS = {
    "linux": {"sys_platform": "linux", "platform_system": "Linux", "os_name": "posix", "platform_machine": "x86_64"},
    "darwin": {"sys_platform": "darwin", "platform_system": "Darwin", "os_name": "posix", "platform_machine": "arm64"},
}
LOCK = ROOT / "requirements.lock"


FORMATS_LOCK = ROOT / "requirements-formats.lock"


def locked(lock: Path = LOCK) -> list[str]:
    """The lines of a lock file, those that go on joined."""
    lines = lock.read_text(encoding="utf-8").replace("\\\n", " ").splitlines()
    return [line for line in lines if line.strip() and not line.startswith("#")]


def requirement(line: str) -> Requirement:
    return Requirement(line.partition("--hash")[0].strip())


def chosen(environment: dict, lock: Path = LOCK) -> dict[str, list[str]]:
    """The versions that a lock file gives an environment, by name."""
    versions: dict[str, list[str]] = {}
    for line in locked(lock):
        one = requirement(line)
        if one.marker is None or one.marker.evaluate(environment):
            versions.setdefault(canonicalize_name(one.name), []).append(str(one.specifier).removeprefix("=="))
    return versions


def environment(python: str, system: str) -> dict:
    named = {"python_version": python, "python_full_version": f"{python}.5", "implementation_name": "cpython"}
    return default_environment() | SYSTEMS[system] | named | {"platform_python_implementation": "CPython"}


each_environment = pytest.mark.parametrize(
    "versions",
    [chosen(environment(python, system)) for python in PYTHONS for system in SYSTEMS],
    ids=[f"{python}-{system}" for python in PYTHONS for system in SYSTEMS],
)


def test_the_project_takes_the_pythons_that_the_lock_is_checked_for():
    asked = SpecifierSet(PROJECT["project"]["requires-python"])
    assert [python for python in ("3.10", *PYTHONS, "3.14") if asked.contains(f"{python}.5")] == PYTHONS


@pytest.mark.parametrize("lock", [LOCK, FORMATS_LOCK], ids=lambda lock: lock.name)
def test_every_line_of_the_lock_is_pinned_and_hashed(lock):
    for line in locked(lock):
        assert [part.operator for part in requirement(line).specifier] == ["=="], line[:80]
        hashes = re.findall(r"--hash=(\S+)", line)
        assert hashes, line[:80]
        assert all(re.fullmatch(r"sha256:[0-9a-f]{64}", sum_) for sum_ in hashes)


@pytest.mark.parametrize("python", PYTHONS)
def test_the_packages_of_further_formats_change_no_locked_version(python):
    here = environment(python, "linux")
    versions, added = chosen(here), chosen(here, FORMATS_LOCK)
    assert {"openvino", "ai-edge-quantizer"} <= set(added)
    assert ("nncf" in added) == (python == "3.11")
    assert "torch" not in added
    assert {name: found for name, found in added.items() if name in versions and found != versions[name]} == {}


@each_environment
def test_the_lock_gives_one_version_of_each_package(versions):
    assert {name: several for name, several in versions.items() if len(several) > 1} == {}


@each_environment
@pytest.mark.parametrize("asked", ASKED, ids=lambda asked: asked.name)
def test_the_lock_satisfies_what_the_project_asks_for(versions, asked):
    found = versions.get(canonicalize_name(asked.name), [])
    assert len(found) == 1
    assert asked.specifier.contains(found[0])


@each_environment
def test_the_lock_holds_the_versions_whose_defects_are_known(versions):
    assert versions["tensorflow"][0].startswith("2.21.")
    assert versions["tf-keras"][0].startswith("2.21.")
    assert versions["tensorflow-model-optimization"] == ["0.8.1"]


def test_the_installed_packages_are_the_locked_ones():
    wanted = {name: versions[0] for name, versions in chosen(default_environment()).items()}
    # Looked up one by one: setuptools brings copies of some for itself, further down the path.
    assert {name: metadata.version(name) for name in wanted} == wanted


def test_the_installed_packages_have_all_that_they_need():
    done = subprocess.run([sys.executable, "-m", "pip", "check"], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout


def test_the_conda_file_is_the_same_python_and_the_lock():
    wanted = yaml.safe_load((ROOT / "environment.yml").read_text(encoding="utf-8"))
    python, pip, packages = wanted["dependencies"]
    assert python.startswith("python=")
    assert python.removeprefix("python=") in PYTHONS
    assert pip == "pip"
    assert packages == {"pip": ["-r requirements.lock"]}
    assert (ROOT / packages["pip"][0].removeprefix("-r ")).samefile(LOCK)
    assert wanted["name"] == PROJECT["project"]["name"]


@pytest.fixture
def install(tmp_path) -> Callable:
    """Runs the set-up in a copy of the workbook's outermost files."""
    (tmp_path / "lib").mkdir()
    for name in ("lib/install.sh", "requirements.lock", "pyproject.toml"):
        shutil.copy(ROOT / name, tmp_path / name)

    def run(**variables: str) -> SimpleNamespace:
        command = [tmp_path / "lib" / "install.sh"]
        done = subprocess.run(command, env=os.environ | variables, capture_output=True, text=True, check=False)
        return SimpleNamespace(
            status=done.returncode,
            out=done.stdout.splitlines(),
            err=done.stderr.splitlines(),
            made=sorted(path.name for path in tmp_path.iterdir()),
        )

    return run


def fake_python(path: Path, version: str) -> Path:
    """An interpreter of another version: it tells that, and ends the set-up's own question with status 1."""
    path.write_text(f'#!/bin/sh\n[ "$1" = --version ] && echo "Python {version}" && exit 0\nexit 1\n')
    path.chmod(0o755)
    return path


def test_the_set_up_names_the_pythons_it_takes_where_there_is_none(install):
    done = install(PYTHON="/nonexistent")
    assert (done.status, done.out, len(done.err)) == (1, [], 1)
    assert "Python 3.11, 3.12 or 3.13" in done.err[0]
    assert "found: none" in done.err[0]
    assert ".venv" not in done.made


@pytest.mark.parametrize("version", ["3.9.19", "3.14.0"])
def test_the_set_up_names_the_python_it_found_and_does_not_take(install, tmp_path_factory, version):
    done = install(PYTHON=str(fake_python(tmp_path_factory.mktemp("python") / "python", version)))
    assert (done.status, done.out, len(done.err)) == (1, [], 1)
    assert "Python 3.11, 3.12 or 3.13" in done.err[0]
    assert f"found: Python {version}" in done.err[0]
    assert ".venv" not in done.made


def test_the_set_up_says_in_a_line_that_there_is_no_network(install):
    nowhere = {"PIP_CONFIG_FILE": os.devnull, "PIP_INDEX_URL": "http://127.0.0.1:9/simple", "PIP_RETRIES": "0"}
    done = install(PYTHON=sys.executable, PIP_FIND_LINKS="", PIP_EXTRA_INDEX_URL="", PIP_NO_INDEX="", **nowhere)
    assert (done.status, len(done.err)) == (1, 1), done.err
    assert "installing requirements.lock failed: the package index cannot be reached" in done.err[0]


def test_the_set_up_does_nothing_and_says_nothing_where_nothing_changed(install, tmp_path):
    # A .venv that holds an interpreter and the marks alone: anything more than a look at them would fail.
    (tmp_path / ".venv" / "bin").mkdir(parents=True)
    (tmp_path / ".venv" / "bin" / "python").symlink_to(sys.executable)
    (tmp_path / ".venv" / "installed").mkdir()
    for name in ("requirements.lock", "pyproject.toml"):
        shutil.copy(ROOT / name, tmp_path / ".venv" / "installed" / name)
    done = install(PYTHON="/nonexistent")
    assert (done.status, done.out, done.err) == (0, [], [])
    (tmp_path / "pyproject.toml").write_text("changed")
    assert install(PYTHON="/nonexistent").status == 1


def test_the_set_up_of_this_checkout_is_current():
    for name in ("requirements.lock", "pyproject.toml"):
        # Else this would install: `make test` sets up first.
        mark = ROOT / ".venv" / "installed" / name
        if not mark.is_file() or mark.read_bytes() != (ROOT / name).read_bytes():
            pytest.skip(f"{name} is not the one that was installed; run make setup")
    done = subprocess.run([ROOT / "lib" / "install.sh"], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
