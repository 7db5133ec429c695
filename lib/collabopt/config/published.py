"""Published figures: TFMOT's guides and issues, the TFLite guide. The table ships with the package as it was found."""

from pathlib import Path

import pandas as pd

from collabopt.config.experiment import Experiment


def read() -> pd.DataFrame:
    """Every published figure, a row each, with its table, model, data set, stage, setting, metric and source."""
    return pd.read_csv(Path(__file__).with_name("published.csv"), dtype={"clusters": "Int64"})


def read_of_model(plan: Experiment) -> pd.DataFrame:
    """The published rows of every table for the experiment's model and data set; empty where there are none."""
    rows = read()
    return rows[(rows["model"] == plan.model.name) & (rows["dataset"] == plan.dataset.name)]


def read_table(plan: Experiment, table: str) -> pd.DataFrame:
    """The published rows of one results table for the experiment's model and data set; empty where there are none."""
    rows = read_of_model(plan)
    return rows[rows["table"] == table]


def find_value(rows: pd.DataFrame, stage: str, metric: str) -> float | None:
    """The one published figure of a stage, or None."""
    found = rows[(rows["stage"] == stage) & (rows["metric"] == metric)]["value"]
    return float(found.iloc[0]) if len(found) == 1 else None
