"""A few kills of each kind; `tests/batch/kills.py` deals hundreds."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest


@pytest.mark.timeout(900)
@pytest.mark.parametrize("kind", ["--stages=6", "--batches=1 --notebooks=sparse_clustering"], ids=["stages", "batches"])
def test_what_is_killed_goes_on_to_the_same_result(tiny, tmp_path, kind):
    command = [sys.executable, str(Path(__file__).parent / "kills.py"), *kind.split(), "--experiment", str(tiny)]
    environment = os.environ | {"TMPDIR": str(tmp_path)}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    number = re.search(r"\d+", kind)[0]
    assert re.search(rf"kills {number}, wrong results 0, lost finished stages 0, unclear errors 0", done.stdout)
