"""Batches: every notebook of an experiment by papermill, in the order that the Snakefile says.

    python -m collabopt.batch report --experiment digits --set "sparsity=0.8" --cores 2

`make report` calls this. `python -m collabopt.batch notebook …` is what a rule of the Snakefile runs.
"""

import argparse
import contextlib
import json
import os
import shlex
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from collabopt import experiment, progress, store
from collabopt.experiment import ExperimentError

NOTEBOOKS = experiment.ROOT / "notebooks"
NOT_KNOBS = {"experiment", "reports", "kernel"}


def notebooks() -> list[Path]:
    """Every notebook of the workbook."""
    return sorted(NOTEBOOKS.glob("*.ipynb"))


def parameters(notebook: Path) -> set[str]:
    """The names in a notebook's parameters cell."""
    import papermill

    return set(papermill.inspect_notebook(str(notebook)))


def parse(text: str) -> dict[str, Any]:
    """`sparsity=0.8 number_of_clusters=32` as names and values.

    Raises ExperimentError for a word that is not name=value or a name that no notebook has as a parameter.
    """
    values, known = {}, set().union(*(parameters(notebook) for notebook in notebooks())) - NOT_KNOBS
    try:
        words = shlex.split(text)
    except ValueError as error:
        raise ExperimentError(f"SET: {text}: {error}; expected name=value, with blanks between") from None
    for word in words:
        name, equals, value = word.partition("=")
        if not equals or not value:
            raise ExperimentError(f"SET: {word!r}: expected name=value")
        if name not in known:
            raise ExperimentError(f"SET: {name}: no notebook has this parameter{experiment.hint(name, sorted(known))}")
        values[name] = experiment.value(value, f"SET: {name}")
    return values


def workplace(name: str, overrides: dict[str, Any]) -> Path:
    """Where a batch keeps its executed notebooks, log and marks."""
    report = experiment.report_directory(name, **overrides)
    below = report.relative_to(experiment.REPORTS)
    return experiment.DATA / "runs" / (below if len(below.parts) > 1 else below / "as_given")


def report(name: str, settings: str, cores: str) -> int:
    """Run every notebook that is not up to date and write the index page. Returns the exit status."""
    overrides = parse(settings)
    experiment.load(name, **overrides)
    place, pages = workplace(name, overrides), experiment.report_directory(name, **overrides)
    place.mkdir(parents=True, exist_ok=True)
    with _alone(place):
        for notebook in notebooks():
            if not (pages / f"{notebook.stem}.html").is_file():
                (place / f"{notebook.stem}.done").unlink(missing_ok=True)
            (place / f"{notebook.stem}.failed").unlink(missing_ok=True)
        log = place / "batch.log"
        log.write_text("")
        with _followed(log):
            status = _snakemake(name, overrides, place, pages, cores, log)
        return _close(name, place, pages, status)


def _snakemake(name: str, overrides: dict, place: Path, pages: Path, cores: str, log: Path) -> int:
    config = {
        "experiment": str(experiment.path_of(name)) if name.endswith((".yaml", ".yml")) else name,
        "overrides": json.dumps(overrides),
        "place": str(place),
        "pages": str(pages),
    }
    command = [sys.executable, "-m", "snakemake", "--snakefile", str(experiment.ROOT / "Snakefile")]
    command += ["--directory", str(experiment.DATA / "snakemake"), "--cores", cores, "--keep-going"]
    # Batches on one report are kept apart by a lock that dies with its process; Snakemake's own outlives a SIGKILL.
    command += ["--nolock", "--rerun-incomplete", "--rerun-triggers", "mtime", "input", "params"]
    # Not "all": an error in the Snakefile would leave nothing to tell.
    command += ["--quiet", "rules", "progress", "host", "reason"]
    command += ["--config", *(f"{key}={value}" for key, value in config.items())]
    environment = os.environ | {progress.LOG: str(log), "COLLABOPT_STARTED": progress.now()}
    with (place / "snakemake.log").open("w") as output:
        done = subprocess.run(command, env=environment, stdout=output, stderr=subprocess.STDOUT, check=False)
    return done.returncode


def _close(name: str, place: Path, pages: Path, status: int) -> int:
    """Write the index page and say, last, what failed and why."""
    from collabopt import index_page

    states, lines = {}, []
    failures = {path.stem: path.read_text() for path in place.glob("*.failed")}
    why = "a notebook before it failed" if failures else "Snakemake failed"
    for notebook in (path.stem for path in notebooks()):
        if notebook in failures:
            states[notebook] = f"failed: {failures[notebook]}"
            lines.append(f"{notebook}: FAILED {failures[notebook]}")
        elif (place / f"{notebook}.done").is_file():
            states[notebook] = "ok"
        else:
            states[notebook] = f"failed: not run, because {why}"
            lines.append(f"{notebook}: not run, because {why}")
    if status and not failures:
        lines.insert(0, f"Snakemake failed: {_tail(place / 'snakemake.log')}")
    if any(pages.glob("*.html")):
        text = "\n".join(path.read_text(encoding="utf-8") for path in experiment.sources(name))
        page = index_page.index(pages, text, states)
        print(f"report: {os.path.relpath(page)}")
    for line in lines:
        print(line, file=sys.stderr)
    return 1 if lines else 0


def notebook(name: str, plan: str, overrides: dict[str, Any], place: Path, pages: Path, position: str) -> int:
    """Execute one notebook by papermill and write its page, also that of a notebook that failed."""
    import papermill
    from nbclient.exceptions import DeadKernelError

    from collabopt import pages as html

    os.environ["COLLABOPT_NOTEBOOK"] = name
    progress.attach(name)
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
        )
    except papermill.PapermillExecutionError as error:
        # The number that the page shows, too: papermill adds cells, which would shift any other count.
        failure = " ".join(f"in cell [{error.exec_count}]: {error.ename}: {error.evalue}".split())
    except DeadKernelError:
        failure = "because its kernel died, most likely for want of memory"
    finally:
        if executed.is_file():
            html.from_notebook(executed, pages / f"{name}.html", {"index.html": "All results"})
    if failure:
        (place / f"{name}.failed").write_text(failure)
        progress.say(f"notebook {position} FAILED after {progress.duration(clock.seconds())} {failure}")
        return 1
    (place / f"{name}.done").write_text(json.dumps({"seconds": round(clock.seconds(), 1)}))
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


def main() -> int:
    """The command line."""
    parser = argparse.ArgumentParser(prog="collabopt.batch", description=__doc__.splitlines()[0])
    commands = parser.add_subparsers(dest="command", required=True)
    one = commands.add_parser("report", help="every notebook of an experiment")
    one.add_argument("--experiment", default="digits")
    one.add_argument("--set", dest="settings", default="")
    one.add_argument("--cores", default="all")
    one = commands.add_parser("notebook", help="one notebook, as a rule of the Snakefile")
    one.add_argument("name")
    for option in ("--experiment", "--overrides", "--place", "--pages", "--position"):
        one.add_argument(option, required=True)
    words = parser.parse_args()
    try:
        if words.command == "report":
            return report(words.experiment, words.settings, words.cores)
        given = json.loads(words.overrides)
        return notebook(words.name, words.experiment, given, Path(words.place), Path(words.pages), words.position)
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
