"""The committed profile for Kubernetes, with a stand-in for the API of a cluster, which runs a pod's command here.

What this cannot show: a real scheduler, image and volume.
"""

import base64
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from types import SimpleNamespace

import pytest
import yaml

from collabopt.config import loading

pytestmark = pytest.mark.skipif(not shutil.which("rsync"), reason="no rsync, by which marks are copied")

PROFILE = loading.ROOT / "profiles" / "kubernetes" / "config.yaml"
RULES = ["qat", "pqat", "cqat", "cell", "notebook", "repeat"]
THREADS = {"notebook": 2}
GPU = {"gpu": 1, "gpu_manufacturer": "nvidia", "scale": 0}
RULE = """
rule {name}:
    output: "{volume}/data/{name}.done"
    threads: {threads}
    shell: "echo $COLLABOPT_DATA > {{output}}"
"""


class Api(BaseHTTPRequestHandler):
    """As much of the API as the plugin uses. A job ends as it is created, with the status that `server.run` returns."""

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        if self.path.endswith("/secrets"):
            self.server.secret = body["data"]
        else:
            self.server.statuses[body["metadata"]["name"]] = self.server.run(body)
        self._answer(body)

    def do_GET(self) -> None:
        if self.path.split("?")[0].endswith("/pods"):
            self._answer({"items": []})
        else:
            failed = self.server.statuses[self.path.split("/")[-2]]
            self._answer({"status": {"failed": 1} if failed else {"succeeded": 1}})

    def do_DELETE(self) -> None:
        self._answer({})

    def _answer(self, what: dict) -> None:
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.end_headers()
        self.wfile.write(json.dumps(what).encode())

    def log_message(self, *_: object) -> None:
        """Keep requests off the terminal of the tests."""


@pytest.fixture(scope="module")
def server() -> Iterator[ThreadingHTTPServer]:
    """The stand-in, at an address of its own."""
    with ThreadingHTTPServer(("127.0.0.1", 0), Api) as server:
        server.statuses = {}
        Thread(target=server.serve_forever, daemon=True).start()
        yield server
        server.shutdown()


def pod(job: dict) -> dict:
    """What a job says of its pod."""
    return job["spec"]["template"]["spec"]


def snakemake(volume: Path, rules: list[str], settings: dict, server: ThreadingHTTPServer) -> SimpleNamespace:
    """Snakemake by the committed profile with other `settings`, `volume` for /collabopt, and a Snakefile of `rules`."""
    profile = yaml.safe_load(
        PROFILE.read_text().replace(" /collabopt", f" {volume}").replace(":/collabopt", f":{volume}")
    )
    profile["remote-job-local-storage-prefix"] = str(volume / "workdir")
    for rule, more in settings.items():
        profile["set-resources"][rule] |= more
    for name in ("workbook", "profile", "data/snakemake"):
        (volume / name).mkdir(parents=True)
    (volume / "profile" / "config.yaml").write_text(yaml.safe_dump(profile))
    # As the profile says of /collabopt/collabopt.
    (again := Path(f"{volume}{volume}")).parent.mkdir(parents=True)
    again.symlink_to(volume)
    text = [RULE.format(name=name, volume=volume, threads=THREADS.get(name, 1)) for name in rules]
    marks = [f"{volume}/data/{name}.done" for name in rules]
    (volume / "workbook" / "Snakefile").write_text(f"rule all:\n    input: {marks}\n{''.join(text)}")
    access = {
        "current-context": "it",
        "contexts": [{"name": "it", "context": {"cluster": "it", "user": "it"}}],
        "clusters": [{"name": "it", "cluster": {"server": f"http://127.0.0.1:{server.server_port}"}}],
        "users": [{"name": "it", "user": {"token": "it"}}],
    }
    (volume / "access").write_text(yaml.safe_dump(access))
    command = [sys.executable, "-m", "snakemake", "--snakefile", str(volume / "workbook" / "Snakefile")]
    command += ["--directory", str(volume / "data" / "snakemake"), "--profile", str(volume / "profile")]
    command += ["--nolock", "--keep-going", "--seconds-between-status-checks", "1"]
    told = dict.fromkeys(profile["envvars"], "") | {"COLLABOPT_DATA": str(volume / "data")}
    environment = os.environ | told | {"KUBECONFIG": str(volume / "access")}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    return SimpleNamespace(status=done.returncode, said=done.stdout + done.stderr)


@pytest.fixture(scope="module")
def asked(tmp_path_factory, server) -> dict[str, dict]:
    """The jobs that the cluster was asked for, by rule, none of which came to anything; that of `cell` with a GPU."""
    jobs = {}

    def refuse(job: dict) -> int:
        command = pod(job)["containers"][0]["args"][1]
        jobs.update({rule: job for rule in RULES if f"--allowed-rules {rule} " in command})
        return 1

    server.run = refuse
    volume = tmp_path_factory.mktemp("volume")
    done = snakemake(volume, RULES, {"cell": GPU}, server)
    assert done.status == 1, done.said
    assert sorted(jobs) == sorted(RULES), done.said
    return jobs | {"volume": volume}


@pytest.mark.parametrize("rule", RULES)
def test_a_pod_asks_for_what_the_profile_says(asked, rule):
    wanted = yaml.safe_load(PROFILE.read_text())
    (container,) = pod(asked[rule])["containers"]
    assert container["image"] == wanted["container-image"]
    requests = container["resources"]["requests"]
    # The plugin leaves a node a twentieth of every CPU.
    assert requests["cpu"] == f"{950 * THREADS.get(rule, 1)}m"
    assert requests["memory"] == f"{wanted['set-resources'][rule]['mem_mb']}M"
    assert requests.get("nvidia.com/gpu") == ("1" if rule == "cell" else None)


@pytest.mark.parametrize("rule", RULES)
def test_a_pod_has_the_volume_and_its_claim(asked, rule):
    spec = pod(asked[rule])
    volume = str(asked["volume"])
    assert {"name": "collabopt", "mountPath": volume} in spec["containers"][0]["volumeMounts"]
    assert {"name": "collabopt", "persistentVolumeClaim": {"claimName": "collabopt"}} in spec["volumes"]


def test_a_gpu_is_a_limit_too_and_tolerated(asked):
    spec = pod(asked["cell"])
    assert spec["containers"][0]["resources"]["limits"]["nvidia.com/gpu"] == "1"
    assert [one["key"] for one in spec["tolerations"]] == ["nvidia.com/gpu"]


def test_the_command_of_a_pod_makes_its_mark(tmp_path, server):
    """In an empty directory, with a path to python and rsync and the variables that the pod is given."""
    volume = tmp_path / "volume"
    commands = []

    def run(job: dict) -> int:
        (container,) = pod(job)["containers"]
        commands.append(container["args"][1])
        environment = {"PATH": f"{Path(sys.executable).parent}:{Path(shutil.which('rsync')).parent}:/bin"}
        for one in container["env"]:
            key = one["valueFrom"]["secretKeyRef"]["key"]
            environment[one["name"]] = base64.b64decode(server.secret[key]).decode()
        (tmp_path / "workdir").mkdir()
        words = [*container["command"], *container["args"]]
        return subprocess.run(words, cwd=tmp_path / "workdir", env=environment, check=False).returncode

    server.run = run
    done = snakemake(volume, ["cell"], {}, server)
    assert done.status == 0, done.said
    assert (volume / "data" / "cell.done").read_text() == f"{volume}/data\n"
    # Sources that pods read lie on the volume.
    assert f"--deploy-sources {volume}/" in commands[0]
