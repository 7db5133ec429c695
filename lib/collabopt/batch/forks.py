"""Jobs and kernels of a batch as forks of one process that has imported everything.

    python -m collabopt.batch.forks collabopt notebook pqat …

runs a module as `python -m` does, in a fork where a batch offers one (`offered`): the imports take five to ten seconds,
which every job and every kernel would spend anew. The process that was started stays and stands for its fork: it passes
signals on and ends as the fork ends, and the fork is killed when it dies or its parent does. Without an offer, as on a
cluster's node, it runs the module itself.
"""

import contextlib
import ctypes
import dataclasses
import gc
import importlib
import json
import os
import pkgutil
import runpy
import select
import selectors
import signal
import socket
import struct
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import collabopt

ADDRESS = "COLLABOPT_FORKS"
"""The variable with the socket at which forks are to be had."""


IMPORTED = ("IPython", "ipykernel.kernelapp", "papermill", "seaborn", "sklearn.datasets", "ai_edge_litert.interpreter")
"""What jobs and kernels import beside the library."""


RUN = {"__main__", "forks"}
"""Modules of the library that are run and must not be there before."""


NUMBER = struct.Struct("i")


DIE_WITH_PARENT = 1
"""prctl's PR_SET_PDEATHSIG (linux/prctl.h)."""


@contextlib.contextmanager
def offered() -> Iterator[dict[str, str]]:
    """The environment that processes started inside the block need to be forked; empty where that cannot be.

    The imports begin at once, beside whatever the block does first.
    """
    with tempfile.TemporaryDirectory(prefix="collabopt-") as place:  # which no other user can look into
        address = f"{place}/forks"
        server = _started(address)
        try:
            yield {ADDRESS: address} if server else {}
        finally:
            if server:
                server.kill()
                server.communicate()


def _started(address: str) -> subprocess.Popen | None:
    """The server, which listens already and is still importing; None where there can be none."""
    with socket.socket(socket.AF_UNIX) as listener:  # closed here, or who asks would wait for a server that has died
        try:
            listener.bind(address)
            os.close(os.pidfd_open(os.getpid()))
        except (AttributeError, OSError):  # no Linux, or an old one; or a name too long for a socket
            return None
        listener.listen()
        command = [sys.executable, "-m", __name__, "--serve", str(listener.fileno())]
        # Where its imports fail, so do those of who asked in vain, and these say it.
        streams = {"stdin": subprocess.PIPE, "stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
        return subprocess.Popen(command, pass_fds=[listener.fileno()], **streams, start_new_session=True)


@dataclasses.dataclass(frozen=True)
class _Request:
    """What to run, and where: the standard streams are descriptors."""

    module: str
    arguments: list[str]
    directory: str
    environment: dict[str, str]
    streams: list[int]


@dataclasses.dataclass(frozen=True)
class _Fork:
    """A fork, a descriptor that is ready when it has ended, and the connection to the process that stands for it."""

    process: int
    end: int
    connection: socket.socket


class _Server:
    """Forks for all who ask, until the batch has ended and the last fork too. All is imported before it begins."""

    def __init__(self, listener: socket.socket) -> None:
        self.listener, self.forks, before = listener, set(), set(os.environ)
        self.sources = _sources()
        os.environ["JPY_PARENT_PID"] = str(os.getpid())  # ipykernel asks whose kernels live when it is imported
        _import()
        self.kept = {name: value for name, value in os.environ.items() if name not in before}
        gc.freeze()
        self.waiting = selectors.DefaultSelector()
        self.waiting.register(listener, selectors.EVENT_READ, self._fork)
        self.waiting.register(sys.stdin, selectors.EVENT_READ, self._close)

    def serve(self) -> _Request | None:
        """In a fork, what it is to run; None at the end."""
        while self.listener.fileno() >= 0 or self.forks:
            for key, _ in self.waiting.select():
                if self.waiting.get_map().get(key.fd) is not key:
                    continue  # closed a moment ago
                if isinstance(key.data, _Fork):
                    self._gone(key.data) if key.fileobj == key.data.end else self._lost(key.data)
                elif request := key.data():
                    return request
        return None

    def _fork(self) -> _Request | None:
        connection, _ = self.listener.accept()
        request = _received(connection)
        # What the store holds is known by the sources as they are now.
        if request and _sources() != self.sources:
            _close_all(request.streams)
            request = None
        if request is None:
            connection.close()  # it runs the module itself
            return None
        server, process = os.getpid(), os.fork()
        if not process:
            ctypes.CDLL(None).prctl(DIE_WITH_PARENT, signal.SIGKILL)
            if os.getppid() != server:
                os._exit(1)
            for other in (self.listener, connection, self.waiting, *(fork.connection for fork in self.forks)):
                other.close()
            self._become(request)
            return request
        _close_all(request.streams)
        fork = _Fork(process, os.pidfd_open(process), connection)
        self.forks.add(fork)
        self.waiting.register(fork.end, selectors.EVENT_READ, fork)
        self.waiting.register(connection, selectors.EVENT_READ, fork)
        _send(connection, process)
        return None

    def _become(self, request: _Request) -> None:
        os.setsid()
        for number, stream in enumerate(request.streams):
            os.dup2(stream, number)
        _close_all(request.streams)
        os.chdir(request.directory)
        os.environ.clear()
        os.environ.update(self.kept | request.environment)
        sys.path[0] = request.directory
        Path("/proc/self/comm").write_text(request.module.rpartition(".")[2])

    def _lost(self, fork: _Fork) -> None:
        """The process that stands for it has died."""
        os.kill(fork.process, signal.SIGKILL)
        self.waiting.unregister(fork.connection)

    def _gone(self, fork: _Fork) -> None:
        _send(fork.connection, os.waitstatus_to_exitcode(os.waitpid(fork.process, 0)[1]))
        self.waiting.unregister(fork.end)
        with contextlib.suppress(KeyError):  # lost before
            self.waiting.unregister(fork.connection)
        os.close(fork.end)
        fork.connection.close()
        self.forks.remove(fork)

    def _close(self) -> None:
        """The batch has ended."""
        self.waiting.unregister(sys.stdin)
        self.waiting.unregister(self.listener)
        self.listener.close()


def _import() -> None:
    for module in (*IMPORTED, *(one.name for one in pkgutil.walk_packages(collabopt.__path__, "collabopt."))):
        if module.rpartition(".")[2] not in RUN:
            importlib.import_module(module)
    from collabopt.runtime.tensorflow import tf

    if tf.config.list_physical_devices("GPU"):
        sys.exit("CUDA does not work in a fork")


def _sources() -> dict[Path, int]:
    """When the library's files were written."""
    return {path: path.stat().st_mtime_ns for path in Path(collabopt.__file__).parent.rglob("*.py")}


def _received(connection: socket.socket) -> _Request | None:
    """A request; None where it did not come whole."""
    streams: list[int] = []
    try:
        connection.settimeout(10)
        first, streams, _, _ = socket.recv_fds(connection, 1, 3)
        rest = connection.makefile("rb").readline()
        connection.settimeout(None)
        return _Request(**json.loads(first + rest), streams=list(streams))
    except (OSError, ValueError):
        _close_all(streams)  # or who reads what they write to would wait
        return None


def _close_all(streams: list[int]) -> None:
    for stream in streams:
        os.close(stream)


def _send(connection: socket.socket, number: int) -> None:
    with contextlib.suppress(OSError):  # it has died, which comes next
        connection.sendall(NUMBER.pack(number))


def _number(connection: socket.socket) -> int | None:
    """A number of the server's; None where it has died, or closed the connection."""
    with contextlib.suppress(OSError):
        if len(received := connection.recv(NUMBER.size, socket.MSG_WAITALL)) == NUMBER.size:
            return NUMBER.unpack(received)[0]
    return None


def _asked(module: str, arguments: list[str]) -> tuple[socket.socket, int] | None:
    """The connection to the server and the process it has forked; None where there is none to be had."""
    if ADDRESS not in os.environ:
        return None
    connection = socket.socket(socket.AF_UNIX)
    what = {"module": module, "arguments": arguments, "directory": str(Path.cwd()), "environment": dict(os.environ)}
    text = json.dumps(what).encode() + b"\n"
    try:
        connection.connect(os.environ[ADDRESS])
        socket.send_fds(connection, [text[:1]], [0, 1, 2])
        connection.sendall(text[1:])
    except OSError:
        return None
    process = _number(connection)
    return None if process is None else (connection, process)


def _stand_for(process: int, connection: socket.socket) -> int:
    """Pass signals on until the fork has ended; its exit status, negative where a signal ended it."""

    def pass_on(number: int, _: object) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.kill(process, number)

    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, pass_on)
    parent = os.getppid()
    while not select.select([connection], [], [], 1)[0]:
        if os.getppid() != parent:
            return 1
    status = _number(connection)
    if status is None:
        print("the process that jobs and kernels are forked from has died, and they with it", file=sys.stderr)
        return 1
    return status


def main() -> None:
    """The command line."""
    module, *arguments = sys.argv[1:]
    if module == "--serve":
        request = _Server(socket.socket(fileno=int(arguments[0]))).serve()
        if request is None:
            return
        module, arguments = request.module, request.arguments
    elif asked := _asked(module, arguments):
        connection, process = asked
        status = _stand_for(process, connection)
        if status < 0:
            with contextlib.suppress(OSError):
                signal.signal(-status, signal.SIG_DFL)
            os.kill(os.getpid(), -status)
        sys.exit(status)
    sys.argv = [module, *arguments]
    runpy.run_module(module, run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    main()
