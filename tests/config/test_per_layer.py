"""Settings per layer: the default holds for layers that are not named, and mistakes name the layer."""

import pytest

from collabopt.analysis import preflight
from collabopt.batch import plan
from collabopt.config import loading, per_layer
from collabopt.config.experiment import ExperimentError
from collabopt.config.stages import STAGES
from collabopt.storage.results import make_key

MIXED = {"default": 0.5, "pw": 0.75, "conv": 0}


def test_a_layer_has_its_own_value_or_the_default():
    assert [per_layer.get_value(MIXED, layer) for layer in ("pw", "conv", "fc")] == [0.75, 0, 0.5]
    assert per_layer.get_value(0.5, "pw") == per_layer.get_value(MIXED) == 0.5
    assert per_layer.list_layers(MIXED) == {"pw": 0.75, "conv": 0}
    assert per_layer.list_layers(0.5) == {}


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"sparsity": {"default": 0.5, "pw": 2}}, "sparsity.pw=2: expected less than 1"),
        ({"sparsity": {"pw": 0.5}}, "sparsity: .*expected a value for default"),
        ({"number_of_clusters": {"default": 8, "fc": 2}}, "expected greater than or equal to 3"),
        ({"number_of_clusters": {"default": 2, "fc": 3}, "symmetric": True}, "expected 2 for binary or 3 for ternary"),
        ({"sparsity": {"default": 0.5, "pw": 0.7}, "sparsity_pattern": "2:4"}, "expected 0.5"),
        ({"sparsity": "half"}, "sparsity='half': expected a valid number"),
    ],
)
def test_a_wrong_value_is_named_without_words_of_the_schema(small, values, message):
    with pytest.raises(ExperimentError, match=message) as error:
        loading.load(str(small), **values)
    assert "<" not in str(error.value)


def test_a_default_alone_is_the_value_of_all_layers(small):
    assert loading.load(str(small), sparsity={"default": 0.5}) == loading.load(str(small), sparsity=0.5)
    loading.load(str(small), sparsity={"default": 0.5, "pw": 0}, sparsity_pattern="2:4")


def test_an_unknown_layer_stops_with_the_name_that_was_meant(small, small_cnn):
    experiment = loading.load(str(small), sparsity=MIXED | {"cnv": 0.1}, number_of_clusters={"default": 8, "dw": 4})
    first, second = preflight.find_unknown_names(small_cnn(), experiment)
    assert (first.layer, first.stops) == ("cnv", True)
    assert first.reason.startswith("sparsity names no layer")
    assert first.remedy.startswith("did you mean conv?")
    assert (second.layer, second.stops) == ("dw", True)  # depthwise


def test_rows_of_other_settings_have_another_key(small):
    experiment = loading.load(str(small), sparsity=MIXED, distill={"weight": 0.25})
    keys = {name: make_key(experiment, STAGES[name]) for name in ("baseline", "pruned", "pqat", "cqat")}
    assert keys["pqat"]["target_sparsity"] == 0.5
    assert keys["pqat"]["options"] == "sparsity pw 0.75, sparsity conv 0, distilled at 4 by 0.25"
    assert keys["cqat"]["options"] == "distilled at 4 by 0.25"
    assert keys["baseline"]["options"] == make_key(loading.load(str(small)), STAGES["pcqat"])["options"] == ""


def test_values_per_layer_are_parameters_of_a_batch():
    words = "sparsity={default: 0.5, conv_1: 0},0.8"
    for text in (f"'{words}' seed=0,1", f"{words} seed=0,1"):  # blanks in braces do not separate words
        assert plan.parse_settings(text) == {"sparsity": [{"default": 0.5, "conv_1": 0}, 0.8], "seed": [0, 1]}
    with pytest.raises(ExperimentError, match="a value is given twice"):
        plan.parse_settings("'sparsity={default: 0.5, conv_1: 0},{default: 0.5, conv_1: 0}'")
    directory = loading.find_report_directory("digits", sparsity={"default": 0.5, "conv_1": 0})
    assert directory.name == "sparsity=default:0.5_conv_1:0.0"


def test_the_price_of_a_bit_follows_the_number_of_clusters(small):
    rates = {k: loading.load(str(small), number_of_clusters=k).cluster_rate for k in (3, 8, 16, 32)}
    assert rates == {3: 0.03, 8: 0.03, 16: pytest.approx(0.0075), 32: pytest.approx(0.03 / 16)}
    mixed = loading.load(str(small), number_of_clusters={"default": 16, "fc": 4})
    assert mixed.cluster_rate == {"default": rates[16], "fc": 0.03}
    assert loading.change(mixed, number_of_clusters=32).cluster_rate == rates[32]
    given = loading.load(str(small), cluster_rate={"default": 0.1, "pww": 0})
    assert loading.change(given, number_of_clusters=32).cluster_rate == given.cluster_rate


def test_a_price_for_an_unknown_layer_stops(small, small_cnn):
    experiment = loading.load(str(small), cluster_rate={"default": 0.1, "pww": 0})
    (found,) = preflight.find_unknown_names(small_cnn(), experiment)
    assert found.layer == "pww" and found.reason.startswith("cluster_rate names no layer")


def test_changing_nothing_gives_the_same_experiment(tiny):
    """The tiny experiment names a built-in model, for which defaults of other models must not count as given."""
    experiment = loading.load(str(tiny), seed=3)
    assert loading.change(experiment) == experiment
    assert loading.change(experiment, sparsity=0.25) == loading.load(str(tiny), seed=3, sparsity=0.25)
    with pytest.raises(ExperimentError, match="sparsity=3: expected less than 1"):
        loading.change(experiment, sparsity=3)
