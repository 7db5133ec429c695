"""A real Slurm on this machine: one node, so many one-core jobs at a time, no accounting. For root on Debian.

    python tests/batch/slurm.py --experiment digits --set "sparsity=0.5,0.7 number_of_clusters=8,16"

runs a sweep through it by the committed profile and says how many Slurm jobs ran. Slurm and munge are installed by
apt-get where they are missing; daemons, key and logs are the run's own, in a temporary directory.
"""

import argparse
import contextlib
import os
import re
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil

from collabopt.config import loading

PROFILE = loading.ROOT / "profiles" / "slurm"
PROGRAMS = ("munged", "slurmctld", "slurmd", "srun")
# Daemons lie where not every user's path leads.
PATH = f"{os.environ.get('PATH', os.defpath)}:/usr/sbin"
HOST = socket.gethostname().split(".")[0]
SECONDS_TO_START, SECONDS_TO_STOP = 60, 30
# The node may promise more than the machine has: memory is not counted, and its GPU is /dev/null.
CONFIGURATION = """\
ClusterName=test
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={ports[0]}
SlurmdPort={ports[1]}
SlurmUser=root
AuthInfo=socket={place}/munge.socket
StateSaveLocation={place}/state
SlurmdSpoolDir={place}/spool
SlurmctldPidFile={place}/slurmctld.pid
SlurmdPidFile={place}/slurmd.pid
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
AccountingStorageType=accounting_storage/none
EnforcePartLimits=ALL
JobCompType=jobcomp/filetxt
JobCompLoc={place}/finished
MinJobAge=300
KillWait=5
GresTypes=gpu
SlurmdParameters=config_overrides
NodeName={host} NodeAddr=127.0.0.1 CPUs={slots} RealMemory=64000 Gres=gpu:1
PartitionName=test Nodes={host} Default=YES
"""


def unavailable() -> str | None:
    """Why there can be no Slurm here. Where it is only missing, it is installed."""
    if os.geteuid() != 0:
        return "the daemons of Slurm need root"
    if _missing() and not Path("/etc/debian_version").is_file():
        return f"no {_missing()}, and no Debian to install it on"
    if _missing():
        quiet = os.environ | {"DEBIAN_FRONTEND": "noninteractive"}
        for words in (["update"], ["install", "-y", "--no-install-recommends", "slurm-wlm", "munge"]):
            subprocess.run(["apt-get", *words], env=quiet, capture_output=True, check=False)
    return f"apt-get cannot install {_missing()}" if _missing() else None


@contextlib.contextmanager
def cluster(slots: int = 2) -> Iterator[dict[str, str]]:
    """Slurm with so many one-core jobs at a time, as the environment of its commands; no process of it outlives this.

    Raises TimeoutError, with the ends of the daemons' logs, where the node does not become idle.
    """
    with tempfile.TemporaryDirectory(prefix="slurm-") as name, contextlib.ExitStack() as stack:
        place = Path(name)
        environment = _configured(place, slots)
        stack.callback(_kill_what_is_left, place)
        files = {"key-file": "key", "socket": "munge.socket"}
        files |= {f"{kind}-file": f"munged.{kind}" for kind in ("pid", "seed", "log")}
        munged = ["munged", "--foreground", *(f"--{option}={place / file}" for option, file in files.items())]
        stack.enter_context(_daemon(munged, place, environment))
        _until((place / "munge.socket").exists, "munged has no socket", place)
        stack.enter_context(_daemon(["slurmctld", "-D"], place, environment))
        stack.enter_context(_daemon(["slurmd", "-D", "-N", HOST], place, environment))
        _until(lambda: said("sinfo --noheader --format=%T", environment) == "idle", "the node is not idle", place)
        stack.callback(_cancel_all, environment)
        yield environment


def said(command: str, environment: dict[str, str]) -> str:
    """What a command of Slurm prints: nothing where it fails."""
    done = subprocess.run(command.split(), env=environment, capture_output=True, text=True, check=False)
    return done.stdout.strip()


def jobs(environment: dict[str, str]) -> list[dict[str, str]]:
    """What `scontrol show job` says of every job, until five minutes after its end."""
    lines = said("scontrol show job --oneliner", environment).splitlines()
    return [dict(re.findall(r"(\S+?)=(\S*)", line)) for line in lines if line.startswith("JobId=")]


def finished(environment: dict[str, str]) -> Counter:
    """How many jobs have ended in which state, since the cluster was started."""
    record = Path(environment["SLURM_CONF"]).with_name("finished")
    return Counter(re.findall(r"JobState=(\w+)", record.read_text() if record.is_file() else ""))


def _missing() -> str:
    return ", ".join(name for name in PROGRAMS if not shutil.which(name, path=PATH))


def _configured(place: Path, slots: int) -> dict[str, str]:
    """Write a configuration and a key, and return the environment that leads to them."""
    place.chmod(0o755)  # munged insists that all can reach its socket
    (place / "key").touch(mode=0o600)
    (place / "key").write_bytes(secrets.token_bytes(1024))
    for name in ("state", "spool", "bin"):
        (place / name).mkdir()
    with socket.create_server(("127.0.0.1", 0)) as one, socket.create_server(("127.0.0.1", 0)) as other:
        ports = [one.getsockname()[1], other.getsockname()[1]]
    (place / "slurm.conf").write_text(CONFIGURATION.format(place=place, host=HOST, slots=slots, ports=ports))
    (place / "gres.conf").write_text("Name=gpu File=/dev/null\n")
    # Snakemake's job step drops SLURM_CONF, which a cluster with its configuration in /etc does not need.
    srun = place / "bin" / "srun"
    srun.write_text(f'#!/bin/sh\nSLURM_CONF={place}/slurm.conf exec {shutil.which("srun", path=PATH)} "$@"\n')
    srun.chmod(0o755)
    own = {"SLURM_CONF": str(place / "slurm.conf"), "PATH": f"{place}/bin:{PATH}"}
    return {key: value for key, value in os.environ.items() if not key.startswith("SLURM_")} | own


@contextlib.contextmanager
def _daemon(command: list[str], place: Path, environment: dict[str, str]) -> Iterator[None]:
    """A daemon in a session of its own, so that a Ctrl-C does not end it before its turn."""
    command = [shutil.which(command[0], path=PATH), *command[1:]]
    with (place / f"{Path(command[0]).name}.out").open("w") as output:
        process = subprocess.Popen(
            command, env=environment, cwd=place, stdout=output, stderr=subprocess.STDOUT, start_new_session=True
        )
    try:
        yield
    finally:
        process.terminate()
        try:
            process.wait(SECONDS_TO_STOP)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _until(condition: Callable[[], bool], otherwise: str, place: Path) -> None:
    deadline = time.monotonic() + SECONDS_TO_START
    while not condition():
        if time.monotonic() > deadline:
            ends = [f"{path.name}: {path.read_text()[-1000:]}" for path in sorted(place.glob("*.out"))]
            raise TimeoutError("\n".join([f"{otherwise} after {SECONDS_TO_START} s", *ends]))
        time.sleep(0.2)


def _cancel_all(environment: dict[str, str]) -> None:
    said("scancel --user=root", environment)
    deadline = time.monotonic() + SECONDS_TO_STOP
    while said("squeue --noheader", environment) and time.monotonic() < deadline:
        time.sleep(0.2)


def _kill_what_is_left(place: Path) -> None:
    """Kill what knows this configuration or lives in its directory: jobs, and what watches over them."""
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):
            own = process.environ().get("SLURM_CONF") == str(place / "slurm.conf")
            if own or Path(process.cwd()).is_relative_to(place):
                process.kill()


def main() -> int:
    """Run a report through Slurm; returns its exit status."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--experiment", default="digits")
    parser.add_argument("--set", dest="settings", default="")
    parser.add_argument("--slots", type=int, default=2)
    words = parser.parse_args()
    if why := unavailable():
        print(why, file=sys.stderr)
        return 2
    # So that the cluster is also taken down by a SIGTERM.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    command = [sys.executable, "-m", "collabopt", "report", "--experiment", words.experiment]
    command += ["--set", words.settings, "--profile", str(PROFILE)]
    with cluster(words.slots) as environment:
        status = subprocess.run(command, env=environment, check=False).returncode
        ended = finished(environment)
    print(f"Slurm jobs: {ended.total()}", *(f"{state} {count}" for state, count in sorted(ended.items())), sep=", ")
    return status


if __name__ == "__main__":
    sys.exit(main())
