"""A few kills of each kind; `tests/batch/kills.py` makes hundreds."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

KINDS = {
    "one stage": ["--stages=2", "--names=baseline"],
    "every stage": ["--stages=6"],
    "a batch": ["--batches=1", "--notebooks=sparse_clustering"],
}


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("kind", KINDS)
def test_killed_work_continues_to_the_same_result(tiny, tmp_path, kind):
    command = [sys.executable, str(Path(__file__).parent / "kills.py"), *KINDS[kind], "--experiment", str(tiny)]
    environment = os.environ | {"TMPDIR": str(tmp_path)}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    number = KINDS[kind][0].partition("=")[2]
    assert re.search(rf"kills {number}, wrong results 0, lost finished stages 0, unclear errors 0", done.stdout)
