"""Batches through Snakemake: every notebook of an experiment, or every cell of a sweep.

    python -m collabopt report --experiment digits --set "sparsity=0.8" --cores 2

`make report` calls this. The Snakefile says which job waits for which.
"""

import contextlib
import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote

import psutil
from tqdm import tqdm

from collabopt.batch import forks
from collabopt.batch.plan import (
    CHECK_FAILURE,
    SEARCH_NOTEBOOK,
    SETTINGS_NOTEBOOK,
    Work,
    find_workplace,
    list_notebooks,
    list_sources,
    parse_settings,
    plan_work,
)
from collabopt.config import loading, sweep
from collabopt.config.experiment import ExperimentError
from collabopt.deploy import recommendation
from collabopt.runtime import progress, user_modules
from collabopt.storage import results, retention, store

_INPUTS = "inputs.json"
"""File of the inputs of the last batch that succeeded, in its working directory."""
MISSED_TARGETS = 3
"""Exit status if no file meets all targets."""


class _Terminated(KeyboardInterrupt):
    """The batch received SIGTERM."""


def run_report(name: str, settings: str, cores: str, profile: str | None = None, chosen: str = "") -> int:
    """Run every notebook, or every cell of a sweep, that is not up to date, and write the index page.

    Args:
        name: Name or path of the experiment.
        settings: Parameters: "sparsity=0.8", or "sparsity=0.5,0.8" for a sweep.
        cores: Number of cores, or "all".
        profile: Directory of a Snakemake profile, which says where jobs run; None runs them here.
        chosen: Names of notebooks, separated by blanks, or "all"; "" takes the core notebooks. Those that they wait
            for run too.

    Returns:
        The exit status: 1 if a job failed, 2 if the data or the model is wrong, 3 if no file meets all targets.

    Raises:
        ExperimentError: The experiment, a parameter, a notebook or the profile is not valid.
    """
    signal.signal(signal.SIGTERM, _raise_terminated)
    # Background jobs of a shell ignore SIGINT, and so do their children. It stops Snakemake.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    work, options = plan_work(name, parse_settings(settings), chosen.split()), _list_options(cores, profile)
    place = find_workplace(work.pages)
    _refuse_braces(*loading.list_files(name), *map(Path, loading.list_paths(loading.load(name))), place)
    place.mkdir(parents=True, exist_ok=True)
    retention.hold(loading.DATA / "stages", loading.find_experiment(name).stem)
    with _lock(place):
        data = loading.read_input_times(loading.load(name, **work.config.get("overrides", {})))
        inputs = _describe_inputs(name, work, data)
        if _is_unchanged(inputs, work, place):
            print(f"report: {os.path.relpath(work.pages / 'index.html')}")
            return _report_missed_targets(work)
        _reset_marks(name, work, place, data)
        log = place / "batch.log"
        log.write_text("")
        remaining = sum(not (place / work.marks / f"{job}.done").is_file() for job in work.jobs)
        with _follow(log, remaining), contextlib.nullcontext({}) if profile else forks.fork_server() as variables:
            is_done = _run_snakemake(name, work, place, options, log, variables)
        if (place / CHECK_FAILURE).is_file():
            print((place / CHECK_FAILURE).read_text(encoding="utf-8"), file=sys.stderr)
            return 2
        states = _read_states(list(work.jobs), place, work.marks)
        _write_index(name, work, states)
        if is_done and {*states.values()} == {"ok"}:
            (place / _INPUTS).write_text(json.dumps(inputs), encoding="utf-8")
    failures = [f"{job}: {state}" for job, state in states.items() if state != "ok"]
    failures += [] if is_done or failures else [_explain_failure(place)]
    for line in [*_list_failed_branches(place), *failures]:
        print(line, file=sys.stderr)
    return int(bool(failures)) or _report_missed_targets(work)


def _describe_inputs(name: str, work: Work, data: dict[str, int]) -> dict[str, Any]:
    """All on which the jobs depend: parameters, and the times of files and `data`, as in the Snakefile."""
    paths = [*list_sources(name), loading.ROOT / "Snakefile", *list_notebooks()]
    times = {str(path): Path(path).stat().st_mtime_ns for path in paths}
    return {"work": json.loads(json.dumps(work.config)), "files": times, "data": loading.describe_inputs(data)}


def _is_unchanged(inputs: dict[str, Any], work: Work, place: Path) -> bool:
    """Whether the last batch here succeeded with the same inputs and its pages are there. Snakemake takes seconds."""
    pages = [*work.jobs.values(), work.pages / "index.html", loading.REPORTS / "index.html"]
    record = place / _INPUTS
    return all(page.is_file() for page in pages) and record.is_file() and json.loads(record.read_text()) == inputs


def _report_missed_targets(work: Work) -> int:
    """Print the nearest file, and return status 3, if no file meets all targets; else return 0."""
    if not {SEARCH_NOTEBOOK, SETTINGS_NOTEBOOK} & {*work.jobs}:
        return 0
    nearest = recommendation.recommend(work.pages)
    if nearest is None or not nearest.misses:
        return 0
    print(nearest.format_lines(), file=sys.stderr)
    return MISSED_TARGETS


def _refuse_braces(*paths: Path) -> None:
    """Snakemake takes braces in the names of files for wildcards."""
    for path in paths:
        if {"{", "}"} & {*str(path)}:
            raise ExperimentError(f"path={path}: expected a path without braces, in which a batch can work; rename it")


def _list_options(cores: str, profile: str | None) -> list[str]:
    """Snakemake's options that say where jobs run."""
    if profile is None:
        if cores != "all" and not (cores.isdecimal() and int(cores)):
            raise ExperimentError(f"CORES={cores}: expected a number of CPU cores, from 1, or all, such as CORES=2")
        return ["--cores", cores]
    if not (Path(profile) / "config.yaml").is_file():
        raise ExperimentError(f"PROFILE={profile}: expected a directory with a config.yaml, such as profiles/slurm")
    return ["--profile", str(Path(profile).resolve())]


def _count_cores(options: list[str]) -> int:
    """CPU cores that jobs share here, by Snakemake's `options`; 0 with a profile, whose jobs run elsewhere."""
    from snakemake.utils import available_cpu_count

    option, value = options
    return 0 if option == "--profile" else available_cpu_count() if value == "all" else int(value)


def _reset_marks(name: str, work: Work, place: Path, data: dict[str, int]) -> None:
    """Forget failures, and the marks of jobs whose page is missing or whose sources or data are newer."""
    changed = max(*(Path(path).stat().st_mtime_ns for path in list_sources(name)), *data.values())
    for mark in place.rglob("*.done"):
        if mark.stat().st_mtime_ns < changed:
            mark.unlink()
    for job, page in work.jobs.items():
        if not page.is_file():
            (place / work.marks / f"{job}.done").unlink(missing_ok=True)
    for failure in place.rglob("*.failed"):
        failure.unlink()


def _run_snakemake(
    name: str, work: Work, place: Path, options: list[str], log: Path, variables: dict[str, str]
) -> bool:
    """Run the jobs, and return whether all of them succeeded."""
    config = {
        "experiment": str(loading.find_experiment(name)) if name.endswith((".yaml", ".yml")) else name,
        "place": str(place),
        "pages": str(work.pages),
        "cores": _count_cores(options),
        **work.config,
    }
    command = [sys.executable, "-m", "snakemake", "--snakefile", str(loading.ROOT / "Snakefile")]
    command += ["--directory", str(loading.DATA / "snakemake"), *options, "--keep-going"]
    # Our own lock dies with its process. Snakemake's outlives a SIGKILL.
    command += ["--nolock", "--rerun-incomplete", "--rerun-triggers", "mtime", "input", "params"]
    # Not "all": an error in the Snakefile must be shown.
    command += ["--quiet", "rules", "progress", "host", "reason"]
    # Snakemake parses values as YAML and strips quotes, again for each job on a cluster. Percent signs are safe.
    command += ["--config", f"batch={quote(json.dumps(config), safe='')}"]
    environment = os.environ | {progress.LOG: str(log), results.STARTED: progress.now()} | variables
    environment[user_modules.DIRECTORY] = str(user_modules.get_directory())
    with (place / "snakemake.log").open("w") as output:
        process = subprocess.Popen(
            command, env=environment, stdout=output, stderr=subprocess.STDOUT, preexec_fn=forks.die_with_parent
        )
        try:
            return not process.wait()
        except _Terminated:
            _interrupt(process.pid)
        except KeyboardInterrupt:
            pass  # the terminal has interrupted every process
        print("stopping the running jobs", file=sys.stderr, flush=True)
        process.wait()
        raise KeyboardInterrupt


def _interrupt(snakemake: int) -> None:
    """Send SIGINT to Snakemake and its jobs, as Ctrl-C in a terminal does. Snakemake alone would wait for the jobs.

    Kernels are in process groups of their own; papermill shuts them down.
    """
    process = psutil.Process(snakemake)
    for one in [process, *process.children(recursive=True)]:
        with contextlib.suppress(ProcessLookupError):
            if os.getpgid(one.pid) == os.getpgrp():
                os.kill(one.pid, signal.SIGINT)


def _read_states(jobs: list[str], place: Path, folder: str) -> dict[str, str]:
    """State of every job: "ok", "FAILED why" or "not run, because".

    place: working directory of the batch, with Snakemake's log and, in a folder, the marks of the jobs.
    """
    marks = place / folder
    failures = {job: (marks / f"{job}.failed").read_text() for job in jobs if (marks / f"{job}.failed").is_file()}
    cause = "a job that it needs failed" if any(place.rglob("*.failed")) else _explain_failure(place)
    states = {}
    for job in jobs:
        otherwise = "ok" if (marks / f"{job}.done").is_file() else f"not run, because {cause}"
        states[job] = f"FAILED {failures[job]}" if job in failures else otherwise
    return states


def _explain_failure(place: Path) -> str:
    """The jobs that failed though nobody asked for them; else Snakemake failed itself, or found no job to run."""
    failed = [f"{path.stem}: FAILED {path.read_text()}" for path in sorted(place.glob("*.failed"))]
    lines = (place / "snakemake.log").read_text(errors="replace").strip().splitlines()
    return "; ".join(failed) or f"Snakemake says: {' | '.join(lines[-5:])}"


def _list_failed_branches(place: Path) -> list[str]:
    folders = [*sweep.list_branches(), "repeat"]
    marks = [path for folder in folders for path in sorted((place / folder).glob("*.failed"))]
    return [f"{mark.parent.name}, {mark.stem}: FAILED {mark.read_text()}" for mark in marks]


def _write_index(name: str, work: Work, states: dict[str, str]) -> None:
    """Write the index page and the page of all reports."""
    from collabopt.report import front_page, index_page, sweep_page

    home = loading.REPORTS / "index.html"
    if "grid" in work.config:
        sweep_page.write(work.pages, name, states, home)
    elif any(work.pages.glob("*.html")):
        text = "\n".join(path.read_text(encoding="utf-8") for path in loading.list_files(name))
        index_page.write(work.pages, text, states, home)
    front_page.write(loading.REPORTS)
    if (work.pages / "index.html").is_file():
        print(f"report: {os.path.relpath(work.pages / 'index.html')}")


def _lock(place: Path) -> contextlib.AbstractContextManager:
    """Allow one batch per report directory. Wait for a running one; ignore locks of dead ones."""

    def announce(owner: str) -> None:
        print(f"waiting for the batch of process {owner}, which works on the same report", flush=True)

    return store.lock(place / "lock", announce)


@contextlib.contextmanager
def _follow(log: Path, remaining: int) -> Iterator[None]:
    """Print the lines of the log as they come; in a terminal above a bar of notebooks with the current epoch."""
    ended = threading.Event()

    def follow() -> None:
        is_hidden = not sys.stdout.isatty()
        form = {"unit": "notebook", "leave": False, "dynamic_ncols": True, "file": sys.stdout, "disable": is_hidden}
        with log.open(encoding="utf-8") as file, tqdm(total=remaining, **form) as bar:
            while True:
                is_over = ended.is_set()
                for line in file:
                    bar.write(line, file=sys.stdout, end="")
                    if found := re.search(r"(\w+): epoch (\d+/\d+)", line):
                        bar.set_postfix_str(f"{found[1]}, epoch {found[2]}", refresh=False)
                    bar.update(bool(re.search(r" notebook (\S+|of the cell) (finished|FAILED) ", line)))
                if is_over:
                    return
                sys.stdout.flush()
                bar.refresh()
                time.sleep(0.2)

    thread = threading.Thread(target=follow)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()


def _raise_terminated(number: int, frame: object) -> None:  # noqa: ARG001
    raise _Terminated
