"""Figures show the numbers they were given: the CSV beside a figure is held against NumPy's own counts."""

import base64
import io
import itertools
import subprocess
import sys

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from collabopt import figures
from collabopt.config.experiment import Targets
from collabopt.config.stages import STAGES
from collabopt.deploy import targets
from collabopt.figures import pareto, style
from collabopt.figures.density import distribution, entropy_bits
from collabopt.figures.layers import draw_layer_properties

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


@pytest.fixture
def leaves() -> pd.DataFrame:
    """Leaves of a path of the tree, in the order of the walk; float files have no NPU's figures."""
    rows = [
        ("baseline", "float32", "", 0.98, 4000, 3600, 1.0, None, None),
        ("baseline", "int8", "", 0.97, 1000, 900, 0.4, 1.4, 489.0),
        ("pruned", "float32", "", 0.975, 4000, 2000, 1.01, None, None),
        ("pruned", "float16", "", 0.975, 2000, 1100, 1.0, None, None),
        ("pruned", "int8", "", 0.965, 1000, 600, 0.4, 1.1, 296.0),
        ("sparse_clustered", "float32", "", 0.96, 4000, 700, 1.0, None, None),
        ("pcqat", "int8", "tfmot", 0.95, 1000, 800, 0.4, 1.2, 250.0),
        ("pcqat", "int8", "collabopt", 0.955, 1000, 400, 0.41, 1.1, 179.0),
    ]
    columns = "stage format scheme validation_accuracy tflite_bytes gzip_bytes latency_ratio npu_ms npu_flash_kib"
    return pd.DataFrame(rows, columns=columns.split()).assign(accelerator="ethos-u55-128", npu_sram_kib=None)


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
    figure = figures.draw_density(kernels, "conv", tmp_path / "density.csv")
    data = pd.read_csv(tmp_path / "density.csv")
    assert list(data["label"].unique()) == list(kernels)
    assert data.groupby("label")["share"].sum().to_numpy() == pytest.approx(np.ones(4))
    assert png(figure).startswith(PNG)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["density.csv", "density.png"]


def test_density_says_sparsity_and_unique_values(kernels):
    said = texts(figures.draw_density(kernels, "conv"))
    for weights in kernels.values():
        assert f"sparsity {100 * np.mean(weights == 0):.1f} %" in said
        assert f"{len(np.unique(weights)):,} unique values" in said
    assert {"weight", "int8 code"} <= set(said.splitlines())


def test_density_cuts_a_zero_peak_and_writes_its_share(kernels):
    figure = figures.draw_density({"pruned": kernels["pruned"]}, "conv")
    assert figure.axes[0].get_ylim()[1] < 0.1
    assert "zeros 50.0 %" in texts(figure)


@pytest.mark.parametrize("weights", [np.zeros((3, 3)), np.array([0.5]), np.zeros(0), np.full((2, 2), -3, np.int8)])
def test_density_of_extreme_kernels(weights):
    assert png(figures.draw_density({"pruned": weights}, "one $x_1$ panel")).startswith(PNG)


def test_density_of_nothing_is_an_error():
    with pytest.raises(ValueError, match="at least one"):
        figures.draw_density({}, "conv")
    with pytest.raises(ValueError, match="at least one"):
        figures.draw_density_grid({"pruned": {}})


def test_density_grid_has_a_panel_a_kernel_and_stage(kernels, tmp_path):
    stages = {"pruned": {"a": kernels["pruned"], "b": kernels["pruned"]}, "pcqat": {"a": kernels["PCQAT int8"]}}
    figure = figures.draw_density_grid(stages, tmp_path / "grid.csv")
    assert len(figure.axes) == 4
    assert "none" in texts(figure)
    shares = pd.read_csv(tmp_path / "grid.csv").groupby(["stage", "kernel"])["share"].sum()
    assert shares.to_dict() == pytest.approx({("pruned", "a"): 1, ("pruned", "b"): 1, ("pcqat", "a"): 1})
    assert png(figure).startswith(PNG)


def test_training_curves_say_what_was_not_trained(tmp_path):
    epochs = pd.DataFrame({"epoch": [0, 1], "loss": [1, 0.5], "accuracy": [0.5, 0.8], "val_loss": [1, 0.6]})
    histories = {"pruned": epochs.assign(val_accuracy=[0.4, 0.7]), "pqat": epochs.head(1), "qat": epochs.head(0)}
    figure = figures.draw_training(histories, tmp_path / "curves.csv")
    assert "0 epochs" in texts(figure)
    told = "pruned after 2 epochs validation accuracy 70.0 %; PQAT after 1 epoch; QAT not trained"
    assert figure.alt == f"Training curves: {told}."
    assert pd.read_csv(tmp_path / "curves.csv")["stage"].tolist() == ["pruned", "pruned", "pqat"]
    assert png(figure).startswith(PNG)
    assert png(figures.draw_training({"qat": epochs.head(0)}, tmp_path / "none.csv")).startswith(PNG)


def test_layer_properties_prefer_our_scheme(tmp_path):
    row = {"stage": "pcqat", "layer": "conv", "kind": "conv2d", "sparsity": 0.5}
    layers = pd.DataFrame([row | {"scheme": "tfmot", "unique_tensor": 2200}, row | {"scheme": "", "unique_tensor": 8}])
    figure = draw_layer_properties(layers, tmp_path / "layers.csv")
    assert pd.read_csv(tmp_path / "layers.csv")["unique_tensor"].tolist() == [8]
    assert {"50", "8"} <= set(texts(figure).splitlines())
    assert figure.alt.startswith("Sparsity and unique weights of 1 layers at the stages PCQAT")
    assert png(figure).startswith(PNG)


def test_tree_draws_the_stages_there_are_and_greys_the_others(results, tmp_path):
    figure = figures.draw_tree(results, tmp_path / "tree.csv")
    said = texts(figure).splitlines()
    assert {stage.label for stage in STAGES.values()} <= set(said)
    assert said.count("not run") == 2
    assert "94.1 %" in said
    assert "201 kB" in said
    assert "✗ NOT preserved" not in said
    drawn = pd.read_csv(tmp_path / "tree.csv")
    assert drawn.loc[drawn["stage"] == "pcqat", "scheme"].item() == "collabopt"
    assert png(figure).startswith(PNG)


def test_tree_marks_what_was_not_preserved_by_word_and_outline(results):
    figure = figures.draw_tree(results[results["scheme"] != "collabopt"])
    assert texts(figure).splitlines().count("✗ NOT preserved") == 1
    outlines = [patch.get_edgecolor() for patch in figure.axes[0].patches]
    assert outlines.count(plt.matplotlib.colors.to_rgba(style.ALARM)) == 1


def test_tree_of_text_cells_and_unknown_stages(results):
    rows = results.astype(str)
    rows.loc[len(rows)] = ["<script>$x$", "", "nobody", "", "", ""]
    assert png(figures.draw_tree(rows)).startswith(PNG)
    assert png(figures.draw_tree(results.head(0))).startswith(PNG)


def test_size_against_accuracy_labels_every_point(results, tmp_path):
    figure = pareto.draw_sizes(results, tmp_path / "size.csv")
    said = texts(figure).splitlines()
    assert "PCQAT (tfmot scheme), NOT preserved" in said
    assert "PCQAT 93.0 % at 232 kB, NOT preserved; PCQAT 94.1 % at 201 kB" in figure.alt
    assert "sparse clustered" in said
    assert len(pd.read_csv(tmp_path / "size.csv")) == len(results)
    assert png(figure).startswith(PNG)


def test_figures_are_not_kept_open(kernels):
    figures.draw_density(kernels, "conv")
    assert plt.get_fignums() == []


def test_stage_of_a_label():
    assert style.find_stage("PCQAT int8") == "pcqat"
    assert style.find_stage("sparse_clustered") == "sparse_clustered"
    assert style.find_stage("sparse clustered FP32") == "sparse_clustered"
    assert style.find_stage("mine") is None
    assert len({stage.colour for stage in STAGES.values()}) == len(STAGES)


def test_import_is_cheap():
    code = "import sys, collabopt.figures, collabopt.report.notebook_page; sys.exit('tensorflow' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


@pytest.mark.parametrize(("values", "bits"), [(1, 0.0), (2, 1.0), (8, 3.0), (256, 8.0)])
def test_entropy_of_equally_frequent_codes_is_the_logarithm_of_their_number(values, bits):
    codes = np.tile(np.arange(values) - 128, 1024 // values).astype(np.int8)
    assert entropy_bits(codes) == pytest.approx(bits)
    assert f"entropy {bits:.2f} bits a weight" in texts(figures.draw_density({"PCQAT int8": codes}, "conv"))
    assert f" · {bits:.1f} b" in texts(figures.draw_density_grid({"PCQAT int8": {"conv": codes}}))


def test_entropy_is_of_int8_codes_alone(kernels):
    del kernels["PCQAT int8"]
    assert "entropy" not in texts(figures.draw_density(kernels, "conv"))
    assert "entropy" not in texts(figures.draw_density_grid({"pruned": {"conv": kernels["pruned"]}}))
    assert entropy_bits(np.zeros(0, np.int8)) == 0


def test_waterfall_goes_from_the_float_file_to_the_int8_file(leaves, tmp_path):
    figure = figures.draw_waterfall(leaves, csv=tmp_path / "waterfall.csv")
    steps = pd.read_csv(tmp_path / "waterfall.csv")
    assert steps["stage"].tolist() == ["baseline", "baseline", "pruned", "sparse_clustered", "pcqat"]
    # Ours, before TFMOT's.
    assert (1000 * steps["kilobytes"]).tolist() == [4000, 3600, 2000, 700, 400]
    assert np.prod(1 - steps["saved"].dropna()) == pytest.approx(400 / 4000)
    said = texts(figure)
    assert "10.0 times smaller" in said
    assert "−44 %" in said
    assert png(figure).startswith(PNG)


def test_waterfall_ends_where_the_leaves_do(leaves):
    steps = texts(figures.draw_waterfall(leaves[leaves["stage"].isin(["baseline", "pruned"])])).splitlines()
    assert "(int8 PTQ)" in steps
    assert "pruned" in steps
    assert "clustered" not in steps
    assert "4.4 times smaller" in texts(figures.draw_waterfall(leaves, stage="baseline"))


@pytest.mark.parametrize(
    ("count", "steps"),
    [
        (1, ["float32 file", "compressed (gzip)"]),
        (2, ["float32 file", "compressed (gzip)", "quantized (int8 PTQ)"]),
        (3, ["float32 file", "compressed (gzip)", "pruned"]),
        (4, ["float32 file", "compressed (gzip)", "pruned", "quantized (float16 PTQ)"]),
        (5, ["float32 file", "compressed (gzip)", "pruned", "quantized (int8 PTQ)"]),
        (6, ["float32 file", "compressed (gzip)", "pruned", "clustered"]),
    ],
)
def test_waterfall_of_a_walk_that_ended_early(leaves, count, steps, tmp_path):
    figures.draw_waterfall(leaves.head(count), csv=tmp_path / "waterfall.csv")
    assert pd.read_csv(tmp_path / "waterfall.csv")["step"].tolist() == steps


def test_waterfall_of_a_size_that_grew_says_so(leaves):
    leaves.loc[leaves["stage"] == "pruned", "gzip_bytes"] = 3800
    assert "+6 %" in texts(figures.draw_waterfall(leaves))


def test_waterfall_names_the_leaf_that_is_missing(leaves):
    with pytest.raises(ValueError, match="clustered float32, clustered int8"):
        figures.draw_waterfall(leaves, stage="clustered")
    with pytest.raises(ValueError, match="baseline float32"):
        figures.draw_waterfall(leaves[leaves["format"] == "int8"])


numbers = st.lists(st.tuples(st.sampled_from([1.0, 2.0, 3.0, 4.0, np.nan]), st.integers(0, 4)), min_size=1, max_size=9)


@given(numbers)
def test_a_front_holds_what_no_other_beats(points):
    cost, accuracy = (pd.Series(values, dtype=float) for values in zip(*points, strict=True))
    beaten = [
        any(one <= own and other >= right and (one, other) != (own, right) for one, other in points)
        for own, right in points
    ]
    assert pareto.find_front(cost, accuracy).tolist() == list(~np.array(beaten) & cost.notna())


def test_costs_have_a_panel_a_known_cost_and_its_front(leaves, tmp_path):
    figure = figures.draw_costs(leaves, tmp_path / "costs.csv")
    drawn = pd.read_csv(tmp_path / "costs.csv")
    labels = [axes.get_xlabel() for axes in figure.axes if axes.axison]
    assert labels == [
        "size after gzip (kB)",
        "latency here (× float32 baseline)",
        "Ethos-U55-128 inference (ms)",
        "Ethos-U55-128 flash (KiB)",
    ]
    assert len(drawn) == len(leaves) - 1  # one setting a leaf
    front = drawn.loc[drawn["front_npu_flash_kib"], ["stage", "format"]].to_numpy().tolist()
    assert front == [["baseline", "int8"], ["pruned", "int8"], ["pcqat", "int8"]]
    assert png(figure).startswith(PNG)


def test_costs_tell_stage_and_format_apart_in_more_than_colour(leaves):
    figure = figures.draw_costs(leaves)
    said = texts(figure)
    assert {"float32", "float16", "int8", "Pareto front", "PCQAT"} <= set(said.splitlines())
    shapes = {line.get_marker() for line in figure.axes[0].lines if len(line.get_xdata()) == 1}
    assert len(shapes) == leaves["format"].nunique()


def test_costs_draw_no_accuracy_above_all(leaves):
    figure = figures.draw_costs(leaves.head(1))
    low, high = 100 * leaves["validation_accuracy"].iloc[0] + np.array([-0.1, 0.1])
    assert figure.axes[0].get_ylim()[0] < low < high < figure.axes[0].get_ylim()[1] <= 100.5


def test_costs_of_leaves_without_any_is_an_error(leaves):
    with pytest.raises(ValueError, match="gzip_bytes, latency_ratio"):
        figures.draw_costs(
            leaves.drop(columns=["gzip_bytes", "latency_ratio", "npu_ms", "npu_sram_kib", "npu_flash_kib"])
        )


WANTED = Targets(max_accuracy_drop=0.02, max_gzip_bytes=800, max_npu_ms=1.3)


def test_verdicts_say_what_each_leaf_misses(leaves):
    rows = targets.judge(leaves, WANTED)
    assert rows["verdict"].tolist() == [
        "gzip 2.8 kB over, NPU time not known",
        "gzip 0.1 kB over, NPU time 0.100 ms over",
        "gzip 1.2 kB over, NPU time not known",
        "gzip 0.3 kB over, NPU time not known",
        "meets all targets",
        "NPU time not known",
        "accuracy drop 1.00 points over",
        "accuracy drop 0.50 points over",
    ]
    assert rows["chosen"].tolist() == [False] * 4 + [True] + [False] * 3
    tight = targets.judge(leaves, Targets(max_gzip_bytes=599))
    assert "gzip < 0.1 kB over" in set(tight["verdict"])


def test_leaf_verdicts_mark_every_miss_and_the_chosen_leaf(leaves, tmp_path):
    figure = figures.draw_verdicts(leaves, WANTED, tmp_path / "verdicts.csv")
    said, missed = texts(figure), targets.judge(leaves, WANTED)["missed"]
    assert said.count("✗ ") == sum(map(len, missed))
    assert said.splitlines().count("▶") == said.splitlines().count("chosen") == 1
    assert {"≤ 2.00", "≤ 0.8", "≤ 1.300"} <= set(said.splitlines())
    assert figure.alt == "Chosen: pruned int8. Of 8 leaves 1 meet all targets."
    drawn = pd.read_csv(tmp_path / "verdicts.csv")
    assert drawn.loc[drawn["chosen"], ["stage", "format"]].to_numpy().tolist() == [["pruned", "int8"]]
    assert png(figure).startswith(PNG)


def test_leaf_verdicts_without_a_choice_mark_the_nearest(leaves):
    figure = figures.draw_verdicts(leaves, Targets(max_gzip_bytes=300))
    assert figure.alt == "None of 8 leaves meets all targets. The nearest is PCQAT int8: gzip 0.1 kB over."
    assert texts(figure).splitlines().count("nearest") == 1
    assert "no targets" in texts(figures.draw_verdicts(leaves, Targets()))


def test_tree_says_what_each_stage_misses_and_which_is_chosen(results, leaves, tmp_path):
    results.loc[results["stage"] == "pcqat", "accuracy_int8"] = np.nan  # test is read of the chosen one
    verdicts = targets.judge(leaves, WANTED)
    figure = figures.draw_tree(results, tmp_path / "tree.csv", verdicts)
    said = texts(figure).splitlines()
    assert "✗ gzip, NPU time" in said
    assert "▶ chosen: int8 file" in said
    assert "✗ accuracy" in said
    assert "95.5 % val" in said
    drawn = pd.read_csv(tmp_path / "tree.csv").set_index("stage")
    assert drawn["chosen"].dropna().to_dict() == {"pruned": "int8"}
    assert drawn.loc["pcqat", "verdict"] == "accuracy drop 0.50 points over"
    assert "pruned 93.8 % INT8, 334 kB gzip, meets all targets, chosen as int8" in figure.alt
    assert png(figure).startswith(PNG)


def test_tree_marks_a_chosen_file_of_another_format_and_counts_what_has_no_room(leaves):
    everything = Targets(**{name: 1e-6 if "bytes" not in name else 1 for name in Targets.model_fields})
    figure = figures.draw_tree(leaves.head(0), verdicts=targets.judge(leaves, everything))
    figure.draw_without_rendering()
    (verdict, *_) = (text for text in figure.axes[0].texts if text.get_text().startswith("✗"))
    assert verdict.get_text() == "✗ accuracy, file + 4"
    cards = [patch.get_window_extent() for patch in figure.axes[0].patches]
    assert any(card.x0 < verdict.get_window_extent().x0 < verdict.get_window_extent().x1 < card.x1 for card in cards)
    chosen = targets.judge(leaves, Targets(max_gzip_bytes=1100, max_accuracy_drop=0.006))
    assert "▶ chosen: float16 file" in texts(figures.draw_tree(leaves.head(0), verdicts=chosen)).splitlines()


@pytest.mark.parametrize("count", [1, 5, 60])
def test_layer_drops_name_every_layer_and_no_name_covers_another(count):
    draw = np.random.default_rng(0)
    table = pd.DataFrame(
        {
            "layer": [f"block_{number}_project_conv" for number in range(count)],
            "weights": draw.integers(1, 1000, count),
            **{f"{one}_drop_points": draw.gamma(0.5, 9, count) for one in ("pruned", "clustered")},
            **{f"{one}_error_points": draw.uniform(0, 1, count) for one in ("pruned", "clustered")},
        }
    )
    figure = figures.draw_layer_drops(table, tolerance_points=0.5)
    figure.draw_without_rendering()
    names = figure.axes[0].get_yticklabels()
    assert [name.get_text() for name in names] == list(table["layer"])
    boxes = sorted((name.get_window_extent() for name in names), key=lambda box: box.y0)
    assert all(lower.y1 <= upper.y0 for lower, upper in itertools.pairwise(boxes))
    assert "tolerance (0.5)" in texts(figure)


def test_layer_drops_of_no_layer_is_an_error():
    with pytest.raises(ValueError, match="leaves every layer out"):
        figures.draw_layer_drops(pd.DataFrame(columns=["layer", "weights"]))


def test_a_notebook_shows_the_picture_that_was_drawn_and_draws_again_what_was_changed(leaves, tmp_path, monkeypatch):
    shown = []
    monkeypatch.setattr("IPython.display.display", lambda data, metadata, raw: shown.append((data, metadata, raw)))
    figure = figures.draw_waterfall(leaves, csv=tmp_path / "waterfall.csv")
    assert "10.0 times smaller" in figure.alt
    for title in (None, None, "another"):
        if title:
            figure.suptitle(title)
        figure._ipython_display_()
    pictures = [base64.b64decode(data.pop("image/png")) for data, _, _ in shown]
    assert shown == [({"text/plain": figure.alt}, {"alt": figure.alt}, True)] * 3
    assert pictures[0] == pictures[1] == (tmp_path / "waterfall.png").read_bytes() != pictures[2]
    assert figure.png() is figure.png()
