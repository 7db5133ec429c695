"""Densities: the CSV beside a figure agrees with NumPy's own counts."""

import numpy as np
import pandas as pd
import pytest
from example_figures import PNG, draw_png, get_texts, make_kernels

from collabopt import figures
from collabopt.figures import density


@pytest.fixture
def kernels() -> dict[str, np.ndarray]:
    return make_kernels()


def test_distribution_counts_every_value_of_clusters_and_int8_values(kernels):
    for label in ("sparse clustered", "PCQAT int8"):
        values, counts = np.unique(kernels[label], return_counts=True)
        rows = density.compute_distribution(kernels[label])
        assert rows["value"].to_numpy() == pytest.approx(values)
        assert rows["count"].tolist() == counts.tolist()
        assert (rows["width"] == 0).all()


def test_distribution_keeps_the_zeros_of_continuous_weights_apart(kernels):
    rows = density.compute_distribution(kernels["pruned"])
    exact = rows[rows["width"] == 0]
    assert exact["value"].tolist() == [0]
    assert exact["count"].item() == np.sum(kernels["pruned"] == 0)
    assert rows["count"].sum() == kernels["pruned"].size
    assert rows["value"].is_monotonic_increasing


def test_density_writes_shares_that_sum_to_one(kernels, tmp_path):
    figure = figures.draw_density(kernels, "conv", tmp_path / "density.csv")
    data = pd.read_csv(tmp_path / "density.csv")
    assert list(data["label"].unique()) == list(kernels)
    assert data.groupby("label")["share"].sum().to_numpy() == pytest.approx(np.ones(4))
    assert draw_png(figure).startswith(PNG)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["density.csv", "density.png"]


def test_density_states_sparsity_and_unique_values(kernels):
    shown = get_texts(figures.draw_density(kernels, "conv"))
    for weights in kernels.values():
        assert f"sparsity {100 * np.mean(weights == 0):.1f} %" in shown
        assert f"{len(np.unique(weights)):,} unique values" in shown
    assert {"weight", "int8 value"} <= set(shown.splitlines())


def test_density_cuts_a_zero_peak_and_writes_its_share(kernels):
    figure = figures.draw_density({"pruned": kernels["pruned"]}, "conv")
    assert figure.axes[0].get_ylim()[1] < 0.1
    assert "zeros 50.0 %" in get_texts(figure)


@pytest.mark.parametrize("weights", [np.zeros((3, 3)), np.array([0.5]), np.zeros(0), np.full((2, 2), -3, np.int8)])
def test_density_of_extreme_kernels(weights):
    assert draw_png(figures.draw_density({"pruned": weights}, "one $x_1$ panel")).startswith(PNG)


def test_density_of_nothing_is_an_error():
    with pytest.raises(ValueError, match="at least one"):
        figures.draw_density({}, "conv")
    with pytest.raises(ValueError, match="at least one"):
        figures.draw_density_grid({"pruned": {}})


def test_density_grid_has_one_panel_per_kernel_and_stage(kernels, tmp_path):
    stages = {"pruned": {"a": kernels["pruned"], "b": kernels["pruned"]}, "pcqat": {"a": kernels["PCQAT int8"]}}
    figure = figures.draw_density_grid(stages, tmp_path / "grid.csv")
    assert len(figure.axes) == 4
    assert "none" in get_texts(figure)
    shares = pd.read_csv(tmp_path / "grid.csv").groupby(["stage", "kernel"])["share"].sum()
    assert shares.to_dict() == pytest.approx({("pruned", "a"): 1, ("pruned", "b"): 1, ("pcqat", "a"): 1})
    assert draw_png(figure).startswith(PNG)


def test_density_grid_of_a_deep_network_leaves_out_the_smallest_kernels(tmp_path):
    kernels = {f"conv_{number}": np.ones(1 + number % 2, np.float32) for number in range(60)}
    figure = figures.draw_density_grid({"pruned": kernels}, tmp_path / "grid.csv")
    assert [axes.get_ylabel() for axes in figure.axes] == [f"conv_{number}" for number in range(1, 60, 2)]
    assert "the 30 largest of 60 kernels, with 67 % of the weights" in get_texts(figure)
    assert pd.read_csv(tmp_path / "grid.csv")["kernel"].nunique() == 60


@pytest.mark.parametrize(("values", "bits"), [(1, 0.0), (2, 1.0), (8, 3.0), (256, 8.0)])
def test_entropy_of_equally_frequent_values_is_the_logarithm_of_their_number(values, bits):
    int8_values = np.tile(np.arange(values) - 128, 1024 // values).astype(np.int8)
    assert density.compute_entropy(int8_values) == pytest.approx(bits)
    assert f"entropy {bits:.2f} bits per weight" in get_texts(figures.draw_density({"PCQAT int8": int8_values}, "conv"))
    assert f" · {bits:.1f} b" in get_texts(figures.draw_density_grid({"PCQAT int8": {"conv": int8_values}}))


def test_only_int8_values_have_an_entropy(kernels):
    del kernels["PCQAT int8"]
    assert "entropy" not in get_texts(figures.draw_density(kernels, "conv"))
    assert "entropy" not in get_texts(figures.draw_density_grid({"pruned": {"conv": kernels["pruned"]}}))
    assert density.compute_entropy(np.zeros(0, np.int8)) == 0
