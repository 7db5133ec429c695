"""The notebooks call and do not define; they are committed without outputs, with one cell of parameters."""

import ast
import inspect
import io
import re
import tokenize

import nbformat
import pytest

from collabopt.batch import plan
from collabopt.batch.plan import list_notebooks, read_parameters
from collabopt.config import experiment, loading, stages

NOTEBOOKS = list_notebooks()
# Names of a parameters cell that are not parameters of an experiment.
PLACES = {"experiment", "reports", "kernel", "stage", "first", "second", "others"}

each = pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)


def read(path):
    return nbformat.read(path, as_version=4)


def code(path) -> list[str]:
    """The sources of the code cells, without IPython's magic lines."""
    cells = [cell for cell in read(path).cells if cell.cell_type == "code"]
    return ["\n".join(line for line in cell.source.splitlines() if not line.startswith("%")) for cell in cells]


def parameters(path) -> str:
    (source,) = [cell.source for cell in read(path).cells if "parameters" in cell.metadata.get("tags", [])]
    return source


def given(path) -> ast.Call:
    """The call of `start`."""
    nodes = [node for source in code(path) for node in ast.walk(ast.parse(source)) if isinstance(node, ast.Call)]
    (call,) = [node for node in nodes if ast.unparse(node.func) == "start"]
    return call


@each
def test_a_notebook_is_valid_and_every_cell_has_its_own_id(path):
    notebook = read(path)
    nbformat.validate(notebook)
    assert (notebook.nbformat, notebook.nbformat_minor) >= (4, 5)
    ids = [cell.id for cell in notebook.cells]
    assert len(set(ids)) == len(ids)


@each
def test_a_notebook_is_committed_without_outputs(path):
    cells = [cell for cell in read(path).cells if cell.cell_type == "code"]
    assert cells
    assert [cell.outputs for cell in cells] == [[]] * len(cells)
    assert [cell.execution_count for cell in cells] == [None] * len(cells)


@each
def test_a_notebook_asks_for_the_plain_python_kernel_and_no_version(path):
    metadata = read(path).metadata
    assert metadata.kernelspec.name == "python3"
    assert "version" not in metadata.get("language_info", {})


@each
def test_a_notebook_is_short(path):
    cells = read(path).cells
    assert len(cells) <= 30
    # The parameters cell is a list, one line per parameter, and no code to follow.
    code = [cell for cell in cells if cell.cell_type == "code" and "parameters" not in cell.metadata.get("tags", [])]
    assert max(len(cell.source.splitlines()) for cell in code) <= 10


@each
def test_a_notebook_defines_nothing_and_has_no_loop(path):
    unwanted = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef, ast.Lambda, ast.For, ast.While, ast.AsyncFor)
    for source in code(path):
        found = [node for node in ast.walk(ast.parse(source)) if isinstance(node, unwanted)]
        assert not found, ast.unparse(found[0])


@each
def test_a_notebook_begins_with_its_question_and_numbered_steps(path):
    first = read(path).cells[0]
    assert first.cell_type == "markdown"
    heading, _, rest = first.source.partition("\n")
    assert re.fullmatch(r"# .*\?", heading)
    assert re.findall(r"^(\d+)\. ", rest, re.MULTILINE)[:3] == ["1", "2", "3"]


@each
def test_the_parameters_are_independent_literals_each_with_a_comment(path):
    source = parameters(path)
    lines = source.splitlines()
    statements = ast.parse(source).body
    assert len(statements) == len(lines)
    for statement, line in zip(statements, lines, strict=True):
        assert isinstance(statement, ast.Assign)
        assert len(statement.targets) == 1
        assert isinstance(statement.targets[0], ast.Name)
        # A value derived from another one would go stale when papermill injects that one.
        ast.literal_eval(statement.value)
        comments = [
            token for token in tokenize.generate_tokens(io.StringIO(line).readline) if token.type == tokenize.COMMENT
        ]
        assert len(comments) == 1
        assert len(comments[0].string) > 10


@each
def test_the_parameters_cell_comes_before_any_other_code(path):
    first = next(cell for cell in read(path).cells if cell.cell_type == "code")
    assert first.metadata.get("tags") == ["parameters"]


@each
def test_every_parameter_is_one_of_experiments_or_a_place(path):
    assert read_parameters(path) <= {*loading.PARAMETERS, "settings", *PLACES}
    assert {"experiment", "reports", "seed", "settings"} <= read_parameters(path)


@each
def test_every_parameter_reaches_the_run_under_its_own_name(path):
    call = given(path)
    assert [ast.unparse(word) for word in call.args] == ["experiment", "reports"]
    groups = {
        line.targets[0].id: line.value
        for source in code(path)
        for line in ast.parse(source.replace("%matplotlib", "#")).body
        if isinstance(line, ast.Assign) and isinstance(line.value, ast.Dict)
    }
    passed = {word.arg: ast.unparse(word.value) for word in call.keywords if word.arg}
    for word in call.keywords:
        if word.arg is None:  # **group
            group = groups[word.value.id]
            passed |= {key.value: ast.unparse(value) for key, value in zip(group.keys, group.values, strict=True)}
    assert passed == {name: name for name in read_parameters(path) - PLACES}


@each
def test_a_parameter_keeps_the_value_of_the_experiment_by_default(path):
    values = {line.targets[0].id: ast.literal_eval(line.value) for line in ast.parse(parameters(path)).body}
    assert values.pop("experiment") == "digits"
    assert set(values.values()) == {None}


@each
def test_a_notebook_imports_only_the_library(path):
    imported = [
        node
        for source in code(path)
        for node in ast.walk(ast.parse(source))
        if isinstance(node, ast.Import | ast.ImportFrom)
    ]
    assert {ast.unparse(node).split()[1].partition(".")[0] for node in imported} == {"collabopt"}


def test_a_parameter_means_the_same_in_every_notebook():
    found = {}
    for path in NOTEBOOKS:
        for line in parameters(path).splitlines():
            found.setdefault(line.partition(" =")[0], set()).add(line)
    assert {name: len(lines) for name, lines in found.items()} == dict.fromkeys(found, 1)


def test_the_snakefile_knows_exactly_the_notebooks_there_are():
    text = (loading.ROOT / "Snakefile").read_text(encoding="utf-8")
    assert re.findall(r"^NEEDS = .*", text, re.MULTILINE) == ["NEEDS = stages.get_notebooks(EXPERIMENT.tree)"]
    needs = stages.get_notebooks(stages.STAGES)
    names = {path.stem for path in NOTEBOOKS}
    assert set(needs) == names
    # Each comes after those it needs, so that "notebook 2/6" is never before what it waits for.
    order = list(needs)
    assert all(order.index(other) < order.index(name) for name in needs for other in needs[name])


def test_a_report_has_the_core_notebooks_the_named_ones_or_all():
    core = {"baseline", "pqat", "cqat", "sparse_clustering", "pcqat", "deployment_tree"}
    every = {path.stem for path in NOTEBOOKS} - {"shape", "compare", "search"}
    assert set(plan.plan_work("digits", {}, []).jobs) == core
    assert set(plan.plan_work("digits", {"filter_sparsity": [0.5]}, []).jobs) == core | {"shape"}
    assert set(plan.plan_work("digits", {}, ["diagnose"]).jobs) == {"diagnose"}
    assert set(plan.plan_work("speech_commands-ds_cnn_l", {}, ["all"]).jobs) == every
    # Nothing is published for this network.
    assert set(plan.plan_work("digits", {}, ["all"]).jobs) == every - {"published"}


def test_a_notebook_without_anything_to_do_is_refused_in_planning(tmp_path, monkeypatch):
    monkeypatch.setattr(loading, "REPORTS", tmp_path)
    with pytest.raises(experiment.ExperimentError, match="NOTEBOOKS: search: nothing to search; give values"):
        plan.plan_work("digits", {}, ["search"])
    grid = {"search.sparsity": [[0.5, 0.8]], "max_accuracy_drop": [0.01]}
    with pytest.raises(experiment.ExperimentError, match="does not search over settings; expected search in its place"):
        plan.plan_work("digits", grid, ["deployment_tree"])
    assert [*plan.plan_work("digits", grid, []).jobs] == ["search"]
    with pytest.raises(experiment.ExperimentError, match=r"NOTEBOOKS: compare: .*digits has no other report"):
        plan.plan_work("digits", {}, ["compare"])
    (tmp_path / "digits" / "seed=1").mkdir(parents=True)
    (tmp_path / "digits" / "seed=1" / "results.csv").touch()
    assert set(plan.plan_work("digits", {}, ["compare"]).jobs) == {"compare"}


def test_the_library_takes_every_parameter():
    from collabopt.run import start

    assert inspect.signature(start).parameters["overrides"].kind is inspect.Parameter.VAR_KEYWORD
    assert set(loading.PARAMETERS) <= {*experiment.Experiment.model_fields, *experiment.Targets.model_fields}
