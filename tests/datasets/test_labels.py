"""Every form of a label gives the same labels, and what is no label of the task is named."""

import numpy as np
import pytest
from example_data import make_experiment, write_npz
from hypothesis import given
from hypothesis import strategies as st

from collabopt import datasets
from collabopt.config.tasks import TASKS, make_custom
from collabopt.datasets import DatasetError, labels

NAMES = ("ant", "bee", "cat", "dog", "eel")
CLASSIFICATION, BINARY = TASKS["classification"], TASKS["binary"]


def convert(task, values, classes=None):
    """The converted labels and classes of a single array."""
    converted, classes = labels.convert(task, {"y_train": values}, classes)
    return converted["y_train"], classes


def write_forms(y: np.ndarray, count: int) -> list:
    """The class indices `y` in every form without names."""
    return [
        *(y.astype(kind) for kind in ("i1", "u1", "i4", "i8", "f2", "f4", "f8")),
        *(y[..., np.newaxis], y.tolist(), np.eye(count, dtype=int)[y], np.eye(count)[y], np.eye(count, dtype=bool)[y]),
    ]


@given(st.data(), st.integers(2, 5))
def test_every_form_of_class_indices_gives_the_same(data, count: int) -> None:
    y = np.array(data.draw(st.permutations([*range(count), *data.draw(st.lists(st.integers(0, count - 1)))])))
    for form in write_forms(y, count):
        converted, classes = convert(CLASSIFICATION, form)
        assert converted.dtype == np.int64 and np.array_equal(converted, y)
        assert classes == tuple(map(str, range(count)))
    names = np.array(NAMES)[y]
    for form in (names, names[:, np.newaxis], names.tolist(), names.astype(object), names.astype("S")):
        converted, classes = convert(CLASSIFICATION, form)
        assert np.array_equal(converted, y) and classes == NAMES[:count]
    converted, classes = convert(CLASSIFICATION, names, NAMES[::-1])
    assert np.array_equal(np.array(classes)[converted], names) and classes == NAMES[::-1]


@given(st.lists(st.integers(0, 1), min_size=1).map(lambda rest: np.array([0, 1, *rest])))
def test_every_form_of_two_classes_gives_the_same(y: np.ndarray) -> None:
    for form in (*write_forms(y, 2), y.astype(bool)):
        converted, classes = convert(BINARY, form)
        assert converted.dtype == np.int64 and np.array_equal(converted, y) and classes == ("0", "1")
    assert convert(BINARY, np.array(["no", "yes"])[y])[1] == ("no", "yes")


@given(st.integers(1, 3), st.integers(1, 3), st.integers(2, 4))
def test_every_form_of_a_segmentation_gives_the_same(height: int, width: int, count: int) -> None:
    y = np.arange(4 * height * width).reshape(4, height, width) % count
    for form in write_forms(y, count):
        converted, classes = convert(TASKS["segmentation"], form)
        assert converted.dtype == np.int64 and np.array_equal(converted, y) and len(classes) == count


@given(st.lists(st.lists(st.floats(-1e30, 1e30), min_size=2, max_size=2), min_size=1))
def test_regression_keeps_the_numbers(rows: list) -> None:
    converted, classes = convert(TASKS["regression"], rows)
    assert converted.dtype == np.float32 and classes == ()
    assert np.array_equal(converted, np.float32(rows))
    assert np.array_equal(convert(TASKS["regression"], np.array(rows)[:, 0])[0], converted[:, :1])


def test_multilabel_reconstruction_and_custom_tasks() -> None:
    y = np.array([[1, 1, 0], [0, 0, 0]])
    for form in (y, y.astype(bool), y.astype(float), y.tolist()):
        converted, _ = convert(TASKS["multilabel"], form)
        assert converted.dtype == np.float32 and np.array_equal(converted, y)
    for form in ([0, 1], [[0], [1]], [False, True], [0.0, 1.0]):
        converted, _ = convert(TASKS["reconstruction"], form)
        assert converted.dtype == np.int64 and converted.tolist() == [0, 1]
    task = make_custom("m:loss", "m:score_of_labels", True)
    for form, kind in ((np.zeros((2, 3, 4)), np.float32), (np.zeros((2, 3), np.uint8), np.int64)):
        converted, _ = convert(task, form)
        assert converted.dtype == kind and converted.shape == form.shape


@pytest.mark.parametrize(
    ("task", "values", "message"),
    [
        ("classification", [0, 1, 1.5], "y_train has the label 1.5; expected class indices"),
        ("classification", [0, np.nan, 1], "y_train has NaN or infinity in 1 examples, first in number 1"),
        ("classification", [[0.2, 0.8]], r"y_train of shape \(1, 2\) has the row \[0\.2 0\.8\]"),
        ("classification", [0, 1, -1], "has the label -1; expected 0 to number of classes - 1"),
        ("classification", ["a", "a"], "y_train has 1 class; expected at least two"),
        ("binary", [0, 1, 2], "y_train has 3 classes; task=binary needs two, so use task: classification"),
        ("binary", [-1, 1], "has the label -1"),
        ("binary", [1, 1], "has labels 1 to 1 but no 0"),
        ("multilabel", [0, 1], r"int64 of shape \(2,\); expected 0 and 1 of shape \(n, labels\)"),
        ("multilabel", [[0, 2]], "y_train has the label 2; expected 0 and 1"),
        ("regression", ["a"], "y_train is of type <U1; expected numbers"),
        ("regression", [1e39], r"y_train has values beyond ±3\.4e\+38"),
        ("regression", np.zeros((2, 3, 4)), r"of shape \(2, 3, 4\); expected numbers of shape \(n,\) or"),
        ("reconstruction", [0, 2], r"has the label 2; expected 0 \(normal\) and 1 \(anomaly\)"),
        ("segmentation", [0, 1], r"int64 of shape \(2,\); expected class indices per pixel"),
    ],
)
def test_wrong_labels_are_named(task: str, values: object, message: str) -> None:
    with pytest.raises(DatasetError, match=message):
        convert(TASKS[task], values)


def test_all_splits_have_the_classes_of_train() -> None:
    for y_train, y_test, message in (
        (["a", "b"], ["c"], "y_test has the label 'c'; expected one of a, b"),
        ([0, 1], ["a"], "y_test holds names, such as 'a', but train holds numbers"),
        ([0, 1], [2], "y_test has the label 2; expected 0 to 1"),
    ):
        with pytest.raises(DatasetError, match=message):
            labels.convert(CLASSIFICATION, {"y_train": y_train, "y_test": y_test})
    converted, _ = labels.convert(CLASSIFICATION, {"y_train": [[1, 0, 0], [0, 1, 0]], "y_test": [2]})
    assert converted["y_test"].tolist() == [2]  # one-hot rows tell the number of classes


IMAGES, MASKS = np.zeros((60, 4, 4, 1), np.float32), np.arange(60 * 16).reshape(60, 4, 4) % 3


@pytest.mark.parametrize(
    ("task", "y", "outputs"),
    [
        ("classification", np.arange(60) % 3, (3,)),
        ("binary", np.arange(60) % 2, (1,)),
        ("multilabel", np.eye(4)[np.arange(60) % 4], (4,)),
        ("regression", np.arange(60.0), (1,)),
        ("reconstruction", None, (4, 4, 1)),
        ("segmentation", MASKS[..., np.newaxis], (4, 4, 3)),
        ({"loss": "m:loss", "metric": "m:other_score", "higher_is_better": True}, MASKS, None),
    ],
)
def test_each_task_gives_labels_outputs_and_batches(tmp_path, task, y, outputs) -> None:
    path = write_npz(tmp_path, x_train=IMAGES, x_test=IMAGES, y_train=y, y_test=y)
    data = datasets.load(make_experiment(dataset={"path": str(path)}, task=task))
    assert (data.outputs, data.input_shape, len(data.train), len(data.validation)) == (outputs, (4, 4, 1), 54, 6)
    assert len(data.classes) == (outputs[-1] if task in ("classification", "segmentation") else 2 * (task == "binary"))
    for inputs, targets in (*data.test.batches(32), *data.train.training_batches(32, 0, range(1))):
        if task == "reconstruction":
            assert targets is inputs or np.array_equal(inputs, targets)
        else:
            assert targets.shape[1:] == data.test.labels.shape[1:] and targets.dtype == data.test.labels.dtype


def test_built_in_data_sets_can_be_reconstructed() -> None:
    data = datasets.load(make_experiment(task="reconstruction"))
    assert (data.outputs, data.classes, data.test.labels.max()) == ((8, 8, 1), (), 0)
    with pytest.raises(DatasetError, match=r"task=regression: dataset\.name=digits has classes; expected task classif"):
        datasets.load(make_experiment(task="regression"))
