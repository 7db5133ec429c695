"""Published figures beside ours: drops, errors that are paired by example, verdicts, and what cannot be compared."""

from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest

from collabopt import figures
from collabopt.analysis import comparison
from collabopt.config import loading
from collabopt.config.stages import STAGES
from collabopt.report import tables

EXAMPLES = 1000
SIZES = {"tflite_bytes": 500_000, "zip_bytes": 316_350, "gzip_bytes": 300_000}  # saves 36.73 %, as published of pruned


def run(seed: int = 0, wrong: int = 10, name: str = "speech_commands-ds_cnn_l", **knobs) -> SimpleNamespace:
    """A run whose baseline is right on all but `seed` examples, and whose every stage has `wrong` more wrong."""

    def stage(one: str) -> SimpleNamespace:
        more = 0 if one == "baseline" else wrong
        right = {"test": np.arange(EXAMPLES) >= seed + more, "test_int8": np.arange(EXAMPLES) >= seed + more + 5}
        result = {"accuracy": right["test"].mean(), "accuracy_int8": right["test_int8"].mean()} | SIZES
        return SimpleNamespace(stage=STAGES[one], result=result, correct=lambda: right)

    return SimpleNamespace(experiment=loading.load(name, seed=seed, **knobs), stage=stage)


def row(rows: pd.DataFrame, table: str, stage: str, figure: str, **setting) -> pd.Series:
    found = rows[(rows["table"] == table) & (rows["stage"] == stage) & (rows["figure"] == figure)]
    for column, value in setting.items():
        found = found[found[column].astype(object) == value]
    assert len(found) == 1
    return found.iloc[0]


@pytest.fixture(scope="module")
def rows() -> pd.DataFrame:
    return comparison.compare_figures([run(0), run(2)])


def test_drops_are_against_each_sides_own_baseline(rows):
    pruned = row(rows, "pqat", "pruned", "drop")
    assert pruned["published"] == pytest.approx(0.9523 - 0.948)
    assert pruned["ours"] == pytest.approx(0.010)
    assert row(rows, "pqat", "pruned", "drop_int8")["ours"] == pytest.approx(0.015)
    assert row(rows, "pqat", "baseline", "drop_int8")["ours"] == pytest.approx(0.005)
    assert not len(rows[(rows["stage"] == "baseline") & (rows["figure"] == "drop")])


def test_means_and_deviations_are_over_seeds(rows):
    baseline = row(rows, "pqat", "baseline", "accuracy")
    assert baseline["ours"] == pytest.approx(np.mean([1.0, 0.998]))
    assert baseline["deviation"] == pytest.approx(np.std([1.0, 0.998], ddof=1))
    assert set(rows["seeds"]) == {2}
    assert comparison.compare_figures([run()])["deviation"].isna().all()


def test_the_standard_error_is_paired_by_example_with_seeds_averaged_first():
    draw = np.random.default_rng(0)
    lost = draw.choice([-1.0, 0.0, 1.0], (3, 400), p=[0.1, 0.7, 0.2])
    assert comparison.compute_standard_error(lost) == pytest.approx(lost.mean(axis=0).std(ddof=1) / 20)
    # Seeds that agree on every example tell no more than one of them.
    assert comparison.compute_standard_error(np.repeat(lost[:1], 3, axis=0)) == pytest.approx(
        comparison.compute_standard_error(lost[:1])
    )
    assert comparison.compute_standard_error(np.zeros((2, 50))) == 0


def test_the_standard_error_is_that_of_repeated_samples():
    draw = np.random.default_rng(1)
    everyone = draw.choice([-1.0, 0.0, 1.0], 100_000, p=[0.02, 0.92, 0.06])
    samples = draw.choice(everyone, (500, 1000))
    expected = samples.mean(axis=1).std()
    assert np.mean([comparison.compute_standard_error(sample[None]) for sample in samples]) == pytest.approx(
        expected, rel=0.1
    )


def test_what_is_saved_is_a_share_of_the_own_raw_size(rows):
    saved = row(rows, "pqat", "pruned", "zip_saved")
    assert saved["published"] == pytest.approx(1 - 334_154 / 528_128)
    assert saved["ours"] == pytest.approx(0.3673)


def test_what_was_published_in_another_setting_is_not_comparable(rows):
    assert row(rows, "clustering", "clustered", "drop", clusters=32)["incomparable"] == "published with 32 clusters"
    assert pd.isna(row(rows, "clustering", "clustered", "drop", clusters=32)["ours"])
    assert row(rows, "clustering", "clustered", "drop", clusters=8)["incomparable"] == ""
    channel = row(rows, "per_channel", "cqat", "accuracy_int8", cluster_per_channel=True)
    assert channel["incomparable"] == "published per channel"
    tensor = row(rows, "per_channel", "cqat", "drop_int8", cluster_per_channel=False)
    assert tensor["incomparable"] == "no baseline was published with it"
    sparser = comparison.compare_figures([run(sparsity=0.8)])
    assert row(sparser, "pqat", "pruned", "drop")["incomparable"] == "published at sparsity 50%"


def test_of_another_model_nothing_is_published():
    empty = comparison.compare_figures([run(name="digits")])
    assert list(empty.columns) == comparison.COLUMNS
    assert comparison.compute_exit_status(comparison.judge(empty)) == comparison.UNDECIDED
    assert "nothing is published" in tables.compared(empty, "accuracy", "drop").to_html()
    figures.draw_drops(empty)


def judged(figure: str, published: float, ours: float, error: float | None = 0.0, why: str = "") -> str:
    cells = {"figure": figure, "published": published, "ours": ours, "error": error, "incomparable": why}
    return comparison.judge_figure(pd.Series(cells))


@pytest.mark.parametrize(
    ("published", "ours", "error", "expected"),
    [
        (0.010, 0.010, 0.001, "reproduced"),
        (0.010, 0.0149, 0.001, "reproduced"),
        (0.010, 0.0051, 0.001, "reproduced"),
        (0.010, 0.016, 0.001, "worse"),
        (0.010, 0.004, 0.0004, "better"),
        (0.010, 0.012, 0.0051, "not decidable"),
        (0.010, 0.040, 0.0051, "worse"),  # as far beyond the tolerance as no chance explains
        (0.010, -0.020, 0.0051, "better"),
        (0.010, None, 0.001, "not comparable"),
        (None, 0.010, 0.001, "not comparable"),
    ],
)
def test_a_drop_is_judged_by_tolerance_and_chance(published, ours, error, expected):
    assert judged("drop", published, ours, error) == judged("drop_int8", published, ours, error) == expected


@pytest.mark.parametrize(
    ("ours", "expected"),
    [(0.40, "reproduced"), (0.371, "reproduced"), (0.43, "reproduced"), (0.36, "worse"), (0.44, "better")],
)
def test_what_is_saved_is_judged_by_three_points(ours, expected):
    assert judged("zip_saved", 0.40, ours, None) == expected


def test_what_is_not_comparable_is_not_judged():
    assert judged("drop", 0.01, 0.5, 0.001, "published with 32 clusters") == "not comparable"


def test_the_worst_verdict_is_the_exit_status():
    def status(*verdicts: str) -> int:
        return comparison.compute_exit_status(pd.DataFrame({"verdict": verdicts}))

    assert status("reproduced", "not decidable", "better") == 0
    assert status("reproduced", "worse") == comparison.WORSE
    assert status("not decidable", "not comparable") == comparison.UNDECIDED


def test_verify_reads_what_a_run_left(rows, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(loading, "REPORTS", tmp_path)
    monkeypatch.setattr("sys.argv", ["comparison", "verify", "--experiment", "speech_commands-ds_cnn_l"])
    assert comparison.main() == comparison.UNDECIDED
    assert "make report EXPERIMENT=speech_commands-ds_cnn_l" in capsys.readouterr().err
    (tmp_path / "speech_commands-ds_cnn_l").mkdir()
    rows.to_csv(tmp_path / "speech_commands-ds_cnn_l" / "comparison.csv", index=False)
    assert comparison.main() == comparison.compute_exit_status(comparison.judge(rows))
    out = capsys.readouterr().out
    assert "| pqat | pruned | Drop, FP32 or fake-INT8 (points) | 0.43 | 1.00 ± 0.00 |" in out
    assert "reproduced" in out.splitlines()[-1]


def test_an_unknown_experiment_is_told(monkeypatch, capsys):
    monkeypatch.setattr("sys.argv", ["comparison", "verify", "--experiment", "speech"])
    assert comparison.main() == comparison.UNDECIDED
    assert "experiment=speech: no such file" in capsys.readouterr().err


def test_tables_show_what_is_worse_in_red(rows):
    bad = rows.assign(ours=rows["ours"] + 0.2)
    html = tables.compared(bad, "accuracy", "drop").to_html()
    assert "color: #b3261e" in html
    assert "published with 32 clusters" in html
    shown = tables.compared(rows, "accuracy", "drop").data
    assert shown.loc[("pqat", "pruned"), ("Drop, FP32 or fake-INT8 (points)", "published")] == "0.43"


def test_the_figure_holds_every_published_drop(rows, tmp_path):
    figure = figures.draw_drops(rows, csv=tmp_path / "drops.csv")
    kept = pd.read_csv(tmp_path / "drops.csv")
    assert len(kept) == (rows["figure"].isin(comparison.DROPS) & rows["published"].notna()).sum()
    assert (tmp_path / "drops.png").stat().st_size > 10_000
    assert f"for {len(kept)} figures. " in figure.alt
    assert f"Of {kept['ours'].notna().sum()} that can be compared: " in figure.alt
