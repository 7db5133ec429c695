"""A run of a user's model: its deployed files replace the model itself, and its pages say what import changed."""

import json

import numpy as np
import pytest
from ai_edge_litert.interpreter import Interpreter
from user_networks import keras_3

from collabopt import datasets
from collabopt.config import experiment, loading, sections
from collabopt.config.stages import STAGES
from collabopt.deploy import model_card, search, variants
from collabopt.report import tables
from collabopt.run import Run
from collabopt.techniques import registry

SECTION = {"epochs": 1, "batch_size": 64, "optimizer": "adam", "learning_rate": 1e-3}


@pytest.fixture(scope="module")
def original(tiny_data):
    """A trained network of Keras 3 in the style of users."""
    k = keras_3.layers
    keras_3.utils.set_random_seed(0)
    steps = [k.Conv2D(8, 3), k.BatchNormalization(), k.ReLU(), k.MaxPooling2D(), k.Dropout(0.2), k.Flatten()]
    model = keras_3.Sequential(
        [keras_3.Input((8, 8, 1)), k.RandomTranslation(0.05, 0.05), *steps, k.Dense(10, "softmax")]
    )
    model.compile("adam", "sparse_categorical_crossentropy")
    (inputs,) = [batch for batch, _ in tiny_data.train.batches(10_000).as_numpy_iterator()]
    model.fit(inputs, tiny_data.train.labels, epochs=15, verbose=0)
    return model


@pytest.fixture(scope="module")
def run(original, tmp_path_factory):
    """A run whose baseline keeps the trained weights."""
    folder = tmp_path_factory.mktemp("imported")
    original.save(folder / "mine.keras")
    (folder / "mine.yaml").write_text("name: mine")
    values = {
        "name": "mine",
        "dataset": {"name": "digits"},
        "model": {"path": str(folder / "mine.keras")},
        "train_fraction": 0.3,
        "sparsity": 0.5,
        "number_of_clusters": 16,
        "targets": {"max_tflite_bytes": 100_000},
        "stages": {**dict.fromkeys(STAGES, SECTION), "baseline": SECTION | {"epochs": 0}},
    }
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(loading, "DATA", folder)
        yield Run(experiment.validate(values), folder / "report", folder / "mine.yaml", folder / "stages")


def predict(content: bytes, inputs: np.ndarray) -> np.ndarray:
    interpreter = Interpreter(model_content=content)
    (entry,), (end,) = interpreter.get_input_details(), interpreter.get_output_details()
    interpreter.resize_tensor_input(entry["index"], inputs.shape)
    interpreter.allocate_tensors()
    (scale, zero_point) = entry["quantization"]
    values = np.clip(np.round(inputs / scale) + zero_point, -128, 127).astype(np.int8) if scale else inputs
    interpreter.set_tensor(entry["index"], values)
    interpreter.invoke()
    outputs, (scale, zero_point) = interpreter.get_tensor(end["index"]), end["quantization"]
    return (outputs.astype(np.float32) - zero_point) * scale if scale else outputs


@pytest.mark.parametrize(("format", "tolerance"), [("float32", 1e-5), ("dynamic_range", 0.05), ("int8", 0.1)])
def test_the_file_returns_the_probabilities_of_the_original(run, original, format, tolerance):
    (inputs,) = [batch for batch, _ in run.data.test.batches(10_000).as_numpy_iterator()]
    content = variants.measure(run, STAGES["baseline"], format).tflite.read_bytes()
    np.testing.assert_allclose(predict(content, inputs), original.predict(inputs, verbose=0), atol=tolerance)


def test_a_qat_file_returns_probabilities(run):
    (inputs,) = [batch for batch, _ in run.data.test.batches(10_000).as_numpy_iterator()]
    outputs = predict(run.stage("qat").tflite.read_bytes(), inputs)
    np.testing.assert_allclose(outputs.sum(axis=1), 1, atol=0.05)
    assert (outputs.argmax(axis=1) == run.data.test.labels).mean() == run.stage("qat").result["accuracy_int8"] > 0.7


def test_logits_are_deployed_on_request_from_the_same_weights(run):
    section = run.experiment.model.model_copy(update={"output": "logits"})
    other = Run(run.experiment.model_copy(update={"model": section}), run.directory, run.source, run.store_directory)
    finished = other.stage("baseline")
    assert finished.trained == run.stage("baseline").trained
    assert finished.measured != run.stage("baseline").measured
    (inputs,) = [batch for batch, _ in run.data.test.batches(10_000).as_numpy_iterator()]
    assert np.abs(predict(finished.tflite.read_bytes(), inputs).sum(axis=1) - 1).max() > 1


def test_training_augments_as_the_original_does(run):
    augmentation = registry.add_augmentation(run.data, run.experiment).augmentation
    inputs = np.random.default_rng(0).normal(size=(4, 8, 8, 1)).astype(np.float32)
    assert np.abs(augmentation(inputs, np.array([0, 1], np.int32)) - inputs).max() > 0.1


def test_the_page_and_the_card_say_what_import_changed(run):
    table = tables.imported(run)
    assert [row["Rewrite"].text for row in table.rows] == [
        "Augmentation layers act in training only: random_translation_1",
        "softmax was taken off the output",
    ]
    card = model_card.write(search.search(run))
    for line in (*(row["Rewrite"].text for row in table.rows), "one per class, after softmax\nprint(output.argmax())"):
        assert line in card.text
    content = json.loads(card.tflite.with_suffix(".json").read_text())["imported"]
    assert content["output_activation"] == "softmax" and content["largest_difference"] <= 1e-4


def test_a_built_in_model_has_no_such_table(tiny, tmp_path):
    assert tables.imported(Run(loading.load(str(tiny)), None, tiny, tmp_path)) is None


def test_pictures_without_channels_get_the_axis_that_the_model_has(run, tmp_path):
    (images,) = [batch for batch, _ in run.data.test.batches(10_000).as_numpy_iterator()]
    arrays = {"x": images[..., 0], "y": run.data.test.labels}
    np.savez(tmp_path / "flat.npz", **{f"{name}_{part}": arrays[name] for name in "xy" for part in ("train", "test")})
    own = sections.Dataset(path=str(tmp_path / "flat.npz"))
    changed = run.experiment.model_copy(update={"dataset": own})
    data = registry.fit_to_model(datasets.load(changed), changed)
    assert data.input_shape == data.test.take(slice(1)).examples.shape[1:] == (8, 8, 1)
