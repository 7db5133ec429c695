"""Progress lines: one a finished epoch or stage, the same in a terminal, a log file and a notebook.

A batch names its log file in `COLLABOPT_LOG`; every process of the batch appends whole lines to it. In a notebook one
display shows the last line of what is under way, so that a page ends with a line a stage instead of a line an epoch.
"""

import datetime
import logging
import os
import sys
import time

LOG = "COLLABOPT_LOG"


logger = logging.getLogger("collabopt")


class _Display(logging.Handler):
    """Shows records in a notebook: a record that says which stage it is `about` replaces that stage's last one."""

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
    """Send the progress lines of this process, called `name`, where they are read. Calling it again changes nothing."""
    if logger.handlers:
        return
    logger.setLevel(logging.INFO)
    logger.propagate = False
    line = logging.Formatter(f"%(asctime)s  {name:<18} %(message)s", "%H:%M:%S")
    if os.environ.get(LOG):
        handler: logging.Handler = logging.FileHandler(os.environ[LOG], encoding="utf-8")
        handler.setFormatter(line)
        logger.addHandler(handler)
    if _is_in_kernel():
        logger.addHandler(_Display())
    elif not os.environ.get(LOG):
        # A copy of the descriptor: what native code writes to descriptor 2 is held back at times.
        handler = logging.StreamHandler(os.fdopen(os.dup(2), "w", buffering=1))
        handler.setFormatter(line)
        logger.addHandler(handler)


def _is_in_kernel() -> bool:
    """Whether this process is a notebook's kernel; a forked job has its modules too, and runs none (`forks`)."""
    if "ipykernel" not in sys.modules:
        return False
    from IPython import get_ipython

    return get_ipython() is not None


def log(message: str, about: str | None = None, last: bool = False) -> None:
    """Say `message`; with `about` it replaces, in a notebook, what was last said about the same."""
    logger.info(message, extra={"about": about, "last": last})


def format_duration(seconds: float) -> str:
    """12.3 s, 4 min 05 s, 2 h 03 min."""
    if seconds < 59.95:  # else it would be told as 60.0 s
        return f"{seconds:.1f} s"
    seconds = round(seconds)
    if seconds < 3600:
        return f"{seconds // 60} min {seconds % 60:02d} s"
    return f"{seconds // 3600} h {seconds % 3600 // 60:02d} min"


def now() -> str:
    """The time, ISO 8601 with its zone, to the second."""
    return datetime.datetime.now().astimezone().isoformat(timespec="seconds")


class Clock:
    """Seconds since it was made."""

    def __init__(self) -> None:
        self._start = time.perf_counter()

    def seconds(self) -> float:
        return time.perf_counter() - self._start
