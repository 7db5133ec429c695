"""`make bench`: measures times, memory and what kernels hold, and prints the table of figures.

make bench                              # all of it, two hours on two cores that do nothing else
make bench PARTS="batches schemes"      # some of it; each part is recorded as it ends
"""

import argparse

import batches
import file_sizes
import schemes
import sweeps
import table
import whole

PARTS = {
    "batches": batches.figures,
    "schemes": schemes.figures,
    "sizes": file_sizes.figures,
    "digits": lambda: whole.of("digits"),
    "mnist_sized": lambda: whole.of(whole.MNIST_SIZED),
    "ds_cnn_l": lambda: whole.of("speech_commands-ds_cnn_l"),
    "sweeps": sweeps.figures,
}
"""What can be measured by itself: the first three take 15 minutes, DS-CNN-L and the sweeps 40 each."""

if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("parts", nargs="*", metavar="PARTS", help=f"some of {', '.join(PARTS)}; all without it")
    chosen = parser.parse_args().parts or list(PARTS)
    for part in chosen:
        if part not in PARTS:
            parser.error(f"PARTS: {part}: expected some of {', '.join(PARTS)}")
    for part in chosen:
        table.record(PARTS[part]())
