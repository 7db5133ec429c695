"""A model with a layer that has no int8 form is pruned and clustered, and its QAT stages are shown as not available."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from collabopt import figures
from collabopt.batch.notebook import run_notebook
from collabopt.config import loading
from collabopt.config.formats import STANDARD
from collabopt.config.stages import STAGES
from collabopt.deploy import search
from collabopt.report import tables
from collabopt.run import Run
from collabopt.tflite import convert

pytestmark = [pytest.mark.timeout(900)]

KERNELS = ["steps:kernel", "steps:recurrent_kernel", "fc"]
FLOAT = ["baseline", "pruned", "sparse_clustered"]
QAT = ["qat", "pqat", "pcqat"]
TREE = [name for name in STAGES if name in (*FLOAT, *QAT)]
"""Each technique. The other stages are tried by the slow search."""
SLOW = pytest.mark.slow
REASON = "not available: GRU"


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    with pytest.MonkeyPatch.context() as patch:
        path = tmp_path_factory.mktemp("recurrent")
        patch.setattr(loading, "DATA", path)
        patch.setenv("COLLABOPT_DATA", str(path))
        patch.setenv("COLLABOPT_NOTEBOOK", "")  # `run_notebook` sets it
        yield path


@pytest.fixture(scope="module")
def recurrent(place, small) -> Path:
    """The file of the small experiment with a recurrent network."""
    file = place / "recurrent.yaml"
    file.write_text(small.read_text().replace("example_network", "example_recurrent"))
    return file


@pytest.fixture(scope="module")
def run(place, recurrent) -> Run:
    run = Run(loading.load(str(recurrent)), place / "report", recurrent, place / "stages")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(convert, "_convert_apart", convert_here)
        assert not any(one.stops for one in run.preflight())
    run.stage("baseline")  # its file shows that other processes convert
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(convert, "_convert_apart", convert_here)
        run.stages(*TREE)
    return run


def convert_here(infer, module, format: str, calibration: dict[str, np.ndarray]) -> bytes:
    """Convert in this process, which takes ten seconds less."""
    converter = convert.tf.lite.TFLiteConverter.from_concrete_functions([infer], module)
    convert.set_calibration(converter, format, calibration)
    return convert.run_converter(converter, format)


def test_the_kernels_of_the_layer_are_pruned_and_clustered(run):
    layers = run.layers(*FLOAT).set_index(["stage", "layer"])
    assert list(layers.loc["baseline"].index) == KERNELS
    assert (layers.loc[["pruned", "sparse_clustered"], "sparsity"] >= 0.49).all()
    assert (layers.loc["sparse_clustered", "unique_tensor"] <= 32).all()
    assert run.stage("sparse_clustered").result["preserved"] is True
    before, after = run.stage("baseline").kernels(), run.stage("pruned").kernels()
    assert all(np.any(before[name] != after[name]) for name in KERNELS)


def test_quantization_aware_stages_are_not_available_and_have_no_figures(run):
    for name in QAT:
        one = run.stage(name)
        assert one.unavailable == "GRU"
        assert (one.kernels(), one.int8_values()) == ({}, {})
        assert one.result["accuracy"] is None
    rows = pd.read_csv(run.directory / "results.csv").set_index("stage")
    assert list(rows.index) == TREE
    assert rows.loc[QAT, "unavailable"].eq("GRU").all()
    assert rows.loc[FLOAT, "unavailable"].isna().all()
    assert rows.loc[FLOAT, "validation_accuracy"].notna().all()
    assert {path.stem for path in (run.directory / "models").glob("*.tflite")} <= set(FLOAT)


def test_tables_and_figures_say_so(run):
    finished = run.stages(*TREE)
    assert repr(tables.stages(finished)).count(REASON) == len(QAT)
    assert repr(tables.verdicts(finished)).count(REASON) == 2
    assert REASON in repr(tables.layers(run.stage("pqat")))
    assert len(tables.times(finished).rows) == len(TREE)
    assert len(tables.coding(finished).rows) == len(FLOAT)
    tree = figures.draw_tree(run.results(*TREE))
    texts = [text.get_text() for text in tree.axes[0].texts]
    assert texts.count(REASON.replace(": ", ":\n")) == len(QAT)
    figures.draw_training(run.histories(*TREE))
    figures.draw_layer_properties(run.layers(*TREE))


@SLOW  # eight conversions in processes of their own
def test_the_search_tries_every_format_and_shows_what_is_not_available(run):
    found = search.search(run)
    qat = [*QAT, "cqat"]
    assert {*found.tried} | {*found.unavailable.index} == {
        *(f"{stage}-{name}" for stage in (*FLOAT, "clustered") for name in STANDARD),
        *(f"{stage}-int8" for stage in qat),
    }
    assert {f"{stage}-int8" for stage in qat} <= {*found.unavailable.index}
    assert repr(tables.search(found)).count(REASON) == len(qat)
    written = pd.read_csv(run.directory / "variants.csv").set_index(["stage", "format"])
    assert written.loc[[(stage, "int8") for stage in qat], "unavailable"].eq("GRU").all()
    assert {"baseline-float32", "baseline-dynamic_range"} <= {*found.tried}


@pytest.mark.parametrize(
    "notebook", [pytest.param("baseline", marks=SLOW), "pqat", pytest.param("deployment_tree", marks=SLOW)]
)
def test_a_notebook_runs_and_its_page_says_so(notebook, run, place, recurrent, monkeypatch):  # noqa: ARG001
    monkeypatch.setenv("PYTHONPATH", f"{Path(__file__).parent}:{Path(figures.__file__).parents[2]}")
    pages, runs = place / "pages", place / "runs"
    runs.mkdir(exist_ok=True)
    assert run_notebook(notebook, str(recurrent), {}, runs, pages, "1/1") == 0
    assert REASON in (pages / f"{notebook}.html").read_text()


@SLOW
def test_a_layer_left_in_float_on_purpose_makes_the_stages_available(run, place, recurrent):
    excluded = place / "excluded.yaml"
    excluded.write_text(f"{recurrent.read_text()}exclude: {{quantization: [steps]}}\n")
    other = Run(loading.load(str(excluded)), None, excluded, place / "stages")
    pcqat = other.stage("pcqat")
    assert pcqat.unavailable == ""
    assert pcqat.result["preserved"] is True
    assert pcqat.layers.set_index("layer").loc[KERNELS[:2], "quantizer"].eq("KernelHolder").all()
    assert pcqat.layers.set_index("layer").loc[KERNELS[:2], "skipped"].eq("excluded from quantization").all()
    assert other.stage("sparse_clustered").trained == run.stage("sparse_clustered").trained
