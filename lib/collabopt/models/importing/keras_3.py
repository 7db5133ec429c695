"""Reads files of Keras 3 in a process of its own, see `worker`."""

import contextlib
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from collabopt.models.importing import evaluation
from collabopt.models.importing.evaluation import Original, Outputs
from collabopt.models.importing.graph import ImportRefused
from collabopt.runtime import user_modules

_TIMEOUT = 600  # seconds that loading a file, or computing its outputs, may take


@contextlib.contextmanager
def open_file(
    path: Path, examples: list[np.ndarray] | None, trust_code: bool, custom_objects: dict[str, Any]
) -> Iterator[Original]:
    """Open a file with Keras 3 for the time of the block. Its outputs are computed while the block runs.

    Args:
        examples: One array of real inputs per input, or None.
        trust_code: Whether code inside the file may run.
        custom_objects: Classes by name, or "module:Class".

    Yields:
        The original.

    Raises:
        ImportRefused: Keras 3 cannot load it.
    """
    request = {
        "file": str(path.resolve()),
        "trust_code": trust_code,
        "custom_objects": {name: _get_place(thing) for name, thing in custom_objects.items()},
        "search_path": [str(user_modules.get_directory()), *sys.path],
    }

    def compute_intermediates() -> dict[str, np.ndarray]:
        with _run(request | {"intermediates": True}, None) as (process, folder):
            return _read_arrays(process, folder, "intermediates")

    with _run(request | {"intermediates": False}, examples) as (process, folder):
        data = json.loads(_wait_for(process, folder, "model.json").read_text())
        weights = _read_arrays(process, folder, "weights")
        for index, entry in enumerate(data["layers"]):
            entry["weights"] = [weights[f"{index}/{number}"] for number in range(entry["weights"])]
        groups = {"random": evaluation.draw_inputs(data)} | ({} if examples is None else {"examples": examples})

        def compute_outputs() -> dict[str, Outputs]:
            arrays = _read_arrays(process, folder, "outputs")
            return {
                group: Outputs(inputs, _collect(arrays, f"{group}/given/"), _collect(arrays, f"{group}/logits/"))
                for group, inputs in groups.items()
            }

        yield Original(data, compute_outputs, compute_intermediates)


@contextlib.contextmanager
def _run(request: dict, examples: list[np.ndarray] | None) -> Iterator[tuple[subprocess.Popen, Path]]:
    """Run the worker in the background, and stop it at the end of the block."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        if examples is not None:
            np.savez(folder / "examples.npz", *examples)
        (folder / "request.json").write_text(json.dumps(request | {"folder": str(folder)}))
        words = [sys.executable, str(Path(__file__).with_name("worker.py")), str(folder / "request.json")]
        with (folder / "log").open("w") as log:
            process = subprocess.Popen(words, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
        try:
            yield process, folder
        finally:
            process.kill()
            process.wait()


def _wait_for(process: subprocess.Popen, folder: Path, name: str) -> Path:
    """Wait until the worker has written a file."""
    deadline = time.monotonic() + _TIMEOUT
    while not (folder / name).exists():
        ended = process.poll() is not None
        if (folder / "refusal.json").exists():
            raise ImportRefused(*json.loads((folder / "refusal.json").read_text()))
        if (ended and not (folder / name).exists()) or time.monotonic() > deadline:
            last = ((folder / "log").read_text().strip().splitlines() or [f"exit status {process.poll()}"])[-1]
            raise ImportRefused(
                f"reading the model with Keras 3 failed: {last}", "Check that the file opens in Keras 3."
            )
        time.sleep(0.05)
    return folder / name


def _read_arrays(process: subprocess.Popen, folder: Path, name: str) -> dict[str, np.ndarray]:
    with np.load(_wait_for(process, folder, f"{name}.npz")) as archive:
        return {key: archive[key] for key in archive.files}


def _collect(arrays: dict[str, np.ndarray], prefix: str) -> list[np.ndarray]:
    count = sum(name.startswith(prefix) for name in arrays)
    return [arrays[f"{prefix}{index}"] for index in range(count)]


def _get_place(thing: Any) -> str:
    return thing if isinstance(thing, str) else f"{thing.__module__}:{thing.__qualname__}"
