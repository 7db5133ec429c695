"""`make bench-accuracy`: accuracy and size of our clustering beside TFMOT's. It takes hours and continues after a stop.

make bench-accuracy                                      # every experiment, three seeds
make bench-accuracy PARTS="fashion_mnist digits" SEEDS="0 1"

Both schemes train the same stages from the same baseline and seeds. INT8 accuracy is compared per test example: the
difference in correctness is averaged over seeds, and its standard error is that over examples. Variants of our scheme
switch one cause at a time. All trained stages are kept in the store.
"""

import argparse

import numpy as np
import table

from collabopt.analysis.comparison import compute_standard_error
from collabopt.analysis.finished import Finished
from collabopt.config.stages import get_label
from collabopt.run import Run, start
from collabopt.tflite import vela

SUBJECTS = {
    "fashion_mnist": {},
    "digits": {},
    "speech_commands-ds_cnn_l": {},
    "speech_commands-ds_cnn_l-4_clusters": {},
    "cifar10-resnet8": {"cluster_rate": 0.03},
    "cifar10-mobilenet_v1": {"train_fraction": 0.2},
}
"""Experiments with overrides."""
STAGES = ("clustered", "cqat", "sparse_clustered", "pcqat")
SMALLER = {"cluster_rate": 0.06}
"""Our scheme with a higher price of bits."""
CAUSES = {
    "assignments fixed": {"clustering": "fixed"},
    "nearest centroids": {"cluster_rate": 0.0},
    "assignments fixed, nearest centroids": {"clustering": "fixed", "cluster_rate": 0.0},
}
"""Variants of our scheme with one cause switched off, and with both."""
ABSOLUTE = {  # experiment, stage: least INT8 accuracy (%), most encoded bytes
    ("speech_commands-ds_cnn_l", "pcqat"): (92.9, 115_000),
    ("speech_commands-ds_cnn_l-4_clusters", "pcqat"): (92.3, None),
}


def measure_subject(name: str, seeds: list[int], variants: bool) -> list[dict]:
    """Train and measure every scheme and variant of an experiment.

    Args:
        name: One of `SUBJECTS`.
        seeds: Seeds of the runs that are compared.
        variants: Whether to measure `SMALLER` and `CAUSES` too.

    Returns:
        Rows of the table of figures.
    """
    ours, theirs = train(name, seeds, "collabopt"), train(name, seeds, "tfmot")
    smaller = train(name, seeds, "collabopt", SMALLER) if variants else None
    former = train(name, seeds, "collabopt", CAUSES["assignments fixed, nearest centroids"]) if variants else None
    rows = []
    for stage in STAGES:
        about = f"{name}, {get_label(stage)}"
        rows += compare(ours[stage], theirs[stage], about, goal=0.95)
        rows += count(ours[stage], theirs[stage][0].key["number_of_clusters"], about)
        if variants:
            rows += compare(smaller[stage], theirs[stage], f"{about}, rate {SMALLER['cluster_rate']}", goal=0.75)
            ratio = mean_encoded_bytes(smaller[stage]) / mean_encoded_bytes(former[stage])
            figure = "Vela's encoded bytes ÷ those of fixed assignments to nearest centroids"
            rows.append(table.make_bounded_row(figure, f"{about}, rate {SMALLER['cluster_rate']}", ratio, 0.75))
        rows += compare_absolute(name, stage, ours[stage])
    for cause, overrides in CAUSES.items() if variants else ():
        variant = train(name, seeds, "collabopt", overrides)
        for stage in STAGES:
            rows += compare(variant[stage], ours[stage], f"{name}, {get_label(stage)}, {cause}", beside="the default's")
    return rows


def train(name: str, seeds: list[int], scheme: str, overrides: dict = {}) -> dict[str, list[Finished]]:  # noqa: B006
    """The finished stages by name, one per seed."""
    runs: list[Run] = [
        start(name, seed=seed, **(SUBJECTS[name] | overrides)).without_report().with_scheme(scheme) for seed in seeds
    ]
    return {stage: [run.stage(stage) for run in runs] for stage in STAGES}


def compare(
    ones: list[Finished], others: list[Finished], about: str, goal: float | None = None, beside: str = "TFMOT's"
) -> list[dict]:
    """The paired difference in INT8 accuracy and the ratio of sizes after gzip, as means over seeds."""
    pairs = list(zip(ones, others, strict=True))
    gained = 100 * np.array([one.scores()["test_int8"] - other.scores()["test_int8"] for one, other in pairs])
    mean, error = gained.mean(), compute_standard_error(gained)
    ratio = np.mean([one.result["gzip_bytes"] / other.result["gzip_bytes"] for one, other in pairs])
    low = mean - 1.96 * error
    figures = {
        f"INT8 accuracy − {beside} (points)": (mean, "≥ 0", mean >= 0),
        f"INT8 accuracy − {beside}, lower end of 95 % (points)": (low, "≥ −0.1", low >= -0.1),
        f"gzip bytes ÷ {beside}": (ratio, f"≤ {goal}", goal is not None and ratio <= goal),
    }
    rows = []
    for figure, (value, wanted, met) in figures.items():
        row = table.make_row(figure, about, float(value))
        rows.append(row if goal is None else row | {"goal": wanted, "met": bool(met)})
    return rows


def count(ours: list[Finished], clusters: int, about: str) -> list[dict]:
    """The most values per kernel in Keras and in the file, and whether all that must be kept is kept."""
    kernels = [one.layers[one.layers["kind"] != "depthwise"] for one in ours]
    values, int8_values = (
        max(int(one[column].max()) for one in kernels) for column in ("unique_tensor", "int8_unique_tensor")
    )
    lost = sum(int((one["defect"] != "").sum()) for one in kernels)
    return [
        table.make_bounded_row("unique values per kernel, clustered", about, values, int(clusters)),
        table.make_bounded_row("unique int8 values per kernel, clustered", about, int8_values, int(clusters)),
        table.make_bounded_row("kernels that lost zeros or clusters", about, lost, 0),
        table.make_row("gained zeros (%)", about, 100 * float(np.mean([one.result["gained_zeros"] for one in ours]))),
    ]


def compare_absolute(name: str, stage: str, ours: list[Finished]) -> list[dict]:
    """INT8 accuracy and encoded bytes, where they have a goal of their own."""
    if (name, stage) not in ABSOLUTE:
        return []
    least, most = ABSOLUTE[name, stage]
    about, accuracy = f"{name}, {get_label(stage)}", 100 * np.mean([one.result["accuracy_int8"] for one in ours])
    row = table.make_row("INT8 accuracy (%)", about, float(accuracy))
    rows = [row | {"goal": f"≥ {least}", "met": bool(accuracy >= least)}]
    if most:
        rows.append(table.make_bounded_row("Vela's encoded bytes", about, mean_encoded_bytes(ours), most))
    return rows


def mean_encoded_bytes(ours: list[Finished]) -> float:
    """Encoded weights of the int8 files on an Ethos-U55-128 (bytes), the mean over seeds."""
    files = [one.tflite.read_bytes() for one in ours]
    return float(np.mean([vela.estimate(file, "ethos-u55-128")["npu_weight_bytes"] for file in files]))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("parts", nargs="*", metavar="PARTS", help=f"some of {', '.join(SUBJECTS)}; all by default")
    parser.add_argument("--seeds", nargs="*", type=int, default=[0, 1, 2])
    parser.add_argument("--without-variants", action="store_true", help="measure only the default of our scheme")
    words = parser.parse_args()
    if unknown := set(words.parts) - set(SUBJECTS):
        parser.error(f"PARTS={' '.join(sorted(unknown))}: expected some of {', '.join(SUBJECTS)}")
    for part in words.parts or SUBJECTS:
        table.record(measure_subject(part, words.seeds or [0, 1, 2], not words.without_variants))
