"""The timeline of a report: one row per notebook and stage, and only what the last batch ran is drawn."""

import pandas as pd
import pytest

from collabopt import figures
from collabopt.config import loading
from collabopt.figures.timeline import select_batch
from collabopt.storage import timeline


@pytest.fixture(autouse=True)
def _data(tmp_path, monkeypatch):
    monkeypatch.setattr(loading, "DATA", tmp_path / "data")


def test_a_stage_that_runs_again_in_the_same_notebook_replaces_its_row(tmp_path):
    for origin in ("trained", "store"):
        timeline.record(tmp_path, "2026-01-01T00:00:00.000+00:00", origin, "pqat", stage="pruned", scheme="", seed=0)
    timeline.record(tmp_path, "2026-01-01T00:00:00.000+00:00", "trained", "cqat", stage="pruned", scheme="", seed=0)
    timeline.record(tmp_path, "2026-01-01T00:00:00.000+00:00", "notebook", "pqat")
    rows = timeline.read(tmp_path)
    assert rows[["notebook", "stage", "origin"]].to_numpy().tolist() == [
        ["pqat", "pruned", "store"],
        ["cqat", "pruned", "trained"],
        ["pqat", "", "notebook"],
    ]
    assert (pd.to_datetime(rows["ended"]) > pd.to_datetime(rows["began"])).all()


def test_a_report_without_a_timeline_has_no_rows(tmp_path):
    assert timeline.read(tmp_path).empty
    (tmp_path / "timeline.csv").write_bytes(b"\xff")
    assert select_batch(timeline.read(tmp_path), None).empty


def make_rows(*seconds: int) -> pd.DataFrame:
    moments = [pd.Timestamp(second, unit="s", tz="UTC").isoformat() for second in seconds]
    ends = [pd.Timestamp(second + 5, unit="s", tz="UTC").isoformat() for second in seconds]
    return pd.DataFrame({"notebook": "pqat", "stage": "pruned", "began": moments, "ended": ends, "origin": "trained"})


def test_only_what_the_last_batch_ran_is_shown_in_seconds_since_its_first_notebook():
    chosen = select_batch(make_rows(100, 260, 250), "1970-01-01T01:04:00+01:00")
    assert chosen["began"].tolist() == [0, 10]
    assert chosen["ended"].tolist() == [5, 15]
    assert len(select_batch(make_rows(100), "")) == 1, "an old run.json has no time"
    assert select_batch(make_rows(100).assign(ended="soon"), "").empty


def test_the_figure_says_what_was_trained_and_how_long_it_took():
    figure = figures.draw_timeline(select_batch(make_rows(100), ""))
    assert figure.alt == "1 notebook in 5.0 s. Trained: pruned in 5.0 s. Stages from the store: 0."
    assert list(figure.hovers.values()) == ["pqat: 5.0 s", "pqat: pruned trained in 5.0 s"]
