"""A package is hidden from others only inside the block, and only if nothing has imported it."""

import importlib
import sys

import pytest

from collabopt.runtime import optional_imports


@pytest.fixture
def package(tmp_path, monkeypatch):
    """A package that can be imported."""
    (tmp_path / "costly.py").write_text("")
    monkeypatch.syspath_prepend(tmp_path)
    yield "costly"
    sys.modules.pop("costly", None)


def test_a_package_is_hidden_inside_the_block_only(package):
    with optional_imports.hide(package), pytest.raises(ImportError):
        importlib.import_module(package)
    assert importlib.import_module(package)


def test_a_package_in_use_stays(package):
    module = importlib.import_module(package)
    with optional_imports.hide(package):
        assert importlib.import_module(package) is module
    assert sys.modules[package] is module
