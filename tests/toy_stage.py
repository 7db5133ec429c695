"""A stage of the tests' own: weights are rounded to a grid, and nothing is trained after that."""

import numpy as np
import pandas as pd

from collabopt.config.stages import Stage
from collabopt.techniques import layers, training

STEP = 1 / 64
ROW = Stage("rounded", "rounded", "#117733", "pruned", "toy_stage:train", "rounding", keeps_zeros=True)


def train(stage, parent, data, experiment, checkpoint):  # noqa: ARG001 - the form of every trainer
    """Round the weights of the parent to multiples of `STEP`."""
    arrays = [np.round(array / STEP) * STEP if array.ndim > 1 else array for array in parent.get_weights()]
    model = layers.clone_model(parent, arrays)
    return model, training.Fit(
        pd.DataFrame(columns=training.list_history_columns(data.task.score)), setup_seconds=0.0, fit_seconds=0.0
    )
