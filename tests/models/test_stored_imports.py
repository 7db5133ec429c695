"""The import of a file is kept: later processes build the model without the Keras that wrote it."""

import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from user_networks import NETWORKS, keras_3, randomize

from collabopt.config.sections import Model
from collabopt.models import ModelError, custom, importing
from collabopt.runtime import user_modules
from collabopt.runtime.tensorflow import keras

INPUTS = np.random.default_rng(3).normal(size=(4, 8, 8, 3)).astype(np.float32)

LATER = """
import sys
import numpy as np
from collabopt.config.sections import Model
from collabopt.models import custom, importing

def fail(*arguments, **options):
    raise AssertionError("imported again")

importing.import_model = fail
imported = custom.get_imported(Model(path=sys.argv[1]), (8, 8, 3), None)
np.save(sys.argv[2], imported.model(np.load(sys.argv[3])))
assert "keras" not in sys.modules
print(imported.output_activations, imported.rewrites, imported.largest_difference, sep="\\n")
"""


@pytest.fixture
def count_imports(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Imports as a process that just started does, and returns how often files were imported so far."""
    calls, import_model = [], importing.import_model
    monkeypatch.setattr(custom, "STORE", tmp_path / "stages")
    monkeypatch.setattr(importing, "import_model", lambda *a, **b: calls.append(a) or import_model(*a, **b))

    def use(section: Model) -> int:
        custom._KEPT.clear()
        custom.get_imported(section, (8, 8, 3), None)
        return len(calls)

    return use


def test_a_later_process_does_not_start_keras_3(tmp_path, monkeypatch):
    monkeypatch.setattr(custom, "STORE", tmp_path / "stages")
    file, inputs, outputs = (tmp_path / name for name in ("mine.keras", "inputs.npy", "outputs.npy"))
    randomize(NETWORKS["norm_after_relu"](keras_3)).save(file)
    first = custom.get_imported(Model(path=str(file)), (8, 8, 3), None)
    np.save(inputs, INPUTS)
    command = [sys.executable, "-c", LATER, str(file), str(outputs), str(inputs)]
    done = subprocess.run(
        command, env=os.environ | {"COLLABOPT_DATA": str(tmp_path)}, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == [
        str(part) for part in (first.output_activations, first.rewrites, first.largest_difference)
    ]
    np.testing.assert_allclose(np.load(outputs), first.model(INPUTS), rtol=1e-5, atol=1e-6)


def test_what_decides_an_import_is_part_of_its_key(tmp_path, monkeypatch, count_imports):
    file, section = tmp_path / "mine.h5", Model(path=str(tmp_path / "mine.h5"))
    randomize(NETWORKS["norm_after_relu"](keras)).save(file)
    assert [count_imports(section), count_imports(section)] == [1, 1]
    assert count_imports(Model(path=str(shutil.copy(file, tmp_path / "moved.h5")))) == 1
    randomize(NETWORKS["norm_after_relu"](keras), seed=1).save(file)
    assert [count_imports(section), count_imports(section)] == [2, 2]
    assert count_imports(Model(path=str(file), trust_code=True)) == 3
    code = shutil.copytree(custom.IMPORTING, tmp_path / "code")
    monkeypatch.setattr(custom, "IMPORTING", code)
    worker = code / "worker.py"
    worker.write_text("# A comment decides nothing.\n" + worker.read_text())
    assert count_imports(section) == 3
    worker.write_text(worker.read_text() + "\nCHANGED = True\n")
    assert count_imports(section) == 4
    assert not list((tmp_path / "stages").glob(".*partial"))


def test_a_class_of_the_user_is_part_of_the_key(tmp_path, monkeypatch, count_imports):
    monkeypatch.chdir(tmp_path)
    module = tmp_path / "layers_of_a_stored_import.py"
    code = """
from collabopt.runtime.tensorflow import keras

class Scaled(keras.layers.Layer):
    def call(self, inputs):
        return 2.0 * inputs
"""
    module.write_text(code)
    sys.path.insert(0, str(tmp_path))
    try:
        own = __import__(module.stem).Scaled
    finally:
        sys.path.remove(str(tmp_path))
    model = keras.Sequential([keras.Input((8, 8, 3)), own(), keras.layers.Flatten(), keras.layers.Dense(2)])
    model.save(tmp_path / "mine.h5")
    section = Model(path=str(tmp_path / "mine.h5"), custom_objects=[f"{module.stem}:Scaled"])
    assert [count_imports(section), count_imports(section)] == [1, 1]
    kept = custom.get_imported(section, (8, 8, 3), None).model
    np.testing.assert_allclose(kept(INPUTS), model(INPUTS), rtol=1e-5)
    module.write_text(code.replace("2.0", "2.0 * 1.0"))
    with pytest.raises(ModelError, match="changed after it was imported; restart the kernel"):
        count_imports(section)
    user_modules._imported.clear()  # as in a new process
    user_modules._import_times[module.stem] = time.time_ns()
    assert count_imports(section) == 2


def test_a_refused_model_is_not_kept(tmp_path, count_imports):
    (tmp_path / "mine.h5").write_bytes(b"not a model")
    for _ in range(2):
        with pytest.raises(ModelError, match=r"neither a .keras nor an HDF5 file\. Save the trained"):
            count_imports(Model(path=str(tmp_path / "mine.h5")))
    assert not list((tmp_path / "stages").glob("imported-*"))
