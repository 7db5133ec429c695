"""Modules of the user: which files decide what they compute, and files that changed after their import."""

import importlib
import sys
from pathlib import Path

import pytest

from collabopt.runtime import user_modules
from collabopt.storage.function_digest import compute_function_digest


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of modules, whose imports are forgotten afterwards."""
    before = set(sys.modules)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(user_modules, "_imported", {})
    yield tmp_path
    for name in set(sys.modules) - before:
        if str(getattr(sys.modules[name], "__file__", "")).startswith(str(tmp_path)):
            del sys.modules[name]


def write(folder: Path, **sources: str) -> None:
    for name, source in sources.items():
        path = folder / f"{name.replace('__in__', '/')}.py"
        path.parent.mkdir(exist_ok=True)
        path.write_text(source)


def test_the_sources_of_a_place_are_all_that_it_imports_from_the_user(folder):
    write(
        folder,
        own_net="import numpy as np\nfrom own_blocks import act\nfrom own_parts import deep\n",
        own_blocks="import json\n\n\ndef act():\n    from own_last import x\n",
        own_last="x = 1\n",
        own_parts__in____init__="",
        own_parts__in__deep="from . import deeper\n",
        own_parts__in__deeper="",
        own_other="",
    )
    found = {path.relative_to(folder).as_posix() for path in user_modules.list_sources("own_net:act")}
    parts = {f"own_parts/{name}.py" for name in ("__init__", "deep", "deeper")}
    assert found == {"own_net.py", "own_blocks.py", "own_last.py", *parts}


def test_a_source_that_changed_after_its_import_is_refused(folder):
    write(folder, own_score="from own_help import one\n\n\ndef score():\n    return one\n", own_help="one = 1\n")
    assert user_modules.import_object("own_score:score")() == 1
    write(folder, own_help="one = 2\n")
    for use in (user_modules.import_object, user_modules.list_sources):
        with pytest.raises(user_modules.UserModuleError, match=r"own_help\.py changed after it was imported; restart"):
            use("own_score:score")


def test_a_helper_that_changed_before_its_module_was_first_used_is_refused(folder):
    write(folder, own_early="one = 1\n", own_late="from own_early import one\n\n\ndef score():\n    return one\n")
    with user_modules.allow_imports():
        importlib.import_module("own_early")
    write(folder, own_early="one = 22\n")
    with pytest.raises(user_modules.UserModuleError, match=r"own_early\.py changed after it was imported; restart"):
        user_modules.import_object("own_late:score")


def test_a_helper_that_changed_after_another_module_imported_it_is_refused(folder):
    use = "from own_shared import one\n\n\ndef score():\n    return one\n"
    write(folder, own_shared="one = 1\n", own_first=use, own_second=use)
    user_modules.import_object("own_first:score")
    write(folder, own_shared="one = 2\n")
    with pytest.raises(user_modules.UserModuleError, match=r"own_shared\.py changed after it was imported; restart"):
        user_modules.import_object("own_second:score")


def test_what_a_function_imports_inside_decides_it(folder):
    write(folder, own_inner="def mine(model):\n    from own_parts.places import PLACES\n\n    return PLACES\n")
    digests = []
    for places in ("1", "3"):
        write(folder, own_parts__in____init__="", own_parts__in__places=f"PLACES = {places}\n")
        digests.append(compute_function_digest(user_modules.import_object("own_inner:mine")))
        user_modules._imported.clear()
    assert len({*digests}) == 2


def test_installed_modules_are_not_followed():
    assert len(user_modules.list_sources("json:loads")) == 1
    assert len(user_modules.list_sources("pandas:read_csv")) == 1


def test_helpers_of_other_modules_and_defaults_decide_a_function(folder):
    use = "from own_steps import STEP, snap\n\n\ndef mine(model, step=STEP):\n    return snap(model, step)\n"
    digests = []
    for number, (step, snap) in enumerate((("1", "model + step"), ("1", "model - step"), ("2", "model + step"))):
        write(folder, own_steps=f"STEP = {step}\n\n\ndef snap(model, step):\n    return {snap}\n")
        write(folder, **{f"own_use_{number}": use})
        sys.modules.pop("own_steps", None)
        user_modules._imported.clear()
        digests.append(compute_function_digest(user_modules.import_object(f"own_use_{number}:mine")))
    assert len({*digests}) == 3


def test_a_job_finds_modules_of_the_directory_where_the_user_is(folder, tmp_path_factory, monkeypatch):
    write(folder, own_job="def mine(): ...\n")
    monkeypatch.chdir(tmp_path_factory.mktemp("elsewhere"))
    with pytest.raises(user_modules.UserModuleError, match="no module own_job"):
        user_modules.import_object("own_job:mine")
    monkeypatch.setenv(user_modules.DIRECTORY, str(folder))
    assert user_modules.list_sources("own_job:mine") == [folder / "own_job.py"]
    assert user_modules.import_object("own_job:mine").__name__ == "mine"


def test_the_line_of_the_user_that_fails_is_found(folder):
    write(folder, own_failure="import json\n\n\ndef fail():\n    json.loads('{')\n")
    with pytest.raises(ValueError) as caught:
        user_modules.import_object("own_failure:fail")()
    assert user_modules.find_line(caught.value) == f"{folder / 'own_failure.py'}, line 5"
    assert user_modules.find_line(ValueError("never raised")) == ""
