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

import collabopt
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


def start(place: Path, environment: dict[str, str], *words: str) -> subprocess.Popen:
    command = [sys.executable, "-m", "collabopt.batch.forks", "probe", *words]
    streams = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    return subprocess.Popen(command, cwd=place, env=environment | {"VARIABLE": "its own"}, **streams)


def read_probe(running: subprocess.Popen) -> dict:
    """Read the line that a probe prints before it waits or ends."""
    running.stdin.write("a line")
    running.stdin.close()
    return json.loads(running.stdout.readline())


def has_ended(process: int) -> bool:
    """Whether a process ends within 20 s."""
    try:
        psutil.Process(process).wait(20)
    except psutil.NoSuchProcess:
        return True
    except psutil.TimeoutExpired:
        return False
    return True


@pytest.mark.parametrize("forked", [True, False])
def test_a_fork_runs_a_module_like_a_new_process(environment, place, forked):
    environment = environment if forked else environment | {forks.VARIABLE: "0"}
    running = start(place, environment, "one", "two words")
    found = read_probe(running)
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


def test_an_error_in_a_fork_is_printed_by_its_client(environment, place):
    running = start(place, environment, "fail")
    read_probe(running)
    assert running.wait() == 1
    assert running.stderr.read().endswith("ValueError: on purpose\n")


@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 1), (signal.SIGTERM, 128 + signal.SIGTERM)])
def test_signals_reach_the_fork_and_end_both(environment, place, number, status):
    running = start(place, environment, "wait")
    fork = read_probe(running)["process"]
    running.send_signal(number)
    assert running.wait() == status
    assert running.stderr.read().endswith("KeyboardInterrupt\n" if number == signal.SIGINT else "")
    assert has_ended(fork)


def test_a_killed_fork_has_the_exit_status_of_a_killed_process(environment, place):
    running = start(place, environment, "wait")
    os.kill(read_probe(running)["process"], signal.SIGKILL)
    assert running.wait() == 128 + signal.SIGKILL


def test_a_killed_fork_ends_its_client_while_its_own_children_live(environment, place):
    running = start(place, environment, "breed", "wait")
    found = read_probe(running)
    os.kill(found["process"], signal.SIGKILL)
    assert running.wait(20) == 128 + signal.SIGKILL
    os.kill(found["child"], signal.SIGKILL)


def test_a_fork_dies_with_its_client(environment, place):
    running = start(place, environment, "wait")
    fork = read_probe(running)["process"]
    running.kill()
    assert has_ended(fork)


def test_a_fork_dies_with_the_parent_of_its_client(environment, place):
    command = [sys.executable, "-m", "collabopt.batch.forks", "probe", "wait"]
    starter = f"import subprocess; subprocess.run({command!r}, stdin=subprocess.DEVNULL)"
    command = [sys.executable, "-c", starter]
    shell = subprocess.Popen(command, cwd=place, env=environment, stdout=subprocess.PIPE, text=True)
    fork = json.loads(shell.stdout.readline())["process"]
    shell.kill()
    shell.wait()
    assert has_ended(fork)


def test_server_and_forks_die_with_the_process_that_started_the_server(place):
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
    assert has_ended(server)
    assert has_ended(found["process"])


def test_an_environment_variable_switches_forks_off(monkeypatch):
    monkeypatch.setenv(forks.VARIABLE, "0")
    with forks.fork_server() as variables:
        assert variables == {}


def test_a_changed_library_is_not_forked(place):
    library = Path(collabopt.__file__).parent
    shutil.copytree(library, place / "collabopt", ignore=shutil.ignore_patterns("__pycache__"))
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
                Path(forks.__file__).with_name("plan.py").touch()
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
    assert has_ended(int(process))
    assert "Ctrl-C" not in capfd.readouterr().out  # said by a kernel that knows no parent


@pytest.mark.usefixtures("forked_kernels")
def test_a_killed_kernel_is_reported_as_dead(tmp_path):
    kill = "import os, signal, sys; assert 'tensorflow' in sys.modules; os.kill(os.getpid(), signal.SIGKILL)"
    with pytest.raises(DeadKernelError):
        execute(new_notebook(cells=[new_code_cell(kill)]), tmp_path, timeout=60)


# The last test of this file, since it kills the server of the others.
def test_a_job_whose_supervisor_or_server_is_killed_fails_and_the_next_one_runs(environment, place):
    for victim in ("supervisor", "server"):
        running = start(place, environment, "wait")
        found = read_probe(running)
        server = psutil.Process(found["parent"]).ppid()
        os.kill(server if victim == "server" else found["parent"], signal.SIGKILL)
        assert running.wait() == 1
        assert running.stderr.read() == "collabopt.batch.forks: the server was killed\n"
        assert has_ended(found["process"])
        after = start(place, environment)
        # Without a server, the next job is no fork.
        assert (read_probe(after)["process"] == after.pid) == (victim == "server")
        assert has_ended(found["parent"])  # a server waits for a dead supervisor when it starts the next one
