"""Reading report directories, whose files may be missing, of an older version, or made by hand."""

import contextlib
import dataclasses
from collections.abc import Callable, Mapping
from functools import cached_property
from pathlib import Path
from typing import Any

import bs4
import pandas as pd

from collabopt.analysis import comparison, judgement
from collabopt.config import published, tasks
from collabopt.config.experiment import Experiment
from collabopt.config.scores import ACCURACY, Score, find_score
from collabopt.config.stages import BASELINE, list_stages
from collabopt.deploy import recommendation, targets
from collabopt.report import summary
from collabopt.storage import results


def read_run(directory: Path) -> dict[str, Any]:
    """Return run.json of a report `directory`; empty if it cannot be read."""
    run = results.read_run(directory)
    task = _get_experiment(run).get("task")
    if isinstance(task, dict):  # a score of the user's own is known from here on
        with contextlib.suppress(TypeError, ValueError):
            tasks.make_custom(**task)
    return run


def get_scheme(run: dict[str, Any]) -> str:
    """Return the scheme of a `run`, the content of run.json."""
    return _get_experiment(run).get("scheme") or Experiment.model_fields["scheme"].default


def read_rows(path: Path, needed: str, seed: object) -> pd.DataFrame:
    """Read the rows of a seed from a CSV file, as text.

    Args:
        path: The file.
        needed: A column without which the file is unusable.
        seed: The seed. If the file does not have it, all rows are read.

    Returns:
        The rows in the order of the tree; empty if the file cannot be read or lacks `stage` or the needed column.
    """
    try:
        table = pd.read_csv(path, dtype=str, keep_default_na=False)
    except (OSError, ValueError):
        return pd.DataFrame()
    if not {"stage", needed} <= set(table):
        return pd.DataFrame()
    is_selected = table.get("seed", pd.Series("", table.index)) == str(seed)
    return summary.sort_by_stage(table[is_selected] if is_selected.any() else table)


def read_comparison(directory: Path, tell: Callable[[str], None] = lambda _: None) -> pd.DataFrame:
    """Return the rows of published figures in comparison.csv of `directory`, with the column `model`
    (`published.name_model`); empty if they cannot be read. `tell` gets the reason if the file is there.
    """
    try:
        rows = comparison.read(directory)
        judgement.judge(rows)
        experiment = _get_experiment(read_run(directory))
        model = published.name_model(experiment) if "model" in experiment else ""
        return rows[rows["published"].notna()].assign(model=model)
    except FileNotFoundError:
        return pd.DataFrame()
    except (OSError, ValueError, KeyError, TypeError) as error:
        tell(str(error))
        return pd.DataFrame()


def read_head(page: Path) -> dict[str, str]:
    """Return `name` and `title` of a `page`; if it exists, also `href`, `description` and `failure`, if it has them."""
    try:
        text = page.read_text(encoding="utf-8").partition("</head>")[0]
    except OSError:
        return {"name": page.stem, "title": page.stem.replace("_", " ")}
    parsed = bs4.BeautifulSoup(text, "html.parser")
    content = {tag["name"]: tag.get("content", "") for tag in parsed.find_all("meta", attrs={"name": True})}
    title = parsed.title.get_text(strip=True) if parsed.title else ""
    return {**content, "name": page.stem, "href": page.name, "title": title or page.stem}


def find_file(directory: Path, name: str) -> str:
    """Return the name of a file below a directory, or "" if there is no such file.

    Args:
        directory: The directory.
        name: Path relative to it.
    """
    return name if name and (directory / name).is_file() else ""


def find_links(directory: Path, row: Mapping[str, Any], own_scheme: str) -> tuple[str, str]:
    """Return the page of a stage and its int8 file in a `row`, relative to `directory`; "" for a missing file.

    The cells of a sweep have schemes of their own, others `own_scheme`.
    """
    stage = row["stage"]
    scheme, cell = ("" if pd.isna(row.get(name)) else row[name] for name in ("scheme", "cell"))
    place, is_own = f"{cell}/" if cell else "", cell or scheme in ("", own_scheme)
    own = list_stages()[stage].notebook if stage in list_stages() else ""
    page = find_file(directory, f"{place}{own if is_own else 'preservation'}.html")
    model = find_file(directory, f"{place}models/{stage if is_own else f'{stage}-{scheme}'}.tflite")
    return page or find_file(directory, f"{place}deployment_tree.html"), model


@dataclasses.dataclass(frozen=True)
class Report:
    """A report or a sweep.

    Attributes:
        root: Directory of all reports.
        place: Directory of the report, relative to `root`.
    """

    root: Path
    place: Path

    @property
    def directory(self) -> Path:
        """Directory of the report."""
        return self.root / self.place

    @property
    def setting(self) -> str:
        """What it overrides in its experiment."""
        return "/".join(self.place.parts[1:])

    @property
    def is_sweep(self) -> bool:
        """Whether it is a sweep."""
        return self.place.name.startswith("sweep,") or bool(self.find_file("sweep.csv"))

    @cached_property
    def run(self) -> dict[str, Any]:
        """Content of run.json; in a sweep that of the cell that ended last."""
        if not self.is_sweep:
            return read_run(self.directory)
        cells = [read_run(file.parent) for file in sorted(self.directory.glob("*/run.json"))]
        return max(cells, key=lambda run: str(run.get("end", "")), default={})

    @cached_property
    def scheme(self) -> str:
        """Scheme of the run."""
        return get_scheme(self.run)

    @cached_property
    def rows(self) -> pd.DataFrame:
        """Rows of results.csv with all its columns; empty if it cannot be read."""
        try:
            rows = results.read(self.directory / "results.csv")
            self.run  # noqa: B018 - makes a custom score known
            columns = rows.columns.union(results.list_columns(find_score(rows)))
            return rows.reindex(columns=columns).dropna(subset=["stage"])
        except (OSError, ValueError, TypeError):
            return pd.DataFrame(columns=results.list_columns(ACCURACY))

    @property
    def score(self) -> Score:
        """Score of the task."""
        return find_score(self.rows)

    @cached_property
    def table(self) -> pd.DataFrame:
        """Rows of `summary.compare_with_baseline`; empty without results."""
        if not len(self.rows):
            return pd.DataFrame()
        rows = results.to_numbers(self.rows, [metric.name for metric in summary.list_metrics(self.rows)])
        return summary.compare_with_baseline(summary.average_over_seeds(rows))

    @property
    def subject(self) -> str:
        """Model and data: "digits_cnn on digits"."""
        sections = (_get_experiment(self.run).get(key) for key in ("model", "dataset"))
        return " on ".join(filter(None, map(_get_name, sections)))

    @property
    def page(self) -> str:
        """Its index, or else its deployment tree, relative to `root`; empty if there is none."""
        return self.find_file("index.html") or self.find_file("deployment_tree.html")

    def find_file(self, name: str) -> str:
        """Return a file of the report relative to `root`, or "" if there is no such file.

        Args:
            name: Path relative to the report.
        """
        return find_file(self.root, (self.place / name).as_posix())

    def find_trade_off(self) -> list[dict[str, Any]]:
        """Return the row of the baseline, and that of the best file, or none.

        The best file is the one that the verdict recommends among those in int8. Without a table of files, it is the
        smallest by the report's own scheme that loses at most `Score.get_tolerance` on validation against the float32
        baseline.
        """
        table, found = self.table, self._recommended
        if BASELINE not in set(table.get("stage", [])):
            return []
        is_own = table["scheme"].isna() | (table["scheme"] == self.scheme)
        baseline, score = table[table["stage"] == BASELINE].head(1), find_score(table)
        if found:
            chosen = found.on_device or ({} if found.misses else found.variant)
            best = table[is_own & (table["stage"] == chosen.get("stage")) & (chosen.get("format") == "int8")]
            return [*baseline.to_dict("records"), *best[best["stage"] != BASELINE].head(1).to_dict("records")]
        tolerance = score.get_tolerance(baseline[score.validation].iloc[0])
        is_usable = pd.Series([not results.is_constant(row) for row in table.to_dict("records")], table.index)
        is_near = targets.is_within(table["validation_lost"], tolerance)
        near = table[is_own & is_usable & is_near & (table["saved"] > 0)]
        return [*baseline.to_dict("records"), *near.nlargest(1, "saved").to_dict("records")]

    def explain_trade_off(self) -> str:
        """Return why `find_trade_off` has no other file than the baseline's."""
        found = self._recommended
        if found and found.misses:
            return "no file meets all targets" if found.limits else "no file can be recommended"
        if found and found.variant["stage"] != BASELINE and not found.on_device:
            return f"{found.name} is recommended"
        return "no smaller file is as good"

    @cached_property
    def _recommended(self) -> recommendation.Recommendation | None:
        with contextlib.suppress(OSError, ValueError, KeyError):  # a table that is not ours
            return recommendation.recommend(self.directory)
        return None


def find_reports(root: Path, below: Path = Path()) -> list[Report]:
    """Return the reports and sweeps of `root` in `below`. The cells of a sweep belong to it."""
    found = []
    for path in sorted(path for path in (root / below).glob("[!.]*") if path.is_dir()):
        report = Report(root, below / path.name)
        if report.is_sweep or report.find_file("results.csv") or report.find_file("run.json"):
            found.append(report)
        if not report.is_sweep:
            found += find_reports(root, report.place)
    return found


def _get_experiment(run: dict[str, Any]) -> dict[str, Any]:
    experiment = run.get("experiment")
    return experiment if isinstance(experiment, dict) else {}


def _get_name(section: object) -> str:
    """The name of a model or data set, built-in or the user's."""
    found = section if isinstance(section, dict) else {}
    return next((str(found[key]) for key in ("name", "function", "path") if found.get(key)), "")
