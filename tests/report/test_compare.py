"""The page that compares reports: what differs, by how much, and what is not a report."""

import json

import bs4
import pandas as pd
import pytest

from collabopt import __main__
from collabopt.config import loading
from collabopt.config.experiment import ExperimentError
from collabopt.report import report_comparison

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
    assert [row[0] for row in rows["settings"]] == ["experiment.sparsity", "experiment.note"]
    baseline, pruned = rows["stages"]
    assert baseline[-2:] == ["0.00 ± 2.83 points ≈", "1.000"]
    assert pruned[-2:] == ["−5.00 ± 2.83 points", "0.500"]
    assert page.find("b", string="x") is None
    assert len(page.find_all("img")) == 2
    assert page.select_one("nav.links a")["href"] == "../index.html"


def test_a_report_that_is_not_there_is_named(capsys):
    assert __main__.main(["compare", "one", "two/sparsity=0.9"]) == 2
    assert "two/sparsity=0.9: no such report; did you mean two/sparsity=0.8?" in capsys.readouterr().err
    with pytest.raises(ExperimentError, match="expected two reports or more"):
        report_comparison.write(["one", "one"])
