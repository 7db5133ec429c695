"""Custom data sets: arrays are used as they are, and every mistake is named."""

from pathlib import Path

import numpy as np
import pytest
from example_data import make_arrays, make_experiment, write_npz

from collabopt import datasets
from collabopt.config import loading
from collabopt.config.sections import Dataset
from collabopt.config.tasks import TASKS
from collabopt.datasets import DatasetError, custom
from collabopt.datasets.dataset import Shapes

NPZ = Dataset(path="custom.npz")


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
        ({"y_train": np.arange(60) % 3 * 2}, "y_train has labels 0 to 4 but no 1"),
        ({"y_train": np.arange(60) % 3 - 1}, "y_train has the label -1"),
        ({"y_test": np.arange(60) % 4}, "y_test has the label 3; expected 0 to 2"),
        ({"y_train": np.zeros(60, int), "y_test": np.zeros(60, int)}, "1 class; expected at least two"),
        ({"y_train": np.full(60, 0.5)}, r"y_train has the label 0\.5; expected class indices"),
        (
            {"y_train": np.ones((60, 3), int)},
            r"y_train of shape \(60, 3\) has the row \[1 1 1\] \(number 0\); expected one-",
        ),
        ({"y_train": np.zeros((60, 2, 2), int)}, r"y_train is int64 of shape \(60, 2, 2\); expected class indices"),
        ({"classes": np.array(["a", "b"])}, "y_train has the label 2; expected 0 to 1, as there are 2 classes"),
        ({"x_test": np.zeros((60, 2), np.float32)}, r"x_test is float32 of shape \(60, 2\) and x_train"),
        ({"x_test": np.zeros((60, 1))}, r"x_test is float64 of shape \(60, 1\) and x_train float32"),
        (
            {"x_train": np.full((60, 1), 1e39)},
            r"x_train has values beyond ±3\.4e\+38, the range of float32, in 60 examp",
        ),
        ({"x_train": np.zeros((60, 1), complex)}, "x_train is of type complex128; expected floating point, integers"),
        ({"groups_train": np.zeros(59)}, r"groups_train has shape \(59,\); expected \(60,\)"),
        ({"x_train": np.zeros(60)}, r"x_train has shape \(60,\)"),
        ({"x_test": np.zeros((0, 1)), "y_test": np.zeros(0, int)}, r"x_test has shape \(0, 1\)"),
        ({"x_train": np.array([["text"]] * 60)}, "x_train is of type <U4"),
        ({"x_train": np.array([[object()]] * 60)}, "not readable"),
    ],
)
def test_wrong_arrays_are_named(tmp_path: Path, overrides: dict, message: str) -> None:
    path = write_npz(tmp_path, **overrides)
    with pytest.raises(DatasetError, match=rf"custom\.npz: .*{message}"):
        custom.read(path, NPZ)


def test_all_mistakes_are_reported_at_once(tmp_path: Path) -> None:
    wrong = {"x_train": WITH_NAN, "x_test": np.zeros((0, 1)), "y_test": np.array([3])}
    with pytest.raises(DatasetError) as caught:
        custom.read(write_npz(tmp_path, **wrong), NPZ)
    lines = str(caught.value).splitlines()
    assert len(lines) == 3
    assert all(line.startswith(f"{tmp_path}/custom.npz: ") for line in lines)
    assert [any(name in line for line in lines) for name in ("x_train", "x_test", "y_test")] == [True] * 3
    with pytest.raises(DatasetError) as caught:
        custom.read(write_npz(tmp_path, y_test=np.full(60, 9)), NPZ)
    assert caught.value.shapes == Shapes((1,), (3,), TASKS["classification"])


@pytest.mark.parametrize("kind", ["f2", "f4", "f8", "i1", "i2", "i4", "i8", "u1", "?"])
def test_examples_of_every_numeric_type_reach_the_model_as_float32(tmp_path: Path, kind: str) -> None:
    x = (np.arange(120).reshape(60, 2) % 2).astype(kind)
    data = datasets.load(make_experiment(dataset={"path": str(write_npz(tmp_path, x_train=x, x_test=x))}))
    for inputs, _ in data.test.batches(60):
        assert inputs.dtype == np.float32 and np.array_equal(inputs, x)


def test_several_inputs_are_dicts_by_name(tmp_path: Path) -> None:
    numbers = np.arange(60, dtype=np.float32)
    pictures = np.repeat(numbers.astype(np.uint8), 16).reshape(60, 4, 4)
    arrays = {
        f"x_{split}/{name}": array
        for split in ("train", "test")
        for name, array in (("numbers", numbers[:, None]), ("pictures", pictures))
    }
    path = write_npz(tmp_path, x_train=None, x_test=None, **arrays)
    data = datasets.load(make_experiment(dataset={"path": str(path)}))
    assert data.input_shape == {"numbers": (1,), "pictures": (4, 4)}
    assert data.with_channel_axis("pictures").input_shape == {"numbers": (1,), "pictures": (4, 4, 1)}
    for batches in (data.test.batches(7), data.with_channel_axis("pictures").train.training_batches(7, 0, range(2))):
        for x, y in batches:
            assert np.array_equal(x["numbers"][:, 0], x["pictures"][:, 0, 0, ...].numpy().ravel())
            assert np.array_equal(x["numbers"][:, 0] % 3, y)
    other = datasets.load(
        make_experiment(
            dataset={
                "path": str(
                    write_npz(tmp_path, x_train=None, x_test=None, **arrays | {"x_train/numbers": numbers[::-1, None]})
                )
            }
        )
    )
    assert other.train.fingerprint() != data.train.fingerprint()
    for changed, message in (
        ({"x_test/numbers": None}, r"x_test has the inputs \['pictures'\]; expected those of x_train, \['numbers', 'p"),
        ({"x_train/numbers": np.zeros((59, 1))}, "x_train has numbers 59, pictures 60; expected an equal number"),
    ):
        with pytest.raises(DatasetError, match=message):
            custom.read(write_npz(tmp_path, x_train=None, x_test=None, **arrays | changed), NPZ)


def test_images_without_channels_get_them(tmp_path: Path) -> None:
    x = np.arange(60 * 16, dtype=np.float32).reshape(60, 4, 4)
    data = datasets.load(make_experiment(dataset={"path": str(write_npz(tmp_path, x_train=x, x_test=x))}))
    with_channel = data.with_channel_axis()
    assert (data.input_shape, with_channel.input_shape, with_channel.outputs) == ((4, 4), (4, 4, 1), (3,))
    assert np.array_equal(with_channel.test.examples[..., 0], x)


def test_missing_and_damaged_files_are_named(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match=r"none\.npz: no such file; expected an \.npz file with the arrays x_train"):
        custom.read(tmp_path / "none.npz", NPZ)
    path = write_npz(tmp_path)
    path.write_bytes(path.read_bytes()[:500])
    with pytest.raises(DatasetError, match=r"custom\.npz: not readable: no \.npz file, or a damaged one\. Write it"):
        custom.read(path, NPZ)
    np.save(tmp_path / "one.npy", np.zeros(3))
    with pytest.raises(DatasetError, match=r"one\.npy: not readable: no \.npz file"):
        custom.read(tmp_path / "one.npy", NPZ)


MODULE = """
import numpy as np
x, y = np.arange(60, dtype=np.float32).reshape(-1, 1), np.arange(60) % 3

def plain():
    return {"x_train": x, "y_train": y, "x_test": x, "y_test": y}

def with_directory(data_directory):
    return {**plain(), "classes": [data_directory.name, "b", "c"]}

def with_settings(n=60, seed=0):
    return {**plain(), "x_train": x[:n], "y_train": y[:n]}

def with_path(path, n=60):
    return plain()

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


def test_functions_get_the_data_directory_if_they_have_a_parameter_of_this_name(module: str, tmp_path: Path) -> None:
    plain = datasets.load(make_experiment(dataset={"function": f"{module}:plain"}), tmp_path)
    with_directory = datasets.load(make_experiment(dataset={"function": f"{module}:with_directory"}), tmp_path)
    with_settings = datasets.load(make_experiment(dataset={"function": f"{module}:with_settings"}), tmp_path)
    assert plain.classes == ("0", "1", "2")
    assert len(with_settings.train) == 54
    assert with_directory.classes == (tmp_path.name, "b", "c")
    assert with_directory.name == f"{module}:with_directory"


def test_wrong_functions_are_named(module: str, tmp_path: Path) -> None:
    for function, message in (
        (
            "no_such_module:plain",
            "function=no_such_module:plain: no module no_such_module; expected one that is installed or in",
        ),
        (f".{module}:plain", "the module is relative; expected its full name"),
        (
            f"{module}:other",
            r"\.py has no function other; it has nothing, plain, ragged, with_directory, with_path, with_settings",
        ),
        (
            f"{module}:with_path",
            r"with_path: takes \(path, n=60\); expected defaults for all parameters but data_directory",
        ),
        (f"{module}:nothing", "returned NoneType; expected a dict of the arrays x_train"),
        (f"{module}:ragged", "x_train: cannot be converted to an array"),
    ):
        with pytest.raises(DatasetError, match=message):
            custom.call(function, tmp_path)
    with pytest.raises(ModuleNotFoundError, match="no_such_package"):
        custom.call(f"{module}_broken:plain", tmp_path)


def test_an_experiment_finds_files_and_modules_next_to_its_own(tmp_path: Path, monkeypatch) -> None:
    folder, elsewhere = tmp_path / "project", tmp_path / "elsewhere"
    (folder / "data").mkdir(parents=True)
    elsewhere.mkdir()
    monkeypatch.chdir(elsewhere)
    name = f"beside_{tmp_path.parent.name}_{tmp_path.name}".replace("-", "_")
    (folder / f"{name}_more.py").write_text(MODULE)
    (folder / f"{name}.py").write_text(f"def load():\n    from {name}_more import plain\n    return plain()\n")
    base = "model: {name: digits_cnn}\nsparsity: 0.5\nnumber_of_clusters: 8\n"
    (folder / "function.yaml").write_text(f"dataset: {{function: '{name}:load'}}\n{base}")
    (folder / "file.yaml").write_text(f"dataset: {{path: data/custom.npz}}\n{base}")
    write_npz(folder / "data")
    for file, label in (("function", f"{name}:load"), ("file", "custom.npz")):
        data = datasets.load(loading.load(f"../project/{file}.yaml"))
        assert (data.name, len(data.train)) == (label, 54)
    (folder / "absent.yaml").write_text(f"dataset: {{path: absent.npz}}\n{base}")
    with pytest.raises(DatasetError, match=f"{folder}/absent.npz: no such file"):
        datasets.load(loading.load("../project/absent.yaml"))
    # One process can import only one of two modules with the same name.
    (elsewhere / "same.yaml").write_text(f"dataset: {{function: '{name}:load'}}\n{base}")
    (elsewhere / f"{name}.py").write_text("def load():\n    return {}\n")
    with pytest.raises(DatasetError, match=rf"{name}\.py differ, but have one name; rename one, and restart"):
        datasets.load(loading.load("same.yaml"))


@pytest.mark.parametrize(("key", "value"), [("directory", "pictures"), ("image_size", 32)])
def test_keys_of_other_data_sets_are_rejected(key: str, value: object) -> None:
    with pytest.raises(DatasetError, match=rf"dataset\.{key}={value}: only imagenet"):
        datasets.load(make_experiment(dataset={"name": "digits", key: value}))
