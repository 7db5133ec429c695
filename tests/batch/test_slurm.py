"""The committed profile on a real Slurm: what it asks for arrives, jobs that fail or are stopped end as such."""

import contextlib
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
import slurm
import yaml
from snakemake_executor_plugin_slurm.utils import parse_time_to_minutes

RULES = ["qat", "pqat", "cqat", "cell", "notebook", "repeat"]
RESOURCES = yaml.safe_load((slurm.PROFILE / "config.yaml").read_text())["set-resources"]
SLOTS = 4
RULE = """
rule {name}:
    output: "{name}.done"
    threads: {threads}
    shell: "{command}"
"""


@pytest.fixture(scope="module")
def environment() -> Iterator[dict[str, str]]:
    """That of a Slurm with one-core jobs in all slots, or two jobs of two cores, at a time."""
    if why := slurm.unavailable():
        pytest.skip(why)
    with slurm.cluster(slots=SLOTS) as environment:
        yield environment


@contextlib.contextmanager
def snakemake(
    place: Path, commands: dict[str, str], profile: Path, environment: dict[str, str], threads: int = 1
) -> Iterator:
    """Snakemake in `place` with a rule of so many threads for each command, writing to the file `log` there."""
    rules = [f"rule all:\n    input: {[f'{name}.done' for name in commands]}\n"]
    for name, command in commands.items():
        rules.append(RULE.format(name=name, command=command, threads=threads))
    (place / "Snakefile").write_text("".join(rules))
    command = [sys.executable, "-m", "snakemake", "--profile", str(profile), "--keep-going", "--nolock"]
    # The profile has the first check after 5 s. A check that finds no job ended has the next one wait 10 s longer.
    command += ["--seconds-between-status-checks", "1"]
    with (place / "log").open("w") as log:
        process = subprocess.Popen(command, cwd=place, env=environment, stdout=log, stderr=subprocess.STDOUT)
    try:
        yield process
    finally:
        process.kill()
        process.wait()


def jobs_of(place: Path, environment: dict[str, str]) -> dict[str, dict[str, str]]:
    """The Slurm jobs of a place, by rule."""
    here = [job for job in slurm.jobs(environment) if Path(job["StdOut"]).is_relative_to(place)]
    return {job["Comment"].removeprefix("rule_"): job for job in here}


def minutes(job: dict[str, str]) -> int:
    return parse_time_to_minutes(job["TimeLimit"])


def processes(marked: str) -> list[psutil.Process]:
    """Those with this in their command line."""
    return [one for one in psutil.process_iter(["cmdline"]) if marked in " ".join(one.info["cmdline"] or [])]


@pytest.fixture(scope="module")
def stopped(tmp_path_factory, environment) -> tuple[dict, dict, list]:
    """All rules by jobs that would sleep on, before and after a Ctrl-C; and the processes that are left."""
    place = tmp_path_factory.mktemp("stopped")
    sleeper = f"sleeper {place}"
    command = f"{sys.executable} -c 'import time; time.sleep(600)' {sleeper}"
    with snakemake(place, dict.fromkeys(RULES, command), slurm.PROFILE, environment) as process:
        deadline = time.monotonic() + 240
        while time.monotonic() < deadline:
            before = jobs_of(place, environment)
            running = [job for job in before.values() if job["JobState"] == "RUNNING"]
            if len(before) == len(RULES) and len(running) == SLOTS and len(processes(sleeper)) >= SLOTS:
                break
            time.sleep(0.5)
        process.send_signal(signal.SIGINT)
        process.wait(90)
    # A busy machine takes its time to end what is cancelled.
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline:
        after = jobs_of(place, environment)
        if not processes(sleeper) and all(job["JobState"] != "COMPLETING" for job in after.values()):
            break
        time.sleep(0.5)
    return before, after, processes(sleeper)


@pytest.mark.slow
@pytest.mark.parametrize("rule", RULES)
def test_slurm_is_asked_for_what_the_profile_says(stopped, rule):
    job = stopped[0][rule]
    assert job["CPUs/Task"] == "1"
    assert job["MinMemoryNode"] in (f"{RESOURCES[rule]['mem_mb']}M", f"{RESOURCES[rule]['mem_mb'] / 1024:g}G")
    assert minutes(job) == parse_time_to_minutes(RESOURCES[rule]["runtime"])
    assert "TresPerJob" not in job


@pytest.mark.slow
def test_a_job_runs_in_each_slot_and_the_others_wait(stopped):
    states = Counter(job["JobState"] for job in stopped[0].values())
    assert states == {"RUNNING": SLOTS, "PENDING": len(RULES) - SLOTS}


@pytest.mark.slow
def test_a_stopped_snakemake_cancels_its_jobs(stopped):
    assert {rule: job["JobState"] for rule, job in stopped[1].items()} == dict.fromkeys(RULES, "CANCELLED")
    assert stopped[2] == []


@pytest.fixture(scope="module")
def ended(tmp_path_factory, environment) -> tuple[Path, int, dict]:
    """A job that fails beside one that does not: the place, Snakemake's exit status, the jobs."""
    place = tmp_path_factory.mktemp("ended")
    profile = yaml.safe_load((slurm.PROFILE / "config.yaml").read_text())
    profile["set-resources"]["cell"]["gpu"] = 1
    (place / "profile").mkdir()
    (place / "profile" / "config.yaml").write_text(yaml.safe_dump(profile))
    commands = {"cell": "echo $COLLABOPT_DATA > {output}", "qat": "echo no data >&2; exit 3"}
    told = environment | {"COLLABOPT_DATA": "/shared/data"}
    with snakemake(place, commands, place / "profile", told, threads=2) as process:
        status = process.wait(120)
    return place, status, jobs_of(place, environment)


def test_a_job_that_fails_is_reported_with_its_log_and_the_other_one_is_done(ended):
    place, status, jobs = ended
    assert status == 1
    assert {rule: job["JobState"] for rule, job in jobs.items()} == {"cell": "COMPLETED", "qat": "FAILED"}
    assert "Error in rule qat" in (place / "log").read_text()
    assert "no data" in Path(jobs["qat"]["StdOut"]).read_text()


def test_jobs_see_the_environment_of_the_batch(ended):
    assert (ended[0] / "cell.done").read_text() == "/shared/data\n"


def test_the_threads_of_a_rule_are_the_cores_of_its_job(ended):
    assert {job["CPUs/Task"] for job in ended[2].values()} == {"2"}


def test_a_gpu_is_asked_for_where_the_profile_says_so(ended):
    assert ended[2]["cell"]["TresPerJob"] == "gres:gpu:1"


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_sweep_runs_on_slurm(environment, shared_batch, tiny, tmp_path):
    """One job per shared branch, and then both cells at a time."""
    shutil.copytree(shared_batch / "copy" / "data" / "stages", tmp_path / "data" / "stages")
    told = environment | {"COLLABOPT_DATA": f"{tmp_path}/data", "COLLABOPT_REPORTS": f"{tmp_path}/reports"}
    before = slurm.finished(environment)
    command = [sys.executable, "-m", "collabopt", "report", "--experiment", str(tiny)]
    command += ["--set", "number_of_clusters=16,32", "--profile", str(slurm.PROFILE)]
    done = subprocess.run(command, env=told, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr + (next(tmp_path.rglob("snakemake.log"))).read_text()
    assert slurm.finished(environment) - before == Counter(COMPLETED=5)  # the check, qat, pqat and two cells
    assert (tmp_path / "reports" / "tiny" / "sweep,number_of_clusters=16+32" / "sweep.csv").is_file()


@pytest.mark.slow
def test_nothing_is_left_of_a_cluster_that_met_an_error():
    if why := slurm.unavailable():
        pytest.skip(why)
    with pytest.raises(KeyError), slurm.cluster() as environment:
        place = Path(environment["SLURM_CONF"]).parent
        sleep = [shutil.which("sbatch"), "--wrap", "sleep 600"]
        subprocess.run(sleep, env=environment, cwd=place, check=True, capture_output=True)
        raise KeyError
    assert (processes(str(place)), place.exists()) == ([], False)
