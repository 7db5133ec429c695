"""A file that predicts one class everywhere is flagged, and never chosen. Case: classes 93 : 7, always the first."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from sklearn.metrics import balanced_accuracy_score

from collabopt.analysis import scoring
from collabopt.config import loading
from collabopt.config.experiment import Targets
from collabopt.config.tasks import TASKS
from collabopt.datasets import Data, Split
from collabopt.deploy import model_card, search, targets
from collabopt.report import tables
from collabopt.run import Run
from collabopt.runtime.tensorflow import keras
from collabopt.storage.results import is_constant

pytestmark = pytest.mark.timeout(600)


def make_model(task: str, bias: float) -> keras.Model:
    """A network that reads the first input, and with a large bias always predicts the first class."""
    inputs = keras.Input((2,))
    outputs = keras.layers.Dense(2 if task == "classification" else 1, name="fc")(inputs)
    model = keras.Model(inputs, outputs)
    kernel = [[-1.0, 1.0], [0.0, 0.0]] if task == "classification" else [[2.0], [0.0]]
    model.layers[-1].set_weights([np.array(kernel), np.array([bias, 0] if task == "classification" else [-bias])])
    return model


@pytest.fixture
def split() -> Split:
    labels = (np.arange(200) % 100 < 7).astype(int)
    signs = np.where(np.arange(200) % 10 == 3, -1, 1) * (2 * labels - 1)  # every tenth is misread
    return Split(np.stack([signs, signs], axis=1).astype(np.float32), labels)


@pytest.mark.parametrize("task", ["classification", "binary"])
def test_balanced_accuracy_and_classes_are_those_of_the_predictions(task: str, split: Split) -> None:
    data = Data("", (), split, split, split, "", (2,), None, TASKS[task])
    for bias in (0.0, 9.0):
        scores, classes = scoring.score_splits(make_model(task, bias), {}, data, 1, True, False)
        found = scoring.describe_classes(scores, classes, data)
        expected = balanced_accuracy_score(split.labels, classes["test"])
        assert found["balanced_accuracy"] == pytest.approx(expected)
        assert found["predicted_classes"] == (2 if bias == 0 else 1)
        assert is_constant(found) == (bias > 0)
        if bias:
            assert scores["test"].mean() == pytest.approx(0.93)
            assert found["validation_balanced_accuracy"] == 0.5


def test_one_class_is_no_flaw_where_there_is_only_one(split: Split) -> None:
    single = split.take(np.flatnonzero(split.labels == 0))
    assert scoring.count_predicted_classes(np.zeros(len(single)), single) is None


def test_other_tasks_have_no_classes(split: Split) -> None:
    data = Data("", (), split, split, split, "", (2,), None, TASKS["regression"])
    scores, classes = scoring.score_splits(make_model("binary", 0), {}, data, 1, False, False)
    assert scoring.describe_classes(scores, classes, data) == {}


@pytest.fixture
def variants() -> pd.DataFrame:
    """The smallest file predicts one class, and is as accurate as the baseline."""
    return pd.DataFrame(
        {
            "stage": ["baseline", "baseline", "pruned"],
            "format": ["float32", "int8", "int8"],
            "validation_accuracy": [0.935, 0.932, 0.93],
            "gzip_bytes": [400, 100, 20],
            "predicted_classes": [2, 2, 1],
        },
        index=["a", "b", "c"],
    )


def test_targets_and_the_recommendation_never_choose_it(variants: pd.DataFrame) -> None:
    limits = Targets(max_gzip_bytes=50)
    assert targets.recommend(variants) == "b"
    assert targets.choose(variants, limits) is None
    assert targets.find_nearest(variants, limits) == "b"
    assert targets.choose(variants, Targets(max_gzip_bytes=150)) == "b"
    rows = targets.judge(variants, limits)
    assert rows.loc["c", "verdict"] == "predicts one class for every example"
    assert not rows["chosen"].any()
    assert "0 of 3" in targets.describe(rows, limits) or targets.describe(rows, limits).startswith("None of 3")
    fine = variants.assign(predicted_classes=2)
    assert (targets.recommend(fine), targets.choose(fine, limits)) == ("c", "c")


def test_the_recommendation_needs_a_file_that_tells_classes_apart(variants: pd.DataFrame) -> None:
    with pytest.raises(ValueError, match="every file predicts one class for every example of validation; expected"):
        targets.recommend(variants.assign(predicted_classes=1))
    # The baseline itself may be the one.
    assert targets.recommend(variants.assign(predicted_classes=[1, 2, 1])) == "b"


EXPERIMENT = """
dataset: {path: rare.npz}
model: {name: mnist_cnn}
density_kernel: fc
targets: {max_accuracy_drop: 0.5}
deploy_nearest: true
stages:
  baseline: {epochs: 1, batch_size: 64, optimizer: sgd, learning_rate: 0.05}
"""


def test_a_constant_baseline_is_flagged_on_pages_and_in_the_card(tmp_path: Path, monkeypatch) -> None:
    labels = np.tile((np.arange(100) % 100 >= 93).astype(int), 3)
    noise = np.random.default_rng(0).normal(0, 0.01, (300, 4, 4, 1)).astype(np.float32)
    splits = "train", "validation", "test"
    arrays = {f"x_{name}": noise for name in splits} | {f"y_{name}": labels for name in splits}
    np.savez(tmp_path / "rare.npz", **arrays)
    (tmp_path / "rare.yaml").write_text(EXPERIMENT)
    monkeypatch.setattr(loading, "DATA", tmp_path)
    file = tmp_path / "rare.yaml"
    run = Run(loading.load(str(file)), tmp_path / "report", file, tmp_path / "stages")
    monkeypatch.setattr(search.variants, "list_levels", lambda tree: [tree["baseline"]])
    found = search.search(run)
    assert found.chosen is None
    assert set(found.table["predicted_classes"]) == {1}
    assert found.table["validation_balanced_accuracy"].tolist() == [0.5] * len(found.table)
    card = model_card.write(found)
    assert "**WARNING: the file predicts one class for every example of validation.**" in card.text
    assert "| Validation, balanced (mean over classes) | 50.00% |" in card.text
    for table in (tables.search(found), tables.stages(found.finished), tables.sizes(found)):
        warned = [row["Warning"] for row in table.rows]
        assert {(cell.text, cell.kind) for cell in warned} == {("predicts one class for every example", "no wrap")}
    rows = pd.read_csv(tmp_path / "report" / "results.csv")
    assert rows["predicted_classes"].tolist() == [1]
    assert rows["validation_balanced_accuracy_int8"].tolist() == [0.5]
