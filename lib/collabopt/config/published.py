"""Published results: published.csv, from the guides and issues of TFMOT and TFLite, Arm, MLPerf Tiny and ST."""

from pathlib import Path

import pandas as pd

from collabopt.config import stages
from collabopt.config.experiment import Experiment


def read() -> pd.DataFrame:
    """Read every published value.

    Returns:
        One row per value: table, model, dataset, stage, clusters, cluster_per_channel, sparsity, sparsity_pattern,
        metric, value, source.
        Accuracies are fractions.
    """
    return pd.read_csv(Path(__file__).with_name("published.csv"), dtype={"clusters": "Int64"})


def read_of_model(experiment: Experiment) -> pd.DataFrame:
    """Read the values published for the experiment's model and data set.

    Args:
        experiment: Names model and data set. A saved model is known by its file, such as resnet8_cifar10.h5.

    Returns:
        Rows of `read` from all tables; empty if nothing is published.
    """
    rows = read()
    if experiment.model.path:
        return rows[rows["model"] + "_" + rows["dataset"] == Path(experiment.model.path).stem]
    return rows[(rows["model"] == experiment.model.name) & (rows["dataset"] == experiment.dataset.name)]


def read_table(experiment: Experiment, table: str) -> pd.DataFrame:
    """Read one published table for the experiment's model and data set.

    Args:
        experiment: Names model and data set.
        table: Name of the table, such as "pqat".

    Returns:
        Rows of `read`; empty if nothing is published.
    """
    rows = read_of_model(experiment)
    return rows[rows["table"] == table]


def find_value(rows: pd.DataFrame, stage: str, metric: str) -> float | None:
    """Find the one published value of a stage.

    Args:
        rows: Rows of `read`.
        stage: Name of the stage.
        metric: Name of the metric, such as "accuracy" or "compressed_bytes".

    Returns:
        The value, or None if there is none or more than one.
    """
    found = rows[(rows["stage"] == stage) & (rows["metric"] == metric)]["value"]
    return float(found.iloc[0]) if len(found) == 1 else None


def list_notebooks(experiment: Experiment) -> list[str]:
    """Return the notebooks that have something to show for an experiment, in the order of reading.

    Args:
        experiment: The experiment. `published` also compares its `repeat_seeds`.
    """
    has_figures = len(read_of_model(experiment)) or experiment.repeat_seeds
    empty = [*([] if has_figures else ["published"]), *([] if experiment.search.is_given else ["search"])]
    return [name for name in stages.list_notebooks(experiment.tree) if name not in empty]
