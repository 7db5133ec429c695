"""The page of all reports: it shows the tables that are there, whatever their state."""

import json
import math
import re
import shutil
import subprocess
import sys
import threading
from pathlib import Path
from urllib.parse import unquote

import bs4
import pandas as pd
import pytest

from collabopt.analysis import comparison, judgement
from collabopt.config import loading
from collabopt.config.scores import ACCURACY
from collabopt.deploy import recommendation
from collabopt.report import front_page, sweep_page
from collabopt.report.directory import find_reports
from collabopt.storage import results

HOSTILE = "<script>alert(1)</script>"
RELEASED = loading.ROOT / "reports" / "speech_commands-ds_cnn_l"


def stage(name: str, validation: float, gzip_bytes: int, **values: object) -> dict:
    """A row of results.csv."""
    row = dict.fromkeys(results.list_columns(ACCURACY)) | {
        "experiment": "x",
        "stage": name,
        "seed": 0,
        "train_fraction": 1.0,
    }
    row |= {
        "validation_accuracy": validation,
        "validation_accuracy_int8": validation,
        "accuracy": 0.9,
        "accuracy_int8": validation - 0.02,
    }
    return row | {"gzip_bytes": gzip_bytes, "tflite_bytes": 2 * gzip_bytes, "zip_bytes": gzip_bytes} | values


ROWS = [
    stage("baseline", 0.95, 1000),
    stage("pruned", 0.945, 700),
    stage("clustered", 0.941, 500, scheme="collabopt", preserved=True),
    stage("pcqat", 0.93, 300, scheme="collabopt", preserved=True),
    stage("pcqat", 0.95, 400, scheme="tfmot", preserved=False),
]


def write_report(directory: Path, rows: list[dict] = ROWS, **run: object) -> Path:
    """Write a report directory as a run does, without pages."""
    directory.mkdir(parents=True)
    pd.DataFrame(rows).to_csv(directory / "results.csv", index=False)
    told = {"experiment": {"scheme": "collabopt", "model": {"name": "cnn"}, "dataset": {"path": "my.npz"}}}
    (directory / "run.json").write_text(json.dumps(told | {"end": "2026-05-04T10:00:00+00:00"} | run))
    return directory


def write(reports: Path) -> bs4.BeautifulSoup:
    return bs4.BeautifulSoup(front_page.write(reports).read_text(encoding="utf-8"), "html.parser")


def table(page: bs4.BeautifulSoup, name: str) -> list[list[str]]:
    """The texts of the rows of a table, by its name."""
    found = page.find("caption", id=f"{name}-caption").parent
    return [[cell.get_text() for cell in row.find_all(["th", "td"])] for row in found.select("tbody tr")]


@pytest.fixture(autouse=True)
def data(monkeypatch, tmp_path_factory) -> None:
    monkeypatch.setattr(loading, "DATA", tmp_path_factory.mktemp("data"))


@pytest.fixture(scope="module")
def written(tmp_path_factory) -> Path:
    """An experiment, the same with a parameter overridden, and a sweep of it; another experiment with two seeds."""
    root = tmp_path_factory.mktemp("reports")
    write_report(root / "a")
    for name in ("index", "pqat", "deployment_tree"):
        (root / "a" / f"{name}.html").write_text('<head><meta name="description" content="About a."></head>')
    (root / "a" / "models").mkdir()
    (root / "a" / "models" / "pcqat-tfmot.tflite").write_bytes(b"TFL3")
    write_report(root / "a" / "sparsity=0.8")
    for clusters in (8, 16):
        cell = write_report(root / "a" / "sweep,number_of_clusters=8+16" / f"number_of_clusters={clusters}")
        rows = [row | {"number_of_clusters": clusters if row["scheme"] else None} for row in ROWS[:4]]
        pd.DataFrame(rows).to_csv(cell / "results.csv", index=False)
        (cell / "deployment_tree.html").write_text("")
    sweep_page.write(cell.parent, "digits", {path.name: "ok" for path in cell.parent.glob("number*")})
    write_report(root / "b", [*ROWS, *(row | {"seed": 1} for row in ROWS)], commit="0123456789abcdef+changes")
    return root


@pytest.fixture
def reports(written, tmp_path) -> Path:
    """A copy of `written`, which a test may change."""
    return shutil.copytree(written, tmp_path, dirs_exist_ok=True)


def test_a_report_is_a_directory_with_tables_and_a_sweep_is_one_with_its_cells(reports):
    (reports / "notes").mkdir()
    found = [report.place.as_posix() for report in find_reports(reports)]
    assert found == ["a", "a/sparsity=0.8", "a/sweep,number_of_clusters=8+16", "b"]


def test_the_page_shows_every_report(reports):
    page = write(reports)
    cards = page.select(".card")
    assert [card.h3.get_text() for card in cards] == ["a", "b"]
    assert "About a." in cards[0].get_text()
    assert "cnn on my.npz · seed 0 · 2026-05-04" in cards[0].get_text()
    assert "seeds 0, 1 · 2026-05-04 · commit 0123456789 with changes" in cards[1].get_text()
    others = [line.get_text() for line in cards[0].select("li")]
    assert others[0].startswith("sparsity=0.8: clustered saves 50.0 % and loses 0.9 points on test")
    assert others[1].startswith("sweep number_of_clusters=8+16: clustered saves 50.0 %")


def test_a_card_shows_validation_which_decides_beside_test(reports):
    card = write(reports).select_one(".card")
    heads = [[head.get_text() for head in row.find_all("th")] for row in card.select("thead tr")]
    assert heads == [["Stage", "INT8 accuracy (%)", "gzip (kB)"], ["validation", "test"]]
    rows = [[cell.get_text(" ").split()[0] for cell in row.find_all(["th", "td"])] for row in card.select("tbody tr")]
    assert rows == [["baseline", "95.00", "93.00", "1.00"], ["clustered", "94.10", "92.10", "0.500"]]


def test_all_stages_are_in_one_table(reports):
    rows = table(write(reports), "stages")
    # The five of a, of a with another sparsity, and of b; baseline and pruned once and two others a cell in the sweep.
    assert len(rows) == 5 + 5 + (2 + 2 * 2) + 5
    assert rows[2][:7] == ["a", "", "clustered", "92.10", "0.90", "0.500", "50.0"]
    assert {row[1] for row in rows if row[1].startswith("sweep")} == {
        "sweep",
        "sweep: clusters 8",
        "sweep: clusters 16",
    }
    assert [row[-2] for row in rows if row[:3] == ["b", "", "PCQAT by tfmot"]] == ["NO"]


def test_a_baseline_loses_and_saves_nothing(reports):
    baselines = pd.concat([report.table[report.table["stage"] == "baseline"] for report in find_reports(reports)])
    assert set(baselines["lost"]) == set(baselines["saved"]) == {0.0}
    assert len(baselines) == 4


def test_the_best_file_is_the_smallest_of_those_as_good_on_validation(reports):
    report = find_reports(reports)[0]
    rows = report.table[report.table["scheme"] != "tfmot"]
    base, best = report.find_trade_off()
    assert (base["stage"], best["stage"]) == ("baseline", "clustered")
    near = rows[rows["validation_accuracy_int8"] >= base["validation_accuracy_int8"] - 0.01]
    assert best["gzip_bytes"] == near["gzip_bytes"].min()


def test_the_best_file_is_that_of_the_verdict(tmp_path):
    """The clustered one is smaller, but drops by more than noise."""
    rows = {"stage": ["baseline", "pruned", "clustered"], "format": ["float32", "int8", "int8"]}
    rows |= {"validation_accuracy": [0.95, 0.945, 0.941], "validation_drop_error": [0, 0.003, 0.003]}
    rows |= {"validation_examples": 500, "accuracy": 0.9, "gzip_bytes": [2000, 700, 500]}
    rows |= {"tflite_bytes": 2000, "tflite": "a.tflite"}
    pd.DataFrame(rows).to_csv(write_report(tmp_path / "a") / "variants.csv", index=False)
    (report,) = find_reports(tmp_path)
    assert [row["stage"] for row in report.find_trade_off()] == ["baseline", "pruned"]
    assert recommendation.recommend(report.directory).name == "pruned int8"


def test_the_baseline_is_alone_if_no_smaller_file_is_as_good(tmp_path):
    write_report(tmp_path / "a", [stage("baseline", 0.95, 1000), stage("qat", 0.96, 1001), stage("pruned", 0.9, 10)])
    page = write(tmp_path)
    assert [row.th.get_text() for row in page.select(".card tbody tr")] == ["baseline"]
    assert "No smaller file is as good." in page.get_text()


@pytest.mark.parametrize(
    ("limits", "format", "said"),
    [
        ({"max_gzip_bytes": 10}, "int8", "No file meets all targets."),
        ({"max_gzip_bytes": 800}, "float16", "Pruned float16 is recommended."),
        ({}, "int8", ""),
    ],
)
def test_a_card_without_a_best_int8_file_says_why(tmp_path, limits, format, said):
    rows = {"stage": ["baseline", "baseline", "pruned"], "format": ["float32", "int8", format]}
    rows |= {"validation_accuracy": 0.95, "validation_drop_error": 0, "validation_examples": 500, "accuracy": 0.9}
    rows |= {"gzip_bytes": [2000, 1000, 700], "tflite_bytes": 2000, "tflite": "a.tflite"}
    experiment = {"scheme": "collabopt", "targets": limits}
    place = write_report(tmp_path / "a", experiment=experiment)
    pd.DataFrame(rows).to_csv(place / "variants.csv", index=False)
    shown = " ".join(one.get_text() for one in write(tmp_path).select(".card .size"))
    assert said in shown and "No smaller file is as good." not in shown


def test_a_seed_without_a_value_is_not_left_out_of_a_mean(tmp_path):
    rows = [
        stage("baseline", 0.95, 1000, seed=seed) | {"accuracy_int8": value} for seed, value in enumerate((None, 0.9))
    ]
    write_report(tmp_path / "a", rows)
    (report,) = find_reports(tmp_path)
    (row,) = report.table.to_dict("records")
    assert row["seeds"] == 2 and math.isnan(row["accuracy_int8"]) and row["validation_accuracy_int8"] == 0.95


def test_scores_of_other_metrics_have_columns_of_their_own(tmp_path):
    write_report(tmp_path / "a")
    columns = {f"{split}{form}": 0.03 for split in ("validation_mae", "mae") for form in ("", "_int8")}
    rows = [{key: row[key] for key in row if "accuracy" not in key} | columns for row in ROWS]
    write_report(tmp_path / "b", rows)
    page = write(tmp_path)
    heads = [
        head.get_text() for head in page.find("caption", id="stages-caption").parent.select("thead tr:last-child th")
    ]
    cells = [dict(zip(heads, row, strict=True)) for row in table(page, "stages")]
    error = next(head for head in heads if "MAE" in head)
    assert all(bool(row[error]) == (row["Experiment"] == "b") for row in cells), heads


def test_every_link_is_a_file(reports):
    links = [unquote(link["href"]) for link in write(reports).select("main a")]
    for link in links:
        assert (reports / link).is_file(), link
    assert {"a/index.html", "a/pqat.html", "a/models/pcqat-tfmot.tflite"} <= set(links)
    assert "a/sweep,number_of_clusters=8+16/number_of_clusters=16/deployment_tree.html" in links


def test_a_removed_report_is_no_longer_listed(reports):
    assert "b" in [card.h3.get_text() for card in write(reports).select(".card")]
    shutil.rmtree(reports / "b")
    page = write(reports)
    assert [card.h3.get_text() for card in page.select(".card")] == ["a"]
    assert "b" not in {row[0] for row in table(page, "stages")}


def test_the_page_says_that_there_is_no_report(tmp_path):
    assert "No reports here" in write(tmp_path / "reports").get_text()


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("results.csv", b""),
        ("results.csv", b"stage\n"),
        ("results.csv", b"stage,accuracy\nbaseline,0.9\nqat,\n"),
        ("results.csv", b"name\nbaseline\n"),
        ("results.csv", b'stage,seed\n"baseline'),
        ("results.csv", b"\xff\xfe\x00"),
        ("results.csv", b"stage,number_of_clusters\n,\nclustered,8.5\n"),
        ("results.csv", b"stage,seed,accuracy_int8\nbaseline,zero,good\n"),
        ("run.json", b"{"),
        ("run.json", b"[1]"),
        ("run.json", b'{"experiment": "x", "end": 3, "commit": null}'),
        ("comparison.csv", b"table,stage\n"),
        ("comparison.csv", b"\xff"),
    ],
)
def test_a_table_that_cannot_be_read_stops_nothing(reports, name, content):
    (reports / "b" / name).write_bytes(content)
    page = write(reports)
    assert [card.h3.get_text() for card in page.select(".card")] == ["a", "b"]
    assert "nan" not in page.get_text().lower()


def test_names_from_outside_are_text(tmp_path):
    write_report(tmp_path / "a&b", [stage("baseline", 0.9, 10), stage(HOSTILE, 0.9, 5, scheme=HOSTILE)], commit=HOSTILE)
    page = write(tmp_path)
    assert len(page.find_all("script")) == 1
    assert f"{HOSTILE} by {HOSTILE}" in table(page, "stages")[1]
    assert page.select_one(".card h3").get_text() == "a&b"


def test_published_figures_are_beside_ours(tmp_path):
    (tmp_path / "ds").mkdir()
    for name in ("comparison.csv", "results.csv", "variants.csv", "run.json"):
        shutil.copy(RELEASED / name, tmp_path / "ds")
    judged = judgement.judge(comparison.read(RELEASED))
    judged = judged[judged["published"].notna()]
    rows = table(write(tmp_path), "published")
    assert [row[-1] for row in rows] == [judgement.format_verdict(row) for _, row in judged.iterrows()]
    assert [row[4] for row in rows] == [
        judgement.format_value(value, figure)
        for value, figure in zip(judged["published"], judged["figure"], strict=True)
    ]
    shutil.copytree(tmp_path / "ds", tmp_path / "es")
    assert len(table(write(tmp_path), "published")) == len(rows), "each figure once"


def test_batches_that_end_at_once_leave_a_whole_page(reports):
    whole, seen = front_page.write(reports).read_bytes(), set()
    writers = [threading.Thread(target=front_page.write, args=(reports,)) for _ in range(6)]
    for writer in writers:
        writer.start()
    while any(writer.is_alive() for writer in writers):
        seen.add((reports / "index.html").read_bytes())
    assert seen == {whole}
    assert not [path for path in reports.iterdir() if path.name.startswith(".")]


def test_pages_are_made_without_tensorflow():
    code = "import sys; from collabopt.report import front_page, sweep_page; print('tensorflow' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "False\n"


def test_it_fetches_nothing_and_runs_one_script(reports):
    text = front_page.write(reports).read_text(encoding="utf-8")
    assert "default-src 'none'" in text
    assert not re.search(r'(?:src|href)="(?!data:|#)[a-z]+:', text)


def test_the_script_gets_the_stages_of_every_report_and_the_pages_that_compare_two(reports):
    (reports / "compare").mkdir()
    (reports / "compare" / "a+b.html").touch()
    boxes = write(reports).select("#compare-reports input")
    assert [box["value"] for box in boxes] == ["a", "a/sparsity=0.8", "b"]  # a sweep has many rows per stage
    told = json.loads(boxes[0]["data-report"])
    assert told["stages"]["pruned"] == [92.5, None, 0.7]
    assert told["pages"] == {"b": "a+b.html"}
    assert "PCQAT" in told["stages"] and len(told["stages"]) == 4  # by this library's scheme
