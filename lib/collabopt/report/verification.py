"""`make verify`: the verdicts on published figures, of one report or of all of them."""

import functools
import sys
from collections.abc import Mapping
from pathlib import Path

import pandas as pd

from collabopt.analysis import comparison, judgement
from collabopt.analysis.judgement import INCOMPARABLE, NAMES, VERDICTS, format_setting, format_value, format_verdict
from collabopt.config import loading, published
from collabopt.report.directory import read_comparison

WORSE, UNDECIDED = 1, 2
"""Exit statuses of `verify`; 0 means that something was reproduced and nothing is worse."""
EVERY_REPORT = "all"
"""In place of the name of an experiment."""

_FIGURE = ["model", "table", "source", "stage", "clusters", "cluster_per_channel", "sparsity_pattern", "figure"]
"""Columns that tell published figures apart."""


def verify(name: str) -> int:
    """Print the verdicts on the report `name`, or on "all", and return the exit status (`compute_exit_status`).

    Raises:
        ExperimentError: There is no such experiment, or its tables cannot be read.
    """
    if name == EVERY_REPORT:
        return _verify_all()
    try:
        judged = judgement.judge(comparison.read(loading.REPORTS / loading.find_experiment(name).stem))
    except FileNotFoundError as error:
        if len(published.read_of_model(loading.load(name))):
            print(error, file=sys.stderr)
            return UNDECIDED
        judged = pd.DataFrame()
    if judged.empty:
        print(f"{name}: no figures are published for this model and data set", file=sys.stderr)
        return UNDECIDED
    judged = judged[judged["published"].notna()]
    _print_by_source(judged)
    print(count_verdicts(judged))
    return compute_exit_status(judged)


def _verify_all() -> int:
    """Print the comparable figures of every report by source, and why others are not comparable."""
    judged = judge_reports(read_comparisons(loading.REPORTS))
    if judged.empty:
        print(f"{loading.REPORTS}: no report has a comparison with published figures", file=sys.stderr)
        return UNDECIDED
    _print_by_source(judged[judged["verdict"] != INCOMPARABLE])
    rest = judged[judged["verdict"] == INCOMPARABLE]
    print("## Not comparable\n")
    for (reason, report), rows in rest.groupby(["incomparable", "report"], sort=False):
        print(f"- {report}, {reason or 'not measured'}: {', '.join(dict.fromkeys(rows.apply(format_setting, axis=1)))}")
    print(f"\n{count_verdicts(judged)}")
    return compute_exit_status(judged)


def _print_by_source(judged: pd.DataFrame) -> None:
    for source, rows in judged.groupby("source", sort=False):
        print(f"## {source}\n\n{format_markdown(rows)}\n")


def read_comparisons(directory: Path) -> dict[str, pd.DataFrame]:
    """Read the comparison of every report that overrides nothing. Say which cannot be read.

    Args:
        directory: Directory of all reports.

    Returns:
        Rows of `read_comparison` by name of the report.
    """
    tell = functools.partial(print, file=sys.stderr)
    return {path.name: read_comparison(path, tell) for path in sorted(directory.glob("*/"))}


def judge_reports(compared: Mapping[str, pd.DataFrame]) -> pd.DataFrame:
    """Judge the published figures of every report, each once: that of the report with most seeds.

    Args:
        compared: Rows of `read_comparison` by name of the report.

    Returns:
        Rows of `judge` with a column `report`. A figure that no report can compare has one row.
    """
    judged = [judgement.judge(rows).assign(report=name) for name, rows in compared.items() if len(rows)]
    rows = pd.concat([pd.DataFrame(), *judged], ignore_index=True)
    if rows.empty:
        return rows
    is_comparable = rows["verdict"] != INCOMPARABLE
    names = pd.Series([*rows[_FIGURE].astype(object).fillna("").itertuples(index=False, name=None)], rows.index)
    by_seeds = rows[is_comparable].assign(name=names).sort_values("seeds", ascending=False, kind="stable")
    best = by_seeds.drop_duplicates("name").index
    is_new = ~names.isin(names[is_comparable]) & ~names.duplicated()
    return rows[rows.index.isin(best) | is_new].reset_index(drop=True)


def count_verdicts(judged: pd.DataFrame) -> str:
    """Return how many figures of `judged` got each verdict: "14 reproduced, 0 better, 1 worse, …"."""
    counts = judged["verdict"].value_counts()
    return ", ".join(f"{counts.get(verdict, 0)} {verdict}" for verdict in VERDICTS)


def format_markdown(judged: pd.DataFrame) -> str:
    """Return `judged` figures as Markdown in points and per cent, ours ± the standard deviation over seeds."""
    heads = [*(["report"] if "report" in judged else []), "table", "stage", "figure", "published", "ours", "2 SE"]
    lines = [f"| {' | '.join([*heads, 'verdict'])} |", "| --- " * (len(heads) + 1) + "|"]
    for row in judged.to_dict("records"):
        published, ours, deviation, noise = (
            format_value(value, row["figure"])
            for value in (row["published"], row["ours"], row["deviation"], 2 * row["error"])
        )
        values = published, f"{ours} ± {deviation}" if deviation else ours, noise
        cells = row["table"], format_setting(row), NAMES[row["figure"]], *values, format_verdict(row)
        lines.append(f"| {' | '.join([row['report'], *cells] if 'report' in row else cells)} |")
    return "\n".join(lines)


def compute_exit_status(judged: pd.DataFrame) -> int:
    """Return `WORSE` if a figure in `judged` is worse, 0 if one is reproduced or better, else `UNDECIDED`."""
    verdicts = set(judged["verdict"])
    return WORSE if "worse" in verdicts else 0 if verdicts & {"reproduced", "better"} else UNDECIDED
