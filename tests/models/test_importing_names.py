"""Two builds of a model get the same names, whatever was built before."""

import pytest
from user_networks import BOTH, NETWORKS, keras_3

from collabopt.models import importing
from collabopt.runtime.tensorflow import keras


def read_names(build) -> list[str]:
    model = importing.import_model(build).model
    return [layer.name for layer in model.layers] + [weight.name for weight in model.weights]


@pytest.mark.parametrize("package", BOTH.values(), ids=BOTH)
def test_a_second_build_in_the_same_process_has_the_same_names(package):
    names = read_names(lambda: NETWORKS["residual"](package))
    assert read_names(lambda: NETWORKS["residual"](package)) == names
    keras.backend.clear_session()
    assert read_names(lambda: NETWORKS["residual"](package)) == names
    assert names[:3] == ["input_layer_1", "conv2d_1", "conv2d_2"]


def test_layers_made_in_another_order_have_the_same_names():
    def build(backwards: bool):
        made = {size: keras.layers.Conv2D(4, size, padding="same") for size in sorted((1, 3, 5), reverse=backwards)}
        x = inputs = keras.Input((8, 8, 4))
        for size in (3, 1, 5):
            x = made[size](x)
        return keras.Model(inputs, keras.layers.Flatten()(x))

    assert read_names(lambda: build(False)) == read_names(lambda: build(True))


def test_names_of_both_versions_of_keras_agree():
    assert read_names(lambda: NETWORKS["residual"](keras)) == read_names(lambda: NETWORKS["residual"](keras_3))


def test_chosen_names_stay_and_automatic_names_avoid_them():
    layers = keras.layers

    def build():
        steps = [
            layers.Dense(3),
            layers.Dense(3, name="dense_of_mine"),
            layers.Dense(3),
            layers.Dense(2, name="scores"),
        ]
        return keras.Sequential([keras.Input((4,), name="table"), *steps])

    names = [layer.name for layer in importing.import_model(build).model.layers]
    assert names == ["table", "dense_1", "dense_of_mine", "dense_2", "scores"]


def test_equal_names_in_nested_models_become_different():
    layers = keras.layers

    def build():
        parts = [keras.Sequential([keras.Input((4,)), layers.Dense(4, name="same")], name=f"part_{i}") for i in "ab"]
        return keras.Sequential([keras.Input((4,)), *parts])

    assert [layer.name for layer in importing.import_model(build).model.layers][1:] == ["same", "same_2"]


def test_a_rebuilt_model_takes_the_weights_by_name(tmp_path):
    """Keras continues its counters, by which weights of a rebuilt model were not found again."""
    first = importing.import_model(lambda: NETWORKS["residual"](keras)).model
    first.save_weights(tmp_path / "first.weights.h5")
    second = importing.import_model(lambda: NETWORKS["residual"](keras)).model
    second.load_weights(tmp_path / "first.weights.h5", by_name=False)
    for one, other in zip(first.get_weights(), second.get_weights(), strict=True):
        assert (one == other).all()
