"""Published results: published.csv, from the guides and issues of TFMOT and TFLite, Arm, MLPerf Tiny and ST."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pandas as pd

from collabopt.config import stages
from collabopt.config.experiment import Experiment, ExperimentError

CLASSES = {"imagenet": 1000}
"""Classes of a published data set of which an experiment may have a part."""


def read() -> pd.DataFrame:
    """Return published values: table, model, dataset, stage, clusters, cluster_per_channel, sparsity,
    sparsity_pattern, metric, value, source. Accuracies are fractions.
    """
    return pd.read_csv(Path(__file__).with_name("published.csv"), dtype={"clusters": "Int64"})


def name_model(experiment: Mapping[str, Any]) -> str:
    """Return the model and the data set of an `experiment`, as in run.json: "resnet8_cifar10".

    A saved model goes by its file's name, and one that a function builds by the function's.
    """
    model = experiment["model"]
    if model.get("path"):
        return Path(model["path"]).stem
    name = model["function"].rpartition(":")[2] if model.get("function") else model["name"]
    return f"{name}_{experiment['dataset'].get('name')}"


def read_of_model(experiment: Experiment) -> pd.DataFrame:
    """Return the values published for the model and data of the `experiment`."""
    return read_of_name(name_model(experiment.model_dump(include={"model", "dataset"})))


def read_of_name(name: str) -> pd.DataFrame:
    """Return the values published for the model and data set of a `name` by `name_model`."""
    rows = read()
    return rows[rows["model"] + "_" + rows["dataset"] == name]


def read_table(experiment: Experiment, table: str) -> pd.DataFrame:
    """Return one `table`, such as "pqat", of values published for the experiment's model and data set."""
    rows = read_of_model(experiment)
    return rows[rows["table"] == table]


def find_value(rows: pd.DataFrame, stage: str, metric: str) -> float | None:
    """Return the one value of `stage` and `metric` in `rows` of `read`; None if there is none or more than one."""
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


def require_figures(experiment: Experiment) -> None:
    """Refuse the notebook `published` of an experiment for which it would show nothing.

    Raises:
        ExperimentError: Nothing is published for its model and data set, and it has one seed.
    """
    if "published" not in list_notebooks(experiment):
        raise ExperimentError(
            f"NOTEBOOKS: published: nothing is published for {experiment.name}; choose another experiment, such as "
            "speech_commands-ds_cnn_l, give this one repeat_seeds, or leave the notebook out"
        )
