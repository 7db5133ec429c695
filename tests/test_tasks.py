"""Every task goes down the deployment tree, and its score is that of the files."""

import json

import numpy as np
import pandas as pd
import pytest
from conftest import skip_trial

from collabopt import figures, model_card, search, sensitivity, tables
from collabopt.analysis import scoring
from collabopt.config import experiment, loading
from collabopt.config.stages import STAGES
from collabopt.report import front_page, index_page
from collabopt.run import Run
from collabopt.runtime.tensorflow import keras

SECTION = {"epochs": 2, "batch_size": 32, "optimizer": "adam", "learning_rate": 3e-3}
LAYERS = keras.layers
slow = pytest.mark.slow
FEW = ["baseline", "qat", "pruned", "sparse_clustered", "pcqat"]
"""Each technique once. The slow tasks go down the whole tree."""

pytestmark = pytest.mark.usefixtures("eagerly")


def draw(*shape: int) -> np.ndarray:
    return np.random.default_rng(len(shape)).normal(size=shape).astype(np.float32)


def make_arrays(task: str) -> dict[str, np.ndarray]:
    """A data set that a small network can learn."""
    x = draw(240, 8, 8, 1) if task in ("reconstruction", "segmentation") else draw(240, 6)
    y = {
        "binary": lambda: (x[:, 0] > x[:, 1]).astype(int),
        "multilabel": lambda: (x[:, :3] > 0).astype(int),
        "regression": lambda: 40 + 25 * x[:, :1] - 10 * x[:, 1:2],
        "reconstruction": lambda: np.zeros(240, int),
        "segmentation": lambda: (x[..., 0] > 0).astype(int),
    }[task]()
    arrays = {"x_train": x[:200], "y_train": y[:200], "x_test": x[200:], "y_test": y[200:]}
    if task == "reconstruction":  # anomalies are far from what the network has seen
        arrays["x_test"] = np.where(np.arange(40)[:, None, None, None] < 20, x[200:], 4 * x[200:])
        arrays["y_test"] = (np.arange(40) >= 20).astype(int)
    return arrays


def build_network(task: str) -> keras.Model:
    if task in ("reconstruction", "segmentation"):
        inputs = x = keras.Input((8, 8, 1))
        x = LAYERS.Conv2D(8, 3, strides=2, padding="same", activation="relu")(x)
        x = LAYERS.Conv2DTranspose(8, 3, strides=2, padding="same", activation="relu")(x)
        outputs, activation = (1, None) if task == "reconstruction" else (2, "softmax")
        return keras.Model(inputs, LAYERS.Conv2D(outputs, 1, activation=activation)(x))
    outputs, activation = {"binary": (1, "sigmoid"), "multilabel": (3, "sigmoid"), "regression": (1, None)}[task]
    layers = [keras.Input((6,)), LAYERS.Dense(24, "relu"), LAYERS.Dense(16, "relu"), LAYERS.Dense(outputs, activation)]
    return keras.Sequential(layers)


SLOW = [pytest.param(name, marks=slow) for name in ("binary", "multilabel", "reconstruction", "segmentation")]


@pytest.fixture(scope="module", params=["regression", *SLOW])
def run(request, tmp_path_factory) -> Run:
    folder = tmp_path_factory.mktemp(request.param)
    np.savez(folder / "data.npz", **make_arrays(request.param))
    build_network(request.param).save(folder / "model.h5")
    baseline = SECTION | {"epochs": 10, "learning_rate": 0.02}
    values = {
        "name": request.param,
        "dataset": {"path": str(folder / "data.npz")},
        "model": {"path": str(folder / "model.h5")},
        "task": request.param,
        "validation_fraction": 0.2,
        "stages": {**dict.fromkeys(STAGES, SECTION), "baseline": baseline},
    }
    (folder / "model.yaml").write_text(f"name: {request.param}")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(loading, "DATA", folder)
        patch.setattr(loading, "REPORTS", folder / "reports")
        if request.param == "regression":  # the slow tasks try the stages first
            skip_trial(patch)
        report = folder / "reports" / request.param
        yield Run(experiment.validate(values), report, folder / "model.yaml", folder / "stages")


@pytest.fixture(scope="module")
def names(run) -> list[str]:
    """The stages that are trained."""
    return FEW if run.experiment.name == "regression" else [*STAGES]


def test_every_stage_is_preserved_and_learns(run, names):
    score, rows = run.data.task.score, run.results(*names).set_index("stage")
    assert set(rows["preserved"].dropna()) == {True}
    assert rows[[score.test, score.test_int8]].notna().all(axis=None)
    base = rows.loc["baseline", score.validation]
    untrained = {"regression": 20, "reconstruction": 0.7}.get(run.experiment.name, 0.6)
    assert score.compute_drop(untrained, base) < 0, "the network did not learn"
    for stage in (name for name in names if STAGES[name].quantizes):
        # The file computes what training saw.
        assert rows.loc[stage, score.test_int8] == pytest.approx(rows.loc[stage, score.test], rel=0.05, abs=0.05)


def test_scores_of_the_files_are_those_in_the_table(run):
    one, data = run.stage("pruned"), run.data
    probabilities = run.imported().output_activation is not None
    scores = scoring.score_file(one.tflite.read_bytes(), data.test, data.task, 2, probabilities)
    np.testing.assert_array_equal(scores[data.test.counted], one.scores()["test_int8"])
    assert scoring.summarize(scores, data.test) == one.result[data.task.score.test_int8]


def test_anomalies_have_an_auc(run):
    result = run.stage("qat").result
    if run.experiment.name == "reconstruction":
        assert result["auc"] > 0.9
        assert "validation_auc" not in result  # no anomaly among the training examples
    else:
        assert "auc" not in result


def test_the_search_and_the_pages_use_the_score(run, names):
    score = run.data.task.score
    limit = {"max_metric_drop": 0.5 * abs(run.stage("baseline").result[score.validation]), "max_gzip_bytes": 100_000}
    aimed = run.experiment.model_copy(update={"targets": experiment.Targets(**limit)})
    found = search.search(Run(aimed, run.directory, run.source, run.store_directory))
    assert found.chosen
    assert found.table[score.validation].notna().all()
    card = model_card.write(found)
    assert score.title in card.text.lower() or score.title in card.text
    assert json.loads((run.directory / "deployed" / f"{aimed.name}.json").read_text())["metric"] == score.name
    assert f"INT8 {score.title}" in tables.stages(run.stages(*names))._repr_html_()
    for figure in (figures.draw_tree(run.results(*names)), figures.draw_sizes(run.results(*names))):
        assert score.title in figure.alt or score.unit == "%"
    assert score.title in figures.draw_training(run.histories("baseline", "qat")).alt
    assert score.test_int8 in pd.read_csv(run.directory / "results.csv")
    index_page.write(run.directory, "")
    page = front_page.write(loading.REPORTS).read_text(encoding="utf-8")
    assert f"INT8 {score.title}" in page


def test_layers_are_ranked_by_the_score(run):
    table = sensitivity.measure(run)
    assert set(table["score"]) == {run.data.task.score.name}
    assert table["pruned_drop"].notna().all()
    assert sensitivity.recommend(table, run.experiment.exclude, sensitivity.get_tolerance(table)).note
