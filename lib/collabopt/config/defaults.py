"""Defaults of an experiment that suit the size of its model and of its data.

Fine-tuning takes about as many steps on few examples as on many. Rules of thumb, all of them: an experiment file
overrides any.
"""

import math
from typing import Any

from collabopt.config.stages import BASELINE, list_stages

_FINE_TUNING_STEPS, _BASELINE_STEPS = 1_200, 6_000
_FEW_WEIGHTS, _MANY_WEIGHTS = 20_000, 500_000


def suggest(weights: int, examples: int, is_trained: bool) -> dict[str, Any]:
    """Return `sparsity`, `number_of_clusters` and `stages` for an experiment that lacks them.

    Args:
        weights: Number of weights of the model.
        examples: Number of training examples.
        is_trained: Whether the model comes with trained weights. The baseline then keeps them.
    """
    batch_size = 2 ** min(max(round(math.log2(max(examples, 1) / 100)), 4), 7)
    steps = math.ceil(examples / batch_size)
    fine_tuning = {"epochs": _count_epochs(_FINE_TUNING_STEPS, steps, 2, 12), "batch_size": batch_size}
    fine_tuning |= {"optimizer": "adam", "learning_rate": 1e-4}
    pruning = fine_tuning | {"epochs": 2 * fine_tuning["epochs"], "learning_rate": 3e-4, "schedule": "cosine"}
    pruning |= {"sparsity_schedule": "polynomial", "end_epoch": fine_tuning["epochs"], "frequency": max(1, steps // 8)}
    baseline = fine_tuning | {"epochs": 0}
    if not is_trained:
        epochs = _count_epochs(_BASELINE_STEPS, steps, 5, 60)
        baseline |= {"epochs": epochs, "learning_rate": 1e-3, "schedule": "cosine"}
    stages = {stage.name: pruning if stage.prunes else fine_tuning for stage in list_stages().values()}
    return {
        "sparsity": 0.5 if weights < _MANY_WEIGHTS else 0.7,
        "number_of_clusters": 32 if weights < _FEW_WEIGHTS else 16,
        "stages": stages | {BASELINE: baseline},
    }


def _count_epochs(wanted: int, steps: int, least: int, most: int) -> int:
    return min(max(round(wanted / steps), least), most)
