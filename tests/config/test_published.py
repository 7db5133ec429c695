"""Published values: as in their sources, and each once."""

import pytest
from conftest import plan_of

from collabopt.config import published
from collabopt.config.stages import STAGES


def test_no_value_is_listed_twice():
    setting = ["clusters", "cluster_per_channel", "sparsity", "sparsity_pattern"]
    key = ["table", "model", "dataset", "stage", *setting, "metric", "source"]
    assert not published.read().duplicated(key).any()


def test_every_value_has_a_known_stage_and_a_source():
    rows = published.read()
    assert set(rows["stage"]) <= set(STAGES)
    assert rows[["table", "model", "dataset", "metric", "value", "source"]].notna().all(axis=None)


def test_accuracies_are_fractions_and_sizes_are_bytes():
    rows = published.read()
    accuracy = rows["metric"].isin(["accuracy", "accuracy_int8"])
    assert rows[accuracy]["value"].between(0, 1).all()
    assert (rows[rows["metric"].str.endswith("_bytes")]["value"] > 10_000).all()
    assert (rows[rows["metric"].str.endswith("_megabytes")]["value"] < 200).all()


def test_compressed_files_are_smaller():
    rows = published.read()
    key = ["table", "model", "dataset", "stage", "clusters", "sparsity"]
    wide = rows.pivot_table(index=key, columns="metric", values="value", dropna=False)
    both = wide[["tflite_bytes", "compressed_bytes"]].dropna()
    assert len(both) >= 8
    assert (both["compressed_bytes"] < both["tflite_bytes"]).all()


@pytest.mark.parametrize(
    ("model", "dataset", "stage", "metric", "value"),
    [
        ("ds_cnn_l", "speech_commands", "baseline", "accuracy", 0.9523),
        ("ds_cnn_l", "speech_commands", "baseline", "accuracy_int8", 0.9448),
        ("ds_cnn_l", "speech_commands", "baseline", "tflite_bytes", 528_128),
        ("ds_cnn_l", "speech_commands", "pruned", "compressed_bytes", 334_154),
        ("ds_cnn_l", "speech_commands", "pqat", "accuracy_int8", 0.9413),
        ("ds_cnn_l", "speech_commands", "pqat", "compressed_bytes", 303_997),
        ("mobilenet_v1", "imagenet", "baseline", "accuracy", 0.7099),
        ("mobilenet_v1", "imagenet", "pqat", "compressed_bytes", 2_869_600),
    ],
)
def test_the_values_of_the_pqat_table_are_as_published(model, dataset, stage, metric, value):
    assert published.find_value(published.read_table(plan_of(model, dataset), "pqat"), stage, metric) == value


def test_a_saved_model_is_known_by_its_file(tmp_path):
    experiment = plan_of("digits_cnn", "digits")
    file = experiment.model.model_copy(update={"name": None, "path": f"{tmp_path}/resnet8_cifar10.h5"})
    rows = published.read_of_model(experiment.model_copy(update={"model": file}))
    assert set(rows["table"]) == {"mlperf_tiny", "st_zoo"}


def test_nothing_is_published_for_another_model_or_data_set():
    assert len(published.read_table(plan_of("digits_cnn", "digits"), "pqat")) == 0
    assert len(published.read_table(plan_of("ds_cnn_l", "digits"), "pqat")) == 0
    assert len(published.read_table(plan_of("ds_cnn_s", "speech_commands"), "pqat")) == 0


def test_an_unpublished_value_is_none():
    rows = published.read_table(plan_of("ds_cnn_l", "speech_commands"), "pqat")
    assert published.find_value(rows, "pcqat", "accuracy") is None
    assert published.find_value(rows, "baseline", "latency_int8_ms") is None
