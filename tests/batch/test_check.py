"""A batch checks data and model first, and reports all mistakes at once."""

import dataclasses
from pathlib import Path

import numpy as np
import pytest
from example_batch import Place

from collabopt.batch import check
from collabopt.config import loading
from collabopt.runtime.tensorflow import keras

pytestmark = pytest.mark.xdist_group("batch")

EXPERIMENT = """
dataset: {path: mine.npz}
model: {function: "MODULE:net"}
sparsity: 0.5
number_of_clusters: 8
exclude: {pruning: [no_such_layer]}
"""
MODULE = """
from collabopt.runtime.tensorflow import keras

def net(input_shape, classes):
    inputs = keras.Input((4, 4, 3))
    outputs = keras.layers.Dense(classes, name="fc")(keras.layers.Flatten()(inputs))
    return keras.Model(inputs, outputs)
"""


@pytest.fixture
def experiment(tmp_path: Path) -> Path:
    """The file of an experiment with images (4, 4, 1) and a model for (4, 4, 3)."""
    module = f"check_{tmp_path.parent.name}_{tmp_path.name}".replace("-", "_")
    (tmp_path / f"{module}.py").write_text(MODULE)
    (tmp_path / "mine.yaml").write_text(EXPERIMENT.replace("MODULE", module))
    x, y = np.zeros((60, 4, 4, 1), np.float32), np.arange(60) % 3
    np.savez(tmp_path / "mine.npz", x_train=x, y_train=y, x_test=x, y_test=y)
    return tmp_path / "mine.yaml"


def change(path: Path, **changes: np.ndarray) -> None:
    with np.load(path) as arrays:
        np.savez(path, **{**arrays, **changes})


def find_mistakes(experiment: Path) -> list[str]:
    return check.find_mistakes(loading.load(str(experiment)))


def test_all_mistakes_in_data_and_model_are_found_at_once(experiment: Path) -> None:
    wrong = np.full((60, 4, 4, 1), np.nan, np.float32)
    change(experiment.with_name("mine.npz"), x_train=wrong, x_test=wrong, y_test=np.full(60, 9))
    mistakes = find_mistakes(experiment)
    assert [any(word in line for line in mistakes) for word in ("x_train has NaN", "x_test has NaN", "label 9")] == [
        1
    ] * 3
    assert mistakes[-1].startswith("model: function=") and "input shape=(None, 4, 4, 3)" in mistakes[-1]
    assert len(mistakes) == 4


def test_the_input_of_a_saved_model_is_checked_even_with_wrong_labels(experiment: Path) -> None:
    model = keras.Sequential([keras.Input((5,)), keras.layers.Dense(3)])
    model.save(experiment.with_name("mine.keras"))
    text = experiment.read_text()
    experiment.write_text(text.replace(text.splitlines()[2], "model: {path: mine.keras}"))
    change(experiment.with_name("mine.npz"), y_train=np.arange(60) % 3 - 1)
    mistakes = find_mistakes(experiment)
    assert len(mistakes) == 2 and "y_train has the label -1" in mistakes[0] and "input shape=(None, 5)" in mistakes[1]


def test_a_model_that_cannot_be_trained_is_found(experiment: Path) -> None:
    module = next(experiment.parent.glob("check_*.py"))
    module.write_text(MODULE.replace("(4, 4, 3)", "input_shape"))
    (mistake,) = find_mistakes(experiment)
    assert mistake.startswith("model: no_such_layer: exclude.pruning names no layer")
    experiment.write_text(experiment.read_text().replace("no_such_layer", "fc"))
    assert find_mistakes(experiment) == []
    # The model's input has channels, and the images do not.
    x, network = np.zeros((60, 4, 4), np.float32), keras.Sequential([keras.Input((4, 4, 1)), keras.layers.Flatten()])
    change(experiment.with_name("mine.npz"), x_train=x, x_test=x)
    network.add(keras.layers.Dense(3, name="fc"))
    network.save(experiment.with_name("mine.keras"))
    text = experiment.read_text()
    experiment.write_text(text.replace(text.splitlines()[2], "model: {path: mine.keras}"))
    assert find_mistakes(experiment) == []


def test_errors_of_the_users_code_are_lines_with_their_place(experiment: Path) -> None:
    module = next(experiment.parent.glob("check_*.py"))
    module.write_text("def load():\n    return {}['x']\n")
    experiment.write_text(experiment.read_text().replace("path: mine.npz", f'function: "{module.stem}:load"'))
    mistakes = find_mistakes(experiment)
    assert mistakes[0] == f"dataset: KeyError: 'x' ({module}, line 2)"
    assert mistakes[1].startswith("model: not checked, because the data does not tell")


@pytest.mark.parametrize("is_scaled", [True, False])
def test_a_trained_model_on_inputs_of_another_scale_is_doubted(experiment: Path, monkeypatch, is_scaled: bool) -> None:
    notes: list[str] = []
    monkeypatch.setattr(check.progress, "note", notes.append)
    y = np.arange(60) % 3
    x = np.eye(3, dtype=np.float32)[y] - 0.5
    model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(3, "softmax")])
    model.set_weights([np.eye(3), np.zeros(3)])
    model.save(experiment.with_name("mine.keras"))
    change(experiment.with_name("mine.npz"), x_train=x if is_scaled else -x, x_test=x)
    text = experiment.read_text().replace("exclude: {pruning: [no_such_layer]}", "")
    experiment.write_text(text.replace(text.splitlines()[2], "model: {path: mine.keras}"))
    assert find_mistakes(experiment) == []
    assert "import: softmax was taken off the output" in notes
    assert [line for line in notes if "accuracy on 54 training examples is 0.00%" in line] == notes[1:] * (
        not is_scaled
    )
    assert len(notes) == 1 + (not is_scaled)


@pytest.mark.timeout(600)
def test_a_function_that_returns_other_arrays_each_time_is_refused(experiment: Path) -> None:
    (module,) = experiment.parent.glob("check_*.py")
    lines = "import numpy as np", "", "", "def load():", "    x = np.random.default_rng().normal(size=(60, 4, 4, 3))"
    lines += ("    y = np.arange(60) % 3", "    return dict(x_train=x, y_train=y, x_test=x[:9], y_test=y[:9])", "")
    module.write_text(MODULE + "\n".join(lines))
    text = experiment.read_text().replace("path: mine.npz", f'function: "{module.stem}:load"')
    experiment.write_text(text.replace("no_such_layer", "fc"))
    (mistake,) = find_mistakes(experiment)
    assert mistake.endswith("returns other arrays each time; give its generators of random numbers a seed")


def test_test_examples_that_are_in_train_are_counted(tiny_data) -> None:
    assert list(check._find_shared(tiny_data)) == []
    both = dataclasses.replace(tiny_data, test=tiny_data.train.take(np.arange(3)))
    (line,) = check._find_shared(both)
    assert line.startswith(
        f"CAUTION: 3 of 3 test examples are in train or validation, too, such as example {both.test.places[0]}. Sco"
    )
    split = dataclasses.replace(tiny_data, test=tiny_data.validation.take(np.arange(2)))
    assert " 2 of 2 test examples are in train or validation, too" in "".join(check._find_shared(split))
    few = dataclasses.replace(both, input_shape=(4,))
    assert list(check._find_shared(few)) == []


def test_a_batch_with_wrong_data_stops_before_any_notebook(experiment: Path, tmp_path: Path) -> None:
    change(experiment.with_name("mine.npz"), y_test=np.full(60, 9))
    place = Place(tmp_path)
    done = place.run(experiment)
    assert done.status == 2, done
    lines = done.stderr.splitlines()
    assert len(lines) == 2 and "y_test has the label 9; expected 0 to 2" in lines[0] and "input shape" in lines[1]
    assert not list(place.reports.rglob("*.html")) and "notebook" not in done.stdout
