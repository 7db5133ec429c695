"""What cannot be imported is refused with a reason and a remedy, and no code inside a file runs before."""

import json
import zipfile
from pathlib import Path

import h5py
import numpy as np
import pytest
from user_networks import BOTH, keras_3

from collabopt.__main__ import main as run_command
from collabopt.models import importing
from collabopt.runtime.tensorflow import keras, tf
from collabopt.techniques import int8_rewrites

layers = keras.layers


def refuse(source, **options) -> importing.ImportRefused:
    """Import, and return the refusal."""
    with pytest.raises(importing.ImportRefused) as caught:
        importing.import_model(source, **options)
    error = caught.value
    assert error.reason and error.remedy and "\n" not in error.reason + error.remedy
    return error


@pytest.fixture
def lambda_file(tmp_path):
    """Makes a file whose Lambda layer writes a second file when it is called, and returns both paths."""

    def make(package, name: str) -> tuple[Path, Path]:
        mark = tmp_path / "written"
        step = eval(f"lambda x: (open({str(mark)!r}, 'w').close(), x * 2)[1]")
        k = package.layers
        package.Sequential([package.Input((3,)), k.Dense(2), k.Lambda(step, output_shape=(2,))]).save(tmp_path / name)
        mark.unlink(missing_ok=True)
        return tmp_path / name, mark

    return make


@pytest.mark.parametrize("name", ["model.h5", "model.keras"])
@pytest.mark.parametrize("package", BOTH.values(), ids=BOTH)
def test_code_in_a_file_does_not_run_unless_it_is_trusted(lambda_file, package, name):
    file, mark = lambda_file(package, name)
    error = refuse(file)
    assert "Python code" in error.reason and "trust_code: true" in error.remedy
    assert not mark.exists()
    imported = importing.import_model(file, trust_code=True)
    assert mark.exists()
    assert list(int8_rewrites.find_layers_without_qat(imported.model)) == ["lambda_1"]


def test_code_in_a_savedmodel_does_not_run_unless_it_is_trusted(lambda_file):
    folder, mark = lambda_file(keras, "folder")
    assert "Python code" in refuse(folder).reason
    assert not mark.exists()


def test_functions_outside_our_list_are_refused_before_the_file_is_opened(tmp_path, monkeypatch):
    inputs = keras.Input((3,))
    keras.Model(inputs, tf.strings.to_number(tf.strings.as_string(inputs))).save(tmp_path / "model.h5")
    monkeypatch.setattr(keras.models, "load_model", lambda *_, **__: pytest.fail("the file was opened"))
    assert "tf.strings.as_string" in refuse(tmp_path / "model.h5").reason


def test_functions_of_other_modules_in_a_file_are_refused(tmp_path):
    keras.Sequential([keras.Input((3,)), layers.Dense(2, activation="relu")]).save(tmp_path / "good.keras")
    with zipfile.ZipFile(tmp_path / "good.keras") as good, zipfile.ZipFile(tmp_path / "bad.keras", "w") as bad:
        for name in good.namelist():
            content = good.read(name)
            if name == "config.json":
                evil = {"module": "os", "class_name": "function", "config": "system", "registered_name": "function"}
                content = content.replace(b'"activation": "relu"', b'"activation": ' + json.dumps(evil).encode())
                assert b"system" in content
            bad.writestr(name, content)
    assert "not part of Keras" in refuse(tmp_path / "bad.keras").reason


class Doubling(layers.Layer):
    """A custom layer of Keras 2."""

    def call(self, x):
        """Double."""
        return 2 * x


@pytest.mark.parametrize("name", ["model.h5", "model.keras"])
def test_custom_layers_need_their_class(tmp_path, name):
    keras.Sequential([keras.Input((3,)), layers.Dense(2), Doubling()]).save(tmp_path / name)
    error = refuse(tmp_path / name)
    assert "Doubling" in error.reason and "custom_objects: [module:Doubling]" in error.remedy
    for given in (Doubling, f"{__name__}:Doubling"):
        imported = importing.import_model(tmp_path / name, custom_objects={"Doubling": given})
        assert int8_rewrites.find_layers_without_qat(imported.model) == {"doubling_1": "Doubling"}


@pytest.mark.parametrize("package", BOTH.values(), ids=BOTH)
def test_subclassed_models_are_refused(package):
    class Mine(package.Model):
        def __init__(self):
            super().__init__()
            self.dense = package.layers.Dense(2)

        def call(self, x):
            return self.dense(x)

    model = Mine()
    model(np.zeros((1, 3), np.float32))
    assert "subclassed model Mine" in refuse(lambda: model).reason


@pytest.mark.parametrize("package", BOTH.values(), ids=BOTH)
def test_layers_called_twice_are_refused_if_they_have_weights(package):
    dense, relu = package.layers.Dense(3), package.layers.ReLU()

    def build(again):
        x = inputs = package.Input((3,))
        x = relu(dense(x))
        return package.Model(inputs, relu(again(x)))

    assert "called more than once" in refuse(lambda: build(dense)).reason
    importing.import_model(lambda: build(package.layers.Dense(3)))


def test_weights_need_an_architecture(tmp_path):
    def build():
        return keras.Sequential([keras.Input((3,)), layers.Dense(2)])

    model = build()
    model.save_weights(tmp_path / "weights.h5")
    assert "without the architecture" in refuse(tmp_path / "weights.h5").reason
    imported = importing.import_model(build, weights=tmp_path / "weights.h5")
    np.testing.assert_array_equal(imported.model.get_weights()[0], model.get_weights()[0])


def test_other_files_are_named(tmp_path):
    assert "no such file" in refuse(tmp_path / "absent.keras").reason
    (tmp_path / "net.tflite").write_bytes(b"TFL3")
    assert "TensorFlow Lite" in refuse(tmp_path / "net.tflite").reason
    (tmp_path / "cut.keras").write_bytes(b"PK")
    assert "neither" in refuse(tmp_path / "cut.keras").reason
    with zipfile.ZipFile(tmp_path / "other.keras", "w") as archive:
        archive.writestr("readme", "")
    assert "no Keras model" in refuse(tmp_path / "other.keras").reason
    with h5py.File(tmp_path / "broken.h5", "w") as archive:
        archive.attrs["model_config"] = "{"
    assert "damaged" in refuse(tmp_path / "broken.h5").reason
    (tmp_path / "folder").mkdir()
    assert "without Keras layers" in refuse(tmp_path / "folder").reason


def test_models_that_only_keras_3_can_express_are_refused():
    model = keras_3.Sequential([keras_3.Input((4,)), keras_3.layers.RMSNormalization(), keras_3.layers.Dense(2)])
    assert "RMSNormalization, which Keras 2 does not have" in refuse(lambda: model).reason
    x = inputs = keras_3.Input((4,))
    model = keras_3.Model(inputs, keras_3.ops.cumsum(x, axis=1))
    assert "function cumsum" in refuse(lambda: model).reason


def test_the_command_line_prints_json_last(tmp_path, capsys):
    keras.Sequential([keras.Input((3,)), layers.Dense(2, activation="softmax")]).save(tmp_path / "model.keras")
    assert run_command(["import", str(tmp_path / "model.keras")]) == 0
    result = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert result["accepted"] and result["largest_difference"] <= 1e-4
    assert result["rewrites"] == ["softmax was taken off the output"]
    assert run_command(["import", str(tmp_path / "absent.keras")]) == 3
    result = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert not result["accepted"] and set(result) == {"accepted", "reason", "remedy"}
