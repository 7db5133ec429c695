"""What changed by class, by example and by layer: counts that add up, pictures only where they may be shown."""

import base64
import io
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from collabopt.config.tasks import TASKS
from collabopt.datasets import Split, presentation
from collabopt.datasets.presentation import PLAIN, Presentation
from collabopt.deploy import changes
from collabopt.report import change_tables, tables
from collabopt.runtime.tensorflow import keras
from collabopt.tflite import convert, operators

LABELS = np.array([0, 0, 0, 1, 1, 2])
BEFORE, AFTER = np.array([0, 0, 0, 0, 1, 1]), np.array([0, 0, 1, 1, 1, 0])
"""The third example is newly wrong, the fourth newly right, and the last is wrong in another way."""


@pytest.fixture
def found():
    """A search in which the chosen file is wrong about other examples than the baseline."""
    pictures = np.arange(6 * 8 * 8, dtype=np.uint8).reshape(6, 8, 8, 1)
    data = SimpleNamespace(
        validation=Split(pictures, LABELS), classes=("a", "b", "c"), task=TASKS["classification"], presentation=PLAIN
    )
    names = ["baseline-float32", "baseline-int8", "pcqat-int8"]
    table = pd.DataFrame({"stage": ["baseline", "baseline", "pcqat"], "format": ["float32", "int8", "int8"]}, names)
    tried = {name: SimpleNamespace(name=name) for name in names}
    return SimpleNamespace(run=SimpleNamespace(data=data, directory=None), table=table, tried=tried, nearest=names[-1])


@pytest.fixture
def changed(found, monkeypatch):
    predicted = {"baseline-float32": BEFORE, "baseline-int8": BEFORE, "pcqat-int8": AFTER}
    monkeypatch.setattr(changes, "_predict", lambda _, variant: predicted[variant.name])
    monkeypatch.setattr(changes, "_compare_layers", lambda *_: pd.DataFrame())
    return lambda: changes.compute(found)


def test_accuracy_by_class_before_and_after(changed):
    frame = tables.classes(changed().classes).to_frame()
    assert frame["Class"].tolist() == ["a", "b", "c"]
    assert frame["Baseline float32 (%)"].tolist() == ["100.00", "50.00", "0.00"]
    assert frame["PCQAT int8 (%)"].tolist() == ["66.67", "100.00", "0.00"]
    assert frame["Newly wrong"].tolist() == ["1", "", ""] and frame["Newly right"].tolist() == ["", "1", ""]
    weights = frame["Examples"].astype(int) / len(LABELS)
    assert (weights * frame["PCQAT int8 (%)"].astype(float)).sum() == pytest.approx(
        100 * (AFTER == LABELS).mean(), abs=0.01
    )


def test_flipped_examples_have_their_place_both_predictions_and_verdict(changed, found):
    frame = tables.flips(changed().flips).to_frame()
    assert frame["Example"].tolist() == ["2", "3", "5"]
    assert frame["Baseline float32 says"].tolist() == ["a", "a", "b"]
    assert frame["Chosen file says"].tolist() == ["b", "b", "a"]
    assert frame["Verdict"].tolist() == ["newly wrong", "newly right", "wrong before and after"]
    found.nearest = "baseline-int8"
    assert tables.flips(changed().flips).caption == "No prediction of an example flipped."


def test_confusions_count_every_example_once_per_file(changed):
    confusion = changed().confusion
    assert confusion.groupby("file", sort=False)["count"].sum().to_dict() == {"baseline float32": 6, "PCQAT int8": 6}
    right = confusion[confusion["class"] == confusion["predicted"]].groupby("file")["count"].sum()
    assert right["PCQAT int8"] == (AFTER == LABELS).sum()


def test_a_chosen_baseline_is_counted_once(changed, found):
    found.nearest = "baseline-float32"
    assert changed().confusion.groupby("file")["count"].sum().to_dict() == {"baseline float32": 6}


def test_tables_from_the_files_of_a_report_are_those_of_the_notebook(changed, found, tmp_path):
    found.run.directory, found.run.data.classes = tmp_path, ("nan", "NA", "1.0")  # pandas must not read these
    (tmp_path / "changed_layers.csv").write_text("of an earlier run")
    made = changed()
    read = change_tables.read(tmp_path)
    for name, table in (("classes", tables.classes(made.classes)), ("flips", tables.flips(made.flips))):
        assert read[name].to_frame().equals(table.to_frame())
    assert set(read) == {"classes", "flips"}


def build(*convolutions: str) -> keras.Model:
    layers = [keras.layers.Conv2D(4, 3, name=name) for name in convolutions]
    return keras.Sequential([keras.Input((8, 8, 1)), *layers, keras.layers.Flatten(), keras.layers.Dense(3, name="fc")])


def test_a_layer_that_was_split_counts_in_the_baselines_sum(found, tmp_path):
    names = {"baseline": ["conv"], "pruned": ["conv_1", "conv_2"]}
    one, other = (
        SimpleNamespace(name=stage, stage=SimpleNamespace(name=stage), format="float32", tflite=tmp_path / stage)
        for stage in names
    )
    for stage, layers in names.items():
        (tmp_path / stage).write_bytes(convert.convert(build(*layers), "float32"))
    found.run.stage = lambda stage: SimpleNamespace(layers=pd.DataFrame({"layer": [*names[stage], "fc"]}))
    found.run.data.fingerprint = ""
    found.run.get_or_make = lambda _name, _material, make: make(tmp_path) or tmp_path
    found.run.data.validation = Split(np.zeros((6, 8, 8, 1), np.float32), LABELS)
    rows = changes._compare_layers(found, one, other, "pruned float32").set_index("layer")
    assert list(rows.index) == ["conv_1", "conv_2", "fc", "conv"]
    whole = operators.list_weighted_operators((tmp_path / "baseline").read_bytes())
    assert rows["baseline_bytes"].sum() == whole["bytes"].sum()
    assert rows.loc["conv", "bytes"] == 0 and rows.loc["conv", "operator"] == ""
    table = tables.changed_layers(rows.reset_index()).to_frame()
    assert table["Layer"].tolist()[-2:] == ["conv", "all"]
    assert table["Baseline float32: kB"].tolist()[-1] == f"{whole['bytes'].sum() / 1000:.2f}"


def test_other_tasks_have_no_classes(changed, found):
    found.run.data.task = TASKS["regression"]
    made = changed()
    assert tables.classes(made.classes).rows == tables.flips(made.flips).rows == []
    assert made.confusion.empty


def decode(picture: str) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(picture))))


def test_a_picture_is_shown_as_it_is_stored(tmp_path):
    colours = np.random.default_rng(0).integers(0, 256, (2, 8, 8, 3), np.uint8)
    shown = presentation.describe(Split(colours, np.zeros(2)), 1, PLAIN)
    assert (decode(shown["picture"]) == colours[1]).all()
    shown = presentation.describe(Split(colours[..., 0], np.zeros(2)), 1, PLAIN)
    assert (decode(shown["picture"]) == colours[1, ..., 0]).all()
    floats = Split((colours[..., :1] / 127.5 - 1).astype(np.float32), np.zeros(2))
    shown = decode(presentation.describe(floats, 0, PLAIN)["picture"])
    assert (shown.min(), shown.max()) == (0, 255)
    Image.fromarray(colours[0]).resize((300, 200)).save(tmp_path / "<b>.png")
    paths = Split(np.array([str(tmp_path / "<b>.png").encode()]), np.zeros(1))
    shown = presentation.describe(paths, 0, PLAIN)
    assert shown["file"] == "<b>.png"
    assert decode(shown["picture"]).shape == (43, 64, 3)


def test_pictures_that_a_licence_forbids_to_show_are_never_opened():
    paths = Split(np.array([b"/nowhere/ILSVRC2012_val_1.JPEG"]), np.zeros(1))
    shown = presentation.describe(paths, 0, Presentation(forbids_pictures=True))
    assert shown == {"file": "ILSVRC2012_val_1.JPEG", "picture": "", "features": ""}


def test_imagenet_forbids_its_pictures(tmp_path):
    from collabopt.datasets import imagenet

    for folder in ("train/a", "train/b", "val/a", "val/b"):
        (tmp_path / folder).mkdir(parents=True)
        Image.new("RGB", (8, 8)).save(tmp_path / folder / "1.JPEG")
    parts = imagenet.read(tmp_path, 8)
    assert presentation.describe(parts.test, 0, parts.presentation)["picture"] == ""


def test_a_clip_has_its_name_and_its_features_are_no_picture():
    clips = Split(np.zeros((2, 49, 10, 1), np.float32), np.zeros(2))
    shown = presentation.describe(clips, 1, Presentation(names=np.array(["a.wav", "b.wav"])))
    assert shown == {"file": "b.wav", "picture": "", "features": ""}
    paths = Split(np.array([b"folder/yes.wav"]), np.zeros(1))
    assert presentation.describe(paths, 0, PLAIN) == {"file": "yes.wav", "picture": "", "features": ""}


def test_a_row_of_a_table_has_its_values():
    rows = Split(np.array([[5.1, -3.5]], np.float32), np.zeros(1))
    assert presentation.describe(rows, 0, Presentation(columns=("length", "<i>")))["features"] == "length 5.1, <i> −3.5"
    assert presentation.describe(rows, 0, PLAIN)["features"] == "5.1, −3.5"
    wide = Split(np.zeros((1, 99), np.float32), np.zeros(1))
    assert presentation.describe(wide, 0, PLAIN)["features"].endswith("0, …")


def test_operators_of_a_file_have_the_parameters_and_multiplications_of_their_layers():
    from collabopt.runtime.tensorflow import keras
    from collabopt.tflite import convert

    inputs = keras.Input((8, 8, 1), 1)
    x = keras.layers.Conv2D(4, 3, strides=2, padding="same", activation="relu", name="conv")(inputs)
    x = keras.layers.DepthwiseConv2D(3, padding="same", name="depthwise")(x)
    x = keras.layers.Conv2DTranspose(2, 3, strides=2, padding="same", name="up")(x)
    model = keras.Model(inputs, keras.layers.Dense(5, name="fc")(keras.layers.Flatten()(x)))
    model.set_weights([np.random.default_rng(0).normal(size=one.shape) for one in model.get_weights()])
    expected = {"CONV_2D": 16 * 36, "DEPTHWISE_CONV_2D": 16 * 36, "TRANSPOSE_CONV": 16 * 72, "FULLY_CONNECTED": 640}
    for form, size in (("float32", 4), ("float16", 2)):
        rows = operators.list_weighted_operators(convert.convert(model, form))
        assert rows.set_index("operator")["multiplications"].to_dict() == expected
        assert rows["parameters"].sum() == model.count_params()
        assert rows["bytes"].sum() == size * model.count_params()


def test_of_many_classes_those_that_changed_most_are_shown():
    rows = pd.DataFrame({"class": [str(number) for number in range(1000)], "examples": 5, "before": 1.0, "after": 0.8})
    rows = rows.assign(newly_wrong=(np.arange(1000) >= 985).astype(int), newly_right=0, file="PCQAT int8")
    table = tables.classes(rows)
    assert len(table.rows) == 20
    assert {str(number) for number in range(985, 1000)} < set(table.to_frame()["Class"])
    assert "the 20 of 1000 classes that changed most" in table.caption


def test_the_weights_of_a_loop_count_and_its_multiplications_are_not_known():
    from collabopt.runtime.tensorflow import keras
    from collabopt.tflite import convert

    inputs = keras.Input((12, 4))
    model = keras.Model(inputs, keras.layers.Dense(3)(keras.layers.GRU(8, reset_after=False)(inputs)))
    model.set_weights([np.random.default_rng(0).normal(size=one.shape) for one in model.get_weights()])
    rows = operators.list_weighted_operators(convert.convert(model, "float32"))
    kernels = sum(one.size for one in model.get_weights() if one.ndim == 2)
    assert kernels <= rows["parameters"].sum() <= model.count_params()
    assert rows["multiplications"].dropna().tolist() == [24.0]
