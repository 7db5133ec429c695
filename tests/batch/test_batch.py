"""Batches of a tiny experiment, by the real Snakemake, papermill and kernels, also killed, doubled and failing."""

import contextlib
import io
import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace

import nbformat
import pandas as pd
import psutil
import pytest

from collabopt.batch import scheduler
from collabopt.batch.plan import parse_settings
from collabopt.config import loading

# The fixtures below run for minutes where the machine is busy.
pytestmark = pytest.mark.timeout(1500)

NOTEBOOKS = [
    "baseline",
    "cqat",
    "deployment_tree",
    "pcqat",
    "pqat",
    "preservation",
    "published",
    "sensitivity",
    "sparse_clustering",
]
STAGES = {"baseline", "pruned", "clustered", "sparse_clustered", "qat", "pqat", "cqat", "pcqat"}
BY_BOTH = {"clustered", "sparse_clustered", "pqat", "cqat", "pcqat"}
"""What `preservation` also trains by TFMOT's schemes."""
IDENTIFYING = ["experiment", "stage", "scheme", "seed", "number_of_clusters", "cluster_per_channel", "target_sparsity"]
ACCURACIES = ["validation_accuracy", "validation_accuracy_int8", "accuracy", "accuracy_int8"]
SIZES = ["tflite_bytes", "gzip_bytes", "zip_bytes"]
KEPT = ["sparsity", "unique_weights", "rounded_to_zero", "preserved"]
TRAINING = ["train_fraction", "parent", "setup_seconds", "fit_seconds", "epochs"]


class Place:
    """A data and a report directory of their own, and the batches in them."""

    def __init__(self, root: Path) -> None:
        self.root, self.data, self.reports = root, root / "data", root / "reports"
        self.environment = os.environ | {"COLLABOPT_DATA": str(self.data), "COLLABOPT_REPORTS": str(self.reports)}
        # Of a batch that runs the tests.
        self.environment.pop("COLLABOPT_LOG", None)
        self.environment.pop("COLLABOPT_NOTEBOOK", None)

    @contextlib.contextmanager
    def started(self, plan: Path, *options: str) -> Iterator[SimpleNamespace]:
        """A batch in a process group of its own, writing to files; killed at the end if it still runs."""
        output = [self.root / f"{time.monotonic_ns()}.{name}" for name in ("stdout", "stderr")]
        command = [
            sys.executable,
            "-m",
            "collabopt",
            "report",
            "--experiment",
            str(plan),
            "--cores",
            "2",
            *options,
        ]
        with output[0].open("wb") as stdout, output[1].open("wb") as stderr:
            process = subprocess.Popen(
                command, stdout=stdout, stderr=stderr, env=self.environment, cwd=self.root, start_new_session=True
            )
        try:
            yield SimpleNamespace(process=process, stdout=output[0].read_bytes, stderr=output[1].read_bytes)
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()

    def run(self, plan: Path, *options: str) -> SimpleNamespace:
        """A batch from its start to its end."""
        with self.started(plan, *options) as one:
            return ended(one)

    def marks(self, plan: Path) -> dict[str, int]:
        """When each notebook was last finished, in ns."""
        done = (self.data / "runs" / plan.stem / "as_given").glob("*.done")
        return {path.stem: path.stat().st_mtime_ns for path in done}


def ended(one: SimpleNamespace) -> SimpleNamespace:
    status = one.process.wait(timeout=900)
    return SimpleNamespace(
        status=status, pid=one.process.pid, stdout=one.stdout().decode(), stderr=one.stderr().decode()
    )


def wait_for(one: SimpleNamespace, text: bytes) -> None:
    deadline = time.monotonic() + 600
    while text not in one.stdout():
        if one.process.poll() is not None or time.monotonic() > deadline:
            pytest.fail(f"{text!r} was not said; {one.stdout()!r} {one.stderr()!r}")
        time.sleep(0.05)


@pytest.fixture(scope="module")
def place(tmp_path_factory) -> Place:
    return Place(tmp_path_factory.mktemp("batch"))


@pytest.fixture(scope="module")
def whole(place, tiny) -> SimpleNamespace:
    """A batch killed in the middle, the same again with a second one beside it, and once more without a page."""
    with place.started(tiny) as killed:
        wait_for(killed, b" epoch 1/")
        os.killpg(killed.process.pid, signal.SIGKILL)
        killed.process.wait()
    after_kill, report = place.marks(tiny), place.reports / tiny.stem
    with place.started(tiny) as first:
        wait_for(first, f"notebook 1/{len(NOTEBOOKS)} started".encode())
        with place.started(tiny) as second:
            first = ended(first)
            # That of the first: the second has yet to start Snakemake, and starts its log anew.
            marks, told = place.marks(tiny), (report / "index.html").stat().st_mtime_ns
            second = ended(second)
    again, told_again = place.marks(tiny), (report / "index.html").stat().st_mtime_ns
    left = {path.relative_to(report).as_posix(): path.read_bytes() for path in report.rglob("*") if path.is_file()}
    (report / "deployment_tree.html").unlink()
    third = place.run(tiny)
    return SimpleNamespace(
        killed=killed.stdout().decode(),
        after_kill=after_kill,
        first=first,
        second=second,
        third=third,
        marks=[marks, again, place.marks(tiny)],
        told=[told, told_again, (report / "index.html").stat().st_mtime_ns],
        report=report,
        left=left,
        log=place.data / "runs" / tiny.stem / "as_given" / "batch.log",
    )


@pytest.fixture(scope="module")
def failed(place, whole, tiny) -> SimpleNamespace:
    """The same experiment with a CQAT that diverges and a parameter overridden, beside a released report."""
    plan = tiny.with_name("diverging.yaml")
    plan.write_text(
        re.sub(r"^(  cqat: .*learning_rate: )1e-4", r"\g<1>1e38", tiny.read_text(), count=1, flags=re.MULTILINE)
    )
    assert plan.read_text() != tiny.read_text()
    released = place.reports / "diverging" / "results.csv"
    released.parent.mkdir()
    released.write_bytes(whole.left["results.csv"])
    stored = {path.name for path in (place.data / "stages").iterdir()}
    done = place.run(plan, "--set", "calibration_examples=30")
    return SimpleNamespace(
        done=done,
        released=released,
        report=released.parent / "calibration_examples=30",
        runs=place.data / "runs" / "diverging" / "calibration_examples=30",
        stored=stored,
    )


@pytest.fixture
def refused(tmp_path, monkeypatch, capsys) -> Callable:
    """Calls the command line with words that are wrong; returns what it said."""
    monkeypatch.setattr(loading, "DATA", tmp_path / "data")
    monkeypatch.setattr(loading, "REPORTS", tmp_path / "reports")

    def call(*words: str) -> str:
        monkeypatch.setattr(sys, "argv", ["collabopt", "report", *words])
        assert scheduler.main() == 2
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
        ("sparsity=0.8 epochs=3", ["epochs", "no notebook has this parameter", "number_of_clusters"]),
        ("reports=elsewhere", ["reports", "no notebook has this parameter"]),
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
    ],
)
def test_a_wrong_parameter_stops_with_a_line_before_anything_is_made(refused, settings, words):
    line = refused("--experiment", "digits", "--set", settings)
    assert all(word in line for word in words), line


@pytest.mark.parametrize("name", ["digit", "nowhere/mine.yaml"])
def test_an_unknown_experiment_stops_with_a_line_before_anything_is_made(refused, name):
    assert "'digits'" in refused("--experiment", name)


def test_a_wrong_experiment_file_stops_with_a_line_before_anything_is_made(refused, tiny, tmp_path_factory):
    plan = tmp_path_factory.mktemp("wrong") / "wrong.yaml"
    plan.write_text(tiny.read_text().replace("sparsity: 0.5", "sparsity: 50"))
    assert "wrong.yaml: sparsity=50: expected less than 1" in refused("--experiment", str(plan))


def test_the_command_ends_with_status_2_for_a_wrong_parameter(tmp_path):
    done = Place(tmp_path).run(Path("digits"), "--set", "sparsty=0.8")
    assert (done.status, done.stdout, len(done.stderr.splitlines())) == (2, "", 1)
    assert not {"data", "reports"} & {path.name for path in tmp_path.iterdir()}


def test_settings_are_read_as_experiments_are():
    text = "sparsity=5e-1 number_of_clusters=16 cluster_per_channel=true seed=null train_fraction='0.5'"
    assert parse_settings(text) == {
        "sparsity": [0.5],
        "number_of_clusters": [16],
        "cluster_per_channel": [True],
        "seed": [None],
        "train_fraction": [0.5],
    }
    assert parse_settings("") == {}


def test_a_batch_killed_in_the_middle_goes_through_when_it_is_started_again(whole):
    assert "epoch 1/" in whole.killed
    assert whole.after_kill == {}
    assert whole.first.status == 0, whole.first.stderr
    assert whole.first.stderr == ""


def test_a_second_batch_on_the_same_report_waits_says_for_whom_and_runs_nothing_again(whole):
    assert whole.second.status == 0, whole.second.stderr
    assert whole.second.stdout.startswith(f"waiting for the batch of process {whole.first.pid}, ")
    assert "notebook" not in whole.second.stdout
    assert whole.marks[1] == whole.marks[0]
    assert whole.told[1] == whole.told[0] < whole.told[2]
    assert sorted(whole.marks[0]) == NOTEBOOKS


def test_a_notebook_whose_page_was_deleted_is_run_again_and_no_other(whole):
    assert whole.third.status == 0, whole.third.stderr
    changed = {name for name in NOTEBOOKS if whole.marks[2][name] != whole.marks[1][name]}
    assert changed == {"deployment_tree"}
    assert (whole.report / "deployment_tree.html").is_file()
    # What it needs is in the store.
    assert "epoch " not in whole.third.stdout
    assert whole.third.stdout.count("from the store") == len(STAGES)


def test_a_batch_leaves_every_file_that_the_design_lists(whole):
    pages = {f"{name}.html" for name in [*NOTEBOOKS, "index"]}
    models = {f"models/{stage}.tflite" for stage in STAGES} | {f"models/{stage}-tfmot.tflite" for stage in BY_BOTH}
    assert pages | models | {"results.csv", "layers.csv", "run.json"} <= set(whole.left)
    assert not [name for name in whole.left if Path(name).name.startswith(".")]
    assert all(whole.left.values())


def test_every_stage_has_its_row(whole, tiny):
    results = pd.read_csv(io.BytesIO(whole.left["results.csv"]))
    assert {*IDENTIFYING, *ACCURACIES, *SIZES, *KEPT, *TRAINING} <= set(results)
    assert set(results["stage"]) == STAGES
    assert set(results.loc[results["scheme"] == "tfmot", "stage"]) == BY_BOTH
    assert len(results) == len(STAGES) + len(BY_BOTH)
    plan = loading.load(str(tiny))
    assert set(results["experiment"]) == {"tiny"}
    assert set(results["target_sparsity"].dropna()) <= {plan.sparsity}
    assert set(results["train_fraction"]) == {plan.train_fraction}
    assert all(results[column].between(0, 1).all() for column in [*ACCURACIES, "sparsity"])
    assert (results["tflite_bytes"] > results["gzip_bytes"]).all()
    names = results["stage"] + results["scheme"].map({"tfmot": "-tfmot"}).fillna("")
    assert [len(whole.left[f"models/{name}.tflite"]) for name in names] == list(results["tflite_bytes"])
    assert set(pd.read_csv(io.BytesIO(whole.left["layers.csv"]))["stage"]) == STAGES


def test_run_json_tells_what_was_run(whole):
    run = json.loads(whole.left["run.json"])
    text = json.dumps(run)
    assert all(word in text for word in ("seed", "fingerprint", "tensorflow", "commit", "start", "end"))


def test_lines_name_notebook_stage_and_epoch(whole):
    lines = whole.first.stdout.splitlines()
    *progress, last = lines
    assert last.startswith("report: ")
    assert last.endswith("index.html")
    assert all(re.match(rf"\d\d:\d\d:\d\d  ({'|'.join(NOTEBOOKS)}) +\S", line) for line in progress)
    for number in range(1, len(NOTEBOOKS) + 1):
        assert sum(f"notebook {number}/{len(NOTEBOOKS)} started" in line for line in lines) == 1
        assert sum(f"notebook {number}/{len(NOTEBOOKS)} finished in " in line for line in lines) == 1
    for stage, plan in (("qat", "1/1"), ("pruned", "2/2"), ("pcqat", "1/1")):
        assert any(re.search(rf"\b{stage}: epoch {plan}, loss [\d.]+, accuracy [\d.]+%", line) for line in lines)


def test_nothing_that_is_said_has_a_carriage_return_or_colour(whole, failed):
    for text in (whole.first.stdout, whole.third.stdout, failed.done.stdout, failed.done.stderr):
        assert not re.search(r"[\r\x1b]", text)
    for log in (whole.log, failed.runs / "batch.log"):
        assert log.read_bytes()
        assert not re.search(rb"[\r\x1b]", log.read_bytes())


def test_the_executed_notebooks_stay_beside_the_log(whole):
    assert sorted(path.stem for path in whole.log.parent.glob("*.ipynb")) == NOTEBOOKS


def test_a_batch_goes_on_where_a_notebook_failed_and_ends_with_status_1(failed):
    assert failed.done.status == 1
    finished = {name for name in NOTEBOOKS if (failed.runs / f"{name}.done").is_file()}
    assert finished == {"baseline", "sensitivity", "pqat", "sparse_clustering", "pcqat"}
    assert not (failed.report / "deployment_tree.html").exists()


def test_the_last_lines_name_notebook_cell_and_error(failed):
    lines = failed.done.stderr.splitlines()
    assert len(lines) == 4
    told = re.fullmatch(r"cqat: FAILED in cell \[(\d+)\]: FloatingPointError: (.*)", lines[0])
    assert told, lines[0]
    assert "cqat" in told[2]
    (cell,) = [
        cell
        for cell in nbformat.read(failed.runs / "cqat.ipynb", as_version=4).cells
        if cell.get("execution_count") == int(told[1])
    ]
    assert 'run.stage("cqat")' in cell.source
    assert f"cell [{told[1]}]" in (failed.report / "cqat.html").read_text(encoding="utf-8")
    assert lines[1] == "deployment_tree: not run, because what it goes on from failed"
    assert re.match(r"preservation: FAILED in cell \[\d+\]: FloatingPointError: cqat", lines[2])
    assert lines[3] == "published: not run, because what it goes on from failed"
    assert "notebook" in failed.done.stdout
    assert "FAILED" in failed.done.stdout


def test_the_page_of_a_failed_notebook_shows_the_cell(failed):
    page = (failed.report / "cqat.html").read_text(encoding="utf-8")
    assert "FloatingPointError" in page
    assert re.search(r'href="#cell-\d+"', page)
    index = (failed.report / "index.html").read_text(encoding="utf-8")
    assert "FloatingPointError" in index
    assert "not run, because what it goes on from failed" in index


def test_the_stages_that_finished_stay(failed, place):
    report = pd.read_csv(failed.report / "results.csv")
    assert set(report["stage"]) == STAGES - {"cqat"}
    kept = {path.name for path in (place.data / "stages").iterdir()}
    assert failed.stored <= kept
    # Calibration does not touch the training: each stage is measured anew and none is trained anew.
    assert all("-measured-" in name for name in kept - failed.stored)
    assert len(kept - failed.stored) == len(STAGES - {"cqat"}) + len({"clustered", "sparse_clustered", "pqat"})


def test_overridden_parameters_leave_the_released_report_alone(failed, whole):
    assert failed.released.read_bytes() == whole.left["results.csv"]
    assert sorted(path.name for path in failed.released.parent.iterdir()) == ["calibration_examples=30", "results.csv"]
    assert {f"{name}.html" for name in (*NOTEBOOKS, "index")} - {"deployment_tree.html", "published.html"} == {
        path.name for path in failed.report.glob("*.html")
    }


def test_with_targets_a_batch_runs_the_walk_alone_and_trains_what_it_comes_to(place, tiny):
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


def test_a_batch_in_the_background_of_a_script_stops_at_sigterm_with_all_that_it_started(place, tiny):
    """Such a one is started with SIGINT ignored, as all is that it starts."""
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        with place.started(tiny, "--set", "seed=6", "--notebooks", "baseline") as one:
            signal.signal(signal.SIGINT, before)
            wait_for(one, b" epoch 1/")
            below = psutil.Process(one.process.pid).children(recursive=True)
            commands = [process.cmdline() for process in below]
            one.process.terminate()
            done = ended(one)
    finally:
        signal.signal(signal.SIGINT, before)
    # The server, and for the job and for its kernel a supervisor and a fork.
    assert sum(command[-1] == "--serve" for command in commands) == (5 if sys.platform == "linux" else 0)
    assert done.status == 130
    assert done.stderr.splitlines()[-1].startswith("stopped; finished work is kept")
    assert "notebook 1/1 finished" not in done.stdout
    _, alive = psutil.wait_procs(below, timeout=30)
    assert len(below) > 2
    assert not alive


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere no process dies with its parent")
def test_a_batch_that_is_killed_leaves_no_process_behind(place, tiny):
    with place.started(tiny, "--set", "seed=7", "--notebooks", "baseline") as one:
        wait_for(one, b" epoch 1/")
        below = psutil.Process(one.process.pid).children(recursive=True)
        one.process.kill()
        _, alive = psutil.wait_procs(below, timeout=30)
    assert len(below) > 5
    assert not alive


def test_a_notebook_runs_by_papermill_alone_from_anywhere(whole, place, tiny, tmp_path):
    papermill = Path(sys.executable).with_name("papermill")
    words = [papermill, NOTEBOOKS / "pqat.ipynb", "out.ipynb", "-p", "experiment", tiny, "-p", "sparsity", "0.6"]
    done = subprocess.run(words, cwd=tmp_path, env=place.environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    results = pd.read_csv(place.reports / "tiny" / "sparsity=0.6" / "results.csv").set_index("stage")
    assert results.loc["pruned", "sparsity"] == pytest.approx(0.6, abs=0.01)
    assert set(results.index) == {"baseline", "pruned", "qat", "pqat"}
    cells = nbformat.read(tmp_path / "out.ipynb", as_version=4).cells
    assert all(cell.execution_count for cell in cells if cell.cell_type == "code")
    assert (whole.report / "results.csv").read_bytes() == whole.left["results.csv"]
