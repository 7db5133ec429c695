"""Registration of stages and metrics: mistakes are one clear line, and what is registered is used everywhere."""

import subprocess
import sys

import pytest

from collabopt.config import loading, metrics, stages
from collabopt.config.metrics import Metric
from collabopt.config.stages import STAGES, Stage


def make_stage(**changes) -> Stage:
    row = {"name": "toy", "label": "toy", "colour": "#000000", "parent": "pruned", "trainer": "m:f", "notebook": "toy"}
    return Stage(**row | changes)


@pytest.mark.parametrize(
    ("changes", "line"),
    [
        ({"name": "qat"}, "stage name='qat': registered twice; give the second row another name"),
        ({"parent": "prunned"}, "stage toy: 'prunned' is unknown; expected one of baseline, qat, pruned, "),
        ({"guide": ("baseline", "qta")}, "stage toy: 'qta' is unknown; expected one of baseline, qat, pruned, "),
        ({"trainer": "techniques.toy"}, "stage toy: trainer='techniques.toy': expected module:function"),
    ],
)
def test_a_mistaken_row_of_a_stage_is_one_line(changes, line):
    before = dict(STAGES)
    with pytest.raises(ValueError) as caught:
        stages.register(make_stage(**changes))
    assert str(caught.value).startswith(line)
    assert "\n" not in str(caught.value)
    assert before == STAGES


@pytest.mark.parametrize(
    ("metric", "line"),
    [
        (Metric("gzip_bytes", "gzip"), "metric name='gzip_bytes': registered twice; give the second row another name"),
        (
            Metric("toy_bytes", "toy", target="max_gzip_bytes"),
            "metric toy_bytes: target='max_gzip_bytes' bounds another",
        ),
    ],
)
def test_a_mistaken_row_of_a_metric_is_one_line(metric, line):
    before = dict(metrics.METRICS)
    with pytest.raises(ValueError) as caught:
        metrics.register(metric)
    assert str(caught.value).startswith(line)
    assert before == metrics.METRICS


def test_an_unknown_metric_is_named_with_the_nearest():
    with pytest.raises(ValueError, match="metric='gzip_byte': unknown; expected gzip_bytes"):
        metrics.get_metric("gzip_byte")


def test_a_mistaken_row_stops_the_import_with_its_line(tmp_path):
    (tmp_path / "rows.py").write_text(
        "from collabopt.config import stages\n"
        "stages.register(stages.Stage('toy', 'toy', '#000000', 'prunned', 'm:f', 'toy'))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", "import rows"], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert done.stderr.splitlines()[-1].startswith(
        "ValueError: stage toy: 'prunned' is unknown; expected one of baseline"
    )


def test_every_parent_comes_before_its_children():
    names = list(STAGES)
    assert all(names.index(stage.parent) < names.index(stage.name) for stage in STAGES.values() if stage.parent)


def test_a_notebook_waits_for_those_whose_last_stage_it_starts_from():
    waits = stages.get_notebooks(STAGES)
    assert waits["pcqat"] == ["sparse_clustering"]
    assert waits["sparse_clustering"] == waits["pqat"] == ["baseline"]
    assert next(iter(waits)) == "baseline"


def test_an_optional_stage_stands_between_its_parent_and_the_rest():
    tree = stages.build_tree(["filter_pruned"])
    assert {name: stage.parent for name, stage in tree.items() if stage.parent in ("baseline", "filter_pruned")} == {
        "filter_pruned": "baseline", "qat": "filter_pruned", "pruned": "filter_pruned", "clustered": "filter_pruned",
    }  # fmt: skip
    assert [stage.name for stage in stages.get_lineage("pqat", tree)] == ["baseline", "filter_pruned", "pruned", "pqat"]
    assert [stage.name for stage in stages.get_leaves(tree)] == [stage.name for stage in stages.get_leaves(STAGES)]


def test_without_optional_stages_the_tree_is_the_usual_one():
    assert stages.build_tree(()) == STAGES == loading.load("digits").tree
    assert "filter_pruned" in loading.load("digits", filter_sparsity=0.5).tree


def test_the_notebook_of_an_optional_stage_comes_with_its_stage():
    tree = stages.build_tree(["filter_pruned"])
    for list_some in (stages.list_core_notebooks, stages.list_notebooks):
        assert set(list_some(tree)) - set(list_some(STAGES)) == {"shape"}
    assert stages.get_notebooks(STAGES)["shape"] == ["baseline"]


@pytest.mark.parametrize(
    ("name", "value", "text"),
    [
        ("gzip_bytes", 14185, "14.2"),
        ("accuracy", 0.98611, "98.61"),
        ("accuracy_drop", -0.0012, "−0.12"),
        ("npu_cycles", 680616.0, "680,616"),
        ("npu_ms", float("nan"), "–"),
        ("weight_bytes", None, "not int8"),
    ],
)
def test_a_metric_formats_in_its_unit(name, value, text):
    assert metrics.METRICS[name].format(value) == text


def test_an_excess_is_never_shown_as_zero():
    assert metrics.METRICS["gzip_bytes"].describe_excess(3) == "gzip < 0.1 kB over"
    assert metrics.METRICS["npu_sram_kib"].describe_excess(float("inf")) == "SRAM not known"


def test_a_batch_passes_the_settings_of_optional_stages_to_every_notebook():
    from collabopt.batch import notebook

    assert notebook._select({"filter_sparsity": 0.5}, {"sparsity"}) == {"settings": {"filter_sparsity": 0.5}}
    assert notebook._select({"filter_sparsity": 0.5}, {"filter_sparsity"}) == {"filter_sparsity": 0.5}
    changed = loading.load("digits", settings={"filter_sparsity": 0.5})
    assert "filter_pruned" in changed.tree
