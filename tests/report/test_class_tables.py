"""What changed by class and by example; names come from users."""

from types import SimpleNamespace

import bs4
import numpy as np
import pandas as pd
import pytest

from collabopt.config.tasks import TASKS
from collabopt.report import tables

HOSTILE = "<script>alert(1)</script>"


@pytest.fixture
def found():
    """A search in which the chosen file gets one example of the first class wrong and one of the second right."""
    validation = SimpleNamespace(
        labels=np.array([0, 0, 0, 1, 1]),
        examples=np.array([f"folder/{name}.wav" for name in ("a", "b", HOSTILE, "d", "e")]),
    )
    data = SimpleNamespace(validation=validation, classes=(HOSTILE, "no"), task=TASKS["classification"])
    table = pd.DataFrame({"stage": ["baseline", "pcqat"], "format": ["float32", "int8"]}, index=["base", "small"])
    scores = {"base": np.array([1, 1, 1, 0, 1]), "small": np.array([1, 1, 0, 1, 1])}
    tried = {name: SimpleNamespace(scores=values.astype(float)) for name, values in scores.items()}
    return SimpleNamespace(run=SimpleNamespace(data=data), table=table, tried=tried, nearest="small")


def test_accuracy_by_class_before_and_after(found):
    frame = tables.classes(found).to_frame()
    assert frame["Class"].tolist() == [HOSTILE, "no"]
    assert frame["Baseline float32 (%)"].tolist() == ["100.00", "50.00"]
    assert frame["PCQAT int8 (%)"].tolist() == ["66.67", "100.00"]
    assert frame["Newly wrong"].tolist() == ["1", ""] and frame["Newly right"].tolist() == ["", "1"]
    weights = frame["Examples"].astype(int) / frame["Examples"].astype(int).sum()
    assert (weights * frame["PCQAT int8 (%)"].astype(float)).sum() == pytest.approx(80, abs=0.01)


def test_flipped_examples_have_their_place_file_and_verdict(found):
    frame = tables.flips(found).to_frame()
    assert frame["Example"].tolist() == ["2", "3"]
    assert frame["Verdict"].tolist() == ["newly wrong", "newly right"]
    assert frame["File"].tolist()[1] == "d.wav"
    found.tried["small"].scores = found.tried["base"].scores
    assert tables.flips(found).caption == "No verdict on an example flipped."


def test_names_of_classes_and_files_are_escaped(found):
    for table in (tables.classes(found), tables.flips(found)):
        assert bs4.BeautifulSoup(table._repr_html_(), "html.parser").find("script") is None


def test_other_tasks_have_no_classes(found):
    found.run.data.task = TASKS["regression"]
    assert tables.classes(found).rows == tables.flips(found).rows == []
