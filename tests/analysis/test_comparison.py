"""Published figures beside ours: drops, errors paired by example, verdicts, and settings that differ."""

import json
import re
import shutil
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest

from collabopt import __main__, figures
from collabopt.analysis import comparison, judgement
from collabopt.config import loading
from collabopt.config.experiment import ExperimentError
from collabopt.config.stages import STAGES
from collabopt.report import tables, verification
from collabopt.storage import results

REPORTS = loading.ROOT / "reports"
RELEASED = REPORTS / "speech_commands-ds_cnn_l"

EXAMPLES = 1000
SIZES = {
    "tflite_bytes": 500_000,
    "zip_bytes": 316_350,
    "gzip_bytes": 300_000,
}  # saves 36.73 %, as published for the stage pruned


def make_run(seed: int = 0, wrong: int = 10, name: str = "speech_commands-ds_cnn_l", **overrides) -> SimpleNamespace:
    """A run whose baseline is wrong on `seed` examples, and every other stage on `wrong` more."""

    def stage(name: str) -> SimpleNamespace:
        more = 0 if name == "baseline" else wrong
        limits = {"test": seed + more, "test_int8": seed + more + 5}
        scores = {name: (np.arange(EXAMPLES) >= limit).astype(np.float32) for name, limit in limits.items()}
        result = {
            "accuracy": scores["test"].mean(dtype=float),
            "accuracy_int8": scores["test_int8"].mean(dtype=float),
        } | SIZES
        return SimpleNamespace(stage=STAGES[name], result=result, scores=lambda: scores, unavailable="")

    experiment = loading.load(name, seed=seed, **overrides)
    return SimpleNamespace(experiment=experiment, stage=stage, data=SimpleNamespace(classes=range(20)))


def find_row(rows: pd.DataFrame, table: str, stage: str, figure: str, **setting) -> pd.Series:
    found = rows[(rows["table"] == table) & (rows["stage"] == stage) & (rows["figure"] == figure)]
    for column, value in setting.items():
        found = found[found[column].astype(object) == value]
    assert len(found) == 1
    return found.iloc[0]


@pytest.fixture(scope="module")
def rows() -> pd.DataFrame:
    return comparison.compare_figures([make_run(0), make_run(2)])


def test_drops_are_against_the_baseline_of_the_same_side(rows):
    pruned = find_row(rows, "pqat", "pruned", "drop")
    assert pruned["published"] == pytest.approx(0.9523 - 0.948)
    assert pruned["ours"] == pytest.approx(0.010)
    assert find_row(rows, "pqat", "pruned", "drop_int8")["ours"] == pytest.approx(0.015)
    assert find_row(rows, "pqat", "baseline", "drop_int8")["ours"] == pytest.approx(0.005)
    assert not len(rows[(rows["stage"] == "baseline") & (rows["figure"] == "drop")])


def test_figures_of_a_smaller_network_are_not_compared():
    rows = comparison.compare_figures([make_run(filter_sparsity=0.5)])
    assert "without the stage" in find_row(rows, "pqat", "pruned", "drop")["incomparable"]
    assert not find_row(rows, "pqat", "baseline", "drop_int8")["incomparable"]


def test_means_and_deviations_are_over_seeds(rows):
    baseline = find_row(rows, "pqat", "baseline", "accuracy")
    assert baseline["ours"] == pytest.approx(np.mean([1.0, 0.998]))
    assert baseline["deviation"] == pytest.approx(np.std([1.0, 0.998], ddof=1))
    assert set(rows["seeds"]) == {2}
    assert comparison.compare_figures([make_run()])["deviation"].isna().all()


def test_the_standard_error_is_paired_by_example_with_seeds_averaged_first():
    generator = np.random.default_rng(0)
    lost = generator.choice([-1.0, 0.0, 1.0], (3, 400), p=[0.1, 0.7, 0.2])
    assert comparison.compute_standard_error(lost) == pytest.approx(lost.mean(axis=0).std(ddof=1) / 20)
    # Seeds that agree on every example add no information.
    assert comparison.compute_standard_error(np.repeat(lost[:1], 3, axis=0)) == pytest.approx(
        comparison.compute_standard_error(lost[:1])
    )
    assert comparison.compute_standard_error(np.zeros((2, 50))) == 0


def test_the_standard_error_agrees_with_repeated_samples():
    generator = np.random.default_rng(1)
    population = generator.choice([-1.0, 0.0, 1.0], 100_000, p=[0.02, 0.92, 0.06])
    samples = generator.choice(population, (500, 1000))
    expected = samples.mean(axis=1).std()
    assert np.mean([comparison.compute_standard_error(sample[None]) for sample in samples]) == pytest.approx(
        expected, rel=0.1
    )


def test_saved_bytes_are_a_share_of_the_raw_file(rows):
    saved = find_row(rows, "pqat", "pruned", "zip_saved")
    assert saved["published"] == pytest.approx(1 - 334_154 / 528_128)
    assert saved["ours"] == pytest.approx(0.3673)


def test_sizes_are_compared_with_the_baseline_of_the_same_side():
    rows = comparison.read(RELEASED)
    trained = results.read(RELEASED / "results.csv").set_index(["stage", "seed"])
    arm = find_row(rows, "clustering", "baseline", "int8_bytes")
    assert (arm["published"], arm["ours"]) == (503_816, trained["tflite_bytes"]["baseline"][0])
    files = pd.read_csv(RELEASED / "variants.csv").set_index(["stage", "format"])["gzip_bytes"]
    clustered = find_row(rows, "clustering", "clustered", "float_size_ratio", clusters=8)
    assert clustered["published"] == pytest.approx(0.27 / 1.46)
    assert clustered["ours"] == files["clustered", "float32"] / files["baseline", "float32"]
    other = find_row(rows, "clustering", "clustered", "float_size_ratio", clusters=32)
    assert other["incomparable"] == "published with 32 clusters"
    assert pd.isna(other["ours"])
    cqat = find_row(comparison.read(REPORTS / "cifar10-mobilenet_v1"), "cqat", "cqat", "size_ratio")
    assert cqat["published"] == pytest.approx(1.94 / 3)
    sizes = results.read(REPORTS / "cifar10-mobilenet_v1" / "results.csv").query("scheme != 'tfmot'")
    sizes = sizes.set_index(["stage", "seed"])["zip_bytes"]
    ratios = sizes["cqat"] / sizes["baseline"]
    assert [*ratios.index] == [0, 1, 2]
    assert cqat["ours"] == pytest.approx(ratios.mean())


def test_sizes_of_a_network_with_fewer_classes_are_not_comparable():
    rows = comparison.read(REPORTS / "imagenet20-mobilenet_v1")
    for table, figure in (("pqat", "int8_bytes"), ("tflite_guide", "quantized_ratio")):
        baseline = find_row(rows, table, "baseline", figure)
        assert baseline["incomparable"] == "the network has 20 of 1,000 classes"
        assert pd.isna(baseline["ours"])


def damage_run(directory) -> None:
    (directory / "run.json").write_text('{"experiment": {"model": {}}}')


def damage_results(directory) -> None:
    path = directory / "results.csv"
    pd.read_csv(path).drop(columns="zip_bytes").to_csv(path, index=False)


def damage_variants(directory) -> None:
    (directory / "variants.csv").write_text("")


def damage_comparison(directory) -> None:
    path = directory / "comparison.csv"
    pd.read_csv(path).drop(columns="figure").to_csv(path, index=False)


@pytest.fixture
def copied(tmp_path, monkeypatch):
    """A copy of the report of DS-CNN-L in a directory of reports."""
    monkeypatch.setattr(loading, "REPORTS", tmp_path)
    directory = tmp_path / RELEASED.name
    directory.mkdir()
    for name in ("comparison.csv", "results.csv", "variants.csv", "run.json"):
        shutil.copy(RELEASED / name, directory)
    return directory


@pytest.mark.parametrize("damage", [damage_run, damage_results, damage_variants, damage_comparison])
def test_a_damaged_report_is_named(copied, capsys, damage):
    damage(copied)
    for name in (copied.name, "all"):
        assert __main__.main(["verify", "--experiment", name]) == verification.UNDECIDED
        told = capsys.readouterr().err
        assert f"{copied}: its tables cannot be compared" in told
        assert f"make report EXPERIMENT={copied.name} NOTEBOOKS=published" in told


def test_sizes_need_no_float32_files_and_no_seed_twice(copied):
    files = pd.read_csv(copied / "variants.csv")
    whole = comparison.read(copied)
    pd.concat([files, files]).to_csv(copied / "variants.csv", index=False)
    pd.testing.assert_frame_equal(comparison.read(copied), whole)
    files[files["format"] != "float32"].to_csv(copied / "variants.csv", index=False)
    row = find_row(comparison.read(copied), "clustering", "clustered", "float_size_ratio", clusters=8)
    assert judgement.format_verdict({**row, "verdict": judgement.judge_figure(row)}) == "not comparable: not measured"


def test_figures_published_in_another_setting_are_not_comparable(rows):
    guide = "TFMOT guide, clustering/index (compressed FP32 .tflite)"
    clustered = find_row(rows, "clustering", "clustered", "drop", clusters=32, source=guide)
    assert clustered["incomparable"] == "published with 32 clusters"
    assert pd.isna(clustered["ours"])
    assert find_row(rows, "clustering", "clustered", "drop", clusters=8)["incomparable"] == ""
    channel = find_row(rows, "per_channel", "cqat", "accuracy_int8", cluster_per_channel=True)
    assert channel["incomparable"] == "published per channel"
    tensor = find_row(rows, "per_channel", "cqat", "drop_int8", cluster_per_channel=False)
    assert tensor["incomparable"] == "no baseline was published with it"
    sparser = comparison.compare_figures([make_run(sparsity=0.8)])
    assert find_row(sparser, "pqat", "pruned", "drop")["incomparable"] == "published at sparsity 50%"


def test_nothing_is_trained_if_nothing_is_published():
    with pytest.raises(ExperimentError, match="nothing is published for digits; choose another experiment"):
        comparison.compare(make_run(name="digits"))  # it cannot train


def test_nothing_is_published_for_another_model():
    empty = comparison.compare_figures([make_run(name="digits")])
    assert list(empty.columns) == comparison.COLUMNS
    assert verification.compute_exit_status(judgement.judge(empty)) == verification.UNDECIDED
    assert "Nothing is published" in tables.compared(empty, "accuracy", "drop")._repr_html_()
    assert figures.draw_drops(empty) is None


def judge(figure: str, published: float, ours: float, error: float | None = 0.0, why: str = "") -> str:
    cells = {"figure": figure, "published": published, "ours": ours, "error": error, "incomparable": why}
    return judgement.judge_figure(pd.Series(cells))


@pytest.mark.parametrize(
    ("published", "ours", "error", "expected"),
    [
        (0.010, 0.010, 0.001, "reproduced"),
        (0.010, 0.0149, 0.001, "reproduced"),
        (0.010, 0.0051, 0.001, "reproduced"),
        (0.010, 0.016, 0.001, "worse"),
        (0.010, 0.004, 0.0004, "better"),
        (0.010, 0.012, 0.0051, "not decidable"),
        (0.010, 0.004, 0.0040, "not decidable"),  # chance explains the whole difference
        (0.010, 0.016, 0.0040, "not decidable"),
        (0.010, 0.040, 0.0051, "worse"),  # farther beyond the tolerance than chance explains
        (0.010, -0.020, 0.0051, "better"),
        (0.010, None, 0.001, "not comparable"),
        (None, 0.010, 0.001, "not comparable"),
    ],
)
def test_a_drop_is_judged_by_tolerance_and_standard_error(published, ours, error, expected):
    assert judge("drop", published, ours, error) == judge("drop_int8", published, ours, error) == expected


@pytest.mark.parametrize(
    ("ours", "expected"),
    [(0.40, "reproduced"), (0.371, "reproduced"), (0.43, "reproduced"), (0.36, "worse"), (0.44, "better")],
)
def test_saved_bytes_are_judged_with_a_tolerance_of_three_points(ours, expected):
    assert judge("zip_saved", 0.40, ours, None) == expected
    assert judge("size_ratio", 0.60, 1 - ours, None) == expected
    assert judge("int8_bytes", 1_000_000, 1_000_000 * (1.4 - ours), None) == expected


def test_a_figure_that_is_not_comparable_is_not_judged():
    assert judge("drop", 0.01, 0.5, 0.001, "published with 32 clusters") == "not comparable"


def test_the_worst_verdict_is_the_exit_status():
    def status(*verdicts: str) -> int:
        return verification.compute_exit_status(pd.DataFrame({"verdict": verdicts}))

    assert status("reproduced", "not decidable", "better") == 0
    assert status("reproduced", "worse") == verification.WORSE
    assert status("not decidable", "not comparable") == verification.UNDECIDED


def test_verify_prints_the_verdicts_on_a_finished_report(rows, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(loading, "REPORTS", tmp_path)
    command = ["verify", "--experiment", "speech_commands-ds_cnn_l"]
    assert __main__.main(command) == verification.UNDECIDED
    assert "make report EXPERIMENT=speech_commands-ds_cnn_l" in capsys.readouterr().err
    (tmp_path / "speech_commands-ds_cnn_l").mkdir()
    rows.to_csv(tmp_path / "speech_commands-ds_cnn_l" / "comparison.csv", index=False)
    assert __main__.main(command) == verification.compute_exit_status(judgement.judge(rows))
    out = capsys.readouterr().out
    assert "| pqat | pruned | Drop, FP32 or fake-INT8 (points) | 0.43 | 1.00 ± 0.00 |" in out
    counts = re.findall(r"(\d+) [a-z ]+", out.splitlines()[-1])
    lines = [line for line in out.splitlines() if line.startswith("| ")]
    heads = sum(line.startswith("## ") for line in out.splitlines())
    assert sum(map(int, counts)) == len(lines) - 2 * heads, (
        "the last line counts the rows of the tables below their heads"
    )
    assert "reproduced" in out.splitlines()[-1]


def test_verify_all_lists_each_figure_once_by_source(rows, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(loading, "REPORTS", tmp_path)
    assert __main__.main(["verify", "--experiment", "all"]) == verification.UNDECIDED
    more = comparison.compare_figures([make_run(0, number_of_clusters=32), make_run(2, number_of_clusters=32)])
    experiment = make_run(0).experiment.model_dump(mode="json")
    small = experiment | {"model": experiment["model"] | {"name": "ds_cnn_s"}}
    reports = {"one": rows, "two": rows, "three": more, "four": more}
    for name, some in reports.items():
        (tmp_path / name).mkdir()
        some.to_csv(tmp_path / name / "comparison.csv", index=False)
        run = {"experiment": small if name == "four" else experiment}
        (tmp_path / name / "run.json").write_text(json.dumps(run))
    __main__.main(["verify", "--experiment", "all"])
    out = capsys.readouterr().out
    judged = verification.judge_reports(verification.read_comparisons(tmp_path))
    heads = [line.removeprefix("## ") for line in out.splitlines() if line.startswith("## ")]
    comparable = judged[judged["verdict"] != judgement.INCOMPARABLE]
    assert heads == [*comparable["source"].unique(), "Not comparable"]
    assert set(comparable["report"]) == {"one", "three", "four"}  # two has the same stages as one; four another model
    assert not comparable.duplicated(["model", "table", "source", "stage", "clusters", "figure", "ours"]).any()
    comparable = comparable[comparable["report"] != "four"]
    clustered = comparable[(comparable["table"] == "clustering") & (comparable["figure"] == "drop")]
    assert {*zip(clustered["report"], clustered["clusters"], strict=True)} == {("one", 8), ("three", 32)}
    assert "published with 2:4 zeros: pruned, 2:4" in out
    assert out.splitlines()[-1] == verification.count_verdicts(judged)


def test_a_figure_that_cannot_be_decided_says_how_many_examples_would_decide_it(rows):
    row = dict.fromkeys(comparison.COLUMNS) | {"figure": "drop", "incomparable": "", "examples": 1000}
    row |= {"published": 0.005, "ours": 0.005, "error": 0.005, "verdict": judgement.UNDECIDABLE}
    text = "not decidable: 4,000 test examples would decide it, instead of 1,000"
    assert judgement.format_verdict(row) == text
    # With so many examples, the same drop and the same kind of examples are decided.
    assert judgement.judge_figure(pd.Series(row | {"error": row["error"] / 4**0.5})) == "reproduced"
    assert set(rows.loc[rows["figure"] == "drop", "examples"].dropna()) == {EXAMPLES}


def test_a_pattern_of_zeros_is_compared_with_the_same_pattern():
    structured = comparison.compare_figures([make_run(sparsity_pattern="2:4")])
    of_pattern = find_row(structured, "pruning", "pruned", "drop", sparsity_pattern="2:4")
    assert of_pattern["incomparable"] == ""
    assert find_row(structured, "pqat", "pruned", "drop")["incomparable"] == "published with unstructured zeros"


def test_verify_reports_an_unknown_experiment(capsys):
    assert __main__.main(["verify", "--experiment", "speech"]) == verification.UNDECIDED
    assert "experiment=speech: no such file" in capsys.readouterr().err


def test_tables_show_worse_figures_in_red(rows):
    worse = rows.assign(ours=rows["ours"] + 0.2)
    table = tables.compared(worse, "accuracy", "drop")
    assert {cell.text for row in table.rows for cell in row.values() if cell.kind == "no"} == {"worse"}
    assert "published with 32 clusters" in table._repr_html_()
    shown = tables.compared(rows, "accuracy", "drop").to_frame().set_index(["Table", "Stage", "Figure"])
    assert shown.loc[("PQAT", "pruned", "Drop, FP32 or fake-INT8 (points)"), "Published"] == "0.43"


def test_the_plot_shows_every_published_drop(rows, tmp_path):
    figure = figures.draw_drops(rows, csv=tmp_path / "drops.csv")
    drawn = pd.read_csv(tmp_path / "drops.csv")
    assert len(drawn) == (rows["figure"].isin(judgement.DROPS) & rows["published"].notna()).sum()
    assert (tmp_path / "drops.png").stat().st_size > 10_000
    assert f"for {len(drawn)} figures. " in figure.alt
    assert f"Of {drawn['ours'].notna().sum()} that can be compared: " in figure.alt


def test_the_plot_has_a_panel_only_where_drops_are_published(rows):
    assert len(figures.draw_drops(rows).axes) == 2
    assert len(figures.draw_drops(rows[rows["figure"] != "drop"]).axes) == 1


def test_a_part_of_the_classes_is_named():
    rows = judgement.judge(comparison.compare_figures([make_run(name="imagenet20-mobilenet_v1")]))
    judged = rows[rows["verdict"] != judgement.INCOMPARABLE].to_dict("records")
    assert len(judged) > 5
    assert all(judgement.format_verdict(row).endswith("20 of 1,000 classes") for row in judged)
    assert set(comparison.compare_figures([make_run()])["subset"]) == {""}
