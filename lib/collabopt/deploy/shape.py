"""What the stages that change the shape of the network save: channels, multiplications, bytes and time."""

import pandas as pd

from collabopt.config.stages import BASELINE
from collabopt.deploy import variants
from collabopt.run import Run
from collabopt.techniques import layers
from collabopt.techniques.multiplications import count_multiplications

FORMATS = "float32", "int8"


def list_stages(run: Run) -> list[str]:
    """Return the baseline and the stages of a run that change the shape of the network."""
    return [BASELINE, *(stage.name for stage in run.experiment.tree.values() if stage.reshapes)]


def measure(run: Run) -> pd.DataFrame:
    """Measure the files of the stages of `list_stages`, trained first if they are missing.

    Returns:
        One row per stage and format, with the columns of `variants.list_columns`, `parameters` and `multiplications`.
    """
    found = [variants.measure(run, run.experiment.tree[name], form) for name in list_stages(run) for form in FORMATS]
    found = [variant for variant in found if variant.tflite]
    table = variants.make_table(found)
    variants.add_test_scores(table, run, {variant.name: variant for variant in found})
    models = {name: run.model(name) for name in list_stages(run)}
    table["parameters"] = [models[name].count_params() for name in table["stage"]]
    table["multiplications"] = [sum(map(count_multiplications, models[name].layers)) for name in table["stage"]]
    return table


def count_channels(run: Run) -> pd.DataFrame:
    """Return the output channels of each layer with kernels (rows) by stage of `list_stages`; NaN if it is missing."""
    columns = {}
    for name in list_stages(run):
        model = run.model(name)
        found = [layer for layer in model.layers if layers.is_eligible(layer)]
        columns[name] = {layer.name: layer.output_shape[-1] for layer in found}
    return pd.DataFrame(columns, index=list(dict.fromkeys(layer for column in columns.values() for layer in column)))
