import functools
import hashlib
import importlib
import sys
import textwrap
import types
import typing

import numpy as np
import pytest

from collabopt import models
from collabopt.config import experiment
from collabopt.config.loading import DATA
from collabopt.datasets import mfcc, speech_commands
from collabopt.models import mobilenet, weights
from collabopt.runtime.tensorflow import keras, seed_everything, tfmot

SIZES = {
    "digits_cnn": ((8, 8, 1), 10, 12_346),
    "mnist_cnn": ((28, 28, 1), 10, 20_410),
    "ds_cnn_s": ((49, 10, 1), 12, 24_908),
    "ds_cnn_m": ((49, 10, 1), 12, 141_224),
    "ds_cnn_l": ((49, 10, 1), 12, 422_844),
    "mobilenet_v1": ((32, 32, 3), 10, 3_239_114),
    "mobilenet_v2": ((32, 32, 3), 10, 2_270_794),
}
"""Input shape, classes and parameters."""


def named(name: str, seed: int = 0) -> keras.Model:
    seed_everything(seed)
    return models.build(experiment.Model(name=name), *SIZES[name][:2])


def examples(name: str, count: int = 4) -> np.ndarray:
    return np.random.default_rng(0).uniform(-1, 1, (count, *SIZES[name][0])).astype(np.float32)


def accuracy(model: keras.Model, inputs: np.ndarray, labels: np.ndarray) -> float:
    return float(np.mean(model.predict(inputs, batch_size=256, verbose=0).argmax(1) == labels))


# Models by name


def test_every_name_an_experiment_may_give_has_a_model():
    names = typing.get_args(typing.get_args(experiment.Model.model_fields["name"].annotation)[0])
    assert set(models.FAMILIES) == set(names) == set(SIZES)


@pytest.mark.parametrize("name", SIZES)
def test_size_names_and_logits(name):
    model = named(name)
    outputs = model.predict(examples(name), verbose=0)
    assert model.count_params() == SIZES[name][2]
    assert model.input.dtype == outputs.dtype == np.float32
    assert outputs.shape == (4, SIZES[name][1])
    assert not np.allclose(outputs.sum(axis=1), 1)  # as it would for probabilities


@pytest.mark.parametrize("name", SIZES)
def test_the_seed_decides_names_and_weights(name):
    models_built = [named(name, 1) for _ in range(2)]
    names, other_names = ([layer.name for layer in model.layers] for model in models_built)
    arrays, other_arrays = map(weights.arrays, models_built)
    assert names == other_names
    assert all(np.array_equal(array, other_arrays[key]) for key, array in arrays.items())


def test_another_seed_gives_other_kernels():
    arrays, others = (weights.arrays(named("digits_cnn", seed)) for seed in (1, 2))
    assert not any(np.array_equal(array, others[key]) for key, array in arrays.items() if key.endswith("kernel"))


@pytest.mark.parametrize("name", ["digits_cnn", "mnist_cnn", "ds_cnn_s", "mobilenet_v1", "mobilenet_v2"])
def test_tfmot_wraps_convolutions_and_dense_layers(name):
    model = named(name)
    kinds = (keras.layers.Conv2D, keras.layers.Dense)
    for wrap in (
        tfmot.sparsity.keras.prune_low_magnitude,
        functools.partial(
            tfmot.clustering.keras.cluster_weights,
            number_of_clusters=4,
            cluster_centroids_init=tfmot.clustering.keras.CentroidInitialization.LINEAR,
        ),
    ):
        clone = keras.models.clone_model(model)
        wrapped = keras.models.clone_model(
            clone, clone_function=lambda layer, wrap=wrap: wrap(layer) if type(layer) in kinds else layer
        )
        count = sum(type(layer) in kinds for layer in model.layers)
        assert count == sum(isinstance(layer, keras.layers.Wrapper) for layer in wrapped.layers) > 0


@pytest.mark.parametrize("name", ["digits_cnn", "mnist_cnn", "ds_cnn_s"])
def test_tfmot_quantizes(name):
    api = tfmot.quantization.keras
    quantized = api.quantize_apply(api.quantize_annotate_model(keras.models.clone_model(named(name))))
    assert quantized.output_shape == (None, SIZES[name][1])


def test_digits_cnn_learns_the_digits():
    from sklearn.datasets import load_digits

    digits = load_digits()
    images, labels = (digits.images[..., np.newaxis] / 16).astype(np.float32), digits.target
    order = np.random.default_rng(0).permutation(len(labels))
    train, test = order[360:], order[:360]
    model = named("digits_cnn")
    model.compile(keras.optimizers.Adam(3e-3), keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    model.fit(images[train], labels[train], batch_size=32, epochs=20, verbose=0)
    assert accuracy(model, images[test], labels[test]) >= 0.97


@pytest.mark.parametrize(
    ("name", "side", "stride"), [("mobilenet_v1", 63, 1), ("mobilenet_v1", 64, 2), ("mobilenet_v2", 32, 1)]
)
def test_the_stem_keeps_the_size_of_small_images(name, side, stride):
    model = models.build(experiment.Model(name=name), (side, side, 3), 10)
    stem = model.get_layer(mobilenet.APPLICATIONS[name][1])
    assert stem.strides == (stride, stride)
    assert stem.output_shape[1:3] == (side // stride, side // stride)


def test_no_image_a_mobilenet_takes_is_too_small():
    model = models.build(experiment.Model(name="mobilenet_v1"), (mobilenet.SMALLEST, mobilenet.SMALLEST, 3), 10)
    assert model.get_layer("pool").input_shape[1:3] == (1, 1)


def test_mobilenet_v2_pads_by_the_sizes_its_maps_have():
    model = models.build(experiment.Model(name="mobilenet_v2"), (36, 36, 3), 10)
    pads = [layer for layer in model.layers if isinstance(layer, keras.layers.ZeroPadding2D)]
    assert len(pads) == 4
    for pad in pads:
        before = pad.input_shape[1] % 2  # an odd map is padded on both sides, an even one at its end
        assert pad.padding == ((before, 1), (before, 1))


# Trained weights


def test_ds_cnn_l_recognises_speech_commands():
    folder, trained = DATA / "speech_commands" / "test", DATA / "weights" / "ds_cnn_l_speech_commands.npz"
    if not (folder.is_dir() and trained.is_file()):
        pytest.skip(f"needs {folder} and {trained}")
    clips = [(path, label) for label, word in enumerate(speech_commands.CLASSES) for path in (folder / word).glob("*")]
    assert len(clips) == 1_509
    model = named("ds_cnn_l")
    weights.assign(model, weights.read(trained))
    features = mfcc.features_of_files([path for path, _ in clips])
    assert accuracy(model, features, np.array([label for _, label in clips])) == pytest.approx(0.9158, abs=0.0007)


def test_mobilenet_v1_recognises_cifar10():
    archive, trained = DATA / "cifar10.npz", DATA / "weights" / "mobilenet_v1_cifar10.npz"
    if not (archive.is_file() and trained.is_file()):
        pytest.skip(f"needs {archive} and {trained}")
    model = named("mobilenet_v1")
    weights.assign(model, weights.read(trained))
    with np.load(archive) as data:
        images, labels = data["x_test"], data["y_test"].ravel()
    assert accuracy(model, images / np.float32(127.5) - 1, labels) == pytest.approx(0.9016, abs=0.0002)


@pytest.mark.parametrize("name", ["mobilenet_v1", "mobilenet_v2"])
def test_weights_of_keras_applications_fit(name, monkeypatch):
    application, stem = mobilenet.APPLICATIONS[name]
    pretrained = application(weights=None, classifier_activation=None)
    monkeypatch.setitem(mobilenet.APPLICATIONS, name, (fresh_or(application, pretrained), stem))
    model = getattr(mobilenet, name)((224, 224, 3), 1000, weights="imagenet")
    image = np.random.default_rng(0).uniform(-1, 1, (1, 224, 224, 3)).astype(np.float32)
    np.testing.assert_allclose(model(image), pretrained(image), atol=1e-5)


def fresh_or(application, pretrained):
    """The application, with `pretrained` for what it would download."""
    return lambda **keys: pretrained if keys["weights"] == "imagenet" else application(**keys)


def test_imagenet_weights_that_cannot_be_downloaded(monkeypatch):
    def offline(**_):
        raise Exception("URL fetch failure on https://...: None --\nName or service not known")

    monkeypatch.setitem(mobilenet.APPLICATIONS, "mobilenet_v1", (offline, "conv1"))
    with pytest.raises(models.ModelError, match=r"^weights=imagenet: .*mobilenet_v1.*URL fetch failure") as caught:
        mobilenet.imagenet_weights("mobilenet_v1")
    assert "\n" not in str(caught.value)


def test_imagenet_weights_that_do_not_fit():
    with pytest.raises(models.ModelError, match=r"weights=imagenet.*classes=10: expected .* 1000"):
        mobilenet.mobilenet_v1((224, 224, 3), 10, weights="imagenet")
    with pytest.raises(models.ModelError, match="weights=coco: expected None or imagenet"):
        mobilenet.mobilenet_v1((224, 224, 3), 1000, weights="coco")
    with pytest.raises(models.ModelError, match="model_name=resnet: expected one of mobilenet_v1"):
        mobilenet.imagenet_weights("resnet")


# Weights as arrays


def test_weights_round_trip(tmp_path):
    trained, other = named("digits_cnn", 1), named("digits_cnn", 2)
    np.savez(tmp_path / "weights.npz", **weights.arrays(trained))
    weights.assign(other, weights.read(tmp_path / "weights.npz"))
    arrays = weights.arrays(trained)
    assert {"conv_1/kernel", "dw_1/depthwise_kernel", "pw_2_bn/moving_variance", "fc/bias"} <= set(arrays)
    assert sum(array.size for array in arrays.values()) == SIZES["digits_cnn"][2]
    assert all(np.array_equal(array, weights.arrays(other)[key]) for key, array in arrays.items())
    arrays["fc/bias"][:] = 7  # copies: the model stays
    assert not weights.variables(trained)["fc/bias"].numpy().any()


def test_weights_that_do_not_fit_change_nothing():
    model = named("mnist_cnn")
    before, arrays = weights.arrays(model), {key: array + 1 for key, array in weights.arrays(model).items()}
    del arrays["fc/bias"]
    arrays["conv_1/kernel"] = arrays["conv_1/kernel"][..., :-1]
    arrays["conv_1/bias"] = np.array(["x"] * 12)
    arrays["conv_2/kernel"] = np.zeros(3)
    with pytest.raises(models.ModelError) as caught:
        weights.assign(model, arrays)
    assert str(caught.value).splitlines() == [
        "weights do not fit model=mnist_cnn:",
        "conv_1/bias: dtype=<U1: expected real numbers",
        "conv_1/kernel: shape=(3, 3, 1, 11): expected (3, 3, 1, 12)",
        "conv_2/kernel: unexpected; the model has no such variable",
        "fc/bias: missing; expected an array of shape (10,)",
    ]
    assert all(np.array_equal(array, weights.arrays(model)[key]) for key, array in before.items())


@pytest.mark.parametrize("content", [None, b"", b"not an npz", "npy", "pickled"])
def test_weights_that_cannot_be_read(tmp_path, content):
    path = tmp_path / "weights.npz"
    if content == "npy":
        with path.open("wb") as file:
            np.save(file, np.zeros(3))
    elif content == "pickled":
        np.savez(path, a=np.array([{}], dtype=object))
    elif content is not None:
        path.write_bytes(content)
    with pytest.raises(models.ModelError, match=r"path=.*weights\.npz: (no such file|not an \.npz)"):
        weights.read(path)


# Models of the user's own


@pytest.fixture
def function(tmp_path, monkeypatch):
    """Writes `body` as a function net(input_shape, classes) of a new module here, and returns its section."""
    monkeypatch.chdir(tmp_path)

    def write(body: str) -> experiment.Model:
        name = f"own_{tmp_path.name}"
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
    model = models.build(section, (8, 8, 1), 10)
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
def test_models_that_cannot_be_used(function, case):
    body, message = BAD_MODELS[case]
    section = function(body)
    with pytest.raises(models.ModelError, match=f"^function={section.function}: .*{message}"):
        models.build(section, (8, 8, 1), 10)


def test_a_layer_also_called_in_another_model_is_not_shared(function):
    section = function(
        "inputs = keras.Input(input_shape)\ndense = layers.Dense(classes)\nx = layers.Flatten()(inputs)\n"
        "keras.Model(inputs, dense(x))\nreturn keras.Model(inputs, dense(x))"
    )
    assert models.build(section, (8, 8, 1), 10).count_params() == 650


def test_functions_that_are_not_there(function, monkeypatch):
    monkeypatch.setitem(sys.modules, "__main__", types.ModuleType("__main__"))  # as in a notebook
    section = function("return None")
    for given, message in (
        (section.function.replace(":net", ":other"), "has no function other"),
        ("no_such_module:net", "no module no_such_module"),
        ("no_such_package.module:net", r"no module no_such_package\.module"),
        ("__main__:net", "no module __main__"),
    ):
        with pytest.raises(models.ModelError, match=f"^function={given}: .*{message}"):
            models.build(experiment.Model(function=given), (8, 8, 1), 10)


def test_errors_of_the_function_itself_pass_through(function):
    with pytest.raises(ZeroDivisionError):
        models.build(function("1 / 0"), (8, 8, 1), 10)


def test_a_function_changed_after_its_import(function):
    section = function(GRAPH.format("x = layers.Dense(classes)(x)"))
    models.build(section, (8, 8, 1), 10)
    function(GRAPH.format("x = layers.Dense(classes, use_bias=False)(x)"))
    with pytest.raises(models.ModelError, match="changed after it was imported; restart the kernel"):
        models.build(section, (8, 8, 1), 10)


@pytest.mark.filterwarnings("ignore:You are saving your model as an HDF5 file")
@pytest.mark.parametrize("ending", ["keras", "h5"])
def test_a_saved_model_keeps_its_weights(tmp_path, ending):
    saved, path = named("digits_cnn", 3), tmp_path / f"model.{ending}"
    saved.save(path)
    section = experiment.Model(path=str(path))
    loaded = weights.arrays(models.build(section, (8, 8, 1), 10))
    assert all(np.array_equal(array, loaded[key]) for key, array in weights.arrays(saved).items())
    assert models.compute_code_digest(section) == hashlib.sha256(path.read_bytes()).hexdigest()
    with pytest.raises(models.ModelError, match=r"^path=.*input shape=\(None, 8, 8, 1\): expected \(None, 9, 9, 1\)"):
        models.build(section, (9, 9, 1), 10)


@pytest.mark.filterwarnings("ignore:You are saving your model as an HDF5 file")
@pytest.mark.parametrize("ending", ["keras", "h5"])
def test_files_that_cannot_be_loaded(tmp_path, ending):
    path = tmp_path / f"model.{ending}"
    section = experiment.Model(path=str(path))
    for use in (models.sources, lambda section: models.build(section, (8, 8, 1), 10)):
        with pytest.raises(models.ModelError, match=f"^path=.*{ending}: no such file"):
            use(section)
    path.write_bytes(b"not a model")
    with pytest.raises(models.ModelError, match=f"^path=.*{ending}: Keras 2 cannot load it"):
        models.build(section, (8, 8, 1), 10)
    keras_3 = importlib.import_module("keras")
    path.unlink()
    keras_3.Sequential([keras_3.Input((8, 8, 1)), keras_3.layers.Flatten(), keras_3.layers.Dense(10)]).save(path)
    with pytest.raises(models.ModelError, match=rf"^path=.*{ending}: saved by Keras 3\."):
        models.build(section, (8, 8, 1), 10)


def test_inputs_that_do_not_fit_a_named_model():
    for name, shape, message in (
        ("digits_cnn", (8, 8), r"expected \(height, width, channels\)"),
        ("mnist_cnn", (2, 2, 1), "."),
        ("mobilenet_v1", (8, 8, 3), "expected sides of at least 16 pixels"),
    ):
        with pytest.raises(models.ModelError, match=rf"^name={name}, input_shape=\({shape[0]}, .*: .*{message}"):
            models.build(experiment.Model(name=name), shape, 10)


def test_the_code_digest_tells_models_apart():
    sections = [experiment.Model(name=name) for name in models.FAMILIES]
    digests = [models.compute_code_digest(section) for section in sections]
    assert len(set(digests)) == len(sections)
    assert digests == [models.compute_code_digest(section) for section in sections]
