"""A user's function becomes a stage: stored by its source, audited, converted, drawn; mistakes are found at once."""

import os
import shutil
from pathlib import Path

import nbformat
import numpy as np
import pandas as pd
import pytest
from nbclient import NotebookClient

from collabopt import figures, stage
from collabopt.config import loading
from collabopt.config.experiment import ExperimentError
from collabopt.config.stages import STAGES
from collabopt.deploy import variants
from collabopt.report import index_page, tables
from collabopt.run import Run
from collabopt.runtime.tensorflow import keras
from collabopt.storage.function_digest import compute_function_digest

STEP = 1 / 64
TABLE = np.arange(3)


@pytest.fixture(autouse=True)
def _clean():
    before = dict(STAGES)
    yield
    STAGES.clear()
    STAGES.update(before)


@pytest.fixture
def run(trained_small, small, tmp_path, monkeypatch) -> Run:
    shutil.copytree(trained_small / "stages", tmp_path / "stages")
    monkeypatch.setattr(loading, "DATA", tmp_path)
    return Run(loading.load(str(small)), tmp_path / "report", small, tmp_path / "stages")


def round_weights(model):
    model.set_weights([np.round(array / STEP) * STEP for array in model.get_weights()])
    return model


def widen(model):
    """Another architecture: two dense layers in place of the last."""
    hidden = keras.layers.Dense(7, name="hidden")(model.layers[-2].output)
    return keras.Model(model.input, keras.layers.Dense(model.output_shape[-1], name="last")(hidden))


def test_a_stage_registered_after_the_start_is_trained_audited_converted_and_recorded(run):
    stage("mine", parent="pruned", keeps_zeros=True)(round_weights)
    finished = run.stage("mine")
    for name, kernel in finished.kernels().items():
        np.testing.assert_array_equal(kernel, np.round(run.stage("pruned").kernels()[name] / STEP) * STEP)
    assert finished.result["preserved"] is True
    assert finished.result["epochs"] == 0
    assert finished.tflite.stat().st_size > 1000
    assert "mine" in set(pd.read_csv(run.directory / "results.csv")["stage"])
    assert "mine" in set(pd.read_csv(run.directory / "layers.csv")["stage"])


def test_it_is_measured_drawn_and_tabulated_and_pages_do_not_need_the_function(run):
    stage("mine", parent="pruned", keeps_zeros=True)(round_weights)
    names = "baseline", "pruned", "mine"
    assert variants.measure(run, STAGES["mine"], "float16").tflite.is_file()
    assert "mine" in figures.draw_tree(run.results(*names)).alt
    assert "mine" in tables.stages(run.stages(*names))._repr_html_().lower()
    del STAGES["mine"]  # as in the process that writes pages
    assert "mine" in index_page.write(run.directory, "# Small.\n", {}).read_text()


def test_a_function_may_change_the_architecture_and_the_stage_is_restored_from_the_store(run, small):
    stage("wide")(widen)
    first = run.stage("wide")
    again = Run(run.experiment, None, small, run.store_directory)
    assert again.stage("wide").trained == first.trained
    assert not again._trained_here
    assert "hidden" in again.stage("wide").kernels()
    ((images, _),) = run.data.test.take(slice(8)).batches(8).as_numpy_iterator()
    np.testing.assert_array_equal(again.model("wide")(images), run.model("wide")(images))


def test_a_stage_of_a_stage_of_ones_own(run):
    stage("wide")(widen)
    stage("wide_rounded", parent="wide")(round_weights)
    kernel = run.stage("wide_rounded").kernels()["hidden"]
    np.testing.assert_array_equal(kernel, np.round(kernel / STEP) * STEP)


def test_epochs_in_the_settings_train_the_result_further(run, small):
    stage("mine")(round_weights)
    trained = Run(loading.load(str(small), settings={"stages.mine.epochs": 1}), None, small, run.store_directory)
    assert trained.stage("mine").result["epochs"] == 1
    assert trained.stage("mine").trained != run.stage("mine").trained


def test_a_changed_function_replaces_the_stage_and_those_that_start_from_it(run):
    stage("mine")(round_weights)
    stage("child", parent="mine")(lambda_free_copy)
    before = run.stage("child")

    def halve(model):
        model.set_weights([array / 2 for array in model.get_weights()])
        return model

    stage("mine")(halve)
    after = run.stage("child")
    assert after.trained != before.trained
    np.testing.assert_allclose(after.kernels()["fc"], run.stage("baseline").kernels()["fc"] / 2)


def lambda_free_copy(model):
    return model


@pytest.mark.parametrize(
    ("name", "parent", "message"),
    [
        ("Mine", "baseline", "stage name='Mine': expected lower-case letters, digits and underscores"),
        ("pruned", "baseline", "stage name='pruned': the workbook has such a stage"),
        ("mine", "prunned", "stage mine: parent='prunned': no such stage; did you mean pruned?"),
        ("mine", "pqat", "stage mine: parent='pqat': no such stage"),
        ("mine", "mine", "stage mine: parent='mine': no such stage"),
    ],
)
def test_a_bad_name_or_parent_is_one_line_at_once(name, parent, message):
    with pytest.raises(ExperimentError) as error:
        stage(name, parent=parent)(round_weights)
    assert str(error.value).startswith(message)
    assert "\n" not in str(error.value)


def shrink_output(model):
    return keras.Model(model.input, keras.layers.Dense(3)(model.layers[-2].output))


def break_weights(model):
    model.set_weights([array * np.nan for array in model.get_weights()])
    return model


def nest(model):
    return keras.Sequential([keras.Input(model.input_shape[1:]), model])


def rename(model):
    return keras.models.clone_model(
        model, clone_function=lambda one: type(one).from_config(one.get_config() | {"name": f"new_{one.name}"})
    )


class Unknown(keras.layers.Layer):
    """A layer that is not registered."""


def add_unknown(model):
    return keras.Model(model.input, Unknown()(model.output))


@pytest.mark.parametrize(
    ("function", "message"),
    [
        (lambda_free_copy, None),
        (print, "its source cannot be read"),
        (shrink_output, "its function returned a model with output_shape=(None, 3); expected (None, 10)"),
        (break_weights, "its function returned weights that are not finite"),
        (nest, "inside; call its layers one by one instead"),
        (rename, "its function returned kernels of other names or shapes"),
        (add_unknown, "its function returned layers that cannot be stored"),
    ],
)
def test_a_bad_return_value_is_one_line_before_any_training(small, tmp_path, monkeypatch, function, message):
    monkeypatch.setattr(loading, "DATA", tmp_path)
    run = Run(loading.load(str(small)), None, small, tmp_path / "stages")
    monkeypatch.setattr(Run, "_train", lambda *_: pytest.fail("trained"))
    if message is None:
        stage("mine", keeps_zeros=True)(function)
        with pytest.raises(pytest.fail.Exception, match="trained"):
            run.stage("mine")
        return
    with pytest.raises(ExperimentError) as error:
        stage("mine", keeps_zeros=True)(function)
        run.stage("mine")
    assert message in str(error.value)
    assert "\n" not in str(error.value)


def return_nothing(model):
    model.summary(print_fn=str)


def fail(model):
    return model.layers["conv"]


def test_a_function_that_fails_or_returns_nothing_is_one_line_before_any_training(run, monkeypatch):
    monkeypatch.setattr(Run, "_train", lambda *_: pytest.fail("trained"))
    stage("mine")(return_nothing)
    with pytest.raises(ExperimentError, match=r"stage mine: its function returned builtins.NoneType; expected a model"):
        run.stage("mine")
    stage("mine")(fail)
    with pytest.raises(ExperimentError, match=r"stage mine: its function fails: TypeError"):
        run.stage("mine")


DEFINE = '''
import numpy as np
STEP = {step}
def snap(array):
    """{comment}"""
    return np.round(array / STEP) * STEP
@decorate
def mine(model):
    # {comment}
    model.set_weights([snap(array) for array in model.get_weights()])
    return model
'''


def digest_of(source: str, tmp_path, monkeypatch, name: str) -> str:
    (tmp_path / f"{name}.py").write_text(source.replace("@decorate\n", ""))
    monkeypatch.syspath_prepend(tmp_path)
    return compute_function_digest(__import__(name).mine)


def test_the_key_holds_the_source_of_the_function_and_what_it_uses(tmp_path, monkeypatch):
    first = digest_of(DEFINE.format(step=0.5, comment="one"), tmp_path, monkeypatch, "mine_1")
    assert digest_of(DEFINE.format(step=0.5, comment="two"), tmp_path, monkeypatch, "mine_2") == first
    assert digest_of(DEFINE.format(step=0.25, comment="one"), tmp_path, monkeypatch, "mine_3") != first
    changed = DEFINE.format(step=0.5, comment="one").replace("np.round", "np.floor")
    assert digest_of(changed, tmp_path, monkeypatch, "mine_4") != first
    changed = DEFINE.format(step=0.5, comment="one").replace("snap(array) for", "-snap(array) for")
    assert digest_of(changed, tmp_path, monkeypatch, "mine_5") != first


def test_an_array_counts_by_its_content_and_an_object_is_refused(monkeypatch):
    def use(model):
        return TABLE, model

    before = compute_function_digest(use)
    monkeypatch.setitem(globals(), "TABLE", np.arange(4))
    assert compute_function_digest(use) != before
    monkeypatch.setitem(globals(), "TABLE", object())
    with pytest.raises(ExperimentError, match="stage mine: use: it uses TABLE, a object; expected functions, numbers"):
        stage("mine")(use)


CELL = """
import collabopt, sys
from pathlib import Path
from collabopt.config import loading
from collabopt.run import Run
loading.DATA = Path({data!r})
STEP = {step}

@collabopt.stage("mine", parent="pruned", keeps_zeros=True)
def mine(model):
    model.set_weights([(array / STEP).round() * STEP for array in model.get_weights()])
    return model
"""
AGAIN = """
run = globals().get("run") or Run(loading.load({small!r}), None, Path({small!r}), loading.DATA / "stages")
print(run.stage("mine").trained.name, run.stage("mine").result["preserved"], sorted(run._trained_here))
"""


def test_in_a_notebook_a_cell_that_runs_again_replaces_the_stage(trained_small, small, tmp_path, monkeypatch):
    paths = [str(Path(__file__).parents[1]), os.environ.get("PYTHONPATH", "")]  # of example_network, for the kernel
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(paths))
    shutil.copytree(trained_small / "stages", tmp_path / "stages")
    sources = []
    for step in (0.015625, 0.015625, 0.25):
        sources += [CELL.format(data=str(tmp_path), step=step), AGAIN.format(small=str(small))]
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(source) for source in sources])
    NotebookClient(notebook, timeout=300, kernel_name="python3").execute()
    printed = [
        "".join(output.text for output in cell.outputs if output.output_type == "stream" and output.name == "stdout")
        for cell in notebook.cells[1::2]
    ]
    first, second, third = (line.split(" ", 1) for line in printed)
    assert first[0] == second[0] != third[0]
    assert [one[1].strip() for one in (first, third)] == ["True ['mine']"] * 2
