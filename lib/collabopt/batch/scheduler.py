"""Batches: every notebook of an experiment, or every cell of a sweep, in the order that the Snakefile says.

    python -m collabopt report --experiment digits --set "sparsity=0.8" --cores 2

`make report` calls this. The commands `notebook`, `stages` and `cell` are what the Snakefile's rules run.
"""

import contextlib
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import psutil

from collabopt.batch import forks
from collabopt.batch.plan import Work, find_workplace, parse_settings, plan_work
from collabopt.config import loading, sweep
from collabopt.config.experiment import ExperimentError
from collabopt.runtime import progress
from collabopt.storage import retention, store

# By way of papermill: jsonschema imports it for addresses in other scripts than Latin, which takes seconds, and goes
# without where it is missing.
sys.modules.setdefault("rfc3987_syntax", None)


class Terminated(KeyboardInterrupt):
    """The batch was sent SIGTERM."""


def run_report(name: str, settings: str, cores: str, profile: str | None = None, chosen: str = "") -> int:
    """Run every notebook, or every cell of a sweep, that is not up to date and write the index page.

    profile: a directory with a Snakemake profile, which says where jobs run; None runs them here. chosen: names of
    notebooks, with blanks between; those that they go on from run too. Returns the exit status.
    """
    signal.signal(signal.SIGTERM, _terminated)
    # A shell's background jobs ignore SIGINT, and so does all that they start; Snakemake is stopped by it.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    todo, where = plan_work(name, parse_settings(settings), chosen.split()), _where(cores, profile)
    place = find_workplace(todo.pages)
    place.mkdir(parents=True, exist_ok=True)
    retention.hold(loading.DATA / "stages", loading.find_experiment(name).stem)
    with _alone(place):
        for job, page in todo.jobs.items():
            if not page.is_file():
                (place / todo.marks / f"{job}.done").unlink(missing_ok=True)
        for failure in place.rglob("*.failed"):
            failure.unlink()
        log = place / "batch.log"
        log.write_text("")
        with _followed(log), contextlib.nullcontext({}) if profile else forks.offered() as offer:
            status = _snakemake(name, todo, place, where, log, offer)
        states = _states(list(todo.jobs), place / todo.marks, place if status else None)
        index = todo.pages / "index.html"
        if not _is_told(index, states, place / todo.marks):
            close = _close_sweep if "grid" in todo.config else _close
            close(name, todo.pages, states)
        if index.is_file():
            print(f"report: {os.path.relpath(index)}")
    lines = [f"{job}: {said}" for job, said in states.items() if said != "ok"]
    for line in [*_failed_branches(place), *lines]:
        print(line, file=sys.stderr)
    return int(bool(lines))


def _where(cores: str, profile: str | None) -> list[str]:
    """Snakemake's options that say where jobs run."""
    if profile is None:
        return ["--cores", cores]
    if not (Path(profile) / "config.yaml").is_file():
        raise ExperimentError(f"PROFILE={profile}: expected a directory with a config.yaml, such as profiles/slurm")
    return ["--profile", str(Path(profile).resolve())]


def _snakemake(name: str, todo: Work, place: Path, where: list[str], log: Path, offer: dict[str, str]) -> int:
    config = {
        "experiment": str(loading.find_experiment(name)) if name.endswith((".yaml", ".yml")) else name,
        "place": str(place),
        "pages": str(todo.pages),
        **{key: json.dumps(values) for key, values in todo.config.items()},
    }
    command = [sys.executable, "-m", "snakemake", "--snakefile", str(loading.ROOT / "Snakefile")]
    command += ["--directory", str(loading.DATA / "snakemake"), *where, "--keep-going"]
    # Batches on one report are kept apart by a lock that dies with its process; Snakemake's own outlives a SIGKILL.
    command += ["--nolock", "--rerun-incomplete", "--rerun-triggers", "mtime", "input", "params"]
    # Not "all": an error in the Snakefile would leave nothing to tell.
    command += ["--quiet", "rules", "progress", "host", "reason"]
    command += ["--config", *(f"{key}={value}" for key, value in config.items())]
    environment = os.environ | {progress.LOG: str(log), "COLLABOPT_STARTED": progress.now()} | offer
    with (place / "snakemake.log").open("w") as output:
        running = subprocess.Popen(command, env=environment, stdout=output, stderr=subprocess.STDOUT)
        try:
            return running.wait()
        except Terminated:
            _interrupt(running.pid)
        except KeyboardInterrupt:
            pass  # a terminal interrupts all that runs in it
        print("stopping what runs", file=sys.stderr, flush=True)
        running.wait()
        raise KeyboardInterrupt


def _interrupt(snakemake: int) -> None:
    """What Ctrl-C in a terminal does: SIGINT to Snakemake, and to its jobs, which it would wait for by itself.

    Kernels are in groups of their own; their papermill shuts them down.
    """
    own = psutil.Process(snakemake)
    for process in [own, *own.children(recursive=True)]:
        with contextlib.suppress(ProcessLookupError):
            if os.getpgid(process.pid) == os.getpgrp():
                os.kill(process.pid, signal.SIGINT)


def _states(jobs: list[str], marks: Path, failed: Path | None) -> dict[str, str]:
    """Of every notebook or cell "ok" or "FAILED why". failed: where Snakemake, which failed, left its log."""
    why = {job: (marks / f"{job}.failed").read_text() for job in jobs if (marks / f"{job}.failed").is_file()}
    lost = failed and not any(failed.rglob("*.failed"))
    cause = f"Snakemake failed: {_tail(failed / 'snakemake.log')}" if lost else "what it goes on from failed"
    states = {}
    for job in jobs:
        if job in why:
            states[job] = f"FAILED {why[job]}"
        elif (marks / f"{job}.done").is_file():
            states[job] = "ok"
        else:
            states[job] = f"not run, because {cause}"
    return states


def _failed_branches(place: Path) -> list[str]:
    marks = [path for branch in sweep.list_branches() for path in sorted((place / branch).glob("*.failed"))]
    return [f"{mark.parent.name}, {mark.stem}: FAILED {mark.read_text()}" for mark in marks]


def _is_told(index: Path, states: dict[str, str], marks: Path) -> bool:
    """Whether the index page was written after all that there is to tell: to write it anew takes seconds."""
    ends = [marks / f"{job}.done" for job, said in states.items() if said == "ok"]
    homes = index, loading.REPORTS / "index.html"
    if len(ends) < len(states) or not all(page.is_file() for page in homes):
        return False
    return min(page.stat().st_mtime_ns for page in homes) > max(mark.stat().st_mtime_ns for mark in ends)


def _close(name: str, pages: Path, states: dict[str, str]) -> None:
    """Write the index page of a report, and the page of all reports anew."""
    from collabopt.report import front_page, index_page

    if any(pages.glob("*.html")):
        text = "\n".join(path.read_text(encoding="utf-8") for path in loading.list_files(name))
        index_page.write(pages, text, states, front_page.find_path(loading.REPORTS))
    front_page.write(loading.REPORTS)


def _close_sweep(name: str, pages: Path, states: dict[str, str]) -> None:
    """Write the page of a sweep, and the page of all reports anew."""
    from collabopt.report import front_page, sweep_page

    sweep_page.write(pages, name, states, front_page.find_path(loading.REPORTS))
    front_page.write(loading.REPORTS)


def _alone(place: Path) -> contextlib.AbstractContextManager:
    """One batch a report: another one that lives is named and waited for; what a dead one left does not matter."""

    def waiting(owner: str) -> None:
        print(f"waiting for the batch of process {owner}, which works on the same report", flush=True)

    return store.lock(place / "lock", waiting)


@contextlib.contextmanager
def _followed(log: Path) -> Iterator[None]:
    """Print the lines of the log as they come."""
    ended = threading.Event()

    def follow() -> None:
        with log.open(encoding="utf-8") as file:
            while True:
                over = ended.is_set()
                for line in file:
                    print(line, end="", flush=True)
                if over:
                    return
                time.sleep(0.2)

    thread = threading.Thread(target=follow)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()


def _tail(path: Path) -> str:
    return " | ".join(path.read_text(errors="replace").strip().splitlines()[-5:])


def _terminated(number: int, frame: object) -> None:  # noqa: ARG001
    raise Terminated
