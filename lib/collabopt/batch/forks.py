"""Forks of one process that has imported TensorFlow, for the jobs and kernels of a batch.

`python -m collabopt.batch.forks MODULE ARGUMENT…` runs a module as `python -m` does. Inside `fork_server`, it runs the
module in a fork of a server that has imported TensorFlow and the library, which saves 9 s of CPU time per notebook.
Where no server answers (macOS, a GPU, an edited library, a node of a cluster), it runs the module in its own process.
Set `COLLABOPT_FORKS=0` to run a batch without forks.
"""

import contextlib
import ctypes
import gc
import importlib
import json
import multiprocessing
import os
import pkgutil
import runpy
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from multiprocessing.connection import wait
from pathlib import Path

import collabopt

VARIABLE = "COLLABOPT_FORKS"  # the path of the server's socket
_IMPORTS = ("ipykernel.zmqshell", "papermill", "seaborn", "sklearn.datasets", "ai_edge_litert.interpreter")


@contextlib.contextmanager
def fork_server() -> Iterator[dict[str, str]]:
    """Start a server, which imports while the block runs.

    Yields:
        The environment variables for processes to be forked; empty where forks are impossible or switched off.
    """
    if sys.platform != "linux" or os.environ.get(VARIABLE) == "0":
        yield {}
        return
    command, null = [sys.executable, "-m", __name__], subprocess.DEVNULL
    with tempfile.TemporaryDirectory(prefix="collabopt-", dir="/tmp") as directory:  # short, as a socket's path must be
        spec = Path(directory, "kernels/python3/kernel.json")  # found before Jupyter's own kernel of this name
        spec.parent.mkdir(parents=True)
        kernel = [*command, "ipykernel_launcher", "-f", "{connection_file}"]
        spec.write_text(json.dumps({"argv": kernel, "display_name": "Python 3", "language": "python"}))
        path = os.pathsep.join([directory, *filter(None, [os.environ.get("JUPYTER_PATH")])])
        with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as listener:
            listener.bind(f"{directory}/socket")
            listener.listen()
            server = subprocess.Popen(
                [*command, "--serve"], stdin=listener, stdout=null, stderr=null, start_new_session=True
            )
        try:
            yield {VARIABLE: f"{directory}/socket", "JUPYTER_PATH": path}
        finally:
            server.kill()
            server.wait()


def die_with_parent() -> None:
    """Have Linux kill this process when its parent dies."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG


def _serve() -> None:
    """Fork a process per connection. The listening socket is the standard input."""
    listener, modified = socket.socket(fileno=0), _read_modification_times()
    for module in (*_IMPORTS, *(info.name for info in pkgutil.walk_packages(collabopt.__path__, "collabopt."))):
        if not module.endswith((".forks", ".__main__", ".worker")):  # these run in processes of their own
            importlib.import_module(module)
    from collabopt.runtime.tensorflow import tf
    from collabopt.storage import source_digest

    if tf.config.list_physical_devices("GPU"):
        sys.exit("CUDA does not work in a fork")
    source_digest.compute_digest("collabopt.analysis.evaluate:write_measurements")  # forks need not parse the library
    gc.freeze()
    while True:
        connection, _ = listener.accept()
        if _read_modification_times() == modified:  # keys of stored stages depend on the sources
            multiprocessing.get_context("fork").Process(target=_supervise, args=(connection,)).start()
        connection.close()


def _read_modification_times() -> dict[Path, int]:
    return {path: path.stat().st_mtime_ns for path in Path(collabopt.__file__).parent.rglob("*.py")}


def _supervise(connection: socket.socket) -> None:
    """Run the client's module in a fork of this process, pass signals on to it, and send its exit status."""
    die_with_parent()
    request, streams, _, _ = socket.recv_fds(connection, 2**20, 3)
    connection.send(b"\0")
    fork = multiprocessing.get_context("fork").Process(target=_run_request, args=(streams, *json.loads(request)))
    fork.start()
    while fork.is_alive():
        # The timeout is for a fork whose own children keep the sentinel open.
        if connection in wait([connection, fork.sentinel], timeout=1):
            number = connection.recv(1)
            os.kill(fork.pid, number[0] if number else signal.SIGKILL)  # no number: the client has died
    # multiprocessing says -n after signal n, a shell 128 + n.
    connection.send(bytes([fork.exitcode if fork.exitcode >= 0 else 128 - fork.exitcode]))


def _run_request(streams: list[int], arguments: list[str], directory: str, environment: dict[str, str]) -> None:
    die_with_parent()
    for number, stream in enumerate(streams):
        os.dup2(stream, number)
    sys.stdin = os.fdopen(0, closefd=False)  # multiprocessing has replaced it by the null device
    os.chdir(directory)
    os.environ.update(environment)
    sys.path[0], sys.argv = directory, arguments
    runpy.run_module(arguments[0], run_name="__main__", alter_sys=True)


def main() -> None:
    """Run the module that the command line names, or serve forks."""
    die_with_parent()
    sys.argv = sys.argv[1:]
    if sys.argv == ["--serve"]:
        _serve()
    try:
        connection = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        connection.connect(os.environ[VARIABLE])
        request = json.dumps([sys.argv, str(Path.cwd()), dict(os.environ)])
        socket.send_fds(connection, [request.encode()], [0, 1, 2])
        is_forked = bool(connection.recv(1))
    except (KeyError, OSError):
        is_forked = False
    if not is_forked:
        runpy.run_module(sys.argv[0], run_name="__main__", alter_sys=True)
        return
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda number, _: connection.send(bytes([number])))
    status = connection.recv(1)
    sys.exit(status[0] if status else "collabopt.batch.forks: the server was killed")


if __name__ == "__main__":
    main()
