"""Accuracy with distillation beside that without, where little is left of the weights: DS-CNN-L, three seeds.

    python benchmarks/distillation.py

The baseline teaches the stage (Hinton et al. 2015). Float32 accuracy is compared per test example: the difference in
correctness is averaged over seeds, and its standard error is that over examples. All trained stages are kept in the
store, and the command continues after a stop. An hour on two cores.
"""

import os
import tempfile

os.environ["COLLABOPT_REPORTS"] = tempfile.mkdtemp()

import numpy as np
import table

from collabopt.analysis.comparison import compute_standard_error
from collabopt.config import loading
from collabopt.run import start

EXPERIMENT, SEEDS = "speech_commands-ds_cnn_l", (0, 1, 2)
CASES = {
    "2:4": ("pruned", {"sparsity_pattern": "2:4"}),
    "80 % zeros": ("pruned", {"sparsity": 0.8}),
    "4 clusters": ("clustered", {"number_of_clusters": 4}),
    "binary": ("clustered", {"number_of_clusters": 2, "symmetric": True}),
}
"""Stage and settings of each comparison."""


def measure_case(name: str) -> list[dict]:
    """Rows of one comparison: the difference in accuracy on test, two standard errors, and validation's difference."""
    stage, settings = CASES[name]
    pairs = []
    for seed in SEEDS:
        run = start(EXPERIMENT, seed=seed, **settings).without_report()
        pairs.append((run.stage(stage), run.without_report(distill=None).stage(stage)))
    test, validation = (
        100 * np.array([taught.scores()[split] - plain.scores()[split] for taught, plain in pairs], dtype=float)
        for split in ("test", "validation")
    )
    about = f"{EXPERIMENT}, {name}"
    return [
        table.make_row("accuracy with distillation − without, test (points)", about, test.mean()),
        table.make_row("two standard errors of that difference (points)", about, 2 * compute_standard_error(test)),
        table.make_row("accuracy with distillation − without, validation (points)", about, validation.mean()),
        table.make_row(
            "accuracy with distillation, test (%)", about, 100 * np.mean([one.scores()["test"] for one, _ in pairs])
        ),
    ]


if __name__ == "__main__":
    rows = [row for name in CASES for row in measure_case(name)]
    loading.REPORTS = loading.ROOT / "reports"
    table.record(rows)
