"""The strip of a page that says where it comes from."""

import json

from collabopt.config import loading
from collabopt.report import provenance


def describe(tmp_path, **overrides) -> dict[str, str]:
    experiment = loading.load("digits", **overrides).model_dump(mode="json")
    (tmp_path / "run.json").write_text(json.dumps({"experiment": experiment}))
    return dict(provenance.describe(tmp_path))


def test_parameters_with_their_defaults_are_left_out(tmp_path):
    assert describe(tmp_path).keys() == {"experiment", "sparsity", "clusters", "seed", "epochs"}
    assert describe(tmp_path, cluster_rate=0.1)["cluster rate"] == "0.1"


def test_only_the_stages_of_the_tree_have_epochs(tmp_path):
    assert "filter pruned" not in describe(tmp_path)["epochs"]
    found = describe(tmp_path, filter_sparsity=0.5)
    assert "filter pruned" in found["epochs"] and "factorized" not in found["epochs"]
    assert found["filter sparsity"] == "0.5"
