"""`make bench-accuracy`: accuracy and size of our scheme beside TFMOT's. It takes hours and continues after a stop.

Both schemes train the same stages from the same baseline with the same epochs and seeds. INT8 accuracy is compared per
test example: the difference in correctness is averaged over seeds and pooled over the data sets. The rows go into the
table of `make bench`.
"""

import numpy as np
import table

from collabopt.analysis.finished import Finished
from collabopt.run import start

SUBJECTS = (("speech_commands-ds_cnn_l", {}, (0, 1)), ("cifar10-mobilenet_v1", {"train_fraction": 0.2}, (0,)))
"""Experiment, overrides and seeds; two cores take about two hours."""
STAGES = ("cqat", "pcqat")


def compute_difference(ours: list[Finished], theirs: list[Finished]) -> np.ndarray:
    """Correctness of our int8 files minus that of TFMOT's per test example (n,), averaged over runs."""
    pairs = zip(ours, theirs, strict=True)
    return np.mean([our.scores()["test_int8"] - their.scores()["test_int8"] for our, their in pairs], axis=0)


def measure_figures() -> list[dict]:
    """One row per figure: the lower end of the 95 % interval in points, and the largest ratio of gzip sizes."""
    rows, pooled = [], {stage: [] for stage in STAGES}
    for name, overrides, seeds in SUBJECTS:
        pairs = []
        for seed in seeds:
            run = start(name, seed=seed, **overrides)
            pairs.append((run.with_scheme("collabopt"), run.with_scheme("tfmot")))
            for side in pairs[-1]:
                side.stages(*STAGES)
        for stage in STAGES:
            ours, theirs = ([run.stage(stage) for run in side] for side in zip(*pairs, strict=True))
            pooled[stage].append(compute_difference(ours, theirs))
            ratio = max(
                our.result["gzip_bytes"] / their.result["gzip_bytes"] for our, their in zip(ours, theirs, strict=True)
            )
            about = {"figure": "gzip bytes ÷ TFMOT's", "subject": f"{name}, {stage}", "value": round(ratio, 3)}
            rows.append(about | {"goal": "< 1", "met": ratio < 1})
    pooled["cqat and pcqat"] = [(cqat + pcqat) / 2 for cqat, pcqat in zip(*pooled.values(), strict=True)]
    for stage, differences in pooled.items():
        of_all = 100 * np.concatenate(differences)
        mean, low = of_all.mean(), of_all.mean() - 1.96 * of_all.std(ddof=1) / len(of_all) ** 0.5
        about = {"subject": f"both data sets, {stage}"}
        rows.append(table.make_row("INT8 accuracy − TFMOT's (points)", about["subject"], mean))
        figure = "INT8 accuracy − TFMOT's, lower end of 95 % (points)"
        rows.append(about | {"figure": figure, "value": round(low, 3), "goal": "≥ −0.3", "met": low >= -0.3})
    return rows


if __name__ == "__main__":
    table.record(measure_figures())
