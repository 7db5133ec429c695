"""A forked job behaves like a process of its own: streams, signals, exit status and death."""

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
from nbclient.exceptions import DeadKernelError
from nbformat.v4 import new_code_cell, new_notebook

from collabopt.batch import forks

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="forks are for Linux")

PROBE = """
    import json, os, sys, time
    child = os.fork() if "breed" in sys.argv else None
    if child == 0:
        time.sleep(600)
    print(json.dumps({
        "process": os.getpid(), "parent": os.getppid(), "arguments": sys.argv[1:], "directory": os.getcwd(),
        "given": sys.stdin.read(), "variable": os.environ.get("VARIABLE"), "name": __name__,
        "imported": "tensorflow" in sys.modules, "child": child,
        "socket": os.environ["COLLABOPT_FORKS"],
    }), flush=True)
    if "wait" in sys.argv:
        time.sleep(600)
    if "fail" in sys.argv:
        raise ValueError("on purpose")
    sys.exit(3)
"""


@pytest.fixture(scope="module")
def environment():
    """The environment of processes to be forked."""
    with forks.fork_server() as variables:
        assert variables
        yield os.environ | variables


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
def test_a_fork_runs_a_module_as_a_process_of_its_own_does(environment, place, forked):
    environment = environment if forked else environment | {forks.VARIABLE: "0"}
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
        "child": None,
        "socket": environment[forks.VARIABLE],
    }


def test_an_error_in_a_fork_is_told_where_it_belongs(environment, place):
    running = started(place, environment, "fail")
    said(running)
    assert running.wait() == 1
    assert running.stderr.read().endswith("ValueError: on purpose\n")


@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 1), (signal.SIGTERM, 128 + signal.SIGTERM)])
def test_signals_reach_the_fork_and_end_both(environment, place, number, status):
    running = started(place, environment, "wait")
    fork = said(running)["process"]
    running.send_signal(number)
    assert running.wait() == status
    assert running.stderr.read().endswith("KeyboardInterrupt\n" if number == signal.SIGINT else "")
    assert ended(fork)


def test_a_fork_that_is_killed_looks_killed(environment, place):
    running = started(place, environment, "wait")
    os.kill(said(running)["process"], signal.SIGKILL)
    assert running.wait() == 128 + signal.SIGKILL


def test_a_fork_that_is_killed_looks_killed_while_its_own_children_live(environment, place):
    running = started(place, environment, "breed", "wait")
    found = said(running)
    os.kill(found["process"], signal.SIGKILL)
    assert running.wait(20) == 128 + signal.SIGKILL
    os.kill(found["child"], signal.SIGKILL)


def test_a_fork_dies_with_the_process_that_stands_for_it(environment, place):
    running = started(place, environment, "wait")
    fork = said(running)["process"]
    running.kill()
    assert ended(fork)


def test_a_fork_dies_with_the_parent_of_the_process_that_stands_for_it(environment, place):
    command = [sys.executable, "-m", "collabopt.batch.forks", "probe", "wait"]
    starter = f"import subprocess; subprocess.run({command!r}, stdin=subprocess.DEVNULL)"
    command = [sys.executable, "-c", starter]
    shell = subprocess.Popen(command, cwd=place, env=environment, stdout=subprocess.PIPE, text=True)
    fork = json.loads(shell.stdout.readline())["process"]
    shell.kill()
    shell.wait()
    assert ended(fork)


@pytest.mark.parametrize("victim", ["server", "supervisor"])
def test_forks_die_with_the_server_and_who_stands_for_one_fails(place, victim):
    with forks.fork_server() as variables:
        running = started(place, os.environ | variables, "wait")
        found = said(running)
        server = psutil.Process(found["parent"]).ppid()
        os.kill(server if victim == "server" else found["parent"], signal.SIGKILL)
        assert running.wait() == 1
        assert running.stderr.read() == "collabopt.batch.forks: the server was killed\n"
        assert ended(found["process"])
        after = started(place, os.environ | variables)
        assert (said(after)["process"] == after.pid) == (victim == "server")
        assert ended(found["parent"])


def test_server_and_forks_die_with_the_process_that_has_started_the_server(place):
    script = """
        import os, subprocess, sys
        from collabopt.batch import forks
        with forks.fork_server() as variables:
            command = [sys.executable, "-m", "collabopt.batch.forks", "probe", "wait"]
            subprocess.run(command, env=os.environ | variables, stdin=subprocess.DEVNULL)
    """
    batch = subprocess.Popen([sys.executable, "-c", textwrap.dedent(script)], cwd=place, stdout=subprocess.PIPE)
    found = json.loads(batch.stdout.readline())
    server = psutil.Process(found["parent"]).ppid()
    assert psutil.Process(server).ppid() == batch.pid
    batch.kill()
    batch.wait()
    shutil.rmtree(Path(found["socket"]).parent)
    assert ended(server)
    assert ended(found["process"])


def test_the_environment_switches_forks_off(monkeypatch):
    monkeypatch.setenv(forks.VARIABLE, "0")
    with forks.fork_server() as variables:
        assert variables == {}


def test_nothing_is_forked_from_a_library_that_has_changed(place):
    shutil.copytree(Path(forks.__file__).parent, place / "collabopt")
    script = """
        import json, os, subprocess, sys
        from pathlib import Path
        from collabopt.batch import forks
        assert Path(forks.__file__).is_relative_to(Path.cwd())
        command = [sys.executable, "-m", "collabopt.batch.forks", "probe"]
        with forks.fork_server() as variables:
            environment = os.environ | variables
            for _ in range(2):
                done = subprocess.run(command, env=environment, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE)
                print(json.loads(done.stdout)["imported"])
                Path(forks.__file__).with_name("tree.py").touch()
    """
    environment = os.environ | {"PYTHONPATH": str(place)}
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(script)], cwd=place, env=environment, stdout=subprocess.PIPE, check=True
    )
    assert done.stdout.split() == [b"True", b"False"]


def execute(notebook, directory: Path, **settings) -> None:
    resources = {"metadata": {"path": str(directory)}}
    NotebookClient(notebook, shutdown_kernel="immediate", resources=resources, **settings).execute()


@pytest.fixture
def forked_kernels(environment, monkeypatch) -> None:
    monkeypatch.setenv("JUPYTER_PATH", environment["JUPYTER_PATH"])
    monkeypatch.setenv(forks.VARIABLE, environment[forks.VARIABLE])


@pytest.mark.usefixtures("forked_kernels")
def test_a_kernel_is_forked_interrupted_and_shut_down(tmp_path, capfd):
    about = "import os, sys, time; print(os.getpid(), os.getppid(), 'tensorflow' in sys.modules, os.getcwd())"
    notebook = new_notebook(cells=[new_code_cell(about), new_code_cell("time.sleep(600)"), new_code_cell("1 + 1")])
    execute(notebook, tmp_path, timeout=5, interrupt_on_timeout=True, allow_errors=True)
    first, second, third = (cell.outputs for cell in notebook.cells)
    process, parent, *found = first[0].text.split()
    assert found == ["True", str(tmp_path)]
    assert int(parent) != os.getpid()
    assert second[0].ename == "KeyboardInterrupt"
    assert third[0].data["text/plain"] == "2"
    assert ended(int(process))
    assert "Ctrl-C" not in capfd.readouterr().out  # said by a kernel that knows no parent


@pytest.mark.usefixtures("forked_kernels")
def test_a_kernel_that_is_killed_is_reported_as_dead(tmp_path):
    kill = "import os, signal, sys; assert 'tensorflow' in sys.modules; os.kill(os.getpid(), signal.SIGKILL)"
    with pytest.raises(DeadKernelError):
        execute(new_notebook(cells=[new_code_cell(kill)]), tmp_path, timeout=60)
