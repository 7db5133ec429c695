"""No label of any figure covers another label, a marker or an axis, or leaves the figure."""

from types import SimpleNamespace

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
from example_figures import make_kernels, make_results, make_variants
from overlaps import find_overlaps, share_area

from collabopt import figures
from collabopt.analysis import comparison
from collabopt.config import loading
from collabopt.config.experiment import Targets
from collabopt.config.scores import ACCURACY
from collabopt.config.stages import STAGES, get_label
from collabopt.deploy import targets
from collabopt.figures import overlays
from collabopt.figures.timeline import select_batch

RELEASED = loading.ROOT / "reports" / "speech_commands-ds_cnn_l"
WANTED = Targets(max_accuracy_drop=0.02, max_gzip_bytes=800, max_npu_ms=1.3)
KINDS = "float32", "float16", "int16x8", "dynamic_range", "int8"


def read(name: str) -> pd.DataFrame:
    return pd.read_csv(RELEASED / name)


def make_crowd(near: bool) -> pd.DataFrame:
    """Variants like those of the digits: five formats of five stages, three of QAT, many with nearly equal scores."""
    draw, rows = np.random.default_rng(1), []
    for number, stage in enumerate(STAGES.values()):
        for kind in KINDS if not stage.quantizes else ("int8",):
            base = {"float32": 80_000, "float16": 44_000, "int8": 22_000}.get(kind, 26_000)
            size = base * (0.9**number)
            score = 0.98 + draw.choice([0, 0.003, -0.003]) if near else 0.98 - 0.0003 * number - 1e-7 * (80_000 - size)
            row = {"stage": stage.name, "format": kind, "gzip_bytes": size, "validation_accuracy": score}
            rows.append(row | {"latency_ratio": draw.uniform(0.5, 20), "preserved": stage.name != "cqat"})
    table = pd.DataFrame(rows)
    is_int8 = table["format"].eq("int8")
    return table.assign(npu_ms=np.where(is_int8, table["gzip_bytes"] / 1e6, np.nan), accelerator="ethos-u55-128")


def make_confusion(classes: int) -> pd.DataFrame:
    draw, rows = np.random.default_rng(0), []
    names = [f"class with a long name {number}" if classes > 12 else str(number) for number in range(classes)]
    for file in ("baseline int8", "sparse clustered int16×8"):
        for label in names:
            rows.append((file, label, label, 30))
            rows += [
                (file, label, str(other), draw.integers(1, 9)) for other in draw.choice(names, 2) if other != label
            ]
    return pd.DataFrame(rows, columns=["file", "class", "predicted", "count"])


def make_timeline() -> pd.DataFrame:
    rows, second = [], 0
    for number, stage in enumerate(STAGES.values()):
        ends = [pd.Timestamp(second + more, unit="s", tz="UTC").isoformat() for more in (0, 40)]
        row = {"notebook": stage.notebook, "stage": stage.name, "began": ends[0], "ended": ends[1]}
        rows.append(row | {"origin": "store" if number % 3 else "trained"})
        second += 35
    return select_batch(pd.DataFrame(rows), "1970-01-01T00:00:00+00:00")


def make_histories() -> dict[str, pd.DataFrame]:
    epochs = pd.DataFrame({"epoch": range(4), "loss": [1, 0.5, 0.4, 0.3], "accuracy": [0.5, 0.8, 0.9, 0.91]})
    epochs = epochs.assign(val_loss=epochs["loss"], val_accuracy=epochs["accuracy"])
    return {"baseline": epochs, "pruned": epochs, "sparse_clustered": epochs.head(1), "qat": epochs.head(0)}


def make_drops() -> pd.DataFrame:
    layers = [f"block_{number}_project_conv" for number in range(14)]
    values = {f"{one}_{kind}": np.linspace(0, 3, 14) for one in ("pruned", "clustered") for kind in ("drop", "error")}
    return pd.DataFrame({"layer": layers, "weights": np.arange(1, 15)} | values)


def make_diagnosis() -> SimpleNamespace:
    layers = [f"block_{number}_project_conv" for number in range(9)]
    table = pd.DataFrame({"layer": layers, "layers": layers, "snr_db": 30.0, "kernel_snr_db": 40.0})
    for column in ("only_int8_drop", "only_int8_error", "only_float_drop", "only_float_error"):
        table[column] = np.linspace(0, 2, 9)
    drops = pd.DataFrame({"drop": [2.0]}, index=["int8"])
    return SimpleNamespace(table=table, score=ACCURACY, proposed=(layers[3],), drops=drops, answer="")


def make_overlay(column: str) -> dict[str, pd.DataFrame]:
    rows = pd.concat(make_histories(), names=["stage"]).reset_index("stage")
    density = pd.DataFrame(
        {"label": np.repeat([get_label(one) for one in STAGES], 2), "value": [0.0, 1.0] * len(STAGES)}
    )
    return dict.fromkeys(("digits", "digits/sparsity=0.8"), rows if column == "stage" else density.assign(share=0.5))


def make_trials() -> pd.DataFrame:
    draw = np.random.default_rng(0)
    rows = {"stage": draw.choice([*STAGES], 14), "setting": "sparsity=0.7", "trainings": range(1, 15), "noise": 0.004}
    rows |= {"gzip_bytes": draw.uniform(8e3, 4e4, 14), "drop": draw.uniform(0, 0.03, 14), "best": [True, False] * 7}
    return pd.DataFrame(rows).assign(verdict=["meets all targets", "gzip 1.0 kB over"] * 7)


DRAWN = {
    "tree": lambda: figures.draw_tree(make_results()),
    "tree of a report": lambda: figures.draw_tree(read("results.csv")),
    "tree with targets": lambda: figures.draw_tree(make_results(), verdicts=targets.judge(make_variants(), WANTED)),
    "search path": lambda: figures.draw_search_path(make_trials(), ACCURACY, 0.02),
    "sizes": lambda: figures.draw_sizes(make_results()),
    "sizes of a report": lambda: figures.draw_sizes(read("results.csv").query("seed == 0")),
    "costs": lambda: figures.draw_costs(make_variants()),
    "costs of a report": lambda: figures.draw_costs(read("variants.csv")),
    "costs of a crowd": lambda: figures.draw_costs(make_crowd(near=False)),
    "costs of nearly equals": lambda: figures.draw_costs(make_crowd(near=True)),
    "pareto of a sweep": lambda: figures.draw_pareto(
        make_results(), labels=pd.Series([f"sparsity 0.{number}, clusters 16" for number in range(7)])
    ),
    "waterfall": lambda: figures.draw_waterfall(make_variants()),
    "waterfall of a report": lambda: figures.draw_waterfall(read("variants.csv")),
    "verdicts": lambda: figures.draw_verdicts(make_variants(), WANTED),
    "verdicts of a report": lambda: figures.draw_verdicts(read("variants.csv"), Targets()),
    "density": lambda: figures.draw_density(make_kernels(), "conv_1"),
    "density grid": lambda: figures.draw_density_grid(
        {label: {"conv_1": weights, "conv_2_pointwise": weights} for label, weights in make_kernels().items()}
    ),
    "layers": lambda: figures.draw_layer_properties(read("layers.csv").query("seed == 0")),
    "training": lambda: figures.draw_training(make_histories()),
    "published drops": lambda: figures.draw_drops(comparison.read(RELEASED)),
    "layer drops": lambda: figures.draw_layer_drops(make_drops(), 0.5),
    "quantization": lambda: figures.draw_quantization(make_diagnosis()),
    "channels": lambda: figures.draw_channels(pd.DataFrame({"baseline": [8, 64], "factorized": [4, 32]}, ["a", "b"])),
    "confusions of 10 classes": lambda: figures.draw_confusion(make_confusion(10)),
    "confusions of 1000 classes": lambda: figures.draw_confusion(make_confusion(1000)),
    "timeline": lambda: figures.draw_timeline(make_timeline()),
    "curves": lambda: overlays.draw_curves(make_overlay("stage")),
    "overlaid densities": lambda: overlays.draw_densities(make_overlay("label")),
}


@pytest.mark.parametrize("name", DRAWN)
def test_no_label_covers_anything(name):
    assert find_overlaps(DRAWN[name]()) == []


def test_every_figure_function_is_checked():
    source = (loading.ROOT / "tests" / "figures" / "test_overlaps.py").read_text(encoding="utf-8")
    assert [name for name in figures.__all__ if f"figures.{name}(" not in source] == []


def test_the_check_finds_what_overlaps():
    figure, axes = plt.subplots()
    axes.plot([0.5], [0.5], "o", markersize=20)
    axes.set(xlim=(0, 1), ylim=(0, 1))
    axes.text(0.5, 0.5, "on a marker")
    axes.text(0.2, 0.2, "one")
    axes.text(0.2, 0.2, "other")
    axes.text(-0.01, 0.8, "on an axis")
    axes.text(0.9, 0.7, "leaves the figure by far")
    found = find_overlaps(figure)
    plt.close(figure)
    for words in (
        "'on a marker' and a marker",
        "'one' and 'other'",
        "'on an axis' and a axis",
        "far' leaves the figure",
    ):
        assert any(words in line for line in found), words


def test_turned_boxes_overlap_where_they_do():
    square = np.array([(0, 0), (10, 0), (10, 10), (0, 10)], float)
    turned = np.array([(10, 5), (15, 0), (20, 5), (15, 10)], float)
    assert not share_area(square, np.add(turned, (1, 0)))
    assert share_area(square, np.subtract(turned, (3, 0)))


def test_a_name_without_room_is_left_out_and_still_hovers():
    rows = pd.DataFrame({"stage": "pruned", "format": "int8", "gzip_bytes": 1000.0, "validation_accuracy": [0.9] * 80})
    rows["gzip_bytes"] += np.arange(80) % 3  # all on one place
    figure = figures.draw_pareto(rows, up="validation_accuracy", labels=pd.Series(["a name"] * 80))
    assert 0 < len(figure.axes[0].texts) < 80
    assert find_overlaps(figure) == []
    assert len(figure.hovers) == 80
