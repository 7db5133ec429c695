"""`make bench`: measure times, memory and the values in kernels, and print the table of figures.

make bench                              # everything, three hours on two otherwise idle cores
make bench PARTS="batches schemes"      # some parts; each is recorded when it ends
"""

import argparse

import batches
import file_sizes
import models
import robustness
import scale
import schemes
import sweeps
import table
import waits
import whole

PARTS = {
    "batches": batches.measure_figures,
    "waits": waits.measure_figures,
    "scale": scale.measure_figures,
    "schemes": schemes.measure_figures,
    "sizes": file_sizes.measure_figures,
    "models": models.measure_figures,
    "robustness": robustness.measure_figures,
    "digits": lambda: whole.measure_subject("digits"),
    "mnist_sized": lambda: whole.measure_subject(whole.MNIST_SIZED),
    "ds_cnn_l": lambda: whole.measure_subject("speech_commands-ds_cnn_l"),
    "sweeps": sweeps.measure_figures,
}
"""The parts. DS-CNN-L takes an hour and the sweeps 40 minutes, the others a quarter of an hour or less."""

if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("parts", nargs="*", metavar="PARTS", help=f"some of {', '.join(PARTS)}; all by default")
    chosen = parser.parse_args().parts or list(PARTS)
    for part in chosen:
        if part not in PARTS:
            parser.error(f"PARTS: {part}: expected some of {', '.join(PARTS)}")
    for part in chosen:
        table.record(PARTS[part]())
