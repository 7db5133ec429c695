"""Batches: every notebook of an experiment, or every cell of a sweep, in the order that the Snakefile says.

    python -m collabopt.batch report --experiment digits --set "sparsity=0.8" --cores 2

`make report` calls this. The commands `notebook`, `stages` and `cell` are what the Snakefile's rules run.
"""

import argparse
import contextlib
import dataclasses
import json
import os
import shlex
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil

from collabopt import experiment, forks, housekeeping, progress, store, sweep
from collabopt.experiment import ExperimentError
from collabopt.stages import lineage

NOTEBOOKS = experiment.ROOT / "notebooks"
WALK = "deployment_tree"
NOT_KNOBS = {"experiment", "reports", "kernel"}
# By way of papermill: jsonschema imports it for addresses in other scripts than Latin, which takes seconds, and goes
# without where it is missing.
sys.modules.setdefault("rfc3987_syntax", None)


def notebooks() -> list[Path]:
    """Every notebook of the workbook."""
    return sorted(NOTEBOOKS.glob("*.ipynb"))


def parameters(notebook: Path) -> set[str]:
    """The names in a notebook's parameters cell."""
    import papermill

    return set(papermill.inspect_notebook(str(notebook)))


def parse(text: str) -> sweep.Grid:
    """`sparsity=0.8 seed=0,1` as names and values: {"sparsity": [0.8], "seed": [0, 1]}.

    Raises ExperimentError for a word that is not name=value or name=value,value, a name that no notebook has as a
    parameter, and a name or value given twice.
    """
    try:
        words = shlex.split(text)
    except ValueError as error:
        raise ExperimentError(f"SET: {text}: {error}; expected name=value, with blanks between") from None
    grid, known = {}, set().union(*(parameters(notebook) for notebook in notebooks() if words)) - NOT_KNOBS
    for word in words:
        name, equals, values = word.partition("=")
        if not equals or "" in values.split(","):
            raise ExperimentError(f"SET: {word!r}: expected name=value, or name=value,value for a sweep")
        if name not in known:
            raise ExperimentError(f"SET: {name}: no notebook has this parameter{experiment.hint(name, sorted(known))}")
        if name in grid:
            raise ExperimentError(f"SET: {name}: given twice; a sweep is {name}=value,value")
        grid[name] = [experiment.value(value, f"SET: {name}") for value in values.split(",")]
        if len(set(grid[name])) < len(grid[name]):
            raise ExperimentError(f"SET: {word!r}: a value is given twice; keep one")
    return grid


def workplace(report: Path) -> Path:
    """Where a batch keeps executed notebooks, log and marks of a report directory."""
    below = report.relative_to(experiment.REPORTS)
    return experiment.DATA / "runs" / (below if len(below.parts) > 1 else below / "as_given")


class Terminated(KeyboardInterrupt):
    """The batch was sent SIGTERM."""


@dataclasses.dataclass(frozen=True)
class Work:
    """What a batch is to do. pages: its report directory. config: what the Snakefile is told beside it. jobs: the page
    that each notebook or cell leaves. marks: where below the workplace their marks are."""

    pages: Path
    config: dict[str, Any]
    jobs: dict[str, Path]
    marks: str = "."


def work(name: str, grid: sweep.Grid, chosen: list[str]) -> Work:
    """The notebooks of a report, all or the `chosen` ones, or the cells of a sweep.

    Raises ExperimentError where the experiment, a cell of it or a notebook is none.
    """
    known, cells = [path.stem for path in notebooks()], sweep.cells(grid)
    for notebook in chosen:
        if notebook not in known:
            raise ExperimentError(f"NOTEBOOKS: {notebook}: no such notebook{experiment.hint(notebook, known)}")
    plans = [experiment.load(name, **cell) for cell in cells]
    if len(cells) == 1:
        # With targets the walk down the tree decides what is trained.
        every = [WALK] if plans[0].has_targets else known
        pages, run = experiment.report_directory(name, **cells[0]), chosen or every
        config = {"overrides": cells[0], "notebooks": {"names": run}}
        return Work(pages, config, {notebook: pages / f"{notebook}.html" for notebook in run})
    if chosen:
        told = " ".join(chosen)
        raise ExperimentError(f"NOTEBOOKS={told}: a sweep runs {WALK} in every cell; leave it out")
    if any(plan.has_targets for plan in plans):
        raise ExperimentError("targets: a sweep trains every stage of its cells; give targets to one setting at a time")
    pages = sweep.directory(name, grid)
    jobs = {cell: pages / cell / f"{WALK}.html" for cell in map(sweep.name, cells)}
    return Work(pages, {"grid": grid}, jobs, "cells")


def report(name: str, settings: str, cores: str, profile: str | None = None, chosen: str = "") -> int:
    """Run every notebook, or every cell of a sweep, that is not up to date and write the index page.

    profile: a directory with a Snakemake profile, which says where jobs run; None runs them here. chosen: names of
    notebooks, with blanks between; those that they go on from run too. Returns the exit status.
    """
    todo, where = work(name, parse(settings), chosen.split()), _where(cores, profile)
    place = workplace(todo.pages)
    place.mkdir(parents=True, exist_ok=True)
    housekeeping.hold(experiment.DATA / "stages", experiment.path_of(name).stem)
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
        "experiment": str(experiment.path_of(name)) if name.endswith((".yaml", ".yml")) else name,
        "place": str(place),
        "pages": str(todo.pages),
        **{key: json.dumps(values) for key, values in todo.config.items()},
    }
    command = [sys.executable, "-m", "snakemake", "--snakefile", str(experiment.ROOT / "Snakefile")]
    command += ["--directory", str(experiment.DATA / "snakemake"), *where, "--keep-going"]
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
    marks = [path for branch in sweep.BRANCHES for path in sorted((place / branch).glob("*.failed"))]
    return [f"{mark.parent.name}, {mark.stem}: FAILED {mark.read_text()}" for mark in marks]


def _is_told(index: Path, states: dict[str, str], marks: Path) -> bool:
    """Whether the index page was written after all that there is to tell: to write it anew takes seconds."""
    ends = [marks / f"{job}.done" for job, said in states.items() if said == "ok"]
    homes = index, experiment.REPORTS / "index.html"
    if len(ends) < len(states) or not all(page.is_file() for page in homes):
        return False
    return min(page.stat().st_mtime_ns for page in homes) > max(mark.stat().st_mtime_ns for mark in ends)


def _close(name: str, pages: Path, states: dict[str, str]) -> None:
    """Write the index page of a report, and the page of all reports anew."""
    from collabopt import front_page, index_page

    if any(pages.glob("*.html")):
        text = "\n".join(path.read_text(encoding="utf-8") for path in experiment.sources(name))
        index_page.index(pages, text, states, front_page.path(experiment.REPORTS))
    front_page.write(experiment.REPORTS)


def _close_sweep(name: str, pages: Path, states: dict[str, str]) -> None:
    """Write the page of a sweep, and the page of all reports anew."""
    from collabopt import front_page, sweep_page

    sweep_page.write(pages, name, states, front_page.path(experiment.REPORTS))
    front_page.write(experiment.REPORTS)


def stages(branch: str, plan: str, overrides: dict[str, Any], done: Path) -> int:
    """Train the stages of a branch into the store, as a job of a sweep."""
    os.environ["COLLABOPT_NOTEBOOK"] = branch
    from collabopt import runs

    done.parent.mkdir(parents=True, exist_ok=True)
    try:
        run = runs.start(plan, **overrides).without_report()
        run.stages(*(stage.name for stage in lineage(sweep.BRANCHES[branch])))
    except Exception as error:
        why = " ".join(f"{type(error).__name__}: {error}".split())
        done.with_suffix(".failed").write_text(why)
        progress.say(f"FAILED {why}")
        return 1
    done.touch()
    return 0


def cell(plan: str, overrides: dict[str, Any], pages: Path, done: Path) -> int:
    """One cell of a sweep: its deployment tree, trained as far as it is not in the store, and its pages."""
    place, label = done.with_suffix(""), sweep.name(overrides)
    place.mkdir(parents=True, exist_ok=True)
    status = notebook(WALK, plan, overrides, place, pages / label, "of the cell", label)
    if status:
        done.with_suffix(".failed").write_text((place / f"{WALK}.failed").read_text())
    else:
        done.touch()
    return status


def notebook(
    name: str, plan: str, overrides: dict[str, Any], place: Path, pages: Path, position: str, label: str = ""
) -> int:
    """Execute one notebook by papermill and write its page, also that of a notebook that failed.

    position: what its progress lines say of it. label: the cell of a sweep that it is of.
    """
    import papermill
    from nbclient.exceptions import DeadKernelError

    from collabopt import pages as html
    from collabopt.forked_kernel import ForkedKernelManager

    os.environ["COLLABOPT_NOTEBOOK"] = label or name
    progress.attach(label or name)
    source, executed, clock = NOTEBOOKS / f"{name}.ipynb", place / f"{name}.ipynb", progress.Clock()
    given = {key: value for key, value in overrides.items() if key in parameters(source)}
    progress.say(f"notebook {position} started")
    failure = None
    try:
        papermill.execute_notebook(
            str(source),
            str(executed),
            parameters={"experiment": plan, "reports": _from_root(pages)} | given,
            progress_bar=False,
            cwd=str(NOTEBOOKS),
            store_widget_state=False,  # the page has a picture of each
            kernel_manager_class=ForkedKernelManager,
            shutdown_kernel="immediate",  # all that it leaves is written; taking TensorFlow down takes a second
        )
    except papermill.PapermillExecutionError as error:
        # The number that the page shows, too: papermill adds cells, which would shift any other count.
        failure = " ".join(f"in cell [{error.exec_count}]: {error.ename}: {error.evalue}".split())
    except DeadKernelError:
        failure = "because its kernel died, most likely for want of memory"
    finally:
        if executed.is_file():
            links = {"../index.html": "The sweep"} if label else {"index.html": "All results"}
            html.from_notebook(executed, pages / f"{name}.html", links)
    if failure:
        (place / f"{name}.failed").write_text(failure)
        progress.say(f"notebook {position} FAILED after {progress.duration(clock.seconds())} {failure}")
        return 1
    progress.say(f"notebook {position} finished in {progress.duration(clock.seconds())}")
    return 0


def _alone(place: Path) -> contextlib.AbstractContextManager:
    """One batch a report: another one that lives is named and waited for; what a dead one left does not matter."""

    def waiting(owner: str) -> None:
        print(f"waiting for the batch of process {owner}, which works on the same report", flush=True)

    return store.locked(place / "lock", waiting)


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


def _from_root(path: Path) -> str:
    """The path from the workbook's root where it is inside, so that pages do not show where that root is."""
    return str(path.relative_to(experiment.ROOT) if path.is_relative_to(experiment.ROOT) else path)


def _terminated(number: int, frame: object) -> None:  # noqa: ARG001
    raise Terminated


def main() -> int:
    """The command line."""
    parser = argparse.ArgumentParser(prog="collabopt.batch", description=__doc__.splitlines()[0])
    commands = parser.add_subparsers(dest="command", required=True)
    one = commands.add_parser("report", help="every notebook of an experiment")
    one.add_argument("--experiment", default="digits")
    one.add_argument("--set", dest="settings", default="")
    one.add_argument("--cores", default="all")
    one.add_argument("--profile")
    one.add_argument("--notebooks", default="")
    one = commands.add_parser("notebook", help="one notebook, as a rule of the Snakefile")
    one.add_argument("name")
    for option in ("--experiment", "--overrides", "--place", "--pages", "--position", "--done"):
        one.add_argument(option, required=True)
    one = commands.add_parser("stages", help="a branch that cells of a sweep share")
    one.add_argument("branch", choices=list(sweep.BRANCHES))
    for option in ("--experiment", "--overrides", "--done"):
        one.add_argument(option, required=True)
    one = commands.add_parser("cell", help="one cell of a sweep")
    for option in ("--experiment", "--overrides", "--pages", "--done"):
        one.add_argument(option, required=True)
    words = parser.parse_args()
    try:
        if words.command == "report":
            signal.signal(signal.SIGTERM, _terminated)
            # A shell's background jobs ignore it, and all that they start; Snakemake is stopped by it.
            signal.signal(signal.SIGINT, signal.default_int_handler)
            return report(words.experiment, words.settings, words.cores, words.profile or None, words.notebooks)
        given = json.loads(words.overrides)
        if words.command == "stages":
            return stages(words.branch, words.experiment, given, Path(words.done))
        if words.command == "cell":
            return cell(words.experiment, given, Path(words.pages), Path(words.done))
        clock = progress.Clock()
        status = notebook(words.name, words.experiment, given, Path(words.place), Path(words.pages), words.position)
        if not status:
            Path(words.done).write_text(json.dumps({"seconds": round(clock.seconds(), 1)}))
        return status
    except ExperimentError as error:
        print(error, file=sys.stderr)
        return 2
    except OSError as error:
        print(f"{error.filename or 'a file'}: {error.strerror or error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("stopped; what is finished is kept, and the same command goes on from there", file=sys.stderr)
        return 130


if __name__ == "__main__":
    sys.exit(main())
