"""Handwritten digits: 1,797 images of 8×8 pixels, part of scikit-learn (UCI optdigits, Alpaydin and Kaynak)."""

from pathlib import Path

import numpy as np

from collabopt.datasets.dataset import Parts, compute_fingerprint
from collabopt.datasets.split import Split
from collabopt.datasets.splitting import draw_stratified_order

TEST_FRACTION = 0.2
# Independent of the experiment's seed, so that results of all seeds are on the same test images.
_TEST_SEED = 1797


def read(data_directory: Path | None = None) -> Parts:  # noqa: ARG001 - all data sets have one signature
    """Return the digits of scikit-learn, images (n, 8, 8, 1) float32 in [0, 1]; test is a fixed, stratified fifth.

    `data_directory` is not used.
    """
    from sklearn.datasets import load_digits  # here, because it takes a second

    pictures, labels = load_digits(return_X_y=True)
    # A pixel counts the dark points of a 4×4 block, 0 to 16.
    everything = Split((pictures / 16).astype(np.float32).reshape(-1, 8, 8, 1), labels.astype(np.int64))
    order = draw_stratified_order(labels, _TEST_SEED)
    count = round(TEST_FRACTION * len(labels))
    test, train = everything.take(np.sort(order[:count])), everything.take(np.sort(order[count:]))
    classes = tuple("0123456789")
    return Parts(train, None, test, classes, compute_fingerprint((train, test), classes), (8, 8, 1))
