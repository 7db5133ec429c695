"""Figures show the numbers they were given: the CSV beside a figure is held against NumPy's own counts."""

import io
import subprocess
import sys

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest

from collabopt import palette, plots
from collabopt.density import distribution

PNG = b"\x89PNG\r\n\x1a\n"


@pytest.fixture
def kernels() -> dict[str, np.ndarray]:
    """Label to weights (3, 3, 4, 64): continuous, half zero, 8 clusters of which zero is one, and their int8 codes."""
    random = np.random.default_rng(0)
    baseline = random.normal(0, 0.1, (3, 3, 4, 64)).astype(np.float32)
    pruned = np.where(np.abs(baseline) < np.median(np.abs(baseline)), 0, baseline).astype(np.float32)
    centroids = np.array([-0.3, -0.2, -0.1, 0, 0.1, 0.15, 0.2, 0.3], np.float32)
    clustered = centroids[np.abs(pruned[..., None] - centroids).argmin(-1)]
    return {
        "baseline FP32": baseline,
        "pruned": pruned,
        "sparse clustered": clustered,
        "PCQAT int8": np.round(clustered / 0.3 * 127).astype(np.int8),
    }


@pytest.fixture
def results() -> pd.DataFrame:
    rows = [
        ("baseline", "", "", 0.9448, 434_879, ""),
        ("qat", "", "baseline", 0.9472, 403_261, ""),
        ("pruned", "", "baseline", 0.938, 334_154, ""),
        ("pqat", "", "pruned", 0.9413, 303_997, True),
        ("sparse_clustered", "", "pruned", 0.9321, 231_000, True),
        ("pcqat", "tfmot", "sparse_clustered", 0.93, 231_728, False),
        ("pcqat", "collabopt", "sparse_clustered", 0.9406, 200_533, True),
    ]
    return pd.DataFrame(rows, columns=["stage", "scheme", "parent", "accuracy_int8", "gzip_bytes", "preserved"])


def png(figure) -> bytes:
    file = io.BytesIO()
    figure.savefig(file, format="png", dpi=50)
    return file.getvalue()


def texts(figure) -> str:
    return "\n".join(text.get_text() for text in figure.findobj(plt.Text))


def test_distribution_counts_every_value_of_clusters_and_codes(kernels):
    for label in ("sparse clustered", "PCQAT int8"):
        values, counts = np.unique(kernels[label], return_counts=True)
        rows = distribution(kernels[label])
        assert rows["value"].to_numpy() == pytest.approx(values)
        assert rows["count"].tolist() == counts.tolist()
        assert (rows["width"] == 0).all()


def test_distribution_keeps_the_zeros_of_continuous_weights_apart(kernels):
    rows = distribution(kernels["pruned"])
    exact = rows[rows["width"] == 0]
    assert exact["value"].tolist() == [0]
    assert exact["count"].item() == np.sum(kernels["pruned"] == 0)
    assert rows["count"].sum() == kernels["pruned"].size
    assert rows["value"].is_monotonic_increasing


def test_density_writes_shares_that_sum_to_one(kernels, tmp_path):
    figure = plots.density(kernels, "conv", tmp_path / "density.csv")
    data = pd.read_csv(tmp_path / "density.csv")
    assert list(data["label"].unique()) == list(kernels)
    assert data.groupby("label")["share"].sum().to_numpy() == pytest.approx(np.ones(4))
    assert png(figure).startswith(PNG)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["density.csv", "density.png"]


def test_density_says_sparsity_and_unique_values(kernels):
    said = texts(plots.density(kernels, "conv"))
    for weights in kernels.values():
        assert f"sparsity {100 * np.mean(weights == 0):.1f} %" in said
        assert f"{len(np.unique(weights)):,} unique values" in said
    assert {"weight", "int8 code"} <= set(said.splitlines())


def test_density_cuts_a_zero_peak_and_writes_its_share(kernels):
    figure = plots.density({"pruned": kernels["pruned"]}, "conv")
    assert figure.axes[0].get_ylim()[1] < 0.1
    assert "zeros 50.0 %" in texts(figure)


@pytest.mark.parametrize("weights", [np.zeros((3, 3)), np.array([0.5]), np.zeros(0), np.full((2, 2), -3, np.int8)])
def test_density_of_extreme_kernels(weights):
    assert png(plots.density({"pruned": weights}, "one $x_1$ panel")).startswith(PNG)


def test_density_of_nothing_is_an_error():
    with pytest.raises(ValueError, match="at least one"):
        plots.density({}, "conv")
    with pytest.raises(ValueError, match="at least one"):
        plots.density_grid({"pruned": {}})


def test_density_grid_has_a_panel_a_kernel_and_stage(kernels, tmp_path):
    stages = {"pruned": {"a": kernels["pruned"], "b": kernels["pruned"]}, "pcqat": {"a": kernels["PCQAT int8"]}}
    figure = plots.density_grid(stages, tmp_path / "grid.csv")
    assert len(figure.axes) == 4
    assert "none" in texts(figure)
    shares = pd.read_csv(tmp_path / "grid.csv").groupby(["stage", "kernel"])["share"].sum()
    assert shares.to_dict() == pytest.approx({("pruned", "a"): 1, ("pruned", "b"): 1, ("pcqat", "a"): 1})
    assert png(figure).startswith(PNG)


def test_training_curves_say_what_was_not_trained(tmp_path):
    epochs = pd.DataFrame({"epoch": [0, 1], "loss": [1, 0.5], "accuracy": [0.5, 0.8], "val_loss": [1, 0.6]})
    histories = {"pruned": epochs.assign(val_accuracy=[0.4, 0.7]), "pqat": epochs.head(1), "qat": epochs.head(0)}
    figure = plots.training_curves(histories, tmp_path / "curves.csv")
    assert "0 epochs" in texts(figure)
    assert pd.read_csv(tmp_path / "curves.csv")["stage"].tolist() == ["pruned", "pruned", "pqat"]
    assert png(figure).startswith(PNG)
    assert png(plots.training_curves({"qat": epochs.head(0)}, tmp_path / "none.csv")).startswith(PNG)


def test_layer_properties_prefer_our_scheme(tmp_path):
    row = {"stage": "pcqat", "layer": "conv", "kind": "conv2d", "sparsity": 0.5}
    layers = pd.DataFrame([row | {"scheme": "tfmot", "unique_tensor": 2200}, row | {"scheme": "", "unique_tensor": 8}])
    figure = plots.layer_properties(layers, tmp_path / "layers.csv")
    assert pd.read_csv(tmp_path / "layers.csv")["unique_tensor"].tolist() == [8]
    assert {"50", "8"} <= set(texts(figure).splitlines())
    assert png(figure).startswith(PNG)


def test_tree_draws_the_stages_there_are_and_greys_the_others(results, tmp_path):
    figure = plots.tree(results, tmp_path / "tree.csv")
    said = texts(figure).splitlines()
    assert set(palette.NAMES.values()) <= set(said)
    assert said.count("not run") == 2
    assert "94.1 %" in said
    assert "201 kB" in said
    assert "✗ NOT preserved" not in said
    drawn = pd.read_csv(tmp_path / "tree.csv")
    assert drawn.loc[drawn["stage"] == "pcqat", "scheme"].item() == "collabopt"
    assert png(figure).startswith(PNG)


def test_tree_marks_what_was_not_preserved_by_word_and_outline(results):
    figure = plots.tree(results[results["scheme"] != "collabopt"])
    assert texts(figure).splitlines().count("✗ NOT preserved") == 1
    outlines = [patch.get_edgecolor() for patch in figure.axes[0].patches]
    assert outlines.count(plt.matplotlib.colors.to_rgba(palette.ALARM)) == 1


def test_tree_of_text_cells_and_unknown_stages(results):
    rows = results.astype(str)
    rows.loc[len(rows)] = ["<script>$x$", "", "nobody", "", "", ""]
    assert png(plots.tree(rows)).startswith(PNG)
    assert png(plots.tree(results.head(0))).startswith(PNG)


def test_size_against_accuracy_labels_every_point(results, tmp_path):
    figure = plots.size_against_accuracy(results, tmp_path / "size.csv")
    said = texts(figure).splitlines()
    assert "PCQAT (tfmot scheme), NOT preserved" in said
    assert "sparse clustered" in said
    assert len(pd.read_csv(tmp_path / "size.csv")) == len(results)
    assert png(figure).startswith(PNG)


def test_figures_are_not_kept_open(kernels):
    plots.density(kernels, "conv")
    assert plt.get_fignums() == []


def test_stage_of_a_label():
    assert palette.stage_of("PCQAT int8") == "pcqat"
    assert palette.stage_of("sparse_clustered") == "sparse_clustered"
    assert palette.stage_of("sparse clustered FP32") == "sparse_clustered"
    assert palette.stage_of("mine") is None
    assert len(set(palette.PALETTE.values())) == len(palette.NAMES)


def test_import_is_cheap():
    code = "import sys, collabopt.pages, collabopt.plots; sys.exit('tensorflow' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
