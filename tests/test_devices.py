"""Several devices: two logical CPUs go through pruning, clustering and every kind of QAT, and keep what they must."""

import os
import subprocess
import sys

import pytest

from collabopt.config import loading
from collabopt.run import start
from collabopt.runtime import devices

SCRIPT = """
import sys
from collabopt import backend, runs, stages, tree
tf = backend.tf
cpu = tf.config.list_physical_devices("CPU")[0]
tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * 2)
run = runs.start(sys.argv[1], devices=2)
for one in run.stages(*stages.STAGES):
    print(one.stage.name, one.result["preserved"], round(one.result["sparsity"], 2), one.result["accuracy"] > 0.3)
"""


@pytest.mark.timeout(600)
def test_two_devices_go_through_the_tree_and_keep_what_they_must(tiny, tmp_path):
    small = tmp_path / "small.yaml"
    small.write_text(tiny.read_text().replace("name: digits_cnn", 'function: "conftest:small_network"'))
    places = {"COLLABOPT_DATA": str(tmp_path / "data"), "COLLABOPT_REPORTS": str(tmp_path / "reports")}
    tests = str(loading.ROOT / "tests")
    environment = os.environ | places | {"PYTHONPATH": os.pathsep.join([tests, os.environ.get("PYTHONPATH", "")])}
    command = [sys.executable, "-c", SCRIPT, str(small)]
    done = subprocess.run(command, env=environment, cwd=tests, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stdout.splitlines() == [
        "baseline None 0.0 True",
        "qat None 0.0 True",
        "pruned None 0.5 True",
        "pqat True 0.5 True",
        "clustered True 0.0 True",
        "cqat True 0.0 True",
        "sparse_clustered True 0.5 True",
        "pcqat True 0.5 True",
    ]


def test_more_devices_than_there_are_stop_with_a_line_before_anything_is_made(tiny):
    with pytest.raises(devices.DeviceError, match=r"^devices=9: expected at most \d"):
        start(str(tiny), devices=9)


def test_one_device_needs_no_scope():
    with devices.make_scope(1) as nothing:
        assert nothing is None
