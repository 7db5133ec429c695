"""The strip of a page that says where it comes from."""

import json

from collabopt import run as run_module
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
    assert "cluster rate" not in describe(tmp_path, number_of_clusters=32)


def test_only_the_stages_of_the_tree_have_epochs(tmp_path):
    assert "filter pruned" not in describe(tmp_path)["epochs"]
    found = describe(tmp_path, filter_sparsity=0.5)
    assert "filter pruned" in found["epochs"] and "factorized" not in found["epochs"]
    assert found["filter sparsity"] == "0.5"


def test_the_command_of_a_report_has_its_parameters(tmp_path):
    assert provenance.format_command(tmp_path / "digits", "digits") == "make report EXPERIMENT=digits"
    settings = {
        "sparsity": {"default": 0.8, "conv_1": 0.0},
        "cluster_per_channel": True,
        "sparsity_pattern": "2:4",
        "exclude.pruning": ["conv_1", "fc"],
        "stages.pruned.learning_rate": 1e-05,
    }
    run = {"settings": settings}
    (tmp_path / "run.json").write_text(json.dumps(run))
    command = provenance.format_command(tmp_path, "digits", "max_gzip_bytes=9000")
    words = command.removeprefix('make report EXPERIMENT=digits SET="').removesuffix('"')
    # The words say the same, and the title names them.
    found = {name: values[0] for name, values in plan.parse_settings(words).items()}
    assert found == settings | {"max_gzip_bytes": 9000}
    assert provenance.describe_setting(tmp_path).endswith(
        "exclude.pruning [conv_1,fc], stages.pruned.learning rate 1e-05"
    )


def test_a_run_records_what_it_overrides(tmp_path, monkeypatch):
    monkeypatch.setattr(loading, "REPORTS", tmp_path)
    overrides = {
        "sparsity": {"default": 0.8, "conv_1": 0.0},
        "exclude": {"pruning": ["conv_1"]},
        "number_of_clusters": 8,
    }
    run = run_module.start("digits", **overrides)
    for one in (run, run.without_test(), run.with_scheme("tfmot")):
        described = json.loads(json.dumps(one.describe()))["settings"]
        assert described == {"sparsity": overrides["sparsity"], "exclude.pruning": ["conv_1"]}, "8 is the default"
