"""Cost of a `.tflite` file on an Arm Ethos-U NPU, estimated by its compiler Vela without the hardware."""

import csv
import re
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from collabopt.config import experiment

_SYSTEMS = {
    "ethos-u55": "Ethos_U55_High_End_Embedded",
    "ethos-u65": "Ethos_U65_Embedded",
    "ethos-u85": "Ethos_U85_SYS_Flash_High",
}
"""Vela's system configuration by family."""

_COUNTS = re.compile(r"^(CPU|NPU) operators = (\d+)", re.MULTILINE)
_REJECTED = re.compile(r"^Warning \(supported operators\) operator: (\w+).*\nReason: (.+)", re.MULTILINE)


def estimate(tflite: bytes, accelerator: str) -> dict[str, Any]:
    """Estimate the cost of one inference, batch 1.

    The systems are those of `Arm/vela.ini`, which comes with Vela: SRAM of 4 GB/s (U55), 8 GB/s (U65) or 16 GB/s (U85),
    flash of 0.5 GB/s and a clock of 500 MHz. Constants are in flash and all other data in SRAM (memory mode
    Shared_Sram). Vela's defaults for U65 and U85, DRAM and 1 GHz, suit application processors, not microcontrollers.

    Args:
        tflite: The content of the file.
        accelerator: One of `ACCELERATORS`.

    Returns:
        npu_cycles: Sum over operators of the slowest part, computation or traffic with one memory.
        npu_ms: The time of these cycles.
        npu_sram_kib: Activations, and weights on their way to the NPU.
        npu_flash_kib: Encoded weights, biases and scales, without the NPU's commands of a few KiB.
        npu_weight_bytes: Encoded weights alone.
        npu_operators: Share of the operators that run on the NPU, in [0, 1].
        npu_note: The operators that are not counted, each with Vela's reason, or the reason why all other columns are
            None; else empty.

    Raises:
        ValueError: For an unknown accelerator.
    """
    if accelerator not in experiment.ACCELERATORS:
        raise ValueError(f"accelerator={accelerator!r}: expected one of {', '.join(experiment.ACCELERATORS)}")
    result, summary = _run_vela(tflite, accelerator)
    if summary is None:
        last = (result.stderr.strip() or result.stdout.strip() or f"exit status {result.returncode}").splitlines()[-1]
        return make_note(f"Vela cannot compile the file: {last}")
    counts = {processor: int(count) for processor, count in _COUNTS.findall(result.stdout)}
    rejected = [(name, re.sub(r" \(.*\)$", "", reason)) for name, reason in _REJECTED.findall(result.stdout)]
    if not counts.get("NPU"):
        reasons = dict.fromkeys(reason for _, reason in rejected)
        return make_note(f"nothing runs on the NPU: {'; '.join(reasons) or 'no operator is supported'}")
    return {
        "npu_cycles": int(float(summary["cycles_total"])),
        "npu_ms": 1000 * float(summary["inference_time"]),
        "npu_sram_kib": float(summary["sram_memory_used"]),
        "npu_flash_kib": float(summary["off_chip_flash_memory_used"]),
        "npu_weight_bytes": int(summary["total_npu_encoded_weights"]),
        "npu_operators": counts["NPU"] / sum(counts.values()),
        "npu_note": _list_cpu_operators(counts["CPU"], sum(counts.values()), rejected),
    }


def _run_vela(tflite: bytes, accelerator: str) -> tuple[subprocess.CompletedProcess, dict[str, str] | None]:
    """Run Vela. Returns the process and the row of its summary, or None if it failed.

    Vela runs in a separate process, because it prints, writes files, and can crash on a damaged file.
    """
    with tempfile.TemporaryDirectory() as directory:
        (Path(directory) / "model.tflite").write_bytes(tflite)
        command = [sys.executable, "-m", "ethosu.vela", "model.tflite", "--output-dir", "."]
        command += ["--accelerator-config", accelerator, "--config", "Arm/vela.ini"]
        command += ["--system-config", _SYSTEMS[accelerator.rpartition("-")[0]], "--memory-mode", "Shared_Sram"]
        result = subprocess.run(command, cwd=directory, capture_output=True, text=True, check=False)
        found = list(Path(directory).glob("model_summary_*.csv"))
        if result.returncode or not found:
            return result, None
        with found[0].open(newline="") as file:
            return result, next(csv.DictReader(file))


def _list_cpu_operators(count: int, operators: int, rejected: list[tuple[str, str]]) -> str:
    """The operators without NPU support, each with Vela's reason."""
    names = "; ".join(f"{name} ({reason})" for name, reason in sorted({*rejected}))
    return f"{count} of {operators} operators run on the CPU and are not counted: {names}" if count else ""


def make_note(reason: str) -> dict[str, Any]:
    """Return the columns of `estimate` for a file without estimates, all None but for `npu_note`, the `reason`."""
    columns = ("npu_cycles", "npu_ms", "npu_sram_kib", "npu_flash_kib", "npu_weight_bytes", "npu_operators")
    return dict.fromkeys(columns) | {"npu_note": reason}
