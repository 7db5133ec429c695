"""Layers and training: heat maps, drops of single layers, curves."""

import dataclasses
import itertools

import numpy as np
import pandas as pd
import pytest
from example_figures import PNG, draw_png, get_texts

from collabopt import figures
from collabopt.config.stages import STAGES


def test_training_curves_name_stages_without_training(tmp_path):
    epochs = pd.DataFrame({"epoch": [0, 1], "loss": [1, 0.5], "accuracy": [0.5, 0.8], "val_loss": [1, 0.6]})
    histories = {"pruned": epochs.assign(val_accuracy=[0.4, 0.7]), "pqat": epochs.head(1), "qat": epochs.head(0)}
    figure = figures.draw_training(histories, tmp_path / "curves.csv")
    assert "0 epochs" in get_texts(figure)
    told = "pruned after 2 epochs validation accuracy 70.00%; PQAT after 1 epoch; QAT not trained"
    assert figure.alt == f"Training curves: {told}."
    assert pd.read_csv(tmp_path / "curves.csv")["stage"].tolist() == ["pruned", "pruned", "pqat"]
    assert draw_png(figure).startswith(PNG)
    assert draw_png(figures.draw_training({"qat": epochs.head(0)}, tmp_path / "none.csv")).startswith(PNG)


def test_layer_properties_prefer_our_scheme(tmp_path):
    row = {"stage": "pcqat", "layer": "conv", "kind": "conv2d", "weights": 9, "sparsity": 0.5}
    layers = pd.DataFrame([row | {"scheme": "tfmot", "unique_tensor": 2200}, row | {"scheme": "", "unique_tensor": 8}])
    figure = figures.draw_layer_properties(layers, tmp_path / "layers.csv")
    assert pd.read_csv(tmp_path / "layers.csv")["unique_tensor"].tolist() == [8]
    assert {"50", "8"} <= set(get_texts(figure).splitlines())
    assert figure.alt.startswith("Sparsity and unique weights of 1 layers at the stages PCQAT")
    assert draw_png(figure).startswith(PNG)


def test_layer_properties_of_a_deep_network_leave_out_the_smallest_layers(tmp_path):
    layers = pd.DataFrame({"stage": "pruned", "layer": [f"conv_{number}" for number in range(90)], "kind": "conv2d"})
    layers = layers.assign(weights=[1, 1, 9] * 30, sparsity=0.5, unique_tensor=8)
    figure = figures.draw_layer_properties(layers, tmp_path / "layers.csv")
    shown = [label.get_text() for label in figure.axes[0].get_yticklabels()]
    assert len(shown) == 40
    assert {f"conv_{number}" for number in range(2, 90, 3)} < {*shown}
    assert shown == sorted(shown, key=lambda name: int(name.removeprefix("conv_")))
    assert "the 40 largest of 90 layers, with 85 % of the weights" in get_texts(figure)
    assert len(pd.read_csv(tmp_path / "layers.csv")) == 90


@pytest.mark.parametrize("count", [1, 5, 60])
def test_layer_drops_name_every_layer_and_no_name_covers_another(count):
    draw = np.random.default_rng(0)
    table = pd.DataFrame(
        {
            "layer": [f"block_{number}_project_conv" for number in range(count)],
            "weights": draw.integers(1, 1000, count),
            **{f"{one}_drop": draw.gamma(0.5, 9, count) for one in ("pruned", "clustered")},
            **{f"{one}_error": draw.uniform(0, 1, count) for one in ("pruned", "clustered")},
        }
    )
    figure = figures.draw_layer_drops(table, tolerance=0.5)
    figure.draw_without_rendering()
    names = figure.axes[0].get_yticklabels()
    assert [name.get_text() for name in names] == list(table["layer"])
    boxes = sorted((name.get_window_extent() for name in names), key=lambda box: box.y0)
    assert all(lower.y1 <= upper.y0 for lower, upper in itertools.pairwise(boxes))
    assert "tolerance (0.5)" in get_texts(figure)


def test_layer_drops_of_no_layer_is_an_error():
    with pytest.raises(ValueError, match="leaves every layer out"):
        figures.draw_layer_drops(pd.DataFrame(columns=["layer", "weights"]))


def test_layer_drops_of_a_stage_that_was_registered_later(monkeypatch):
    thinned = dataclasses.replace(STAGES["pruned"], name="thinned", label="thinned", colour="#aa0055")
    monkeypatch.setitem(STAGES, "thinned", thinned)
    values = {f"{name}_{kind}": [0.1, 0.4] for name in ("pruned", "thinned") for kind in ("drop", "error")}
    figure = figures.draw_layer_drops(pd.DataFrame({"layer": ["a", "b"], "weights": [10, 20]} | values))
    assert {"pruned alone", "thinned alone"} <= set(get_texts(figure).splitlines())
    assert figure.alt.endswith("thinned alone, b costs most, 0.4 points.")
    assert {line.get_color() for line in figure.axes[0].lines} >= {STAGES["pruned"].colour, "#aa0055"}
