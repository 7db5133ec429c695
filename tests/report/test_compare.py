"""The page that compares reports: what differs, by how much, and what is not a report."""

import json
import shutil
from types import SimpleNamespace

import bs4
import pandas as pd
import pytest

from collabopt import __main__
from collabopt.config import loading
from collabopt.config.experiment import ExperimentError
from collabopt.report import answers, report_comparison

HOSTILE = "<b>x</b>"


@pytest.fixture(autouse=True)
def _reports(tmp_path, monkeypatch):
    monkeypatch.setattr(loading, "REPORTS", tmp_path)
    for name, sparsity, accuracy, size in (("one", 0.5, 0.95, 2000), ("two/sparsity=0.8", 0.8, 0.90, 1000)):
        place = tmp_path / name
        (place / "figures").mkdir(parents=True)
        rows = {"stage": ["baseline", "pruned"], "scheme": "", "seed": 0, "experiment": "digits"}
        rows |= {"accuracy_int8": [0.96, accuracy], "accuracy_int8_error": 0.01, "gzip_bytes": [4000, size]}
        rows |= {"number_of_clusters": None, "cluster_per_channel": None, "preserved": None}
        pd.DataFrame(rows).to_csv(place / "results.csv", index=False)
        experiment = {"name": "digits", "sparsity": sparsity, "seed": 0, "note": HOSTILE * (sparsity == 0.8)}
        (place / "run.json").write_text(json.dumps({"experiment": experiment, "commit": "a"}))
        curve = {"stage": "pruned", "epoch": [1, 2], "val_accuracy": [0.5, accuracy]}
        pd.DataFrame(curve).to_csv(place / "figures" / "pqat-training.csv", index=False)
        density = {"label": ["pruned"] * 2, "value": [0.0, 1.0], "width": 1.0, "count": 1, "share": 0.5}
        pd.DataFrame(density).to_csv(place / "figures" / "pqat-density.csv", index=False)


def test_the_page_shows_what_differs_and_by_how_much():
    page = bs4.BeautifulSoup(report_comparison.write(["one", "reports/two/sparsity=0.8/"]).read_text(), "html.parser")
    rows = {}
    for name in ("settings", "stages"):
        lines = page.select(f"#{name}-caption ~ tbody tr")
        rows[name] = [[cell.get_text() for cell in line.find_all(["th", "td"])] for line in lines]
    assert [row[0] for row in rows["settings"]] == ["sparsity", "note"]
    baseline, pruned = rows["stages"]
    assert baseline[-2:] == ["0.00 ± 2.83 points ≈", "1.000"]
    assert pruned[-2:] == ["−5.00 ± 2.83 points", "0.500"]
    assert page.find("b", string="x") is None
    assert len(page.find_all("img")) == 2
    assert page.select_one("nav.links a")["href"] == "../index.html"


def test_a_report_that_is_not_there_is_named(capsys):
    assert __main__.main(["compare", "one", "two/sparsity=0.9"]) == 2
    assert "two/sparsity=0.9: no such report; did you mean two/sparsity=0.8?" in capsys.readouterr().err
    with pytest.raises(ExperimentError, match="expected two or more: make compare"):
        report_comparison.write(["one", "one"])


def test_a_sweep_is_not_compared_as_if_it_were_one_cell(tmp_path):
    (tmp_path / "two").rename(tmp_path / "one" / "sweep,sparsity=0.5+0.8")
    shutil.copy(tmp_path / "one" / "results.csv", tmp_path / "one" / "sweep,sparsity=0.5+0.8")
    with pytest.raises(ExperimentError, match="a sweep, with many rows per stage; give a cell"):
        report_comparison.find_reports(["one", "one/sweep,sparsity=0.5+0.8"])
    run = SimpleNamespace(directory=tmp_path / "one", experiment=SimpleNamespace(name="one"))
    with pytest.raises(ExperimentError, match="no other report of one"):
        report_comparison.find_others(run, None)


def test_a_run_is_compared_with_the_other_settings_of_its_experiment(tmp_path):
    run = SimpleNamespace(
        directory=tmp_path / "one", source=loading.find_experiment("digits"), experiment=SimpleNamespace(name="one")
    )
    with pytest.raises(ExperimentError, match=r"others=None: no other report of one; make one, such as make report"):
        report_comparison.find_others(run, None)
    assert list(report_comparison.find_others(run, ["two/sparsity=0.8"])) == ["one", "two/sparsity=0.8"]
    (tmp_path / "two").rename(tmp_path / "digits")
    (tmp_path / "one").rename(tmp_path / "digits" / "seed=3")
    run.directory = tmp_path / "digits" / "seed=3"
    for others in (None, [{"sparsity": 0.8}]):
        assert list(report_comparison.find_others(run, others)) == ["digits/seed=3", "digits/sparsity=0.8"]


def test_figures_of_a_comparison_have_their_data_and_are_not_compared_again(tmp_path):
    places = report_comparison.find_reports(["one", "two/sparsity=0.8"])
    csv = tmp_path / "one" / "figures" / "compare-density.csv"
    report_comparison.draw_densities(places, csv)
    assert pd.read_csv(csv)["report"].value_counts().to_dict() == dict.fromkeys(places, 2)
    report_comparison.draw_densities(places, csv)
    assert len(pd.read_csv(csv)) == 4
    (tmp_path / "one" / "figures" / "pqat-training.csv").unlink()
    assert report_comparison.draw_curves(places) is None


def test_the_answer_names_the_report_with_the_smallest_file():
    places = report_comparison.find_reports(["one", "two/sparsity=0.8"])
    assert "Fewer than two" in str(answers.describe_comparison(places))
    for number, place in enumerate(places.values(), 1):
        rows = {
            "stage": "baseline",
            "format": ["float32", "int8"],
            "tflite": "model.tflite",
            "validation_accuracy": 0.9,
        }
        sizes = {"gzip_bytes": [4000, 2000 / number], "validation_examples": 100, "validation_drop_error": 0.01}
        pd.DataFrame(rows | sizes | {"accuracy": 0.9}).to_csv(place / "variants.csv", index=False)
    assert str(answers.describe_comparison(places)).startswith("two/sparsity=0.8 has the smallest recommended file: ")
