"""Progress that somebody watches: a bar with the time left, and the curves of the running training.

A terminal has the bar below the lines. JupyterLab has bar, curves and the last line in the output of the cell, where
the last line of a stage replaces them. So a saved notebook has neither bars nor live curves.
"""

import base64
import html
import io
import logging
import threading
import time
from typing import TextIO

import pandas as pd
from tqdm import tqdm

ADVANCE = logging.DEBUG
"""Level of records that say how far some work is."""

_DELAY = 0.5  # seconds before work gets a bar
_DRAWING_SHARE = 0.05  # of the time of a training goes into its live curves
_LONGEST_PAUSE = 5.0  # seconds between two drawings
_WITH_TOTAL = "{desc} {percentage:3.0f}% |{bar:20}| {elapsed} elapsed, {remaining} left"
_WITHOUT_TOTAL = "{desc}, {elapsed} elapsed"


class Terminal(logging.Handler):
    """Writes lines to a terminal, with a bar of tqdm below them for the work that runs now."""

    def __init__(self, stream: TextIO) -> None:
        super().__init__()
        self._stream, self._bar, self.about = stream, None, ""
        threading.Thread(target=self._tick, daemon=True).start()

    def emit(self, record: logging.LogRecord) -> None:
        """Show a `record` of `progress`: a line, or how far some work is."""
        if record.levelno > ADVANCE:
            if record.last:
                self.close_bar()
            self.write_line(record)
        elif record.getMessage():
            self._advance(record)
        else:
            self.close_bar()

    def write_line(self, record: logging.LogRecord) -> None:
        """Write a line above the bar.

        Args:
            record: A record of `progress.log`.
        """
        tqdm.write(self.format(record), file=self._stream)

    def close_bar(self) -> None:
        """Remove the bar, and forget what it was about."""
        self._end_bar()
        self.about = ""

    def open_stream(self) -> TextIO:
        """Return what the next bar writes to."""
        return self._stream

    def _end_bar(self) -> None:
        if self._bar is not None:
            self._bar.delay = 0  # else tqdm takes a bar that only `_tick` has drawn for one that was never shown
            self._bar.close()
            self._bar = None

    def _advance(self, record: logging.LogRecord) -> None:
        about, bar = record.about or self.about, self._bar
        text = f"{about}: {record.getMessage()}" if about else record.getMessage()
        is_same = bar is not None and (about, record.total) == (self.about, bar.total)
        if not is_same or (bar.desc != text if record.total is None else record.done <= 1 < bar.n):
            self._end_bar() if about == self.about else self.close_bar()
            self.about = about
            form = _WITH_TOTAL if record.total else _WITHOUT_TOTAL
            self._bar = tqdm(
                desc=text, total=record.total, initial=record.done, file=self.open_stream(), leave=False,
                dynamic_ncols=True, delay=_DELAY, mininterval=0.2, bar_format=form,
            )  # fmt: skip
            return
        bar.set_description_str(text, refresh=False)
        bar.update(max(0, record.done - bar.n))  # threads may be out of order
        if bar.total and bar.n >= bar.total:
            self._end_bar()

    def _tick(self) -> None:
        """Let time pass in the bar while its work says nothing."""
        while True:
            time.sleep(_DELAY)
            with self.lock:
                if self._bar is not None and time.time() - self._bar.start_t >= _DELAY:
                    self._bar.refresh()


class Cell(Terminal):
    """Shows lines, the bar and live curves in the outputs of a notebook, one output per stage.

    Args:
        is_watched: Whether somebody sees more than the last line.
    """

    def __init__(self, is_watched: bool) -> None:
        from IPython import get_ipython

        self._outputs: dict[str, _Output] = {}
        self._is_watched = is_watched
        super().__init__(io.StringIO())
        get_ipython().events.register("post_run_cell", lambda *_: self.close_bar())
        self.setLevel(ADVANCE if is_watched else logging.INFO)

    def write_line(self, record: logging.LogRecord) -> None:
        """Show a line in the place of the last one about the same.

        Args:
            record: A record of `progress.log`. Its `shown` leaves out what tables show.
        """
        if not record.shown:
            return
        output = self._outputs.setdefault(record.about, _Output()) if record.about else _Output()
        if record.curves and self._is_watched:
            output.draw_curves(record.curves)
        output.line = record.shown
        output.show()
        if record.last:
            self._outputs.pop(record.about, None)

    def close_bar(self) -> None:
        """Remove the bar. What has no line gets a new place the next time."""
        about = self.about
        super().close_bar()
        if about in self._outputs and not self._outputs[about].line:
            del self._outputs[about]

    def open_stream(self) -> "_Output":
        """Return the output of what the next bar is about."""
        return self._outputs.setdefault(self.about, _Output())


class _Output:
    """An output of a cell: a bar above curves while work runs, and a line. A bar writes to it as to a file."""

    encoding = "utf-8"

    def __init__(self) -> None:
        self.line, self._bar, self._curves, self._handle = "", "", "", None
        self._next_drawing = 0.0

    def write(self, text: str) -> None:
        """Show the `text` of a bar by tqdm, or the blanks that remove it."""
        text = text.strip("\r\n ")
        if text or self._handle:
            self._bar = text
            self.show()

    def flush(self) -> None:
        """Do nothing: a text is shown as it comes."""

    def show(self) -> None:
        """Show bar, line and curves, or the line alone where no work runs."""
        from IPython.display import display

        content = {"text/plain": self.line}
        if self._bar:
            text = html.escape(f"{self._bar}\n{self.line}".rstrip())
            content["text/html"] = f'<pre class="live">{text}</pre>{self._curves}'
        if self._handle:
            self._handle.update(content, raw=True)
        else:
            self._handle = display(content, raw=True, display_id=True)

    def draw_curves(self, rows: list[dict[str, float]]) -> None:
        """Draw score and loss by epoch from `rows`, one per epoch, if the last drawing is long enough ago."""
        if len(rows) < 2 or time.perf_counter() < self._next_drawing:
            return
        from matplotlib.figure import Figure

        began = time.perf_counter()
        history, picture = pd.DataFrame(rows).set_index("epoch"), io.BytesIO()
        names = [name for name in history if f"val_{name}" in history]
        figure = Figure(figsize=(7, 2), layout="constrained")
        for axes, name in zip(figure.subplots(1, len(names)), names, strict=True):
            axes.plot(history[name], label="training")
            axes.plot(history[f"val_{name}"], "--o", markersize=3, label="validation")
            axes.set(xlabel="epoch", title=name.replace("_", " "))
            axes.xaxis.get_major_locator().set_params(integer=True)
            axes.grid(axis="y", alpha=0.3)
        axes.legend(frameon=False)
        figure.savefig(picture, format="png", dpi=96)
        encoded = base64.b64encode(picture.getvalue()).decode()
        self._curves = f'<img alt="Loss and score by epoch" src="data:image/png;base64,{encoded}">'
        ended = time.perf_counter()
        self._next_drawing = ended + min((ended - began) / _DRAWING_SHARE, _LONGEST_PAUSE)
