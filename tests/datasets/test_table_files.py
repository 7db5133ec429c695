"""Tables: columns become features and targets, and every wrong column is named."""

import importlib.util
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from example_data import make_experiment

from collabopt import datasets
from collabopt.datasets import DatasetError, presentation

ROWS = 60
TABLE = pd.DataFrame(
    {
        "width": np.arange(ROWS) / 2,
        "height": np.arange(ROWS),
        "open": np.arange(ROWS) % 2 == 0,
        "patient": [f"p{number // 5}" for number in range(ROWS)],
        "species": np.array(["cat", "dog", "eel"])[np.arange(ROWS) % 3],
        "grade": np.arange(ROWS) % 3 + 10,
        "price": np.arange(ROWS) * 1.5,
    }
)


def load(path: Path, task: str = "classification", **keys: object) -> datasets.Data:
    return datasets.load(make_experiment(dataset={"path": str(path), **keys}, task=task))


@pytest.fixture
def csv(tmp_path: Path) -> Path:
    TABLE.to_csv(tmp_path / "table.csv", index=False)
    return tmp_path / "table.csv"


def test_a_class_may_be_named_none_and_tabs_may_separate(tmp_path: Path) -> None:
    path = tmp_path / "table.TSV"
    TABLE.replace({"species": {"cat": "None", "eel": "NA"}}).to_csv(path, index=False, sep="\t")
    assert load(path, target="species", features=["height"]).classes == ("NA", "None", "dog")


@pytest.mark.parametrize(("target", "classes"), [("species", ("cat", "dog", "eel")), ("grade", ("10", "11", "12"))])
def test_classes_are_named_by_the_values_of_the_target(csv: Path, target: str, classes: tuple) -> None:
    data = load(csv, target=target, features=["height", "width"])
    assert (data.classes, data.input_shape, data.outputs) == (classes, (2,), (3,))
    assert [len(split) for split in (data.train, data.validation, data.test)] == [43, 5, 12]
    for split in (data.train, data.validation, data.test):
        assert split.examples.dtype == np.float32
        assert np.array_equal(split.examples[:, 0] / 2, split.examples[:, 1])
        assert np.array_equal(split.examples[:, 0] % 3, split.labels)
    assert np.bincount(data.test.labels).tolist() == [4, 4, 4]
    height, width = data.validation.examples[0]
    shown = presentation.describe(data.validation, 0, data.presentation)
    assert shown == {"file": "", "picture": "", "features": f"height {height:g}, width {width:g}"}
    rows = np.concatenate([split.examples[:, 0] for split in (data.train, data.validation, data.test)])
    assert sorted(rows) == list(range(ROWS))


def test_all_other_columns_are_features_by_default(csv: Path) -> None:
    TABLE[["width", "open", "price", "patient"]].to_csv(csv, sep=";")  # with the index, which has no name
    data = load(csv, "regression", target="price", group="patient")
    assert (data.classes, data.input_shape, data.outputs) == ((), (2,), (1,))
    assert np.array_equal(data.test.labels[:, 0], data.test.examples[:, 0] * 3)
    patients = [set(split.examples[:, 0] // 2.5) for split in (data.train, data.validation, data.test)]
    assert sum(map(len, patients)) == len(set.union(*patients)) == 12


def test_targets_and_inputs_can_have_several_columns(csv: Path) -> None:
    features = {"size": ["width", "height"], "state": ["open"]}
    data = load(csv, "regression", target=["price", "grade"], features=features)
    assert (data.input_shape, data.outputs) == ({"size": (2,), "state": (1,)}, (2,))
    (inputs, targets), *_ = data.test.batches(4)
    assert np.array_equal(inputs["size"][:, 0] * 3, targets[:, 0])
    assert len(load(csv, "reconstruction", features=["width", "height"]).train) == 43


def test_a_folder_of_tables_has_its_own_test_split(csv: Path) -> None:
    TABLE[:10].to_csv(csv.with_name("train.csv"), index=False)
    TABLE[10:14].to_csv(csv.with_name("test.csv"), index=False)
    data = load(csv.parent, target="species", features=["height"])
    assert data.test.examples[:, 0].tolist() == [10, 11, 12, 13]
    with pytest.raises(DatasetError, match=r"test_fraction=0\.5: .* has a test table; remove the key"):
        load(csv.parent, target="species", features=["height"], test_fraction=0.5)


def test_the_test_split_is_the_same_for_every_seed(csv: Path) -> None:
    first, other = (
        datasets.load(make_experiment(dataset={"path": str(csv), "target": "grade", "features": ["width"]}, seed=seed))
        for seed in (0, 1)
    )
    assert first.test.fingerprint() == other.test.fingerprint()
    assert first.validation.fingerprint() != other.validation.fingerprint()


def test_every_wrong_column_is_named(csv: Path) -> None:
    table = TABLE.astype({"height": float})
    table.loc[3, "height"] = np.nan
    table.loc[0, "width"] = 1e300
    table.loc[5, "patient"] = np.nan
    table.to_csv(csv, index=False)
    for keys, messages in (
        ({}, ["dataset.target: missing. Name the column of", "TARGET=price", "width, height, open"]),
        ({"target": "pric"}, ["train has no column pric; did you mean price?"]),
        ({"target": "price", "group": "person"}, ["height is empty in 1 of 60 rows, first in row 4", "column person"]),
        (
            {"target": "price", "features": ["species", "width"]},
            ["species holds 'cat'; expected numbers", "beyond ±3.4e+38"],
        ),
        ({"target": "price", "features": ["height"], "group": "patient"}, ["column patient is empty in 1 of 60 rows"]),
        ({"target": "price", "features": ["price", "open"]}, ["dataset.features: price is also the target; remove it"]),
        (
            {"target": "price", "features": ["open"], "image_size": 8},
            ["dataset.image_size=8: only imagenet and folders of pictures take it"],
        ),
    ):
        with pytest.raises(DatasetError) as caught:
            load(csv, "regression", **keys)
        assert all(message in str(caught.value) for message in messages), str(caught.value)


def test_files_that_are_no_tables_are_named(tmp_path: Path) -> None:
    for content, message in (
        ("", "no readable table"),
        ("a,b\n", "no rows; expected a header"),
        ("a,b\n1,2,3\n", "no readable table"),
        ("a,b\n1,2\n1,2,3,4\n", "no readable table"),
    ):
        (tmp_path / "table.csv").write_text(content)
        with pytest.raises(DatasetError, match=rf"table\.csv: {message}"):
            load(tmp_path / "table.csv", "regression", target="b")
    with pytest.raises(DatasetError, match=r"none\.csv: no such file\. Expected an \.npz file .* a \.csv, \.tsv or"):
        load(tmp_path / "none.csv", target="b")


def test_parquet_is_read_where_its_package_is_installed(tmp_path: Path) -> None:
    path = tmp_path / "table.parquet"
    if importlib.util.find_spec("pyarrow"):
        TABLE.to_parquet(path)
        assert load(path, target="species", features=["height"]).input_shape == (1,)
        return
    path.write_bytes(b"PAR1")
    with pytest.raises(DatasetError, match=r"table\.parquet: reading Parquet needs the package pyarrow; install it"):
        load(path, target="species")
