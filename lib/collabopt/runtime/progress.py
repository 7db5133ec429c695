"""Progress lines, one per finished epoch or stage, in a terminal, a log file or a notebook, and a bar for who watches.

All processes of a batch append lines to one log file. In a notebook, each line replaces the previous one of the same
stage. A terminal and JupyterLab also have a bar (`live`); log files and pages have none.
"""

import contextlib
import datetime
import logging
import os
import sys
import time
from collections.abc import Iterator, Mapping, Sequence

import psutil

from collabopt.runtime import live

LOG = "COLLABOPT_LOG"
"""Environment variable with the path of a batch's log file."""

_WITH_NOTES = ("check", "baseline")
"""Processes of a batch that show notes: the check in the log, the notebook on its page."""

_PROGRAMS = ("papermill", "nbconvert", "execute")
"""Parts of the names of programs that execute notebooks."""

logger = logging.getLogger("collabopt")


def attach(name: str) -> None:
    """Send progress lines of this process, which start with `name`, to log, notebook or terminal, once per process."""
    if logger.handlers:
        return
    logger.setLevel(logging.INFO)
    logger.propagate = False
    is_watched = False
    line = logging.Formatter(f"%(asctime)s  {name:<18} %(message)s", "%H:%M:%S")
    if os.environ.get(LOG):
        handler: logging.Handler = logging.FileHandler(os.environ[LOG], encoding="utf-8")
        handler.setFormatter(line)
        handler.setLevel(logging.INFO)
        if name != _WITH_NOTES[0]:
            handler.addFilter(_is_no_note)
        logger.addHandler(handler)
    if _is_in_kernel():
        is_watched = not _runs_by_program()
        handler = live.Cell(is_watched)
        if os.environ.get(LOG) and name not in _WITH_NOTES:
            handler.addFilter(_is_no_note)
        logger.addHandler(handler)
    elif not os.environ.get(LOG):
        # A copy of the descriptor, because `drop_native_notices` redirects descriptor 2.
        stream = os.fdopen(os.dup(2), "w", buffering=1)
        is_watched = stream.isatty()
        handler = live.Terminal(stream) if is_watched else logging.StreamHandler(stream)
        handler.setFormatter(line)
        logger.addHandler(handler)
    if is_watched:
        logger.setLevel(live.ADVANCE)


def _is_in_kernel() -> bool:
    # A forked job of a batch has imported ipykernel but is no kernel.
    if "ipykernel" not in sys.modules:
        return False
    from IPython import get_ipython

    return get_ipython() is not None


def _runs_by_program() -> bool:
    """Whether a program executes the notebook, which nobody watches."""
    if os.environ.get("COLLABOPT_NOTEBOOK"):
        return True
    parent = psutil.Process().parent()
    return parent is not None and any(name in word for word in parent.cmdline()[:4] for name in _PROGRAMS)


def log(
    message: str, about: str = "", last: bool = False, figures: str = "", curves: Sequence[Mapping[str, float]] = ()
) -> None:
    """Log a progress line.

    Args:
        message: The line; a notebook shows nothing if it is empty.
        about: What the line is about, such as a stage. In a notebook it replaces the last line about the same.
        last: Whether the work is finished, and the next line about the same gets a new place in the notebook.
        figures: The end of the line, which notebooks leave out because their tables show it.
        curves: One row per epoch, for the live curves of a training.
    """
    _log(f"{message}{figures}", about=about, last=last, shown=message, curves=curves)


def advance(activity: str, about: str = "", done: int = 0, total: int | None = None) -> None:
    """Show how far some work is, in a terminal and in JupyterLab only.

    Args:
        activity: What is done now; empty if the work is finished and no line says so.
        about: What it is about, such as a stage; by default the same as before.
        done: How many parts are done.
        total: Number of parts, for the bar and the time left; None if it is not known.
    """
    logger.log(live.ADVANCE, activity, extra={"about": about, "done": done, "total": total})


def advance_training(stage: str, epoch: int, step: int, epochs: int, steps: int, **_: object) -> None:
    """Show how far a training is.

    Args:
        stage: Name of the stage.
        epoch: Number of finished epochs.
        step: Number of the finished step in its epoch, from 0.
        epochs: Number of epochs.
        steps: Steps per epoch.
        **_: Further parameters of Keras, which are not used.
    """
    activity = f"epoch {epoch + 1}/{epochs}, step {step + 1}/{steps}"
    advance(activity, stage, epoch * steps + step + 1, epochs * steps)


def _log(text: str, **extra: object) -> None:
    logger.info(text, extra=extra)


@contextlib.contextmanager
def silence() -> Iterator[None]:
    """Log no progress lines within the block."""
    logger.disabled = True
    try:
        yield
    finally:
        logger.disabled = False


def note(message: str) -> None:
    """Log a `message` that every process of a batch has of the same data; shown once, and on the baseline's page."""
    _log(message, is_note=True, about="", last=False, shown=message, curves=())


def _is_no_note(record: logging.LogRecord) -> bool:
    return not getattr(record, "is_note", False)


def format_duration(seconds: float) -> str:
    """Return `seconds` like `12.3 s`, `4 min 05 s` or `2 h 03 min`."""
    if seconds < 59.95:  # more would be rounded to 60.0 s
        return f"{seconds:.1f} s"
    seconds = round(seconds)
    if seconds < 3600:
        return f"{seconds // 60} min {seconds % 60:02d} s"
    return f"{seconds // 3600} h {seconds % 3600 // 60:02d} min"


def now(precision: str = "seconds") -> str:
    """Return the local time in ISO 8601, with its zone; `precision` is "seconds" or "milliseconds"."""
    return datetime.datetime.now().astimezone().isoformat(timespec=precision)


class Clock:
    """A stopwatch that starts when it is made."""

    def __init__(self) -> None:
        self._start = time.perf_counter()

    def seconds(self) -> float:
        """Return the seconds since the start."""
        return time.perf_counter() - self._start
