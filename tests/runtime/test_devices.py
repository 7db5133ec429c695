"""Training on several devices: two logical CPUs keep zeros and clusters in every stage."""

import os
import shutil
import subprocess
import sys

import pytest

from collabopt.config import loading
from collabopt.run import start
from collabopt.runtime import devices

SCRIPT = """
import sys
from collabopt import start
from collabopt.config.stages import STAGES
from collabopt.runtime.tensorflow import tf
cpu = tf.config.list_physical_devices("CPU")[0]
tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * 2)
run = start(sys.argv[1], devices=2)
for finished in run.stages(*sys.argv[2:] or STAGES):
    result = finished.result
    print(finished.stage.name, result["preserved"], round(result["sparsity"], 2), result["accuracy"] > 0.3)
"""


ALL = """baseline None 0.0 True
qat None 0.0 True
pruned None 0.5 True
pqat True 0.5 True
clustered True 0.0 True
cqat True 0.0 True
sparse_clustered True 0.5 True
pcqat True 0.5 True"""


@pytest.mark.parametrize(
    ("names", "printed"), [(["clustered"], "clustered True 0.0 True"), pytest.param([], ALL, marks=pytest.mark.slow)]
)
def test_two_devices_keep_zeros_and_clusters(small, trained_small, tmp_path, names, printed):
    for entry in (trained_small / "stages").glob("trial-*"):  # a trial is the same on one device
        shutil.copytree(entry, tmp_path / "data" / "stages" / entry.name)
    places = {"COLLABOPT_DATA": str(tmp_path / "data"), "COLLABOPT_REPORTS": str(tmp_path / "reports")}
    tests = str(loading.ROOT / "tests")
    environment = os.environ | places | {"PYTHONPATH": os.pathsep.join([tests, os.environ.get("PYTHONPATH", "")])}
    command = [sys.executable, "-c", SCRIPT, str(small), *names]
    done = subprocess.run(command, env=environment, cwd=tests, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stdout.strip() == printed


def test_too_many_devices_are_an_error_before_anything_is_made(tiny):
    with pytest.raises(devices.DeviceError, match=r"^devices=9: expected at most \d"):
        start(str(tiny), devices=9)


def test_one_device_needs_no_scope():
    with devices.make_scope(1) as scope:
        assert scope is None
