"""Progress lines, one per finished epoch or stage, in a terminal, a log file or a notebook.

All processes of a batch append lines to one log file. In a notebook, each line replaces the previous one of the same
stage, so the finished page has one line per stage instead of one per epoch.
"""

import contextlib
import datetime
import logging
import os
import sys
import time
from collections.abc import Iterator

LOG = "COLLABOPT_LOG"
"""Environment variable with the path of a batch's log file."""

_WITH_NOTES = ("check", "baseline")
"""Processes of a batch that show notes: the check in the log, the notebook on its page."""

logger = logging.getLogger("collabopt")


class _Display(logging.Handler):
    """Shows records in a notebook. A record with `about` replaces the last one with the same `about`."""

    def __init__(self) -> None:
        super().__init__()
        self.shown: dict[str, object] = {}

    def emit(self, record: logging.LogRecord) -> None:
        from IPython.display import display

        about, text = getattr(record, "about", None), {"text/plain": record.getMessage()}
        if about in self.shown:
            self.shown[about].update(text, raw=True)
        else:
            shown = display(text, raw=True, display_id=True)
            if about is not None:
                self.shown[about] = shown
        if getattr(record, "last", False):
            self.shown.pop(about, None)


def attach(name: str) -> None:
    """Send the progress lines of this process to the log file, the notebook or the terminal, once per process.

    Args:
        name: Name of the process, at the beginning of each line of a log or a terminal.
    """
    if logger.handlers:
        return
    logger.setLevel(logging.INFO)
    logger.propagate = False
    line = logging.Formatter(f"%(asctime)s  {name:<18} %(message)s", "%H:%M:%S")
    if os.environ.get(LOG):
        handler: logging.Handler = logging.FileHandler(os.environ[LOG], encoding="utf-8")
        handler.setFormatter(line)
        if name != _WITH_NOTES[0]:
            handler.addFilter(_is_no_note)
        logger.addHandler(handler)
    if _is_in_kernel():
        display = _Display()
        if os.environ.get(LOG) and name not in _WITH_NOTES:
            display.addFilter(_is_no_note)
        logger.addHandler(display)
    elif not os.environ.get(LOG):
        # A copy of the descriptor, because `drop_native_notices` redirects descriptor 2.
        handler = logging.StreamHandler(os.fdopen(os.dup(2), "w", buffering=1))
        handler.setFormatter(line)
        logger.addHandler(handler)


def _is_in_kernel() -> bool:
    # A forked job of a batch has imported ipykernel but is no kernel.
    if "ipykernel" not in sys.modules:
        return False
    from IPython import get_ipython

    return get_ipython() is not None


def log(message: str, about: str | None = None, last: bool = False) -> None:
    """Log a progress line.

    Args:
        message: The line.
        about: What the line is about, such as a stage. In a notebook it replaces the last line about the same.
        last: Whether the next line about the same gets a new place in the notebook.
    """
    logger.info(message, extra={"about": about, "last": last})


@contextlib.contextmanager
def silence() -> Iterator[None]:
    """Log no progress lines within the block."""
    logger.disabled = True
    try:
        yield
    finally:
        logger.disabled = False


def note(message: str) -> None:
    """Log what every process of a batch finds in the same data. The batch shows it once, and on the baseline's page.

    Args:
        message: The line.
    """
    logger.info(message, extra={"is_note": True})


def _is_no_note(record: logging.LogRecord) -> bool:
    return not getattr(record, "is_note", False)


def format_duration(seconds: float) -> str:
    """Format a duration like `12.3 s`, `4 min 05 s` or `2 h 03 min`.

    Args:
        seconds: The duration.

    Returns:
        Such as 12.3 s, 4 min 05 s or 2 h 03 min.
    """
    if seconds < 59.95:  # more would be rounded to 60.0 s
        return f"{seconds:.1f} s"
    seconds = round(seconds)
    if seconds < 3600:
        return f"{seconds // 60} min {seconds % 60:02d} s"
    return f"{seconds // 3600} h {seconds % 3600 // 60:02d} min"


def now(precision: str = "seconds") -> str:
    """Return the local time in ISO 8601, with its zone.

    Args:
        precision: "seconds" or "milliseconds".
    """
    return datetime.datetime.now().astimezone().isoformat(timespec=precision)


class Clock:
    """A stopwatch that starts when it is made."""

    def __init__(self) -> None:
        self._start = time.perf_counter()

    def seconds(self) -> float:
        """Return the seconds since the start."""
        return time.perf_counter() - self._start
