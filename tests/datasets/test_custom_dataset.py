"""Custom data sets: arrays are used as they are, and every mistake is named."""

from pathlib import Path

import numpy as np
import pytest
from example_data import make_arrays, make_experiment, write_npz

from collabopt import datasets
from collabopt.datasets import DatasetError, custom


def test_arrays_are_used_unchanged(tmp_path: Path) -> None:
    data = datasets.load(make_experiment(dataset={"path": str(write_npz(tmp_path, classes=np.array(["a", "b", "c"])))}))
    assert (data.classes, data.input_shape) == (("a", "b", "c"), (1,))
    images = np.arange(60, dtype=np.uint8).reshape(60, 1)
    data = datasets.load(make_experiment(dataset={"path": str(write_npz(tmp_path, x_train=images, x_test=images))}))
    inputs = data.test.prepare(data.test.examples).numpy()
    assert inputs.dtype == np.float32 and inputs.max() == 59
    assert data.classes == ("0", "1", "2")


def test_a_validation_split_in_the_file_is_used(tmp_path: Path) -> None:
    path = write_npz(tmp_path, x_validation=np.array([[7.5]], np.float32), y_validation=np.array([[2]]))
    data = datasets.load(make_experiment(dataset={"path": str(path)}))
    assert data.validation.examples.tolist() == [[7.5]] and data.validation.labels.tolist() == [2]
    assert len(data.train) == 60


WITH_NAN = make_arrays()["x_train"].copy()
WITH_NAN[17] = np.nan


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ({"y_test": None}, "no y_test; it has x_test, x_train, y_train"),
        ({"x_validation": np.zeros((1, 1))}, "no y_validation; it has"),
        ({"x_train": WITH_NAN}, "x_train has NaN or infinity in 1 examples, first in number 17"),
        ({"y_train": np.arange(59) % 3}, "x_train has 60 examples and y_train 59 labels"),
        ({"y_train": np.arange(60) % 3 * 2}, "y_train has labels up to 4 but no 1"),
        ({"y_train": np.arange(60) % 3 - 1}, "y_train has the label -1"),
        ({"y_test": np.arange(60) % 4}, "y_test has the label 3; expected 0 to 2"),
        ({"y_train": np.zeros(60, int), "y_test": np.zeros(60, int)}, "1 class; expected at least two"),
        ({"y_train": np.zeros(60)}, r"y_train is float64 of shape \(60,\); expected integers"),
        ({"y_train": np.eye(60, dtype=int)}, r"y_train is int64 of shape \(60, 60\)"),
        ({"classes": np.array(["a", "b"])}, "y_train has the label 2; expected 0 to 1, as there are 2 classes"),
        ({"x_test": np.zeros((60, 2), np.float32)}, r"x_test is float32 of shape \(60, 2\) and x_train"),
        ({"x_test": np.zeros((60, 1))}, r"x_test is float64 of shape \(60, 1\) and x_train float32"),
        ({"x_train": np.zeros((60, 1), int)}, "x_train is of type int64; expected floating point or uint8"),
        ({"x_train": np.zeros(60)}, r"x_train has shape \(60,\)"),
        ({"x_test": np.zeros((0, 1)), "y_test": np.zeros(0, int)}, r"x_test has shape \(0, 1\)"),
        ({"x_train": np.array([["text"]] * 60)}, "x_train is of type <U4"),
        ({"x_train": np.array([[object()]] * 60)}, "not a readable .npz file"),
    ],
)
def test_wrong_arrays_are_named(tmp_path: Path, overrides: dict, message: str) -> None:
    path = write_npz(tmp_path, **overrides)
    with pytest.raises(DatasetError, match=rf"custom\.npz: .*{message}"):
        custom.read(path)


def test_missing_and_damaged_files_are_named(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match=r"none\.npz: no such file; expected an \.npz file with the arrays x_train"):
        custom.read(tmp_path / "none.npz")
    path = write_npz(tmp_path)
    path.write_bytes(path.read_bytes()[:500])
    with pytest.raises(DatasetError, match=r"custom\.npz: not a readable \.npz file"):
        custom.read(path)
    np.save(tmp_path / "one.npy", np.zeros(3))
    with pytest.raises(DatasetError, match=r"one\.npy: not a readable \.npz file"):
        custom.read(tmp_path / "one.npy")


MODULE = """
import numpy as np
x, y = np.arange(60, dtype=np.float32).reshape(-1, 1), np.arange(60) % 3

def plain():
    return {"x_train": x, "y_train": y, "x_test": x, "y_test": y}

def with_directory(data_directory):
    return {**plain(), "classes": [data_directory.name, "b", "c"]}

def nothing():
    pass

def ragged():
    return {**plain(), "x_train": [[1], [1, 2]]}
"""


@pytest.fixture
def module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A module in the current directory, with a unique name."""
    name = f"custom_data_{tmp_path.parent.name}_{tmp_path.name}".replace("-", "_")
    (tmp_path / f"{name}.py").write_text(MODULE)
    (tmp_path / f"{name}_broken.py").write_text("import no_such_package")
    monkeypatch.chdir(tmp_path)
    return name


def test_functions_get_the_data_directory_if_they_take_it(module: str, tmp_path: Path) -> None:
    plain = datasets.load(make_experiment(dataset={"function": f"{module}:plain"}), tmp_path)
    with_directory = datasets.load(make_experiment(dataset={"function": f"{module}:with_directory"}), tmp_path)
    assert plain.classes == ("0", "1", "2")
    assert with_directory.classes == (tmp_path.name, "b", "c")
    assert with_directory.name == f"{module}:with_directory"


def test_wrong_functions_are_named(module: str, tmp_path: Path) -> None:
    for function, message in (
        (
            "no_such_module:plain",
            "function=no_such_module:plain: no module no_such_module; expected one that is installed or in",
        ),
        (f".{module}:plain", "the module is relative; expected its full name"),
        (f"{module}:other", r"no function other in .*, which has \['nothing', 'plain', 'ragged', 'with_directory'\]"),
        (f"{module}:nothing", "returned NoneType; expected a dict of the arrays x_train"),
        (f"{module}:ragged", "x_train: cannot be converted to an array"),
    ):
        with pytest.raises(DatasetError, match=message):
            custom.call(function, tmp_path)
    with pytest.raises(ModuleNotFoundError, match="no_such_package"):
        custom.call(f"{module}_broken:plain", tmp_path)


@pytest.mark.parametrize(("key", "value"), [("directory", "pictures"), ("image_size", 32)])
def test_keys_of_other_data_sets_are_rejected(key: str, value: object) -> None:
    with pytest.raises(DatasetError, match=rf"dataset\.{key}={value}: only imagenet"):
        datasets.load(make_experiment(dataset={"name": "digits", key: value}))
