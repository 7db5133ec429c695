"""Latencies are summarized robustly, and files of every format can be measured."""

import numpy as np
import pandas as pd

from collabopt.tflite import convert, latency


def test_a_file_of_equal_latency_has_ratio_one():
    once = np.random.default_rng(0).lognormal(size=(9, 1))
    rows = latency.summarize(["first", "again"], np.hstack([once, once]))
    pd.testing.assert_series_equal(rows.loc["first"], rows.loc["again"], check_names=False)
    assert list(rows["latency_ratio"]) == [1, 1]


def test_ratios_are_computed_within_rounds():
    """A host that becomes ten times as slow halfway changes medians but not ratios."""
    drift = np.repeat([1.0, 10.0], [4, 5])[:, None]
    rows = latency.summarize(["first", "half", "double"], drift * [[2.0, 1.0, 4.0]])
    assert list(rows["latency_ratio"]) == [1, 0.5, 2]
    assert list(rows["latency_ms"]) == [20, 10, 40]


def test_one_outlier_changes_nothing():
    measured = np.array([[1.0, 2.0]] * 9)
    measured[3] = (50, 3)
    rows = latency.summarize(["first", "other"], measured)
    assert rows.loc["other"].to_list() == [2, 2, 2, 2]


def test_quartiles_are_those_of_the_rounds():
    rows = latency.summarize(["first"], np.arange(1.0, 6.0)[:, None])
    assert rows.loc["first"].to_dict() == {
        "latency_ms": 3,
        "latency_q1_ms": 2,
        "latency_q3_ms": 4,
        "latency_ratio": 1,
    }


def test_every_format_is_measured(small_cnn):
    model, calibration = small_cnn(), np.random.default_rng(0).uniform(0, 1, (4, 8, 8, 1)).astype(np.float32)
    files = {format: convert.convert(model, format, calibration) for format in convert.STANDARD}
    rows = latency.measure_latency(files, rounds=3)
    assert rows.index.name == "name"
    assert list(rows.index) == list(convert.STANDARD)
    assert list(rows.columns) == ["latency_ms", "latency_q1_ms", "latency_q3_ms", "latency_ratio"]
    assert (rows > 0).all(axis=None)
    assert (rows["latency_q1_ms"] <= rows["latency_ms"]).all()
    assert (rows["latency_ms"] <= rows["latency_q3_ms"]).all()
    assert rows.loc["float32", "latency_ratio"] == 1
