"""Custom models: functions and saved files are built as given, and every mistake is named."""

import hashlib
import importlib
import sys
import textwrap
import types

import numpy as np
import pytest
from named_models import build_named

from collabopt import models
from collabopt.config import experiment
from collabopt.models import weights


@pytest.fixture
def function(tmp_path, monkeypatch):
    """A function that writes net(input_shape, classes) to a new module and returns its model section."""
    monkeypatch.chdir(tmp_path)

    def write(body: str) -> experiment.Model:
        name = f"custom_{tmp_path.name}"
        source = "from collabopt.runtime.tensorflow import keras, tf\nlayers = keras.layers\n\n"
        source += "def net(input_shape, classes):\n"
        (tmp_path / f"{name}.py").write_text(source + textwrap.indent(textwrap.dedent(body), "    "))
        return experiment.Model(function=f"{name}:net")

    return write


GRAPH = """
x = inputs = keras.Input(input_shape)
x = layers.Flatten()(x)
{0}
return keras.Model(inputs, x)
"""


@pytest.mark.parametrize(
    "body",
    [
        GRAPH.format("x = layers.Dense(classes)(x)"),
        GRAPH.format("x = layers.Dense(classes)(x * 2 + 1)"),
        "return keras.Sequential([keras.Input(input_shape), layers.Flatten(), layers.Dense(classes)])",
    ],
)
def test_a_function_of_the_current_directory(function, body):
    section = function(body)
    model = models.build(section, (8, 8, 1), (10,))
    assert (model.input_shape, model.output_shape) == ((None, 8, 8, 1), (None, 10))
    assert len(models.compute_code_digest(section)) == 16


BAD_MODELS = {
    "output": (GRAPH.format("x = layers.Dense(7)(x)"), r"output shape=\(None, 7\): expected \(None, 10\)"),
    "input": (
        "return keras.Sequential([keras.Input((4,)), layers.Dense(classes)])",
        r"input shape=\(None, 4\): expected \(None, 8, 8, 1\)",
    ),
    "dtype": (GRAPH.format("x = layers.Dense(classes, dtype='float16')(x)"), "output dtype=float16: expected float32"),
    "outputs": (GRAPH.format("x = [layers.Dense(classes)(x), x]"), "found 2 outputs; expected one"),
    "softmax": (
        GRAPH.format("x = layers.Dense(classes, activation='softmax')(x)"),
        "logits are expected: the last layer is a softmax; take it off",
    ),
    "softmax layer": (GRAPH.format("x = layers.Softmax()(layers.Dense(classes)(x))"), "the last layer is a softmax"),
    "softmax activation": (
        GRAPH.format("x = layers.Activation('softmax')(layers.Dense(classes)(x))"),
        "the last layer is a softmax",
    ),
    "softmax operation": (GRAPH.format("x = tf.nn.softmax(layers.Dense(classes)(x))"), "the last layer is a softmax"),
    "softmax in Sequential": (
        "return keras.Sequential([keras.Input(input_shape), layers.Flatten(), layers.Dense(10), layers.Softmax()])",
        "the last layer is a softmax",
    ),
    "sigmoid": (
        GRAPH.format("x = layers.Dense(classes, activation='sigmoid')(x)"),
        "the last layer is a sigmoid; take it off",
    ),
    "nested": (
        GRAPH.format("x = keras.Sequential([layers.Dense(classes)], name='head')(x)"),
        "layer head is itself a model",
    ),
    "names": (
        GRAPH.format(
            "a, b = layers.Dense(9, name='a'), layers.Dense(classes, name='b')\n"
            "x = b(a(x))\nmodel = keras.Model(inputs, x)\nb._name = 'a'\nreturn model"
        ),
        "two layers are named a",
    ),
    "shared": (
        GRAPH.format("a = layers.Dense(64, name='a')\nx = layers.Dense(classes)(a(a(x)))"),
        "layer a is called 2 times",
    ),
    "tied": (
        GRAPH.format(
            "a, b = layers.Dense(64, name='a'), layers.Dense(64, name='b')\n"
            "x = layers.Dense(classes)(b(a(x)))\nb.kernel = a.kernel\nb._trainable_weights[0] = a.kernel"
        ),
        "layers a and b share weights",
    ),
    "subclassed": (
        "class Net(keras.Model):\n    def call(self, x):\n        return x\nreturn Net()",
        "found the subclassed model Net",
    ),
    "subclassed graph": (
        "class Net(keras.Model):\n    pass\n"
        "inputs = keras.Input(input_shape)\nreturn Net(inputs, layers.Dense(classes)(layers.Flatten()(inputs)))",
        "found the subclassed model Net",
    ),
    "not built": ("return keras.Sequential([layers.Dense(classes)])", "the Sequential model is not built"),
    "no model": ("return None", "found builtins.NoneType; expected a keras.Model of Keras 2"),
    "Keras 3": (
        "import keras as keras_3\nreturn keras_3.Sequential([keras_3.Input(input_shape), keras_3.layers.Flatten()])",
        "found a Keras 3 model; build it with Keras 2",
    ),
}


@pytest.mark.parametrize("case", BAD_MODELS)
def test_models_that_cannot_be_used_are_named(function, case):
    body, message = BAD_MODELS[case]
    section = function(body)
    with pytest.raises(models.ModelError, match=f"^function={section.function}: .*{message}"):
        models.build(section, (8, 8, 1), (10,))


def test_a_layer_also_called_in_another_model_is_not_shared(function):
    section = function(
        "inputs = keras.Input(input_shape)\ndense = layers.Dense(classes)\nx = layers.Flatten()(inputs)\n"
        "keras.Model(inputs, dense(x))\nreturn keras.Model(inputs, dense(x))"
    )
    assert models.build(section, (8, 8, 1), (10,)).count_params() == 650


def test_missing_functions_are_named(function, monkeypatch):
    monkeypatch.setitem(sys.modules, "__main__", types.ModuleType("__main__"))  # as in a notebook
    section = function("return None")
    for given, message in (
        (section.function.replace(":net", ":other"), "has no function other"),
        ("no_such_module:net", "no module no_such_module"),
        ("no_such_package.module:net", r"no module no_such_package\.module"),
        ("__main__:net", "no module __main__"),
    ):
        with pytest.raises(models.ModelError, match=f"^function={given}: .*{message}"):
            models.build(experiment.Model(function=given), (8, 8, 1), (10,))


def test_errors_of_the_function_are_passed_on(function):
    with pytest.raises(ZeroDivisionError):
        models.build(function("1 / 0"), (8, 8, 1), (10,))


def test_a_function_that_changed_after_its_import_is_rejected(function):
    section = function(GRAPH.format("x = layers.Dense(classes)(x)"))
    models.build(section, (8, 8, 1), (10,))
    function(GRAPH.format("x = layers.Dense(classes, use_bias=False)(x)"))
    with pytest.raises(models.ModelError, match="changed after it was imported; restart the kernel"):
        models.build(section, (8, 8, 1), (10,))


@pytest.mark.filterwarnings("ignore:You are saving your model as an HDF5 file")
@pytest.mark.parametrize("ending", ["keras", "h5"])
def test_a_saved_model_keeps_its_weights(tmp_path, ending):
    saved, path = build_named("digits_cnn", 3), tmp_path / f"model.{ending}"
    saved.save(path)
    section = experiment.Model(path=str(path))
    loaded = weights.get_arrays(models.build(section, (8, 8, 1), (10,)))
    assert all(np.array_equal(array, loaded[key]) for key, array in weights.get_arrays(saved).items())
    assert models.compute_code_digest(section).startswith(hashlib.sha256(path.read_bytes()).hexdigest())
    with pytest.raises(models.ModelError, match=r"^path=.*input shape=\(None, 8, 8, 1\): expected \(None, 9, 9, 1\)"):
        models.build(section, (9, 9, 1), (10,))


@pytest.mark.filterwarnings("ignore:You are saving your model as an HDF5 file")
@pytest.mark.parametrize("ending", ["keras", "h5"])
def test_files_that_cannot_be_loaded_are_named(tmp_path, ending):
    path = tmp_path / f"model.{ending}"
    section = experiment.Model(path=str(path))
    for use in (models.compute_code_digest, lambda section: models.build(section, (8, 8, 1), (10,))):
        with pytest.raises(models.ModelError, match=f"^path=.*{ending}: no such file"):
            use(section)
    path.write_bytes(b"not a model")
    with pytest.raises(models.ModelError, match=f"^path=.*{ending}: .*; .*"):
        models.build(section, (8, 8, 1), (10,))


@pytest.mark.parametrize("ending", ["keras", "h5"])
def test_a_softmax_model_of_keras_3_is_imported_with_its_softmax_taken_off(tmp_path, ending):
    keras_3, path = importlib.import_module("keras"), tmp_path / f"model.{ending}"
    layers = [keras_3.layers.Flatten(), keras_3.layers.Dense(10, activation="softmax")]
    original = keras_3.Sequential([keras_3.Input((8, 8, 1)), *layers])
    original.save(path)
    model = models.build(experiment.Model(path=str(path)), (8, 8, 1), (10,))
    inputs = np.random.default_rng(0).normal(size=(4, 8, 8, 1)).astype("float32")
    logits = model.predict(inputs, verbose=0)
    expected = original.predict(inputs, verbose=0)
    np.testing.assert_allclose(np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True), expected, atol=1e-5)
