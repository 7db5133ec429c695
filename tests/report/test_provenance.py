"""The strip of a page that says where it comes from."""

import json

from collabopt.batch import plan
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


def test_the_command_of_a_report_has_its_parameters(tmp_path, monkeypatch):
    monkeypatch.setattr(loading, "REPORTS", tmp_path)
    assert provenance.format_command(tmp_path / "digits", "digits") == "make report EXPERIMENT=digits"
    changed = tmp_path / "digits" / "sparsity=0.8,exclude.pruning=conv_1+fc"
    command = provenance.format_command(changed, "digits", "max_gzip_bytes=9000")
    words = 'SET="sparsity=0.8 exclude.pruning=[conv_1,fc] max_gzip_bytes=9000"'
    assert command == f"make report EXPERIMENT=digits {words}"
    # These words lead back to the same directory.
    overrides = {name: values[0] for name, values in plan.parse_settings(words[5:-1]).items()}
    del overrides["max_gzip_bytes"]
    assert loading.find_report_directory("digits", **overrides) == changed
