"""Handwritten digits: 1,797 images of 8×8 pixels, part of scikit-learn (UCI optdigits, Alpaydin and Kaynak)."""

from pathlib import Path

import numpy as np

from collabopt.datasets import splitting
from collabopt.datasets.dataset import Parts, compute_fingerprint
from collabopt.datasets.split import Split


def read(data_directory: Path | None = None) -> Parts:  # noqa: ARG001 - all data sets have one signature
    """Return the digits of scikit-learn, images (n, 8, 8, 1) float32 in [0, 1]; test is a fixed, stratified fifth.

    `data_directory` is not used.
    """
    from sklearn.datasets import load_digits  # here, because it takes a second

    pictures, labels = load_digits(return_X_y=True)
    # A pixel counts the dark points of a 4×4 block, 0 to 16.
    everything = Split((pictures / 16).astype(np.float32).reshape(-1, 8, 8, 1), labels.astype(np.int64))
    drawn = splitting.draw_held_out(labels, splitting.TEST_FRACTION, splitting.TEST_SEED, None, "test_fraction")
    test, train = everything.take(np.sort(drawn)), everything.take(np.setdiff1d(np.arange(len(labels)), drawn))
    classes = tuple("0123456789")
    return Parts(train, None, test, classes, compute_fingerprint((train, test), classes), (8, 8, 1))
