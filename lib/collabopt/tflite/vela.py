"""What an int8 file costs on an Arm Ethos-U NPU, as Vela, its compiler, estimates without the hardware."""

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
"""Vela's system configuration for a family."""


_COUNTS = re.compile(r"^(CPU|NPU) operators = (\d+)", re.MULTILINE)


_REJECTED = re.compile(r"^Warning \(supported operators\) operator: (\w+).*\nReason: (.+)", re.MULTILINE)


def estimate(tflite: bytes, accelerator: str) -> dict[str, Any]:
    """Columns of one inference (batch 1) on one of `ACCELERATORS`:

    npu_cycles: of the NPU's clock. For each operator Vela takes what is slowest, computing or the traffic with one of
        the memories, and adds up.
    npu_ms: npu_cycles at the configuration's clock, 500 MHz in all of them.
    npu_sram_kib: activations, and weights on their way to the NPU.
    npu_flash_kib: constants as encoded for the NPU: weights, biases and scales; its commands, some KiB, come on top.
    npu_weight_bytes: the encoded weights alone.
    npu_operators: share of the operators that run on the NPU, in [0, 1].
    npu_note: empty; else what is not counted, or why Vela does not apply and all other columns are None.

    The systems are those of `Arm/vela.ini`, which comes with Vela: SRAM of 4 GB/s (Ethos_U55_High_End_Embedded), 8 GB/s
    (Ethos_U65_Embedded) or 16 GB/s (Ethos_U85_SYS_Flash_High), and flash of 0.5 GB/s. Memory mode is Shared_Sram:
    constants are read from flash, all else is in SRAM. Vela's defaults for U65 and U85 have DRAM instead of flash, and
    twice the clock: fit for application processors, and not to be compared with a microcontroller's U55.

    Raises ValueError for another accelerator.
    """
    if accelerator not in experiment.ACCELERATORS:
        raise ValueError(f"accelerator={accelerator!r}: expected one of {', '.join(experiment.ACCELERATORS)}")
    done, summary = _compiled(tflite, accelerator)
    if summary is None:
        said = (done.stderr.strip() or done.stdout.strip() or f"exit status {done.returncode}").splitlines()[-1]
        return _not_applicable(f"Vela cannot compile the file: {said}")
    counts = {where: int(count) for where, count in _COUNTS.findall(done.stdout)}
    rejected = _REJECTED.findall(done.stdout)
    if not counts.get("NPU"):
        reasons = dict.fromkeys(re.sub(r" \(.*\)$", "", reason) for _, reason in rejected)
        return _not_applicable(f"nothing runs on the NPU: {'; '.join(reasons) or 'no operator is supported'}")
    return {
        "npu_cycles": int(float(summary["cycles_total"])),
        "npu_ms": 1000 * float(summary["inference_time"]),
        "npu_sram_kib": float(summary["sram_memory_used"]),
        "npu_flash_kib": float(summary["off_chip_flash_memory_used"]),
        "npu_weight_bytes": int(summary["total_npu_encoded_weights"]),
        "npu_operators": counts["NPU"] / sum(counts.values()),
        "npu_note": _left_to_the_cpu(counts["CPU"], sum(counts.values()), sorted({name for name, _ in rejected})),
    }


def _compiled(tflite: bytes, accelerator: str) -> tuple[subprocess.CompletedProcess, dict[str, str] | None]:
    """Vela's process, and the one row of the summary it wrote, if it did. A process of its own: Vela prints, writes
    files, and a damaged file can make its native code crash."""
    with tempfile.TemporaryDirectory() as place:
        (Path(place) / "model.tflite").write_bytes(tflite)
        command = [sys.executable, "-m", "ethosu.vela", "model.tflite", "--output-dir", "."]
        command += ["--accelerator-config", accelerator, "--config", "Arm/vela.ini"]
        command += ["--system-config", _SYSTEMS[accelerator.rpartition("-")[0]], "--memory-mode", "Shared_Sram"]
        done = subprocess.run(command, cwd=place, capture_output=True, text=True, check=False)
        found = list(Path(place).glob("model_summary_*.csv"))
        if done.returncode or not found:
            return done, None
        with found[0].open(newline="") as file:
            return done, next(csv.DictReader(file))


def _left_to_the_cpu(left: int, operators: int, names: list[str]) -> str:
    return f"{left} of {operators} operators run on the CPU and are not counted: {', '.join(names)}" if left else ""


def _not_applicable(reason: str) -> dict[str, Any]:
    columns = ("npu_cycles", "npu_ms", "npu_sram_kib", "npu_flash_kib", "npu_weight_bytes", "npu_operators")
    return dict.fromkeys(columns) | {"npu_note": reason}
