"""A fork is to who started it what a process of its own would be: streams, signals, exit status and death."""

import json
import os
import shutil
import signal
import subprocess
import sys
import textwrap
from pathlib import Path

import psutil
import pytest
from nbclient import NotebookClient
from nbformat.v4 import new_code_cell, new_notebook

from collabopt.batch import forks
from collabopt.batch.forked_kernel import ForkedKernelManager

pytestmark = pytest.mark.skipif(not hasattr(os, "pidfd_open"), reason="forks are for Linux")

PROBE = """
    import json, os, sys, time
    print(json.dumps({
        "process": os.getpid(), "parent": os.getppid(), "arguments": sys.argv[1:], "directory": os.getcwd(),
        "given": sys.stdin.read(), "variable": os.environ.get("VARIABLE"), "name": __name__,
        "imported": "tensorflow" in sys.modules,
    }), flush=True)
    if "wait" in sys.argv:
        time.sleep(600)
    if "fail" in sys.argv:
        raise ValueError("on purpose")
    sys.exit(3)
"""


@pytest.fixture(scope="module")
def offer():
    with forks.offered() as environment:
        assert environment
        yield os.environ | environment


@pytest.fixture
def place(tmp_path) -> Path:
    """A directory with the module `probe`."""
    (tmp_path / "probe.py").write_text(textwrap.dedent(PROBE))
    return tmp_path


def started(place: Path, environment: dict[str, str], *words: str) -> subprocess.Popen:
    command = [sys.executable, "-m", "collabopt.batch.forks", "probe", *words]
    streams = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    return subprocess.Popen(command, cwd=place, env=environment | {"VARIABLE": "its own"}, **streams)


def said(running: subprocess.Popen) -> dict:
    """What a probe prints, which waits or ends then."""
    running.stdin.write("a line")
    running.stdin.close()
    return json.loads(running.stdout.readline())


def ended(process: int) -> bool:
    """Whether a process has ended, which is waited for."""
    try:
        psutil.Process(process).wait(20)
    except psutil.NoSuchProcess:
        return True
    except psutil.TimeoutExpired:
        return False
    return True


@pytest.mark.parametrize("forked", [True, False])
def test_a_fork_runs_a_module_as_a_process_of_its_own_does(offer, place, forked):
    environment = offer if forked else {name: value for name, value in offer.items() if name != forks.ADDRESS}
    running = started(place, environment, "one", "two words")
    found = said(running)
    assert running.wait() == 3
    assert found.pop("process") != running.pid if forked else found.pop("process") == running.pid
    assert found.pop("parent") != os.getpid() if forked else found.pop("parent") == os.getpid()
    assert found == {
        "arguments": ["one", "two words"],
        "directory": str(place),
        "given": "a line",
        "variable": "its own",
        "name": "__main__",
        "imported": forked,
    }


def test_an_error_in_a_fork_is_told_where_it_belongs(offer, place):
    running = started(place, offer, "fail")
    said(running)
    assert running.wait() == 1
    assert running.stderr.read().endswith("ValueError: on purpose\n")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_signals_reach_the_fork_and_end_both(offer, place, number):
    running = started(place, offer, "wait")
    fork = said(running)["process"]
    running.send_signal(number)
    assert running.wait() == -number
    assert ended(fork)


def test_a_fork_that_is_killed_looks_killed(offer, place):
    running = started(place, offer, "wait")
    os.kill(said(running)["process"], signal.SIGKILL)
    assert running.wait() == -signal.SIGKILL


def test_a_fork_dies_with_the_process_that_stands_for_it(offer, place):
    running = started(place, offer, "wait")
    fork = said(running)["process"]
    running.kill()
    assert ended(fork)


def test_a_fork_dies_with_the_parent_of_the_process_that_stands_for_it(offer, place):
    command = [sys.executable, "-m", "collabopt.batch.forks", "probe", "wait"]
    starter = f"import subprocess; subprocess.run({command!r}, stdin=subprocess.DEVNULL)"
    shell = subprocess.Popen([sys.executable, "-c", starter], cwd=place, env=offer, stdout=subprocess.PIPE, text=True)
    fork = json.loads(shell.stdout.readline())["process"]
    shell.kill()
    shell.wait()
    assert ended(fork)


def test_forks_die_with_the_server_and_who_stands_for_one_fails(place):
    with forks.offered() as environment:
        running = started(place, os.environ | environment, "wait")
        found = said(running)
        os.kill(found["parent"], signal.SIGKILL)
        assert running.wait() == 1
        assert ended(found["process"])
        alone = started(place, os.environ | environment)
        assert said(alone)["process"] == alone.pid


def test_nothing_is_forked_from_a_library_that_has_changed(place):
    shutil.copytree(Path(forks.__file__).parent, place / "collabopt")
    script = """
        import json, os, subprocess, sys
        from pathlib import Path
        from collabopt import forks
        assert Path(forks.__file__).is_relative_to(Path.cwd())
        command = [sys.executable, "-m", "collabopt.batch.forks", "probe"]
        with forks.offered() as offer:
            for _ in range(2):
                done = subprocess.run(command, env=os.environ | offer, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE)
                print(json.loads(done.stdout)["imported"])
                Path(forks.__file__).with_name("tree.py").touch()
    """
    environment = os.environ | {"PYTHONPATH": str(place)}
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(script)], cwd=place, env=environment, stdout=subprocess.PIPE, check=True
    )
    assert done.stdout.split() == [b"True", b"False"]


def test_a_kernel_is_forked_interrupted_and_shut_down(offer, monkeypatch, tmp_path, capfd):
    monkeypatch.setenv(forks.ADDRESS, offer[forks.ADDRESS])
    about = "import os, sys, time; print(os.getpid(), os.getppid(), 'tensorflow' in sys.modules, os.getcwd())"
    notebook = new_notebook(cells=[new_code_cell(about), new_code_cell("time.sleep(600)"), new_code_cell("1 + 1")])
    settings = {"kernel_manager_class": ForkedKernelManager, "interrupt_on_timeout": True, "allow_errors": True}
    resources = {"metadata": {"path": str(tmp_path)}}
    NotebookClient(notebook, timeout=5, shutdown_kernel="immediate", resources=resources, **settings).execute()
    first, second, third = (cell.outputs for cell in notebook.cells)
    process, parent, *found = first[0].text.split()
    assert found == ["True", str(tmp_path)]
    assert int(parent) != os.getpid()
    assert second[0].ename == "KeyboardInterrupt"
    assert third[0].data["text/plain"] == "2"
    assert ended(int(process))
    assert "Ctrl-C" not in capfd.readouterr().out  # said by a kernel that knows no parent
