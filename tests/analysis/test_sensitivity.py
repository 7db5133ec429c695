"""Sensitivity: an unchanged layer costs nothing, excluded layers are missing, and the model stays as it is."""

import dataclasses
import shutil

import numpy as np
import pandas as pd
import pytest
import yaml
from conftest import plan_of
from hypothesis import given, settings
from hypothesis import strategies as st
from tensorflow_model_optimization.python.core.sparsity.keras import pruning_impl, pruning_schedule

from collabopt import figures
from collabopt.analysis import comparison, sensitivity
from collabopt.config import experiment, loading
from collabopt.config.scores import ACCURACY
from collabopt.config.sections import Exclude, Training
from collabopt.config.tasks import TASKS
from collabopt.run import Run
from collabopt.runtime.tensorflow import tf
from collabopt.techniques import clustering, layers, objectives, patterns, registry

KERNELS = ["conv", "pw", "fc"]


@pytest.fixture(scope="module")
def network(small_cnn, tiny_data):
    """A network with gammas of both signs, and a split that it predicts correctly, so every layer can lose accuracy."""
    model = small_cnn(seed=1)
    generator = np.random.default_rng(0)
    for layer in model.layers:
        if layer.name.endswith("_bn"):
            gamma = generator.normal(1, 1, layer.gamma.shape)
            layer.set_weights([gamma, generator.normal(0, 0.1, gamma.shape), *layer.get_weights()[2:]])
    split, last = tiny_data.validation, model.get_layer("fc")
    logits = model.predict(split.examples, verbose=0)
    spread = logits.std(axis=0)  # otherwise it would predict one class for nearly all
    last.set_weights([last.kernel.numpy() / spread, -logits.mean(axis=0) / spread])
    labels = model.predict(split.examples, verbose=0).argmax(axis=-1)
    return model, dataclasses.replace(split, labels=labels)


def make_experiment(**values: object) -> experiment.Experiment:
    return plan_of("digits_cnn", "digits").model_copy(update=values)


@pytest.fixture(scope="module")
def table(network) -> pd.DataFrame:
    return sensitivity.measure_layers(*network, make_experiment(sparsity=0.9, number_of_clusters=3))


def test_the_table_has_one_row_per_eligible_layer_in_network_order(table, network):
    model, split = network
    assert list(table.columns) == sensitivity.COLUMNS
    assert list(table["layer"]) == KERNELS
    assert list(table["weights"]) == [model.get_layer(name).kernel.numpy().size for name in KERNELS]
    assert set(table["baseline_score"]) == {1.0}
    assert set(table["examples"]) == {len(split)}
    assert (table[["pruned_drop", "clustered_drop"]] > 0).any(axis=1).all()


def test_the_model_stays_bit_identical(network):
    model, split = network
    before = [array.tobytes() for array in model.get_weights()]
    sensitivity.measure_layers(model, split, make_experiment(sparsity=0.9, number_of_clusters=3))
    assert [array.tobytes() for array in model.get_weights()] == before


def test_a_row_agrees_with_a_model_pruned_by_hand(table, network):
    model, split = network
    kernel = model.get_layer("pw").kernel
    original = kernel.numpy()
    kernel.assign(np.where(np.abs(original) < np.quantile(np.abs(original), 0.9), 0, original))
    is_correct = objectives.score_model(model, split, TASKS["classification"])
    kernel.assign(original)
    row = table.set_index("layer").loc["pw"]
    assert row["pruned_score"] == pytest.approx(is_correct.mean())
    assert row["pruned_drop"] == pytest.approx(100 * (1 - is_correct.mean()))
    # All predictions are correct before, so the error is the binomial one.
    share = 1 - is_correct.mean()
    assert row["pruned_error"] == pytest.approx(100 * np.sqrt(share * (1 - share) / (len(split) - 1)))


def test_zero_sparsity_and_one_centroid_per_value_cost_nothing(network):
    model, split = network
    table = sensitivity.measure_layers(model, split, make_experiment(sparsity=0.0, number_of_clusters=1024))
    for technique in sensitivity.TECHNIQUES:
        assert list(table[f"{technique}_drop"]) == [0, 0, 0]
        assert list(table[f"{technique}_error"]) == [0, 0, 0]


def test_excluded_layers_are_missing(network):
    exclude = Exclude(pruning=("conv", "fc"), clustering=("conv",))
    found = sensitivity.measure_layers(*network, make_experiment(exclude=exclude)).set_index("layer")
    assert list(found.index) == ["pw", "fc"]
    assert np.isnan(found.loc["fc", "pruned_drop"])
    assert np.isfinite(found.loc["fc", "clustered_drop"])
    everything = Exclude(pruning=("conv", "pw", "fc"), clustering=("conv", "pw", "fc"))
    assert sensitivity.measure_layers(*network, make_experiment(exclude=everything)).empty


def test_a_layer_costs_the_same_whatever_was_measured_before(table, network):
    exclude = Exclude(pruning=("conv", "pw"), clustering=("conv", "pw"))
    alone = sensitivity.measure_layers(*network, make_experiment(sparsity=0.9, number_of_clusters=3, exclude=exclude))
    pd.testing.assert_frame_equal(alone, table[table["layer"] == "fc"].reset_index(drop=True))


def test_a_layer_of_zeros_costs_nothing(small_cnn, tiny_data):
    model = small_cnn()
    model.get_layer("pw").kernel.assign(tf.zeros_like(model.get_layer("pw").kernel))
    row = sensitivity.measure_layers(model, tiny_data.validation, make_experiment()).set_index("layer").loc["pw"]
    assert row["pruned_drop"] == row["clustered_drop"] == 0


def test_layers_are_clustered_per_tensor_or_per_channel(network):
    model, split = network
    # A channel of the first convolution has nine weights.
    per_channel = sensitivity.measure_layers(
        model, split, make_experiment(number_of_clusters=9, cluster_per_channel=True)
    )
    assert per_channel.set_index("layer").loc["conv", "clustered_drop"] == 0


@settings(deadline=None)
@given(
    size=st.integers(1, 300),
    sparsity=st.floats(0, 1, exclude_max=True, width=32),
    values=st.integers(1, 300),
    seed=st.integers(0, 9),
)
def test_pruning_agrees_with_tfmots_mask(size, sparsity, values, seed):
    """Few distinct `values` make many equal weights at the threshold."""
    kernel = np.random.default_rng(seed).integers(-values, values, size, endpoint=True).astype(np.float32)
    schedule = pruning_schedule.ConstantSparsity(sparsity, begin_step=0)
    masks = pruning_impl.Pruning(lambda: 0, [], schedule, (1, 1), "AVG")
    _, mask = masks._update_mask(tf.constant(kernel))
    np.testing.assert_array_equal(patterns.prune_kernel(kernel, sparsity), kernel * mask.numpy())


def test_measure_uses_the_stored_baseline_and_trains_nothing(small, trained_small, tmp_path):
    shutil.copytree(trained_small / "stages", tmp_path / "stages")
    run = Run(loading.load(str(small)), tmp_path / "report", small, tmp_path / "stages")
    baseline = run.stage("baseline")
    stored = sorted(path.name for path in (tmp_path / "stages").iterdir())
    table = sensitivity.measure(run)
    assert sorted(path.name for path in (tmp_path / "stages").iterdir()) == stored
    assert set(table["baseline_score"]) == {baseline.result["validation_accuracy"]}
    assert list(table["layer"]) == baseline.eligible_layers()
    with np.load(baseline.trained / "weights.npz") as stored_arrays:
        arrays = dict(stored_arrays)
    model = registry.restore_model(baseline.stage, arrays, None, run.experiment, run.data)
    importance = sensitivity.compute_importance(model, run.data, run.experiment)
    again = sensitivity.measure_layers(model, run.data.validation, run.experiment, importance=importance)
    pd.testing.assert_frame_equal(again, table)


def test_a_layer_is_compressed_as_its_stage_begins(network, tiny_data):
    model, experiment = network[0], make_experiment(number_of_clusters=6)
    settings = clustering.make_settings(experiment, False)
    untrained = Training(epochs=0, batch_size=32, optimizer="adam", learning_rate=1e-3)
    begins = layers.read_kernels(clustering.fine_tune(model, tiny_data, settings, untrained)[0])
    importance = sensitivity.compute_importance(model, tiny_data, experiment)
    start = layers.make_gammas_positive(model)
    for name in KERNELS:
        kernels = sensitivity.compress_layer(start.get_layer(name), experiment, "clustered", importance)
        np.testing.assert_array_equal(kernels[name], begins[name])
        nearest = sensitivity.compress_layer(start.get_layer(name), experiment, "clustered")
        assert not np.array_equal(nearest[name], begins[name])


def make_table(**drops: tuple[int, float, float]) -> pd.DataFrame:
    """A table of layers by name: weights, drop by pruning and its error. Clustering costs nothing."""
    rows = [
        {"layer": name, "weights": weights, "examples": 400, "pruned_drop": drop, "pruned_error": error}
        for name, (weights, drop, error) in drops.items()
    ]
    nothing = {"clustered_drop": 0.0, "clustered_error": 0.0}
    return pd.DataFrame(rows).assign(score="accuracy", **nothing).reindex(columns=sensitivity.COLUMNS)


def test_a_small_layer_that_certainly_costs_too_much_is_recommended():
    table = make_table(first=(10, 5.0, 1.0), noisy=(10, 5.0, 2.5), cheap=(10, 0.4, 0.0), large=(970, 5.0, 1.0))
    advice = sensitivity.recommend(table, Exclude(), tolerance=0.5, most_weights=0.1)
    found = advice.rows.set_index("layer")
    assert dict(found["leave_out"]) == {"first": True, "large": False}
    assert set(found["technique"]) == {"pruning"}
    assert found.loc["first", "share"] == pytest.approx(0.01)
    assert "10%" in found.loc["large", "reason"]
    assert advice.exclude == Exclude(pruning=("first",))
    assert "400 validation examples" in advice.note
    assert "1 more drops above 0.5" in advice.note  # the noisy one


def test_layers_with_the_highest_drop_per_weight_come_first():
    table = make_table(a=(6, 3.0, 0.1), b=(5, 9.0, 0.1), c=(4, 8.0, 0.1), rest=(85, 0.0, 0.0))
    advice = sensitivity.recommend(table, Exclude(), 0.5, most_weights=0.09)
    assert advice.exclude.pruning == ("b", "c")
    assert list(advice.rows["layer"]) == ["a", "b", "c"]
    assert sensitivity.recommend(table, Exclude(), 0.5, most_weights=1.0).exclude.pruning == ("a", "b", "c")
    assert sensitivity.recommend(table, Exclude(), 0.5, most_weights=0.0).exclude == Exclude()


def test_the_yaml_keeps_earlier_exclusions(tiny, tmp_path):
    earlier = Exclude(pruning=("conv_1",), clustering=("fc",))
    table = make_table(pw_1=(10, 5.0, 1.0), rest=(990, 0.0, 0.0))
    advice = sensitivity.recommend(table, earlier, 0.5)
    assert yaml.safe_load(advice.yaml) == {"exclude": {"pruning": ["conv_1", "pw_1"], "clustering": ["fc"]}}
    mine = tmp_path / "mine.yaml"
    mine.write_text(f"{tiny.read_text()}\n{advice.yaml}\n")
    assert loading.load(str(mine)).exclude == advice.exclude


def test_nothing_to_exclude_is_said_in_the_note():
    advice = sensitivity.recommend(make_table(a=(1, 0.0, 0.0)), Exclude(), 0.5)
    assert advice.rows.empty
    assert advice.note.startswith("No layer alone costs surely more than 0.5 points.")
    assert yaml.safe_load(advice.yaml) == {"exclude": {}}
    assert "nothing to leave out" in sensitivity.recommend(make_table(a=(1, 0.0, 0.0)).head(0), Exclude(), 0.5).note


def test_a_recommendation_is_displayed_as_a_table_with_reasons():
    advice = sensitivity.recommend(make_table(**{"<first>": (10, 5.0, 1.0), "rest": (990, 0.0, 0.0)}), Exclude(), 0.5)
    for shown in (repr(advice), advice._repr_html_()):
        assert "leave out" in shown
        assert "5.00 ± 2.00 points alone" in shown
    assert "<first>" not in advice._repr_html_()


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"tolerance": -1}, "tolerance=-1: expected"),
        ({"tolerance": float("nan")}, "tolerance=nan: expected"),
        ({"most_weights": 10}, "most_weights=10: expected a fraction"),
    ],
)
def test_a_wrong_setting_is_named(wrong, message):
    with pytest.raises(ValueError, match=message):
        sensitivity.recommend(make_table(a=(1, 0.0, 0.0)), Exclude(), **{"tolerance": 0.5} | wrong)


def test_the_error_is_paired_by_example():
    """Two models with the same wrong predictions do not differ, however many these are."""
    before = np.arange(100) % 2 == 0
    assert sensitivity.compute_drop("pruned", before, before, ACCURACY)["pruned_error"] == 0
    after = before ^ (np.arange(100) < 10)
    found = sensitivity.compute_drop("pruned", before, after, ACCURACY)
    assert found["pruned_drop"] == pytest.approx(0)
    assert found["pruned_error"] == pytest.approx(100 * comparison.compute_standard_error((before * 1 - after)[None]))
    assert found["pruned_error"] > 0


def test_the_figure_draws_the_table(table, tmp_path):
    figure = figures.draw_layer_drops(table, 0.5, csv=tmp_path / "sensitivity.csv")
    pd.testing.assert_frame_equal(pd.read_csv(tmp_path / "sensitivity.csv"), table)
    drawn = [line.get_xdata() for line in figure.axes[0].lines if line.get_marker() in ("o", "D")]
    assert sorted(map(len, drawn)) == [3, 3]
    np.testing.assert_allclose(sorted(np.concatenate(drawn)), sorted(table.filter(like="drop").to_numpy().ravel()))
