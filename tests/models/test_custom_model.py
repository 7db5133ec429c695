"""Custom models: functions and saved files are built as given, and every mistake is named."""

import hashlib
import importlib
import sys
import textwrap
import types
from pathlib import Path

import numpy as np
import pytest
from named_models import build_named

from collabopt import models
from collabopt.config import sections
from collabopt.config.tasks import TASKS
from collabopt.datasets.dataset import Shapes
from collabopt.models import weights
from collabopt.models.check import _find_wrong_outputs
from collabopt.runtime.tensorflow import keras, seed_everything
from collabopt.techniques import registry


@pytest.fixture
def function(tmp_path, monkeypatch):
    """A function that writes net(input_shape, classes) to a new module and returns its model section."""
    monkeypatch.chdir(tmp_path)

    def write(body: str) -> sections.Model:
        name = f"custom_{tmp_path.name}"
        source = "from collabopt.runtime.tensorflow import keras, tf\nlayers = keras.layers\n\n"
        source += "def net(input_shape, classes):\n"
        (tmp_path / f"{name}.py").write_text(source + textwrap.indent(textwrap.dedent(body), "    "))
        return sections.Model(function=f"{name}:net")

    return write


def get_output_activations(section: sections.Model, task: str = "classification") -> list[str | None]:
    """The activations that the deployed file of a model of images (8, 8, 1) and ten outputs has after the logits."""
    shapes = Shapes((8, 8, 1), (10,), TASKS[task])
    return registry.get_output_activations(types.SimpleNamespace(model=section), shapes)


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
    assert get_output_activations(section) == []


IMPORTED = {
    "softmax": GRAPH.format("x = layers.Dense(classes, activation='softmax')(x)"),
    "softmax operation": GRAPH.format("x = tf.nn.softmax(layers.Dense(classes)(x))"),
    "sigmoid": GRAPH.format("x = layers.Dense(classes, activation='sigmoid')(x)"),
    "nested": GRAPH.format("x = keras.Sequential([layers.Dense(classes)], name='head')(x)"),
    "half precision": GRAPH.format("x = layers.Dense(classes, dtype='float16')(x)"),
    "pixels": "return keras.Sequential([keras.Input(input_shape, dtype='uint8'), layers.Rescaling(1 / 255), "
    "layers.Flatten(), layers.Dense(classes)])",
    "not built": "return keras.Sequential([layers.Flatten(), layers.Dense(classes)])",
    "open axes": "return keras.Sequential([keras.Input((None, None, 1)), layers.Conv2D(4, 3, padding='same'), "
    "layers.GlobalMaxPooling2D(), layers.Dense(classes)])",
    "Keras 3": "import keras as keras_3\nlayers = keras_3.layers\n"
    "return keras_3.Sequential([layers.RandomFlip(), layers.Flatten(), layers.Dense(classes, activation='softmax')])",
    "lambda": GRAPH.format("x = layers.Dense(classes)(layers.Lambda(lambda x: x * 2)(x))"),
    "equal names": GRAPH.format(
        "a, b = layers.Dense(9, name='a'), layers.Dense(classes, name='b')\n"
        "x = b(a(x))\nmodel = keras.Model(inputs, x)\nb._name = 'a'\nreturn model"
    ),
}
"""Bodies of functions whose models become flat ones of Keras 2, in float32, of the data's shape, that return logits."""


@pytest.mark.parametrize("case", IMPORTED)
def test_a_function_of_any_style_is_imported(function, case):
    section = function(IMPORTED[case])
    model = models.build(section, (8, 8, 1), (10,))
    assert (model.input_shape, model.output_shape) == ((None, 8, 8, 1), (None, 10))
    assert model.inputs[0].dtype == model.outputs[0].dtype == "float32"
    assert len({layer.name for layer in model.layers}) == len(model.layers)
    restored = models.restore(section, weights.get_arrays(model), (8, 8, 1), (10,))
    inputs = np.random.default_rng(0).uniform(0, 1, (4, 8, 8, 1)).astype("float32")
    np.testing.assert_array_equal(restored(inputs), model(inputs))


NO_ARGUMENTS = """
def plain():
    return net((8, 8, 1), 10)


def tuned(units=10, scale=1.0):
    return net((8, 8, 1), units)


def shaped(units=10, input_shape=(8, 8, 1)):
    return net(input_shape, units)
"""


@pytest.mark.parametrize("name", ["plain", "tuned", "shaped"])
def test_a_function_may_take_no_arguments(function, name):
    section = function(GRAPH.format("x = layers.Dense(classes)(x)"))
    module = section.function.partition(":")[0]
    with Path(f"{module}.py").open("a") as file:
        file.write(NO_ARGUMENTS)
    assert models.build(sections.Model(function=f"{module}:{name}"), (8, 8, 1), (10,)).count_params() == 650


def test_fresh_weights_come_from_the_seed(function):
    section = function(GRAPH.format("x = layers.Dense(classes)(x)"))

    def build(seed: int) -> dict[str, np.ndarray]:
        seed_everything(seed)
        return weights.get_arrays(models.build(section, (8, 8, 1), (10,)))

    first, other, again = build(1), build(2), build(1)
    assert (first["dense_1/kernel"] == again["dense_1/kernel"]).all()
    assert (first["dense_1/kernel"] != other["dense_1/kernel"]).any()


AUTOMATIC = {
    "residual": """
x = inputs = keras.Input(input_shape)
for _ in range(2):
    y = layers.BatchNormalization()(layers.Conv2D(4, 3, padding="same")(x))
    x = layers.Concatenate()([layers.ReLU()(y), layers.Add()([y, layers.Conv2D(4, 1)(x)])])
return keras.Model(inputs, layers.Dense(classes)(layers.GlobalAveragePooling2D()(x)))
""",
    "recurrent": """
return keras.Sequential([
    keras.Input(input_shape), layers.Reshape((8, 8)), layers.Bidirectional(layers.GRU(3, return_sequences=True)),
    layers.TimeDistributed(layers.Dense(3)), layers.LSTM(3), layers.Dense(classes),
])
""",
}


@pytest.mark.parametrize("case", AUTOMATIC)
def test_stored_weights_fit_every_later_build(function, case):
    """A second model in the process, and a notebook cell that runs again, continue the counters of Keras."""
    section = function(AUTOMATIC[case])
    seed_everything(0)
    stored = weights.get_arrays(models.build(section, (8, 8, 1), (10,)))
    keras.layers.Conv2D(1, 1), keras.layers.LSTM(1)
    restored = weights.get_arrays(models.restore(section, stored, (8, 8, 1), (10,)))
    rebuilt = weights.get_arrays(models.build(section, (8, 8, 1), (10,)))
    assert stored.keys() == restored.keys() == rebuilt.keys()
    assert all((restored[name] == stored[name]).all() for name in stored)


BAD_MODELS = {
    "output": (GRAPH.format("x = layers.Dense(7)(x)"), r"output shape=\(None, 7\): expected \(None, 10\)"),
    "input": (
        "return keras.Sequential([keras.Input((4,)), layers.Dense(classes)])",
        r"input shape=\(None, 4\): expected \(None, 8, 8, 1\)",
    ),
    "outputs": (
        GRAPH.format("x = [layers.Dense(classes)(x), x]"),
        r"found 2 outputs, .*; name the one to keep, as in head: ",
    ),
    "inputs": (
        "ends = [keras.Input((3,), name='a'), keras.Input((4,), name='b')]\n"
        "return keras.Model(ends, layers.Dense(classes)(layers.Concatenate()(ends)))",
        "found 2 inputs, a, b; expected data with one array for each",
    ),
    "shared": (
        GRAPH.format("a = layers.Dense(64, name='a')\nx = layers.Dense(classes)(a(a(x)))"),
        "layer a is called more than once with the same weights",
    ),
    "tied": (
        GRAPH.format(
            "a, b = layers.Dense(64, name='a'), layers.Dense(64, name='b')\n"
            "x = layers.Dense(classes)(b(a(x)))\nb.kernel = a.kernel\nb._trainable_weights[0] = a.kernel"
        ),
        "layer b is called more than once with the same weights, or shares them",
    ),
    "subclassed": (
        "class Net(keras.Model):\n    def call(self, x):\n        return x\nreturn Net()",
        "is the subclassed model Net",
    ),
    "subclassed graph": (
        "class Net(keras.Model):\n    pass\n"
        "inputs = keras.Input(input_shape)\nreturn Net(inputs, layers.Dense(classes)(layers.Flatten()(inputs)))",
        "is the subclassed model Net",
    ),
    "no model": ("return None", "found NoneType instead of a model"),
}


@pytest.mark.parametrize("case", BAD_MODELS)
def test_models_that_cannot_be_used_are_named(function, case):
    body, message = BAD_MODELS[case]
    section = function(body)
    with pytest.raises(models.ModelError, match=f"^function={section.function}: .*{message}"):
        models.build(section, (8, 8, 1), (10,))


def test_one_of_several_outputs_is_kept(function):
    section = function(
        "inputs = keras.Input(input_shape)\n"
        "x = layers.Flatten()(inputs)\n"
        "kind = layers.Dense(classes, activation='softmax', name='kind')(layers.Dense(6, name='for_kind')(x))\n"
        "size = layers.Dense(2, name='size')(layers.Dense(5, name='for_size')(x))\n"
        "return keras.Model(inputs, [size, kind])"
    )
    kept = section.model_copy(update={"head": "kind"})
    model = models.build(kept, (8, 8, 1), (10,))
    names = [layer.name for layer in model.layers]
    assert "for_kind" in names
    assert not {"size", "for_size"} & {*names}
    assert model.outputs[0].shape == (None, 10)
    assert get_output_activations(kept) == ["softmax"]
    assert models.get_imported(kept, (8, 8, 1), (10,)).rewrites[-1] == "only the output kind is kept"
    both = models.get_imported(section, (8, 8, 1), (10,)).model
    assert "found 2 outputs, size, kind; name the one to keep" in _find_wrong_outputs(both, None)
    with pytest.raises(models.ModelError, match=r"head=kin: the model .* Expected one of size, kind\."):
        models.build(section.model_copy(update={"head": "kin"}), (8, 8, 1), (10,))


def test_several_inputs_are_matched_by_name(function):
    section = function(
        "ends = [keras.Input((3,), name='table'), keras.Input((4, 4, 1), name='image')]\n"
        "x = layers.Concatenate()([ends[0], layers.Flatten()(ends[1])])\n"
        "return keras.Model(ends, layers.Dense(classes)(x))"
    )
    shapes = {"image": (4, 4, 1), "table": (3,)}
    model = models.build(section, shapes, (10,))
    assert models.find_inputs(model) == shapes
    assert list(models.find_inputs(model)) == ["table", "image"]
    with pytest.raises(
        models.ModelError, match=r"inputs table, image: expected the names of the data's arrays, image$"
    ):
        models.build(section, {"image": (4, 4, 1)}, (10,))
    with pytest.raises(models.ModelError, match=r"input image shape=\(None, 4, 4, 1\): expected \(None, 4, 4, 3\)"):
        models.build(section, shapes | {"image": (4, 4, 3)}, (10,))


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
            models.build(sections.Model(function=given), (8, 8, 1), (10,))


def test_a_function_with_other_parameters_is_named(function):
    section = function(GRAPH.format("x = layers.Dense(classes)(x)"))
    module = section.function.partition(":")[0]
    with Path(f"{module}.py").open("a") as file:
        file.write("\n\ndef one(units):\n    return net((8, 8, 1), units)\n")
    with pytest.raises(models.ModelError, match=r"one: takes \(units\); expected two parameters without a default"):
        models.build(sections.Model(function=f"{module}:one"), (8, 8, 1), (10,))


def test_a_task_of_the_user_leaves_the_number_of_outputs_to_the_function(function):
    section = function(GRAPH.format("x = layers.Dense(classes)(x)"))
    module = section.function.partition(":")[0]
    with Path(f"{module}.py").open("a") as file:
        file.write("\n\ndef three(input_shape, outputs=3):\n    return net(input_shape, outputs)\n")
    assert models.build(sections.Model(function=f"{module}:three"), (8, 8, 1), None).output_shape == (None, 3)
    with pytest.raises(models.ModelError, match="expected a default for the number of outputs"):
        models.build(section, (8, 8, 1), None)


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
    section = sections.Model(path=str(path))
    loaded = weights.get_arrays(models.build(section, (8, 8, 1), (10,)))
    assert all(np.array_equal(array, loaded[key]) for key, array in weights.get_arrays(saved).items())
    assert models.compute_code_digest(section).startswith(hashlib.sha256(path.read_bytes()).hexdigest())
    with pytest.raises(models.ModelError, match=r"^path=.*input shape=\(None, 8, 8, 1\): expected \(None, 9, 9, 1\)"):
        models.build(section, (9, 9, 1), (10,))


@pytest.mark.filterwarnings("ignore:You are saving your model as an HDF5 file")
@pytest.mark.parametrize("ending", ["keras", "h5"])
def test_files_that_cannot_be_loaded_are_named(tmp_path, ending):
    path = tmp_path / f"model.{ending}"
    section = sections.Model(path=str(path))
    for use in (models.compute_code_digest, lambda section: models.build(section, (8, 8, 1), (10,))):
        with pytest.raises(models.ModelError, match=f"^path=.*{ending}: no such file"):
            use(section)
    path.write_bytes(b"not a model")
    with pytest.raises(models.ModelError, match=f"^path=.*{ending}: .*[.] .*"):
        models.build(section, (8, 8, 1), (10,))


@pytest.mark.parametrize("ending", ["keras", "h5"])
def test_a_softmax_model_of_keras_3_is_imported_with_its_softmax_taken_off(tmp_path, ending):
    keras_3, path = importlib.import_module("keras"), tmp_path / f"model.{ending}"
    layers = [keras_3.layers.Flatten(), keras_3.layers.Dense(10, activation="softmax")]
    original = keras_3.Sequential([keras_3.Input((8, 8, 1)), *layers])
    original.save(path)
    model = models.build(sections.Model(path=str(path)), (8, 8, 1), (10,))
    inputs = np.random.default_rng(0).normal(size=(4, 8, 8, 1)).astype("float32")
    logits = model.predict(inputs, verbose=0)
    expected = original.predict(inputs, verbose=0)
    np.testing.assert_allclose(np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True), expected, atol=1e-5)
    section = sections.Model(path=str(path))
    assert get_output_activations(section) == ["softmax"]
    logits = section.model_copy(update={"output": "logits"})
    assert get_output_activations(logits) == []


def test_a_task_without_logits_keeps_the_last_activation(function):
    section = function(GRAPH.format("x = layers.Dense(classes, activation='sigmoid')(x)"))
    outputs = models.build(section, (8, 8, 1), (10,), takes_logits=False)(np.full((2, 8, 8, 1), 9, "float32"))
    assert np.min(outputs) >= 0 and np.max(outputs) <= 1
    assert get_output_activations(section, "regression") == []


CUSTOM_LAYER = """
from collabopt.runtime.tensorflow import keras

class Doubling(keras.layers.Layer):
    def call(self, x):
        return {factor} * x
"""


def test_custom_classes_and_weights_are_part_of_the_digest(function, tmp_path):
    section = function(GRAPH.format("x = layers.Dense(classes)(x)"))
    built = models.build(section, (8, 8, 1), (10,))
    digests = {models.compute_code_digest(section)}
    module = f"doubling_{tmp_path.name}"
    for change in range(2):
        built.set_weights([array + change for array in built.get_weights()])
        built.save_weights(tmp_path / "own.weights.h5")
        (tmp_path / f"{module}.py").write_text(CUSTOM_LAYER.format(factor=2 + change))
        for values in ({"weights": str(tmp_path / "own.weights.h5")}, {"custom_objects": [f"{module}:Doubling"]}):
            digests.add(models.compute_code_digest(sections.Model(function=section.function, **values)))
    assert len(digests) == 5
    section = sections.Model(function=section.function, weights=str(tmp_path / "own.weights.h5"))
    model = models.build(section, (8, 8, 1), (10,))
    np.testing.assert_array_equal(model.get_weights()[0], built.get_weights()[0])
    with pytest.raises(models.ModelError, match=r"^weights=absent\.h5: no such file"):
        models.build(section.model_copy(update={"weights": "absent.h5"}), (8, 8, 1), (10,))


def test_weights_of_another_model_are_refused(function, tmp_path):
    section = function(GRAPH.format("x = layers.Dense(classes)(x)"))
    keras.Sequential([keras.Input((3,)), keras.layers.Dense(2)]).save_weights(tmp_path / "other.weights.h5")
    section = sections.Model(function=section.function, weights=str(tmp_path / "other.weights.h5"))
    with pytest.raises(models.ModelError, match=r"they do not fit the model.*Let the function build"):
        models.build(section, (8, 8, 1), (10,))
