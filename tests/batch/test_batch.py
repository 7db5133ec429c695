"""Batches of a tiny experiment by the real Snakemake, papermill and kernels, also stopped, concurrent and failing."""

import io
import json
import pickle
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import nbformat
import pandas as pd
import psutil
import pytest
from example_batch import NOTEBOOKS, Place, wait_for

from collabopt import __main__
from collabopt.batch import check, plan, scheduler
from collabopt.config import loading

# The fixtures run for minutes on a busy machine.
pytestmark = pytest.mark.timeout(1500)

STAGES = {"baseline", "pruned", "clustered", "sparse_clustered", "qat", "pqat", "cqat", "pcqat"}
IDENTIFYING = ["experiment", "stage", "scheme", "seed", "number_of_clusters", "cluster_per_channel", "target_sparsity"]
ACCURACIES = ["validation_accuracy", "validation_accuracy_int8", "accuracy", "accuracy_int8"]
SIZES = ["tflite_bytes", "gzip_bytes", "zip_bytes"]
KEPT = ["sparsity", "unique_weights", "rounded_to_zero", "preserved"]
TRAINING = ["train_fraction", "parent", "setup_seconds", "fit_seconds", "epochs"]


@pytest.fixture(scope="module")
def place(shared_batch) -> Place:
    return Place(shared_batch)


@pytest.fixture(scope="module")
def whole(shared_batch, place, tiny) -> SimpleNamespace:
    """The shared batch, and what it left at each of its runs."""
    observed = pickle.loads((shared_batch / "observed").read_bytes())
    copy, report = shared_batch / "copy" / "reports" / tiny.stem, place.reports / tiny.stem
    return SimpleNamespace(
        **observed,
        report=report,
        files={path.relative_to(copy).as_posix(): path.read_bytes() for path in copy.rglob("*") if path.is_file()},
        log=place.data / "runs" / tiny.stem / "as_given" / "batch.log",
    )


@pytest.fixture(scope="module")
def failed(place, whole, tiny) -> SimpleNamespace:
    """The same experiment with a CQAT that diverges and a parameter overridden, beside a released report."""
    experiment = tiny.with_name("diverging.yaml")
    experiment.write_text(
        re.sub(r"^(  cqat: .*learning_rate: )1e-4", r"\g<1>1e38", tiny.read_text(), count=1, flags=re.MULTILINE)
    )
    assert experiment.read_text() != tiny.read_text()
    released = place.reports / "diverging" / "results.csv"
    released.parent.mkdir()
    released.write_bytes(whole.files["results.csv"])
    stored = {path.name for path in (place.data / "stages").iterdir()}
    done = place.run(experiment, "--set", "calibration_examples=30", "--notebooks", " ".join(NOTEBOOKS))
    return SimpleNamespace(
        done=done,
        released=released,
        report=released.parent / "calibration_examples=30",
        runs=place.data / "runs" / "diverging" / "calibration_examples=30",
        stored=stored,
    )


@pytest.fixture
def refused(tmp_path, monkeypatch, capsys) -> Callable:
    """Calls the command line with wrong words, and returns its error message."""
    monkeypatch.setattr(loading, "DATA", tmp_path / "data")
    monkeypatch.setattr(loading, "REPORTS", tmp_path / "reports")

    def call(*words: str) -> str:
        assert __main__.main(["report", *words]) == 2
        output = capsys.readouterr()
        assert output.out == ""
        assert list(tmp_path.iterdir()) == []
        assert len(output.err.splitlines()) == 1, output.err
        return output.err

    return call


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ("sparsty=0.8", ["sparsty", "no notebook has this parameter", "did you mean sparsity?"]),
        ("sparsity=0.8 epochs=3", ["epochs", "no notebook has this parameter", "expected stages.<stage>.epochs"]),
        ("reports=elsewhere", ["reports", "no notebook has this parameter"]),
        ("cluster_rate=-1", ["cluster_rate", "expected this key in an experiment file"]),
        ("distill.temprature=4", ["distill.temprature", "expected distill={temprature: value}"]),
        ("sparsity", ["'sparsity'", "expected name=value"]),
        ("sparsity=", ["'sparsity='", "expected name=value"]),
        ("sparsity 0.8", ["'sparsity'", "expected name=value"]),
        ("sparsity=1.5", ["sparsity=1.5", "expected less than 1"]),
        ("sparsity=half", ["sparsity='half'", "expected a valid number"]),
        ("sparsity=[", ["sparsity=[", "expected"]),
        ('sparsity="0.8', ["quotation"]),
        ("sparsity=.nan", ["sparsity=nan", "expected a finite number"]),
        ("number_of_clusters=2", ["number_of_clusters=2", "expected greater than or equal to 3"]),
        ("number_of_clusters=8.0", ["number_of_clusters=8.0", "expected a valid integer"]),
        ("cluster_per_channel=1", ["cluster_per_channel=1", "expected a valid boolean"]),
        ("seed=-1", ["seed=-1", "expected greater than or equal to 0"]),
        ("train_fraction=0", ["train_fraction=0", "expected greater than 0"]),
        ("weight_bits={conv_9: 4}", ["weight_bits: {'conv_9': 4}", "write {default: …, conv_9: 4}"]),
        ("weight_bits={default: 8, conv_1: 3}", ["weight_bits.conv_1=3", "expected 4 or 8"]),
    ],
)
def test_a_wrong_parameter_is_an_error_of_one_line_before_anything_is_made(refused, settings, words):
    line = refused("--experiment", "digits", "--set", settings)
    assert all(word in line for word in words), line


@pytest.mark.parametrize("cores", ["0", "-1", "1.5", "two", ""])
def test_a_wrong_number_of_cores_is_an_error_of_one_line_before_anything_is_made(refused, cores):
    line = refused("--cores", cores)
    assert line == f"CORES={cores}: expected a number of CPU cores, from 1, or all, such as CORES=2\n"


def test_a_notebook_with_nothing_to_show_is_refused(refused):
    assert "NOTEBOOKS: published: nothing is published for digits" in refused("--notebooks", "published")


@pytest.mark.parametrize("name", ["digit", "nowhere/mine.yaml"])
def test_an_unknown_experiment_is_an_error_of_one_line_before_anything_is_made(refused, name):
    assert "'digits'" in refused("--experiment", name)


def test_a_wrong_experiment_file_is_an_error_of_one_line_before_anything_is_made(refused, tiny, tmp_path_factory):
    experiment = tmp_path_factory.mktemp("wrong") / "wrong.yaml"
    experiment.write_text(tiny.read_text().replace("sparsity: 0.5", "sparsity: 50"))
    assert "wrong.yaml: sparsity=50: expected less than 1" in refused("--experiment", str(experiment))


def test_the_command_ends_with_status_2_for_a_wrong_parameter(tmp_path):
    done = Place(tmp_path).run(Path("digits"), "--set", "sparsty=0.8")
    assert (done.status, done.stdout, len(done.stderr.splitlines())) == (2, "", 1)
    assert not {"data", "reports"} & {path.name for path in tmp_path.iterdir()}


def test_settings_are_read_as_experiments_are():
    text = "sparsity=5e-1 number_of_clusters=16 cluster_per_channel=true seed=null train_fraction='0.5'"
    assert plan.parse_settings(text) == {
        "sparsity": [0.5],
        "number_of_clusters": [16],
        "cluster_per_channel": [True],
        "seed": [None],
        "train_fraction": [0.5],
    }
    assert plan.parse_settings("") == {}


def test_a_batch_in_the_background_of_a_script_stops_at_sigterm_with_all_its_processes(whole):
    stopped = whole.stopped
    # The server, and a supervisor and a fork for both the job and its kernel.
    assert sum(command[-1] == "--serve" for command in stopped.commands) == (5 if sys.platform == "linux" else 0)
    assert stopped.status == 130
    assert stopped.stderr.splitlines()[-1].startswith("stopped; finished work is kept")
    assert "finished in" not in stopped.stdout
    assert len(stopped.commands) > 2
    assert stopped.alive == []


def test_a_stopped_batch_finishes_when_it_is_started_again(whole):
    assert whole.marks_after_stop == {}
    assert whole.first.status == 0, whole.first.stderr
    assert whole.first.stderr == ""


def test_a_second_batch_on_the_same_report_waits_names_the_first_and_repeats_nothing(whole):
    assert whole.second.status == 0, whole.second.stderr
    assert whole.second.stdout.startswith(f"waiting for the batch of process {whole.first.pid}, ")
    assert "notebook" not in whole.second.stdout
    assert whole.marks[1] == whole.marks[0]
    assert whole.index_times[1] == whole.index_times[0]
    assert sorted(whole.marks[0]) == sorted([*NOTEBOOKS, "variants"])


def test_only_the_notebook_whose_page_was_deleted_would_run_again(whole, place, tiny, tmp_path, monkeypatch):
    """Snakemake only says what it would do, in a summary."""
    monkeypatch.setattr(loading, "DATA", place.data)
    monkeypatch.setattr(loading, "REPORTS", place.reports)
    (tmp_path / "config.yaml").write_text("summary: true\n")
    monkeypatch.setenv("SNAKEMAKE_PROFILE", str(tmp_path))
    (whole.report / "deployment_tree.html").unlink()
    work, runs = plan.plan_work(str(tiny), {}, NOTEBOOKS), whole.log.parent
    scheduler._reset_marks(str(tiny), work, runs, loading.read_input_times(loading.load(str(tiny))))
    assert scheduler._run_snakemake(str(tiny), work, runs, ["--cores", "2"], whole.log, {})
    summary = (runs / "snakemake.log").read_text()
    assert summary.count("\tno update\n") == len(NOTEBOOKS) + 1  # the check, variants and all notebooks but one
    assert re.findall(r"/(\w+)\.done\t.*\tupdate pending\n", summary) == ["deployment_tree"]


def test_a_batch_writes_every_page_model_and_table(whole):
    pages = {f"{name}.html" for name in [*NOTEBOOKS, "index"]}
    models = {f"models/{stage}.tflite" for stage in STAGES}
    assert pages | models | {"results.csv", "layers.csv", "run.json"} <= set(whole.files)
    assert not [name for name in whole.files if Path(name).name.startswith(".")]
    assert all(whole.files.values())


@pytest.mark.usefixtures("whole")
def test_a_notebook_whose_stages_are_in_the_store_needs_no_tensorflow(place, tiny):
    script = f"""
import sys
from collabopt import answers, figures, start, tables
run = start({str(tiny)!r})
stages = run.stages("baseline", "pruned", "qat", "pqat")
tables.stages(stages), tables.layers(stages[-1]), tables.verdicts(stages), tables.guide(run, "pqat")
figures.draw_training(run.histories("baseline", "pqat"), csv=run.figures / "csv")
stages[-1].int8_values(), answers.describe_preservation(stages[1], stages[3], stages[0])
assert not {{"tensorflow", "tf_keras", "tensorflow_model_optimization"}} & set(sys.modules)
"""
    subprocess.run([sys.executable, "-c", script], env=place.environment, check=True)


def test_every_stage_has_its_row(whole, tiny):
    results = pd.read_csv(io.BytesIO(whole.files["results.csv"]))
    assert {*IDENTIFYING, *ACCURACIES, *SIZES, *KEPT, *TRAINING} <= set(results)
    assert set(results["stage"]) == STAGES
    assert len(results) == len(STAGES)
    experiment = loading.load(str(tiny))
    assert set(results["experiment"]) == {"tiny"}
    assert set(results["target_sparsity"].dropna()) <= {experiment.sparsity}
    assert set(results["train_fraction"]) == {experiment.train_fraction}
    assert all(results[column].between(0, 1).all() for column in [*ACCURACIES, "sparsity"])
    assert (results["tflite_bytes"] > results["gzip_bytes"]).all()
    sizes = [len(whole.files[f"models/{stage}.tflite"]) for stage in results["stage"]]
    assert sizes == list(results["tflite_bytes"])
    assert set(pd.read_csv(io.BytesIO(whole.files["layers.csv"]))["stage"]) == STAGES


@pytest.mark.slow
def test_preservation_trains_and_exports_stages_by_tfmot_too(preservation_report):
    assert (preservation_report / "preservation.html").is_file()
    results = pd.read_csv(preservation_report / "results.csv").query("scheme == 'tfmot'").set_index("stage")
    assert set(results.index) == {"clustered", "sparse_clustered", "pqat", "cqat", "pcqat"}
    for stage, size in results["tflite_bytes"].items():
        assert (preservation_report / "models" / f"{stage}-tfmot.tflite").stat().st_size == size


def test_run_json_records_seed_data_versions_and_times(whole):
    run = json.loads(whole.files["run.json"])
    text = json.dumps(run)
    assert all(word in text for word in ("seed", "fingerprint", "tensorflow", "commit", "start", "end"))


def test_progress_lines_name_notebook_stage_and_epoch(whole):
    lines = whole.first.stdout.splitlines()
    *progress, last = lines
    assert last.startswith("report: ")
    assert last.endswith("index.html")
    assert all(re.match(rf"\d\d:\d\d:\d\d  ({'|'.join([*NOTEBOOKS, 'variants'])}) +\S", line) for line in progress)
    for number in range(1, len(NOTEBOOKS) + 1):
        assert sum(f"notebook {number}/{len(NOTEBOOKS)} started" in line for line in lines) == 1
        assert sum(f"notebook {number}/{len(NOTEBOOKS)} finished in " in line for line in lines) == 1
    for stage, epoch in (("qat", "1/1"), ("pruned", "2/2"), ("pcqat", "1/1")):
        assert any(re.search(rf"\b{stage}: epoch {epoch}, loss [\d.]+, accuracy [\d.]+%", line) for line in lines)


def assert_plain(text: str, log: Path) -> None:
    assert not re.search(r"[\r\x1b]", text)
    assert log.read_bytes()
    assert not re.search(rb"[\r\x1b]", log.read_bytes())


def test_no_output_has_a_carriage_return_or_colour(whole):
    assert_plain(whole.stopped.stdout + whole.first.stdout, whole.log)


@pytest.mark.slow
def test_no_output_of_a_failed_batch_has_a_carriage_return_or_colour(failed):
    assert_plain(failed.done.stdout + failed.done.stderr, failed.runs / "batch.log")


def test_a_failed_notebook_is_reported_with_its_cell_and_its_dependents_do_not_run(place, tiny, tmp_path):
    experiment = tmp_path / "unknown_kernel.yaml"
    experiment.write_text(f"{tiny.read_text()}\ndensity_kernel: nowhere\n")
    done = place.run(experiment, "--notebooks", "baseline pqat")
    assert done.status == 1
    failure, skipped = done.stderr.splitlines()
    assert re.match(r"baseline: FAILED in cell \[\d+\]: ValueError: kernel=nowhere: expected one of", failure)
    assert skipped == "pqat: not run, because a job that it needs failed"
    report = place.reports / "unknown_kernel"
    assert "kernel=nowhere" in (report / "baseline.html").read_text(encoding="utf-8")
    assert "kernel=nowhere" in (report / "index.html").read_text(encoding="utf-8")
    assert not (report / "pqat.html").exists()


def test_the_check_finds_a_training_that_diverges_at_once(tiny, tmp_path, monkeypatch):
    monkeypatch.setattr(loading, "DATA", tmp_path)
    experiment = tmp_path / "diverging.yaml"
    experiment.write_text(tiny.read_text().replace("learning_rate: 3e-3", "learning_rate: 1e38"))
    mistakes = "\n".join(check.find_mistakes(loading.load(str(experiment))))
    assert re.search(r"a training step of \w+ fails \(FloatingPointError: .*; lower learning_rate=", mistakes)


def test_the_executed_notebooks_stay_beside_the_log(whole):
    assert sorted(path.stem for path in whole.log.parent.glob("*.ipynb")) == NOTEBOOKS


@pytest.mark.slow
def test_a_batch_continues_after_a_failed_notebook_and_ends_with_status_1(failed):
    assert failed.done.status == 1
    finished = {name for name in NOTEBOOKS if (failed.runs / f"{name}.done").is_file()}
    assert finished == {"baseline", "sensitivity", "pqat", "sparse_clustering", "pcqat"}
    assert not (failed.report / "deployment_tree.html").exists()


@pytest.mark.slow
def test_the_last_lines_name_notebook_cell_and_error(failed):
    lines = failed.done.stderr.splitlines()
    assert len(lines) == 2
    error = re.fullmatch(r"cqat: FAILED in cell \[(\d+)\]: FloatingPointError: (.*)", lines[0])
    assert error, lines[0]
    assert "cqat" in error[2]
    (cell,) = [
        cell
        for cell in nbformat.read(failed.runs / "cqat.ipynb", as_version=4).cells
        if cell.get("execution_count") == int(error[1])
    ]
    assert 'run.stage("cqat")' in cell.source
    assert f"cell [{error[1]}]" in (failed.report / "cqat.html").read_text(encoding="utf-8")
    assert lines[1] == "deployment_tree: not run, because a job that it needs failed"
    assert "notebook" in failed.done.stdout
    assert "FAILED" in failed.done.stdout


@pytest.mark.slow
def test_the_page_of_a_failed_notebook_shows_the_error_and_its_cell(failed):
    page = (failed.report / "cqat.html").read_text(encoding="utf-8")
    assert "FloatingPointError" in page
    assert re.search(r'href="#cell-\d+"', page)
    index = (failed.report / "index.html").read_text(encoding="utf-8")
    assert "FloatingPointError" in index
    assert "not run, because a job that it needs failed" in index


@pytest.mark.slow
def test_finished_stages_stay_after_a_failure(failed, place):
    report = pd.read_csv(failed.report / "results.csv")
    assert set(report["stage"]) == STAGES - {"cqat"}
    kept = {path.name for path in (place.data / "stages").iterdir()}
    assert failed.stored <= kept
    # Calibration does not change the training: each stage is measured again and none is trained again.
    assert all("-measured-" in name for name in kept - failed.stored)
    assert len(kept - failed.stored) == len(STAGES - {"cqat"})


@pytest.mark.slow
def test_overridden_parameters_leave_the_released_report_alone(failed, whole):
    assert failed.released.read_bytes() == whole.files["results.csv"]
    assert sorted(path.name for path in failed.released.parent.iterdir()) == ["calibration_examples=30", "results.csv"]
    assert {f"{name}.html" for name in (*NOTEBOOKS, "index")} - {"deployment_tree.html"} == {
        path.name for path in failed.report.glob("*.html")
    }


@pytest.mark.slow
def test_with_targets_a_batch_runs_only_the_search_and_trains_only_what_it_reaches(place, tiny):
    """On a seed that no other test has trained."""
    done = place.run(tiny, "--set", "seed=5 max_accuracy_drop=0.9 max_tflite_bytes=40000")
    assert done.status == 0, done.stderr
    (report,) = (place.reports / "tiny").glob("seed=5,*")
    assert {path.name for path in report.glob("*.html")} == {"deployment_tree.html", "index.html"}
    assert re.findall(r"(\w+): \d+ epochs took", done.stdout) == ["baseline"]
    leaves = pd.read_csv(report / "variants.csv")
    assert list(leaves["accuracy"].notna()) == [False] * (len(leaves) - 1) + [True]
    card = json.loads((report / "deployed" / "tiny.json").read_text())
    assert card["meets_all_targets"]
    assert card["format"] == leaves["format"].iloc[-1]
    assert (report / "deployed" / "tiny.tflite").stat().st_size == card["costs"]["tflite_bytes"] <= 40_000


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="only on Linux does a process die with its parent")
def test_a_killed_batch_leaves_no_process_behind_and_finishes_when_it_is_started_again(place, tiny):
    options = ("--set", "seed=7", "--notebooks", "baseline")
    with place.start(tiny, *options) as one:
        wait_for(one, b" epoch 1/")
        below = psutil.Process(one.process.pid).children(recursive=True)
        one.process.kill()
        _, alive = psutil.wait_procs(below, timeout=30)
    assert len(below) > 5
    assert not alive
    again = place.run(tiny, *options)
    assert again.status == 0, again.stderr


@pytest.mark.slow
def test_a_notebook_runs_by_papermill_alone_from_any_directory(whole, place, tiny, tmp_path):
    papermill = Path(sys.executable).with_name("papermill")
    words = [papermill, plan.NOTEBOOKS / "pqat.ipynb", "out.ipynb", "-p", "experiment", tiny, "-p", "sparsity", "0.6"]
    done = subprocess.run(words, cwd=tmp_path, env=place.environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    results = pd.read_csv(place.reports / "tiny" / "sparsity=0.6" / "results.csv").set_index("stage")
    assert results.loc["pruned", "sparsity"] == pytest.approx(0.6, abs=0.01)
    assert set(results.index) == {"baseline", "pruned", "qat", "pqat"}
    cells = nbformat.read(tmp_path / "out.ipynb", as_version=4).cells
    assert all(cell.execution_count for cell in cells if cell.cell_type == "code")
    assert (whole.report / "results.csv").read_bytes() == whole.files["results.csv"]
