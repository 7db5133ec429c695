"""The overview of the workbook: its notebooks, a form that starts a run, and the reports there are.

JupyterLab shows controls. A page, or a notebook that a batch executes, shows the tables without them.
"""

import html
import os
import re
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import ipywidgets
import nbformat

from collabopt.batch import plan
from collabopt.config import loading, stages
from collabopt.config.experiment import ExperimentError
from collabopt.report.directory import Report, find_reports
from collabopt.report.front_page import describe_origin, describe_trade_off
from collabopt.report.table import Cell, Table

_ANSWER = re.compile(r'<(\w+)[^>]*class="answer"[^>]*>(.*?)</\1>', re.DOTALL)
_ALL = "all experiments"
_FIELDS = ("sparsity", "number_of_clusters", "seed", "max_accuracy_drop", "max_gzip_bytes")
"""Parameters with a field of their own in the form."""


def list_notebooks() -> Table:
    """Return the notebooks in the order of reading, one row each, with questions and latest answers, if any."""
    paths = {path.stem: path for path in plan.list_notebooks()}
    rows = [_describe_notebook(paths[name]) for name in stages.sort_notebooks(paths)]
    return Table("Notebooks in the order of reading", rows)


def _describe_notebook(path: Path) -> dict[str, Cell]:
    heading = nbformat.read(path, as_version=4).cells[0].source.partition("\n")[0].removeprefix("# ")
    pages = [*loading.REPORTS.glob(f"**/{path.stem}.html")]
    page = max(pages, key=lambda one: one.stat().st_mtime, default=None)
    found = _ANSWER.search(page.read_text(encoding="utf-8")) if page else None
    answer = html.unescape(re.sub(r"<[^>]+>", "", found[2])).strip() if found else ""
    report = page.parent.relative_to(loading.REPORTS).as_posix() if page else ""
    return {
        "Notebook": Cell(path.stem, href=_link(path)),
        "Question": Cell(heading, kind="wrap"),
        "Latest answer": Cell(answer, kind="wrap"),
        "Page": Cell(report, href=_link(page) if page else ""),
    }


def list_reports(experiment: str | None = None) -> Table:
    """Return the reports and sweeps of an `experiment`, or of all, the newest first, with best file and page."""
    reports = [one for one in find_reports(loading.REPORTS) if experiment in (None, one.place.parts[0])]
    reports.sort(key=lambda one: str(one.run.get("end", "")), reverse=True)
    return Table("Reports, the newest first", [_describe_report(one) for one in reports])


def _describe_report(report: Report) -> dict[str, Cell]:
    return {
        "Experiment": Cell(
            report.place.parts[0], href=_link(loading.REPORTS / report.page) if report.page else "", kind="wrap"
        ),
        "Changed parameters": Cell(report.setting, kind="wrap"),
        "Model and data": Cell(report.subject, kind="wrap"),
        "Best int8 file": Cell(describe_trade_off(report), kind="wrap"),
        "Made": Cell(", ".join(describe_origin(report)), kind="wrap"),
    }


def _link(path: Path) -> str:
    return Path(os.path.relpath(path)).as_posix()


class Browser:
    """The reports, with a filter by experiment in JupyterLab."""

    def __init__(self) -> None:
        names = sorted({one.place.parts[0] for one in find_reports(loading.REPORTS)})
        self.experiment = ipywidgets.Dropdown(options=[_ALL, *names], description="Show")
        self._table = ipywidgets.HTML(layout={"overflow": "auto"})
        self.widget = ipywidgets.VBox([self.experiment, self._table])
        self.experiment.observe(self.refresh, "value")
        self.refresh()

    def refresh(self, change: object = None) -> None:  # noqa: ARG002
        """Read the reports again.

        Args:
            change: Not used.
        """
        self._table.value = list_reports(None if self.experiment.value == _ALL else self.experiment.value)._repr_html_()

    def _repr_mimebundle_(self, **_: Any) -> dict[str, Any]:
        return _add_widget(self.widget, list_reports())


class Form:
    """A form that starts `make report` for an experiment, and shows its log. An empty field keeps the own value."""

    def __init__(self) -> None:
        wide = {"layout": {"width": "44em", "max_width": "98%"}, "style": {"description_width": "12em"}}
        self.experiment = ipywidgets.Dropdown(options=[*_list_experiments()], description="experiment", **wide)
        self.fields = {name: ipywidgets.Text(description=name, **wide) for name in _FIELDS}
        more = {"description": "more parameters", "placeholder": "stages.pruned.epochs=3 exclude.pruning=[conv_1]"}
        self.more = ipywidgets.Text(**more, **wide)
        names = [path.stem for path in plan.list_notebooks()]
        self.notebooks = ipywidgets.SelectMultiple(options=names, description="only these notebooks", rows=5, **wide)
        self.start = ipywidgets.Button(description="Run", button_style="primary")
        self.stop = ipywidgets.Button(description="Stop", disabled=True)
        self.message, self.log = ipywidgets.HTML(), ipywidgets.Output(layout={"max_height": "20em", "overflow": "auto"})
        buttons = ipywidgets.HBox([self.start, self.stop, self.message])
        fields = [self.experiment, *self.fields.values(), self.more, self.notebooks]
        self.widget = ipywidgets.VBox([*fields, buttons, self.log])
        self.process: subprocess.Popen | None = None
        self.start.on_click(self._run)
        self.stop.on_click(lambda _: self.process.terminate())
        self.experiment.observe(self._show_values, "value")
        self.experiment.value = "digits"
        self._show_values()

    def _show_values(self, change: object = None) -> None:  # noqa: ARG002
        experiment = loading.load(self.experiment.value)
        for name, field in self.fields.items():
            value = loading.get_value(experiment, name)
            field.placeholder = "none" if value is None else str(value)

    def _run(self, _: object) -> None:
        """Check the fields, and start the run in another process."""
        given = [f"{name}={field.value.strip()}" for name, field in self.fields.items() if field.value.strip()]
        words = [self.experiment.value, " ".join([*given, self.more.value]), " ".join(self.notebooks.value)]
        try:
            work = plan.plan_work(words[0], plan.parse_settings(words[1]), words[2].split())
        except ExperimentError as error:
            self.message.value = f"<b>{html.escape(str(error))}</b>"
            return
        options = zip(("--experiment", "--set", "--notebooks"), words, strict=True)
        command = [sys.executable, "-m", "collabopt", "report", *(word for pair in options for word in pair)]
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        self.start.disabled, self.stop.disabled, self.log.outputs = True, False, ()
        self.message.value = f"running <code>{html.escape(' '.join(words))}</code>"
        self.follower = threading.Thread(target=self._follow, args=(work.pages / "index.html",), daemon=True)
        self.follower.start()

    def _follow(self, page: Path) -> None:
        """Show the lines of the running process, and at its end a link to its page."""
        for line in self.process.stdout:
            self.log.append_stdout(line)
        status = self.process.wait()
        self.start.disabled, self.stop.disabled = False, True
        link = f'<a href="{html.escape(_link(page))}" target="_blank">open the report</a>' if page.is_file() else ""
        self.message.value = f"{'finished' if status == 0 else f'ended with status {status}'}; {link}"

    def _repr_mimebundle_(self, **_: Any) -> dict[str, Any]:
        rows = [{"Experiment": name, "About": Cell(about, kind="wrap")} for name, about in _list_experiments().items()]
        return _add_widget(self.widget, Table("Experiments; make report EXPERIMENT=digits runs one", rows))


def _list_experiments() -> dict[str, str]:
    """The first line of each experiment's file, by name."""
    paths = sorted(loading.EXPERIMENTS.glob("*.yaml"))
    return {path.stem: path.read_text(encoding="utf-8").partition("\n")[0].strip("# ") for path in paths}


def _add_widget(widget: ipywidgets.Widget, table: Table) -> dict[str, Any]:
    """What an output holds: the widget for JupyterLab, and the table for programs without widgets."""
    shown = {} if os.environ.get("COLLABOPT_NOTEBOOK") else widget._repr_mimebundle_()
    return shown | {"text/html": table._repr_html_(), "text/plain": repr(table)}
